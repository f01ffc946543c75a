"""Publisher and Verdicts on the broker in memory keep the promises that they keep on Kafka."""

import asyncio
import gc
import subprocess
import sys
from datetime import UTC, datetime
from importlib.resources import files
from uuid import UUID

import pytest
from aiokafka.errors import KafkaTimeoutError

from safeguard_streams import (
    BusError,
    ConfigurationError,
    ContentEvent,
    MemoryBroker,
    Message,
    Publisher,
    RecordError,
    Verdict,
    Verdicts,
    encode,
)
from safeguard_streams.client.memory import MemoryProducer
from safeguard_streams.contract import topics
from tests.conftest import TIMEOUT

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def verdict(name, content="c1", policy="hate", **more):
    return Verdict(name, content, "0" * 64, policy, "1", "violates", "reasoner", "live", "model", NOW, **more)


def nested(depth):
    attributes = {}
    for _ in range(depth):
        attributes = {"a": attributes}
    return attributes


async def take(verdicts, count):
    return [await anext(verdicts) for _ in range(count)]


def ids(followed):
    return [one.verdict.verdict_id for one in followed]


async def test_what_was_not_committed_comes_again():
    broker = MemoryBroker()
    for number in range(5):
        broker.add_verdict(verdict(f"v{number}", f"c{number}"))
    async with Verdicts(broker, "group") as verdicts:
        assert ids(await take(verdicts, 2)) == ["v0", "v1"]
        await verdicts.commit()
        await take(verdicts, 2)
    async with Verdicts(broker, "group") as verdicts:
        assert ids(await take(verdicts, 3)) == ["v2", "v3", "v4"]
    async with Verdicts(broker, "another group") as verdicts:
        assert ids(await take(verdicts, 5)) == ["v0", "v1", "v2", "v3", "v4"]


async def test_doubled_and_superseded_verdicts_are_left_out_and_each_names_what_it_replaces():
    broker = MemoryBroker()
    for one in (
        verdict("v1"),
        verdict("v1"),
        verdict("v2"),
        verdict("gone", "c2"),
        verdict("v3", "c2", supersedes="gone"),
    ):
        broker.add_verdict(one)
    broker.append(topics.VERDICTS, b"no verdict", b"c1")
    async with Verdicts(broker, "group") as verdicts:
        followed = await take(verdicts, 3)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(verdicts), 0.05)
    assert [(one.verdict.verdict_id, one.replaces) for one in followed] == [("v1", None), ("v2", "v1"), ("v3", "gone")]


async def test_verdicts_that_are_written_later_come_while_it_waits():
    broker = MemoryBroker(partitions=3)
    async with Verdicts(broker, "group") as verdicts:
        waiting = asyncio.create_task(anext(verdicts))
        await asyncio.sleep(0)
        broker.add_verdict(verdict("late"))
        assert (await waiting).verdict.verdict_id == "late"


async def test_an_item_stays_in_one_partition_and_in_order():
    broker = MemoryBroker(partitions=4)
    async with Publisher(broker, prefix="eu.") as publisher:
        await publisher.publish_many([ContentEvent(f"c{n % 8}", str(n), NOW) for n in range(64)])
    assert broker.read(topics.EVENTS) == []
    records = broker.read("eu." + topics.EVENTS)
    for item in range(8):
        of_item = [record for record in records if record.key == b"c%d" % item]
        assert len({record.partition for record in of_item}) == 1
        assert [event.text for event in broker.events("eu.") if event.content_id == f"c{item}"] == [
            str(n) for n in range(item, 64, 8)
        ]
    assert all(record.headers == [("schema", b"ContentEvent/1")] for record in records)


@pytest.mark.parametrize(
    ("event", "field"),
    [
        (ContentEvent("", "text", NOW), "content_id"),
        (ContentEvent("c" * 513, "text", NOW), "content_id"),
        (ContentEvent("c1", "half \ud83d", NOW), "text"),
        (ContentEvent("\udc00", "text", NOW), "content_id"),
        (ContentEvent("c1", None, NOW), "text"),
        (ContentEvent("c1", "text", "yesterday"), "created_at"),
        (ContentEvent("c1", "text", NOW, attributes={"a": "\ud800"}), "attributes"),
        (ContentEvent("c1", "text", NOW, attributes={"a": object()}), "attributes"),
        (ContentEvent("c1", "text", NOW, attributes={"a": 10**5000}), "attributes"),
        (ContentEvent("c1", "text", NOW, attributes=nested(5000)), "attributes"),
        (ContentEvent("c1", b"text", NOW), "text"),
        (ContentEvent(b"c1", "text", NOW), "content_id"),
        (ContentEvent(UUID(int=1), "text", NOW), "content_id"),
        (ContentEvent("c1", "text", NOW, context=(Message("user", b"text"),)), "context[0].text"),
        (ContentEvent("c1", "t" * topics.LARGEST_CONTENT, NOW), "record"),
        ({"content_id": "c1", "text": "text", "created_at": "2026-01-01T00:00:00Z"}, "record"),
    ],
)
async def test_an_invalid_event_is_refused_and_nothing_of_its_batch_is_sent(event, field):
    broker = MemoryBroker()
    async with Publisher(broker) as publisher:
        with pytest.raises(RecordError) as refused:
            await publisher.publish_many([ContentEvent("c0", "good", NOW), event])
    assert refused.value.field == field
    assert broker.events() == []


@pytest.mark.parametrize("at", ["127.0.0.1:1", MemoryBroker()])
def test_a_client_is_made_anywhere_and_says_how_to_open_it(at):
    publisher, verdicts = Publisher(at), Verdicts(at, "group")

    async def use():
        for call in (publisher.publish(ContentEvent("c1", "text", NOW)), anext(verdicts), verdicts.commit()):
            with pytest.raises(ConfigurationError, match=r"not open.*async with"):
                await call

    asyncio.run(use())


async def test_a_failed_batch_raises_one_error_and_logs_none(monkeypatch, caplog):
    async def fail(self, topic, **_):
        failed = asyncio.get_running_loop().create_future()
        failed.set_exception(KafkaTimeoutError())
        return failed

    monkeypatch.setattr(MemoryProducer, "send", fail)
    async with Publisher(MemoryBroker()) as publisher:
        with pytest.raises(BusError, match="publishing to content.events failed"):
            await publisher.publish_many([ContentEvent(f"c{n}", "text", NOW) for n in range(3)])
    await asyncio.sleep(0)
    gc.collect()
    assert caplog.records == []


async def test_a_closed_client_does_nothing_and_opens_again():
    broker = MemoryBroker()
    broker.add_verdict(verdict("v1"))
    broker.add_verdict(verdict("v2", "c2"))
    verdicts = Verdicts(broker, "group")
    async with verdicts:
        assert ids(await take(verdicts, 1)) == ["v1"]
    with pytest.raises(ConfigurationError, match="not open"):
        await anext(verdicts)
    async with verdicts:
        assert ids(await take(verdicts, 2)) == ["v1", "v2"]


async def test_what_the_positions_function_raises_reaches_the_application():
    async def positions(partition):
        raise LookupError("the database is away")

    async with Verdicts(MemoryBroker(), "group", positions=positions) as verdicts:
        with pytest.raises(LookupError, match="the database is away"):
            await anext(verdicts)


@pytest.mark.parametrize("prefix", ["a b.", "ü", "x" * 240])
def test_a_prefix_that_kafka_refuses_is_refused_at_once(prefix):
    for make in (lambda: Publisher(MemoryBroker(), prefix=prefix), lambda: Verdicts("h:1", "group", prefix=prefix)):
        with pytest.raises(ConfigurationError, match="prefix"):
            make()


def test_a_group_has_a_name():
    with pytest.raises(ConfigurationError, match="group is empty"):
        Verdicts(MemoryBroker(), "")


async def test_events_are_written_as_the_pipeline_reads_them():
    broker, event = MemoryBroker(), ContentEvent("c1", "текст 🙂", NOW, surface="comment", attributes={"a": [1, None]})
    async with Publisher(broker) as publisher:
        await publisher.publish(event)
    assert broker.events() == [event]
    assert broker.read(topics.EVENTS)[0].value == encode(event)


def test_the_example_of_the_guide_passes():
    example = files("safeguard_streams.client") / "examples" / "test_enforcement.py"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        "/",
        "-c",
        "/dev/null",
        str(example),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout
