"""Dead letters are listed, and requeued exactly once each."""

import asyncio
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from safeguard_streams.bus import kafka as kafka_bus
from safeguard_streams.bus.dead_letters import TRIES_HEADER, dead_letter
from safeguard_streams.cli import app
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Action, ContentEvent, encode
from safeguard_streams.errors import BusError, ConfigurationError, RecordError
from safeguard_streams.operations import dead_letters, requeueing
from safeguard_streams.operations.dead_letters import LetterFilter
from safeguard_streams.releases.operator import ChangedBy
from safeguard_streams.runtime.memory_broker import StoredRecord
from tests.conftest import TIMEOUT

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
    assert "requeued" in safeguard("dead-letters", "list", "--state", "all")
    assert safeguard("dead-letters", "list", "--json") == ""
    assert safeguard("dead-letters", "list") == "no dead letters are waiting\n"
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


ALL = LetterFilter()
ANN = ChangedBy("", "ann")
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


async def test_originals_of_the_last_batch_are_found(broker):
    """The embedded broker reports as the end what follows the first record of the last batch."""
    await kafka_bus.create_topics(broker)
    name = broker.prefix + topics.ACTIONS
    async with kafka_bus.producer(broker) as producer:
        batch = producer.create_batch()
        for _ in range(3):
            batch.append(key=b"c1", value=ACTION, timestamp=None)
        batch.close()
        await (await producer.send_batch(batch, name, partition=0))
    found, foreign = (letter_of(name, "enforcement-webhook", b"c1", ACTION, offset=offset) for offset in (2, 3))
    await write(broker, topics.DEAD_LETTERS, found, foreign)
    planned = await requeueing.plan(broker, ALL)
    assert planned.counts == {("enforcement-webhook", topics.ACTIONS): 1}
    assert [one.why for one in planned.kept] == ["its original is not there"]


@pytest.mark.parametrize("broker_address", ["kafka"], indirect=True)
async def test_letters_written_after_the_showing_are_left_to_the_next_retry(broker):
    await kafka_bus.create_topics(broker)
    first, second = (letter_of(broker.prefix + topics.EVENTS, "prefilter", b"c", value) for value in (b"1", b"2"))
    await write(broker, topics.DEAD_LETTERS, first)
    planned = await requeueing.plan(broker, ALL)
    await write(broker, topics.DEAD_LETTERS, second)
    assert planned.counts == {("prefilter", topics.EVENTS): 1}
    assert await requeueing.requeue(broker, planned, ANN) == 1
    assert [r.value async for r in kafka_bus.read_all(broker, [topics.EVENTS])] == [b"1"]
    assert await requeueing.requeue(broker, await requeueing.plan(broker, ALL), ANN) == 1


async def three_letters(broker):
    """Letters of two stages about two items; returns their ids."""
    await kafka_bus.create_topics(broker)
    prefix = broker.prefix
    event = encode(ContentEvent("c\u00fc", "text", datetime(2026, 1, 1, tzinfo=UTC)))
    letters = [
        letter_of(prefix + topics.EVENTS, "prefilter", b"author", event),
        letter_of(prefix + topics.EVENTS, "prefilter", b"c2", b"\xff", headers=[("\udcff", b"\x80")]),
        letter_of(prefix + topics.ESCALATIONS, "reasoner", b"c2", b"{}"),
    ]
    return [f"0@{offset}" for offset in await write(broker, topics.DEAD_LETTERS, *letters)]


async def listed(broker, **wanted):
    return [one.place.id async for one in dead_letters.read(broker, dead_letters.letter_filter(**wanted))]


async def test_letters_are_found_by_stage_reason_item_and_time(broker):
    first, second, third = await three_letters(broker)
    assert await listed(broker) == [first, second, third]
    assert await listed(broker, stage="reasoner") == [third]
    assert await listed(broker, reason="IS NOT json") == [first, second, third]
    assert await listed(broker, reason="RecordError", stage="prefilter") == [first, second]
    assert await listed(broker, reason="no such") == []
    assert await listed(broker, content_id="c\u00fc") == [first], "by the value, whatever the key"
    assert await listed(broker, content_id="c2") == [second, third]
    assert await listed(broker, since=datetime(2100, 1, 1, tzinfo=UTC)) == []
    assert (await dead_letters.find(broker, second)).letter.original().value == b"\xff"
    for absent in ("0@99", "1@0", "9@0"):
        with pytest.raises(ConfigurationError, match=f"no dead letter is at {absent}"):
            await dead_letters.find(broker, absent)


async def test_some_letters_are_requeued_to_the_byte_and_others_discarded_on_record(broker):
    first, second, third = await three_letters(broker)
    some = dead_letters.letter_filter([second])
    assert await requeueing.requeue(broker, await requeueing.plan(broker, some), ANN) == 1
    (event,) = [r async for r in kafka_bus.read_all(broker, [topics.EVENTS])]
    assert (event.key, event.value, event.headers[0]) == (b"c2", b"\xff", ("\udcff", b"\x80"))
    with pytest.raises(ConfigurationError, match=f"no dead letter that is waiting is at {second}"):
        await requeueing.plan(broker, some)

    meant = [place for place, _ in await dead_letters.places(broker, dead_letters.letter_filter([third]))]
    shown = await requeueing.plan(broker, ALL)
    assert await dead_letters.discard(broker, meant, ChangedBy("a test of the producer", "bea")) == 1
    assert await dead_letters.discard(broker, meant, ANN) == 0, "someone else was faster"
    assert await requeueing.requeue(broker, shown, ANN) == 1, "what was discarded since is not requeued"
    states = {one.place.id: one async for one in dead_letters.read(broker, ALL)}
    assert {name: one.state for name, one in states.items()} == {
        first: "requeued",
        second: "requeued",
        third: "discarded",
    }
    handled = states[third].handled
    assert (handled.handled_by, handled.why) == ("bea", "a test of the producer")
    assert await listed(broker, state="waiting") == []
    assert await listed(broker, state="discarded") == [third]
    assert [r.value async for r in kafka_bus.read_all(broker, [topics.ESCALATIONS])] == []


@pytest.mark.parametrize("broker_address", ["kafka"], indirect=True)
async def test_operators_at_once_requeue_each_letter_once(broker):
    await kafka_bus.create_topics(broker)
    letters = [letter_of(broker.prefix + topics.EVENTS, "prefilter", b"c", b"%d" % n) for n in range(30)]
    await write(broker, topics.DEAD_LETTERS, *letters)
    planned = await requeueing.plan(broker, ALL)
    done = await asyncio.gather(*(requeueing.requeue(broker, planned, ANN) for _ in range(4)), return_exceptions=True)
    assert all(isinstance(one, int | BusError) for one in done), done
    await requeueing.requeue(broker, planned, ANN)
    values = [r.value async for r in kafka_bus.read_all(broker, [topics.EVENTS])]
    assert sorted(values) == sorted(b"%d" % n for n in range(30))


async def test_a_record_of_a_topic_that_was_created_again_says_nothing_about_its_letters(broker):
    (first, *_) = await three_letters(broker)
    place = dead_letters.LetterPlace(first, 1)  # another timestamp than the letter's
    await dead_letters.discard(broker, [place], ANN)
    assert first in await listed(broker, state="waiting")


def test_the_commands_show_a_letter_and_ask_before_they_write(broker, monkeypatch):
    first, second, third = asyncio.run(three_letters(broker))
    monkeypatch.setenv("SAFEGUARD_PREFIX", broker.prefix)
    monkeypatch.setenv("SAFEGUARD_BOOTSTRAP", broker.bootstrap)

    def run(*words, given=None):
        return CliRunner().invoke(app, words, input=given)

    shown = run("dead-letters", "show", first).stdout
    for part in (first, "waiting", "prefilter", f"{broker.prefix}{topics.EVENTS}[0]@0", "is not JSON", '"text":"text"'):
        assert part in shown
    assert '"text"' not in run("dead-letters", "show", first, "--no-texts").stdout
    assert json.loads(run("dead-letters", "show", first, "--json").stdout)["content_ids"] == ["author", "c\u00fc"]

    assert run("dead-letters", "retry", third, "--by", "ann", given="n\n").exit_code == 1
    assert asyncio.run(listed(broker, state="waiting")) == [first, second, third]
    assert run("dead-letters", "discard", third, "--why", "noise", "--by", "ann", given="n\n").exit_code == 1
    done = run("dead-letters", "discard", "--stage", "reasoner", "--why", "noise", "--by", "ann", given="y\n")
    assert "1 letter of reasoner to discard" in done.stderr
    assert "discarded 1" in done.stdout
    assert "by ann: noise" in run("dead-letters", "show", third).stdout
    listing = run("dead-letters", "list")
    assert (first in listing.stdout, third in listing.stdout) == (True, False)
    assert "1 discarded; see: safeguard dead-letters list --state all" in listing.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["list", "--stage", "prefiltre"], "--stage: one of prefilter"),
        (["list", "--state", "gone"], "--state: waiting, requeued, discarded or all, not gone"),
        (["show", "17"], "'17' is no dead letter's id: write PARTITION@OFFSET"),
        (["retry", "0@x"], "'0@x' is no dead letter's id"),
        (["retry", "--since", "soon"], "--since: write a time"),
        (["discard", "--why", "x"], "name the letters by ids or filters"),
        (["discard", "--why", "x", "--all", "0@1"], "name the letters by ids or filters"),
        (["discard", "--why", " ", "--all"], "--why is empty"),
    ],
)
def test_words_that_mean_nothing_are_refused_before_a_broker_is_asked(words, said):
    done = CliRunner().invoke(app, ["dead-letters", *words, "--bootstrap", "127.0.0.1:1"])
    assert isinstance(done.exception, ConfigurationError), done.exception
    assert said in str(done.exception)
