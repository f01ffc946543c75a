"""Readers of topics count what they cannot read, and are bounded by time whatever timestamps records have."""

import asyncio
import json
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.consumer.fetcher import Fetcher, OffsetResetStrategy

from safeguard_streams.bus import kafka as kafka_bus
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import ContentEvent, ErasureRequest, encode
from safeguard_streams.runtime.aiokafka_patch import StrictConsumer
from safeguard_streams.runtime.security import client_options
from tests.conftest import TIMEOUT, own_topics, until

pytestmark = pytest.mark.slow
WHEN = datetime(2026, 1, 1, tzinfo=UTC)
NAME = topics.ERASURES  # of one partition, and compacted


def request(name):
    return encode(ErasureRequest(name, WHEN, "test"))


async def create_lenient(current):
    """Create the topic as brokers before Kafka 4 did, which take any timestamp."""
    admin = AIOKafkaAdminClient(**client_options(current))
    await admin.start()
    config = {"message.timestamp.after.max.ms": str(2**63 - 1)}
    await admin.create_topics([NewTopic(current.prefix + NAME, 1, 1, topic_configs=config)])
    await admin.close()


async def written(current, records, *, any_time=False):
    """Write (key, value, timestamp in ms or None) in order."""
    if any_time:
        await create_lenient(current)
    await kafka_bus.create_topics(current)
    async with kafka_bus.producer(current) as producer:
        for key, value, timestamp in records:
            await producer.send_and_wait(current.prefix + NAME, value, key=key, timestamp_ms=timestamp, partition=0)


async def test_tombstones_and_foreign_records_are_left_out_and_counted(broker):
    records = [b"hello", None, b"{}", b"[1]", b"\xff", b'{"content_id": ""}', request("a"), None, request("b")]
    await written(broker, [(b"k", value, None) for value in records])
    with kafka_bus.watched(kafka_bus.Reading()) as reading:
        read = [one async for _, one in kafka_bus.read_decoded(broker, [NAME], ErasureRequest)]
    assert [one.content_id for one in read] == ["a", "b"]
    assert reading.left_out == {(NAME, "tombstone"): 2, (NAME, "no ErasureRequest"): 5}
    assert str(reading).startswith("7 records were left out: 5 no ErasureRequest on moderation.erasures")


async def test_a_table_holds_the_newest_readable_record_of_each_key(broker):
    records = [(b"a", request("a")), (b"b", request("b")), (b"a", b"hello"), (b"b", None)]
    await written(broker, [(key, value, None) for key, value in records])
    with kafka_bus.watched(kafka_bus.Reading()) as reading:
        table = await kafka_bus.read_table(broker, NAME, ErasureRequest)
    assert {key: one.content_id for key, one in table.items()} == {b"a": "a"}
    assert reading.left_out[NAME, "no ErasureRequest"] == 1


def ms(day):
    return int((WHEN + timedelta(days=day)).timestamp() * 1000)


ODD = {
    "none": [],
    "microseconds first": [(0, ms(0) * 1000)],
    "microseconds in the middle": [(5, ms(5) * 1000)],
    "zero and seconds": [(3, 0), (5, ms(5) // 1000)],
    "the far future, everywhere": [(0, ms(90_000)), (4, ms(90_000)), (9, ms(90_000))],
}


@pytest.mark.parametrize("broker_address", ["kafka"], indirect=True)
@pytest.mark.parametrize("odd", ODD.values(), ids=ODD.keys())
async def test_a_reading_is_bounded_by_time(broker, odd):
    stream = [(str(day), ms(day)) for day in range(10)]
    for at, timestamp in odd:
        stream.insert(at, ("odd", timestamp))
    await written(broker, [(b"k", request(name), timestamp) for name, timestamp in stream], any_time=True)

    async def between(since, until):
        bounds = {"since": since and WHEN + timedelta(days=since), "until": until and WHEN + timedelta(days=until)}
        read = kafka_bus.read_decoded(broker, [NAME], ErasureRequest, 0, **bounds)
        return [one.content_id async for _, one in read if one.content_id != "odd"]

    days = [str(day) for day in range(10)]
    assert await between(None, None) == days
    assert await between(4, None) == days[4:]
    assert await between(None, 6) == days[:6]
    assert await between(3, 7) == days[3:7]
    assert await between(90_000, None) == []


async def test_a_reading_says_what_it_covers(broker):
    await written(broker, [(b"k", request("a"), None)] * 5)
    seen = []

    class Watch(kafka_bus.Reading):
        def begin(self, names, offsets):
            seen.append((list(names), offsets))

        def advance(self, offsets):
            seen.append(offsets)

    with kafka_bus.watched(Watch()):
        read = [record async for record in kafka_bus.read_all(broker, [NAME])]
    assert len(read) == 5
    assert seen[0] == ([NAME], 5)
    assert sum(seen[1:]) == 5


async def test_a_reader_from_the_end_gives_only_what_comes_next(broker, monkeypatch):
    """Also if the answer to the client's own first reset, to the beginning, is late."""
    answer = Fetcher._proc_offset_request

    async def late(self, node, asked):
        beginning = any(at == OffsetResetStrategy.EARLIEST for parts in asked.values() for _, at in parts)
        offsets = await answer(self, node, asked)
        await asyncio.sleep(0.3 if beginning else 0)
        return offsets

    await written(broker, [(b"k", request("old"), None)] * 20)
    monkeypatch.setattr(Fetcher, "_proc_offset_request", late)
    async with kafka_bus.reader(broker, [NAME], from_end=True) as client, kafka_bus.producer(broker) as producer:
        await producer.send_and_wait(broker.prefix + NAME, request("new"), key=b"k", partition=0)
        record = await asyncio.wait_for(client.getone(), TIMEOUT)
    assert record.value == request("new")


async def test_a_reader_from_the_end_of_an_empty_topic_begins_at_its_first_record(broker):
    await written(broker, [])
    async with kafka_bus.reader(broker, [NAME], from_end=True) as client, kafka_bus.producer(broker) as producer:
        await producer.send_and_wait(broker.prefix + NAME, request("new"), key=b"k", partition=0)
        assert (await asyncio.wait_for(client.getone(), TIMEOUT)).value == request("new")


@pytest.mark.parametrize("content_id", ["plain-1", 'odd "id" \\ ü 🙂/', "ключ", "\n"])
async def test_an_items_partition_is_found_by_its_key_and_without_one(broker, content_id):
    await kafka_bus.create_topics(broker)
    likely = kafka_bus.likely_partition(content_id, broker.partitions)
    event = ContentEvent(content_id, "text", WHEN)
    ascii_only = json.dumps(msgspec.to_builtins(event), default=str).encode()
    async with kafka_bus.producer(broker) as producer:
        topic = broker.prefix + topics.EVENTS
        for other in (None, b"hello", b'{"content_id": "other", "text": "\\u00fc"}'):
            await producer.send_and_wait(topic, other, key=content_id.encode() if other else b"k", partition=likely)
        assert await kafka_bus.partition_of_content(broker, content_id) is None
        sent = await producer.send_and_wait(topic, encode(event), key=content_id.encode())
        assert sent.partition == likely
        assert await kafka_bus.partition_of_content(broker, content_id) == likely
        other = content_id + "2"
        moved = 1 - kafka_bus.likely_partition(other, broker.partitions)
        value = ascii_only.replace(json.dumps(content_id).encode(), json.dumps(other).encode())
        await producer.send_and_wait(topic, value, partition=moved)
        assert await kafka_bus.partition_of_content(broker, other) == moved


@pytest.fixture
def embedded(embedded_address):
    """Settings for the embedded broker only."""
    return own_topics(embedded_address)


class _Announced(kafka_bus.Reading):
    """How many records a reading announced, and how many it has passed."""

    announced = passed = 0

    def begin(self, names, offsets):
        self.announced += offsets

    def advance(self, offsets):
        self.passed += offsets


async def test_a_reading_announces_as_many_records_as_it_reads(embedded):
    """Before, on the embedded broker, it announced only the first record of the last batch of a partition."""
    await kafka_bus.create_topics(embedded)
    async with kafka_bus.producer(embedded) as producer:
        batch = producer.create_batch()
        for number in range(7):
            assert batch.append(timestamp=None, key=b"k", value=request(f"c{number}")) is not None
        await (await producer.send_batch(batch, embedded.prefix + NAME, partition=0))
    with kafka_bus.watched(_Announced()) as reading:
        read = [one async for _, one in kafka_bus.read_decoded(embedded, [NAME], ErasureRequest)]
    assert (len(read), reading.announced, reading.passed) == (7, 7, 7)
    with kafka_bus.watched(_Announced()) as reading:
        assert not [one async for one in kafka_bus.read_all(embedded, [topics.REPLAY_JOBS])]
    assert (reading.announced, reading.passed) == (0, 0)


async def test_two_probes_at_once_log_no_error(embedded, caplog):
    """Before, the probe that ended first let the client log what the other one's broker answered."""
    groups = [f"{embedded.prefix}g{number}" for number in range(3)]
    assert not any(await asyncio.gather(*(kafka_bus.has_transactions(embedded, group) for group in groups)))
    assert not [one for one in caplog.records if "InitProducerIdRequest" in one.getMessage()]


async def test_a_start_that_is_cancelled_gives_the_join_up(embedded):
    """Before, the end waited for the answer to the join, which a broker holds back for seconds."""
    await kafka_bus.create_topics(embedded)
    options = {**client_options(embedded), "group_id": f"{embedded.prefix}g", "enable_auto_commit": False}
    member = StrictConsumer(embedded.prefix + NAME, **options)
    starting = asyncio.create_task(member.start())
    await until(lambda: getattr(member._coordinator, "_coordination_task", None) is not None)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert member._coordinator._coordination_task.done()
    await member.stop()
