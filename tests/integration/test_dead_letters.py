"""Dead letters are listed, and requeued exactly once each."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from safeguard_streams.bus import kafka as kafka_bus
from safeguard_streams.bus.dead_letters import TRIES_HEADER, dead_letter
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Action, encode
from safeguard_streams.errors import RecordError
from safeguard_streams.operations import requeueing
from safeguard_streams.runtime.memory_broker import StoredRecord
from tests.conftest import TIMEOUT
from tests.groups import forget

pytestmark = pytest.mark.slow
SAFEGUARD = Path(sys.executable).with_name("safeguard")


@pytest.fixture
def safeguard(broker):
    environment = {"SAFEGUARD_PREFIX": broker.prefix, "SAFEGUARD_BOOTSTRAP": broker.bootstrap}
    environment["SAFEGUARD_SESSION_TIMEOUT_MS"] = str(broker.session_timeout_ms)

    def run(*arguments):
        done = subprocess.run(
            [SAFEGUARD, *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=TIMEOUT,
            env={**os.environ, **environment},
        )
        return done.stdout

    return run


@pytest.mark.parametrize("broker_address", ["kafka"], indirect=True)
async def test_a_dead_letter_is_listed_and_requeued_once(broker, safeguard):
    await kafka_bus.create_topics(broker)
    topic = broker.prefix + topics.EVENTS
    async with kafka_bus.producer(broker) as producer:
        for number in range(5):
            value = b"\xff broken %d" % number
            record = StoredRecord(topic, number % 2, number, 0, b"k%d" % number, value, [("traceparent", b"00-x")])
            letter = dead_letter(record, RecordError("record", "is not JSON"), stage="prefilter", attempts=1)
            await producer.send_and_wait(
                broker.prefix + topics.DEAD_LETTERS,
                letter.value,
                key=record.key,
                partition=number % 2,
                headers=letter.headers,
            )
    listed = safeguard("dead-letters", "list")
    assert "record: is not JSON" in listed
    assert len(safeguard("dead-letters", "list", "--json").splitlines()) == 5
    assert json.loads(safeguard("dead-letters", "retry", "--json")) == {"retried": 5, "kept": [], "left_out": 0}
    assert json.loads(safeguard("dead-letters", "retry", "--json")) == {"retried": 0, "kept": [], "left_out": 0}
    await forget(broker, requeueing.GROUP)
    assert json.loads(safeguard("dead-letters", "retry", "--json"))["retried"] == 0, "Kafka forgot the positions"
    events = [r async for r in kafka_bus.read_all(broker, [topics.EVENTS])]
    assert sorted(r.value for r in events) == [b"\xff broken %d" % n for n in range(5)]
    for event in events:
        assert dict(event.headers) == {"traceparent": b"00-x", TRIES_HEADER: b"1"}


async def write(current, topic, *outputs, partition=0):
    async with kafka_bus.producer(current) as producer:
        return [
            (
                await producer.send_and_wait(
                    current.prefix + topic, value, key=key, partition=partition, headers=list(headers)
                )
            ).offset
            for key, value, headers in outputs
        ]


def letter_of(topic, stage, key, value, *, offset=0, headers=()):
    record = StoredRecord(topic, 0, offset, 0, key, value, list(headers))
    output = dead_letter(record, RecordError("record", "is not JSON"), stage=stage, attempts=1)
    return output.key, output.value, output.headers


ACTION = encode(Action("a1", "c1", "remove", datetime(2026, 1, 1, tzinfo=UTC), by="ann"))


@pytest.mark.parametrize("broker_address", ["kafka"], indirect=True)
async def test_only_topics_that_the_stage_reads_are_written(broker, safeguard):
    await kafka_bus.create_topics(broker)
    prefix = broker.prefix
    (stands,) = await write(broker, topics.ACTIONS, (b"c1", ACTION, ()))
    forged = [
        letter_of(prefix + topics.POLICIES, "prefilter", b"hate", None),  # would retire a policy
        letter_of(prefix + topics.ACTIONS, "prefilter", b"c1", ACTION),  # would act as a person
        letter_of(prefix + topics.ACTIONS, "enforcement-webhook", b"c1", ACTION.replace(b"remove", b"allow")),
        letter_of(prefix + topics.ACTIONS, "enforcement-webhook", b"c1", ACTION, offset=7),
        letter_of(prefix + topics.VERDICTS, "enforcement", b"c1", b"{}", offset=0),
        letter_of(prefix + topics.VERDICTS, "reasoner", b"c1", b"{}"),
        letter_of(prefix + topics.EVENTS, "no-stage", b"c1", b"{}"),
        letter_of("other." + topics.EVENTS, "prefilter", b"c1", b"{}"),
        letter_of(topics.EVENTS, "prefilter", b"c1", b"{}"),  # without the prefix
        letter_of(prefix + "[/x]\x1b[2J", "[/x]", b"c1", b"{}"),
    ]
    good = [
        letter_of(prefix + topics.EVENTS, "prefilter", b"c1", b"event"),
        letter_of(prefix + topics.ESCALATIONS_AUDIT, "reasoner", b"c1", b"escalation"),
        letter_of(prefix + topics.ACTIONS, "enforcement-webhook", b"c1", ACTION, offset=stands),
    ]
    record = StoredRecord(prefix + topics.EVENTS, 0, 3, 0, b"c1", b"x" * 5000, [])
    cut = dead_letter(record, RecordError("record", "too large"), stage="prefilter", attempts=1, whole=False)
    foreign = [(b"k", b"hello", ()), (b"k", None, ())]
    await write(broker, topics.DEAD_LETTERS, *forged, *good, (cut.key, cut.value, cut.headers), *foreign)
    assert "prefilter" in safeguard("dead-letters", "list")
    result = json.loads(safeguard("dead-letters", "retry", "--json"))
    assert (result["retried"], len(result["kept"]), result["left_out"]) == (3, len(forged) + 1, 2)
    cut_letters = [one["origin"] for one in result["kept"] if "is not whole" in one["why"]]
    assert cut_letters == [f"{prefix}{topics.EVENTS}[0]@3"]
    values = {}
    for topic in (topics.EVENTS, topics.ESCALATIONS_AUDIT, topics.ACTIONS, topics.POLICIES, topics.VERDICTS):
        values[topic] = [r.value async for r in kafka_bus.read_all(broker, [topic])]
    assert values == {
        topics.EVENTS: [b"event"],
        topics.ESCALATIONS_AUDIT: [b"escalation"],
        topics.ACTIONS: [ACTION, ACTION],
        topics.POLICIES: [],
        topics.VERDICTS: [],
    }


@pytest.mark.parametrize("broker_address", ["kafka"], indirect=True)
async def test_letters_written_after_the_showing_are_left_to_the_next_retry(broker):
    await kafka_bus.create_topics(broker)
    first, second = (letter_of(broker.prefix + topics.EVENTS, "prefilter", b"c", value) for value in (b"1", b"2"))
    await write(broker, topics.DEAD_LETTERS, first)
    planned = await requeueing.plan(broker)
    await write(broker, topics.DEAD_LETTERS, second)
    assert planned.counts == {("prefilter", topics.EVENTS): 1}
    assert await requeueing.requeue(broker, planned) == 1
    assert [r.value async for r in kafka_bus.read_all(broker, [topics.EVENTS])] == [b"1"]
    assert await requeueing.requeue(broker, await requeueing.plan(broker)) == 1
