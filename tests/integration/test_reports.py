"""Reports on real Kafka: a text that the gates cleared is answered by the model once, however often it is reported."""

import contextlib
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from safeguard_streams import ContentEvent, ContentReport, Publisher
from safeguard_streams.bus import kafka as kafka_bus
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import DeadLetter, Escalation, Verdict, decode
from safeguard_streams.infra import brokers
from safeguard_streams.policies.files import load_library
from safeguard_streams.releases import operator
from safeguard_streams.releases.operator import ChangedBy
from safeguard_streams.releases.texts import newest_event
from safeguard_streams.runtime.security import client_options
from safeguard_streams.workers.judging.judge import Judge
from safeguard_streams.workers.judging.reasoner import InferenceBudget
from tests.conftest import feed_of, until
from tests.unit.workers.judging.test_judge import SAFE, Scripted

pytestmark = pytest.mark.slow
SAFEGUARD = Path(sys.executable).with_name("safeguard")
WHEN = datetime(2026, 1, 1, tzinfo=UTC)
TEXT = "thank you for the lovely recipe, my family enjoyed the soup"
POLICY = load_library()["hate-harassment"]


@contextlib.contextmanager
def prefilter(current):
    """A prefilter in a process of its own, which is killed at the end, at once."""
    environment = {
        **os.environ,
        "SAFEGUARD_BOOTSTRAP": current.bootstrap,
        "SAFEGUARD_PREFIX": current.prefix,
        "SAFEGUARD_SESSION_TIMEOUT_MS": str(current.session_timeout_ms),
        "SAFEGUARD_PREFILTER_PORT": str(brokers.free_port()),
        "SAFEGUARD_AUDIT_RATE_NEAR": "0",
        "SAFEGUARD_AUDIT_RATE_FAR": "0",
    }
    with subprocess.Popen([SAFEGUARD, "prefilter", "run"], env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGKILL)


async def read(current, topic, kind):
    return [decode(record.value, kind) async for record in kafka_bus.read_all(current, [topic])]


async def escalated(current, content_id):
    """The escalations of an item, by policy."""
    return [one for one in await read(current, topics.ESCALATIONS, Escalation) if one.event.content_id == content_id]


def report(number, event, **more):
    return ContentReport(f"r{number}", event, "user", WHEN, "a claim about it", **more)


async def test_a_cleared_text_reported_ten_times_is_answered_by_the_model_once(kafka):
    await kafka_bus.create_topics(kafka)
    await operator.release(kafka, [POLICY], ChangedBy("test"))
    event = ContentEvent("c1", TEXT, WHEN, author_id="u1")
    partition = kafka_bus.likely_partition("c1", kafka.partitions)
    last = next(f"z{n}" for n in range(99) if kafka_bus.likely_partition(f"z{n}", kafka.partitions) == partition)
    async with Publisher(kafka.bootstrap, prefix=kafka.prefix, **security(kafka)) as publisher:
        with prefilter(kafka):
            await publisher.publish(event)
            await until(lambda: read(kafka, topics.CLEARED, Verdict))
            assert await escalated(kafka, "c1") == []
            origin = (await newest_event(kafka, "c1")).origin
            for number in range(5):
                await publisher.report(report(number, event, origin=origin if number % 2 else None))
            await until(lambda: escalated(kafka, "c1"))
        for number in range(5, 10):
            await publisher.report(report(number, event))
        await publisher.report(report("no-text", event, policies=("nosuch",)))
        await publisher.report(report("last", ContentEvent(last, "the end", WHEN)))
        with prefilter(kafka):
            await until(lambda: escalated(kafka, last))  # all reports before it are done
    (found,) = await escalated(kafka, "c1")
    assert (found.policy_id, found.lane) == (POLICY.id, "live")
    assert (found.prefilter.gate, found.prefilter.live) == ("report", False)
    (letter,) = await read(kafka, topics.DEAD_LETTERS, DeadLetter)
    assert (letter.stage, letter.field) == ("prefilter-reports", "policies")

    backend = Scripted(*[SAFE] * 9)
    judge = Judge(backend, await feed_of(kafka), InferenceBudget(500))
    records = [record async for record in kafka_bus.read_all(kafka, [topics.ESCALATIONS])]
    outputs = [await judge([record]) for record in records if decode(record.value, Escalation).event.content_id == "c1"]
    verdicts = [decode(one[0].value, Verdict) for one in outputs]
    assert len(backend.prompts) == len(verdicts) == 1, "one answer"
    assert (verdicts[0].author_id, verdicts[0].decision, verdicts[0].prefilter.gate) == ("u1", "safe", "report")
    assert "a claim" not in backend.prompts[0]


def security(current):
    """The options of a client beside its address, on a broker that asks who connects."""
    return {
        name: value for name, value in client_options(current).items() if name.startswith(("security", "sasl", "ssl"))
    }


async def test_reports_of_items_by_id_find_the_newest_text(broker):
    await kafka_bus.create_topics(broker)
    async with kafka_bus.producer(broker) as producer:
        for number, text in enumerate(["old", "new"]):
            value = b'{"content_id":"c1","text":"%s","created_at":"2026-01-01T00:00:00Z","n":%d}' % (
                text.encode(),
                number,
            )
            await producer.send_and_wait(broker.prefix + topics.EVENTS, value, key=b"another key", partition=1)
    event, origin = await newest_event(broker, "c1")
    assert (event.text, origin) == ("new", "1@1")
