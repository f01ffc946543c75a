"""On Apache Kafka: nothing is skipped, and nothing blocks, whatever a log holds and whatever becomes of it."""

import asyncio
import contextlib
import logging
import os
import struct
from collections import Counter

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete
from aiokafka.errors import UnsupportedCodecError
from aiokafka.record.util import calc_crc32c
from aiokafka.structs import OffsetAndMetadata

from safeguard_streams.bus import kafka as kafka_bus
from safeguard_streams.bus.dead_letters import dead_letter, requeued
from safeguard_streams.bus.engine import Engine
from safeguard_streams.bus.interface import Output, Partition
from safeguard_streams.bus.kafka import KafkaBus, recording
from safeguard_streams.bus.transform import stateless
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import DeadLetter, decode
from safeguard_streams.errors import RecordError
from safeguard_streams.infra import brokers
from safeguard_streams.runtime import settings
from safeguard_streams.runtime.security import client_options
from tests import groups
from tests.conftest import TIMEOUT, own_topics, until

GROUP = "reading"
CODECS = (None, "gzip", "snappy", "lz4", "zstd")


@pytest.fixture
async def place(kafka):
    await kafka_bus.create_topics(kafka)
    return kafka


async def echo(records):
    return [Output(topics.CLEARED, r.key, r.value) for r in records]


async def write(place, values, partition=0, codec=None, topic=topics.EVENTS, headers=()):
    """One batch of records."""
    async with kafka_bus.started(
        place, AIOKafkaProducer(**client_options(place), compression_type=codec, max_request_size=topics.LARGEST_RECORD)
    ) as producer:
        batch = producer.create_batch()
        for value in values:
            assert batch.append(timestamp=None, key=None, value=value, headers=list(headers)) is not None
        await (await producer.send_batch(batch, place.prefix + topic, partition=partition))


async def ends(place):
    async with kafka_bus.reader(place, [topics.EVENTS]) as reader:
        return await (await kafka_bus.EndOffsets.now(reader)).resolve()


async def process(place, group=GROUP, bus=None, **more):
    """Process the events up to where they end now."""
    engine = Engine(bus or KafkaBus(place, [topics.EVENTS], group, **more), stateless(echo), stage=group)
    async with asyncio.timeout(TIMEOUT):
        await engine.run(asyncio.Event(), until=await ends(place))


async def outputs(place, topic, count):
    """The records of a topic, once there are `count`: a transaction becomes visible a moment after its commit."""
    found = []

    async def complete():
        nonlocal found
        found = [record async for record in kafka_bus.read_all(place, [topic])]
        return len(found) >= count

    await until(complete, TIMEOUT)
    return found


async def cleared(place, count):
    return Counter([record.value for record in await outputs(place, topics.CLEARED, count)])


async def letters(place, count):
    return [decode(record.value, DeadLetter) for record in await outputs(place, topics.DEAD_LETTERS, count)]


@contextlib.asynccontextmanager
async def admin(place):
    client = AIOKafkaAdminClient(**client_options(place))
    async with kafka_bus.started(place, client, client.close):
        yield client


async def recreate(place, name=topics.EVENTS):
    async with admin(place) as client:
        await client.delete_topics([place.prefix + name])
        await asyncio.sleep(1)

        async def created():
            response = await client.create_topics([NewTopic(place.prefix + name, place.partitions, 1)])
            return not response.topic_errors[0][1]

        await until(created, TIMEOUT)


# ---------------------------------------------------------------------- what cannot be decoded


async def test_records_of_every_codec_are_read_beside_each_other(place):
    for number, codec in enumerate(CODECS):
        await write(place, [b"%s %d" % (str(codec).encode(), n) * 50 for n in range(30)], number % 2, codec)
    await process(place)
    counted = await cleared(place, 150)
    assert len(counted) == 150
    assert set(counted.values()) == {1}
    assert await letters(place, 0) == []


async def test_header_names_that_are_not_utf8_cost_nothing_and_are_requeued_to_the_byte(place):
    name, value = "\udcff\x00 é", b"\x80"
    headers = [("a", None), (name, value), (name, None), ("", b"")]
    event = Output(topics.EVENTS, b"k", b"not utf-8", headers)
    async with kafka_bus.exclusive_writer(place, "other"):  # transactions work beside it
        bus = KafkaBus(place, [topics.EVENTS], GROUP)
        await bus.start(Listening())
        await until(lambda: owned(bus, 2), TIMEOUT)
        writer = await bus.writer(Partition(place.prefix + topics.EVENTS, 0))
        await writer.commit([event, Output(topics.EVENTS, None, b"beside")], 0, "")
        records = await poll(bus, 2)
        letter = dead_letter(records[0], RecordError("x", "y"), stage="s", attempts=1)
        await writer.commit([letter], 2, "")
        (read,) = await outputs(place, topics.DEAD_LETTERS, 1)
        await writer.commit([requeued(read, place.prefix)], 2, "")
        (again,) = await poll(bus, 1)
        await writer.close()
        await bus.stop()
    assert [(r.value, list(r.headers)) for r in records] == [(b"not utf-8", headers), (b"beside", [])]
    assert (again.key, again.value, list(again.headers)[:-1]) == (b"k", b"not utf-8", headers)


@pytest.mark.slow
async def test_what_is_broken_on_disk_is_a_dead_letter_once_and_all_else_goes_on(monkeypatch):
    with brokers.kafka_cluster() as nodes:
        place = own_topics(brokers.addresses(nodes))
        await kafka_bus.create_topics(place)
        for number in range(4):
            await write(place, [b"zero %d %d" % (number, n) for n in range(3)], 0, "zstd")
        for number in range(20):
            await write(place, [b"one %d %d" % (number, n) for n in range(10)], 1)
        folder = nodes[0].folder / "data" / f"{place.prefix}{topics.EVENTS}-0"
        (log,) = folder.glob("*.log")
        raw = bytearray(log.read_bytes())
        starts = batch_starts(raw)
        raw[starts[1] + 70] ^= 0x55  # a wrong checksum
        spoil(raw, starts[2])  # a right checksum, and data that cannot be decompressed
        with log.open("r+b") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        await process(place)
        await write(place, [b"later"], 0, "lz4")
        await process(place)
        counted = await cleared(place, 207)
        expected = {b"zero %d %d" % (number, n) for number in (0, 3) for n in range(3)}
        expected |= {b"one %d %d" % (number, n) for number in range(20) for n in range(10)} | {b"later"}
        assert counted == Counter(expected)
        found = await letters(place, 2)
        assert [(each.origin.partition, each.origin.offset, each.unreadable) for each in found] == [
            (0, 5, True),
            (0, 8, True),
        ]
        assert "offsets 3 to 5" in found[0].reason
        assert len(found[0].value) > 60


def batch_starts(raw):
    starts, position = [], 0
    while position + 12 < len(raw) and (length := struct.unpack_from(">i", raw, position + 8)[0]) > 0:
        starts.append(position)
        position += 12 + length
    return starts


def spoil(raw, start):
    length = struct.unpack_from(">i", raw, start + 8)[0]
    raw[start + 61 : start + 65] = b"\0\0\0\0"  # zstd's magic number
    raw[start + 17 : start + 21] = struct.pack(">I", calc_crc32c(bytes(raw[start + 21 : start + 12 + length])))


@pytest.mark.parametrize(
    "error", [UnsupportedCodecError("no"), ValueError("no"), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no")]
)
async def test_a_fetch_that_fails_half_way_skips_nothing_and_repeats_nothing(place, error):
    for number in range(10):
        for partition in (0, 1):
            await write(place, [b"%d %d %d" % (partition, number, n) for n in range(10)], partition)
    bus = KafkaBus(place, [topics.EVENTS], GROUP)
    calls = 0
    real = kafka_bus.bus.StrictConsumer.getmany

    async def getmany(self, *args, **options):
        """Moves aiokafka's position of a partition, and then raises, like a decoder of another one."""
        nonlocal calls
        if self is not bus._consumer:
            return await real(self, *args, **options)
        polled = await real(self, *args, timeout_ms=options["timeout_ms"], max_records=15)
        calls += bool(polled)
        if polled and calls % 3 != 2 and calls < 20:
            raise error
        return polled

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kafka_bus.bus.StrictConsumer, "getmany", getmany)
        patch.setattr(kafka_bus.bus, "_RETRY_SECONDS", 0.01)
        await process(place, bus=bus)
    assert calls > 3
    written = [b"%d %d %d" % (p, number, n) for p in (0, 1) for number in range(10) for n in range(10)]
    assert await cleared(place, 200) == Counter(written)


# ---------------------------------------------------------------------- what becomes of a log


class Listening:
    def __init__(self):
        self.resets = []

    def assigned(self, partitions):
        return

    async def revoked(self, partitions):
        return

    def reset(self, partition, offset):
        self.resets.append((partition.partition, offset))


async def owned(bus, count):
    await bus.poll(0.1, 1000)
    return len(bus.assignment()) == count


async def poll(bus, count):
    records = []
    async with asyncio.timeout(TIMEOUT):
        while len(records) < count:
            for polled in (await bus.poll(0.2, 1000)).values():
                records += polled
    return records


async def position_at(place, offset, group=GROUP):
    async with kafka_bus.positions._outsider(place, group, [TopicPartition(place.prefix + topics.EVENTS, 0)]) as client:
        await client.commit({tp: OffsetAndMetadata(offset, "") for tp in client.assignment()})


async def test_a_log_that_ends_before_the_committed_position_is_read_from_its_first_record(place, caplog):
    await write(place, [b"new %d" % n for n in range(80)])
    await position_at(place, 130)
    bus, listening = KafkaBus(place, [topics.EVENTS], GROUP), Listening()
    await bus.start(listening)
    with caplog.at_level(logging.ERROR):
        records = await poll(bus, 80)
    await bus.stop()
    assert [r.value for r in records if r.partition == 0] == [b"new %d" % n for n in range(80)]
    assert listening.resets == [(0, 0)]
    assert "log was cut or created again" in caplog.text


async def test_all_records_of_a_log_that_ends_before_the_position_are_processed(place):
    await write(place, [b"new %d" % n for n in range(80)])
    await position_at(place, 130)
    await process(place)
    assert await cleared(place, 80) == Counter([b"new %d" % n for n in range(80)])
    await write(place, [b"later"])
    await process(place)
    assert (await cleared(place, 81))[b"later"] == 1


@pytest.mark.slow
async def test_a_topic_created_again_while_it_is_read_is_read_from_its_first_record(place):
    await write(place, [b"old %d" % n for n in range(130)])
    bus = KafkaBus(place, [topics.EVENTS], GROUP)
    await bus.start(Listening())
    assert len(await poll(bus, 130)) == 130
    polling = asyncio.create_task(poll(bus, 80))
    await recreate(place)
    await write(place, [b"new %d" % n for n in range(80)])
    records = await polling
    await bus.stop()
    assert [r.value for r in records] == [b"new %d" % n for n in range(80)]


async def test_a_topic_created_again_and_grown_past_the_position_is_read_from_its_first_record(place, monkeypatch):
    await write(place, [b"new %d" % n for n in range(80)])
    monkeypatch.setattr(kafka_bus.bus, "_CHECK_SECONDS", 0.2)
    bus, listening = KafkaBus(place, [topics.EVENTS], GROUP), Listening()
    await bus.start(listening)
    assert len(await poll(bus, 80)) == 80
    bus._recorded.topic_ids[place.prefix + topics.EVENTS] = "what it was before"
    records = await poll(bus, 80)
    await bus.stop()
    assert [r.value for r in records] == [b"new %d" % n for n in range(80)]
    assert (0, 0) in listening.resets


async def test_records_that_retention_deleted_are_reported_and_the_others_read(place, caplog):
    await write(place, [b"%d" % n for n in range(20)])
    tp = TopicPartition(place.prefix + topics.EVENTS, 0)
    async with admin(place) as client:
        await client.delete_records({tp: RecordsToDelete(before_offset=12)})
    await position_at(place, 5)
    bus, listening = KafkaBus(place, [topics.EVENTS], GROUP), Listening()
    await bus.start(listening)
    with caplog.at_level(logging.ERROR):
        records = await poll(bus, 8)
    await bus.stop()
    assert [r.offset for r in records] == list(range(12, 20))
    assert listening.resets == []
    assert "deleted before they were read" in caplog.text


# ---------------------------------------------------------------------- positions that Kafka forgets


async def forget(place, group=GROUP):
    """What Kafka does with a group that was empty for 7 days."""
    await groups.forget(place, group)
    assert await raw_positions(place, group) == {}


async def raw_positions(place, group):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kafka_bus.positions, "recorded_positions", nothing)
        return await kafka_bus.group_positions(place, group, topics.EVENTS, [0, 1])


async def nothing(*_):
    return {}


async def recorded(place, positions):
    found = await recording.recorded_positions(place, place.prefix + GROUP)
    assert all(len(position.topic_id) == 32 for position in found.values())
    return {partition: (each.offset, each.metadata) for partition, each in found.items()} == positions


async def test_a_group_that_kafka_has_forgotten_goes_on_where_it_was(place, caplog):
    for partition in (0, 1):
        await write(place, [b"before %d %d" % (partition, n) for n in range(20)], partition)
    await process(place)
    await outputs(place, topics.POSITIONS, 1)
    await forget(place)
    assert await kafka_bus.group_positions(place, GROUP, topics.EVENTS, [0, 1]) == {0: 20, 1: 20}  # recorded ones
    await write(place, [b"after"])
    with caplog.at_level(logging.ERROR):
        await process(place)
    counted = await cleared(place, 41)
    assert counted[b"after"] == 1
    assert set(counted.values()) == {1}
    assert len(counted) == 41
    assert "Kafka had forgotten" in caplog.text


async def test_a_forgotten_position_is_committed_before_anything_new_arrives(place):
    for partition in (0, 1):
        await write(place, [b"%d %d" % (partition, n) for n in range(20)], partition)
    await process(place)
    await outputs(place, topics.POSITIONS, 1)
    await forget(place)
    bus = KafkaBus(place, [topics.EVENTS], GROUP)
    await bus.start(Listening())
    await until(lambda: owned(bus, 2), TIMEOUT)
    writer = await bus.writer(Partition(place.prefix + topics.EVENTS, 0))
    assert (await writer.committed()).offset == 20
    await writer.close()
    await bus.stop()
    assert await raw_positions(place, GROUP) == {0: 20}, "scaling by Kafka's lag would see all records as waiting"


async def test_a_topic_created_again_while_nobody_read_is_all_new_whatever_was_recorded(place, caplog):
    await write(place, [b"old %d" % n for n in range(20)])
    await process(place)
    await outputs(place, topics.POSITIONS, 1)
    await recreate(place)
    await write(place, [b"new %d" % n for n in range(50)])
    with caplog.at_level(logging.ERROR):
        await process(place)
    counted = await cleared(place, 70)
    assert len(counted) == 70
    assert set(counted.values()) == {1}
    assert "created again" in caplog.text


async def test_a_forgotten_group_is_not_moved_to_the_end(place):
    await write(place, [b"0", b"1"])
    await process(place)
    await outputs(place, topics.POSITIONS, 1)
    await forget(place)
    await write(place, [b"missed"])
    await kafka_bus.begin_at_end(place, GROUP, topics.EVENTS)
    await process(place)
    assert set(await cleared(place, 3)) == {b"0", b"1", b"missed"}


async def test_a_new_group_begins_at_the_first_record_and_one_at_the_end_with_the_next(place):
    await write(place, [b"0", b"1"])
    await kafka_bus.begin_at_end(place, "at-end", topics.EVENTS)
    await write(place, [b"2"])
    await process(place, "at-end")
    assert set(await cleared(place, 1)) == {b"2"}
    await process(place, "new")
    assert await cleared(place, 4) == Counter([b"0", b"1", b"2", b"2"])


@pytest.mark.parametrize(("record_seconds", "records"), [(0, 3), (TIMEOUT, 1)])
async def test_positions_are_recorded_with_each_commit_or_once_in_a_while_and_at_the_end(
    place, record_seconds, records
):
    bus = KafkaBus(place, [topics.EVENTS], GROUP, record_seconds=record_seconds)
    await bus.start(Listening())
    await until(lambda: owned(bus, 2), TIMEOUT)
    partition = Partition(place.prefix + topics.EVENTS, 0)
    writer = await bus.writer(partition)
    for offset in (1, 2, 3):
        await writer.commit([], offset, "m")
    assert len(await outputs(place, topics.POSITIONS, records)) == records
    await writer.close()
    await bus.stop()
    await until(lambda: recorded(place, {partition: (3, "m")}), TIMEOUT)


async def test_a_fenced_writer_records_nothing(place):
    bus = KafkaBus(place, [topics.EVENTS], GROUP)
    await bus.start(Listening())
    await until(lambda: owned(bus, 2), TIMEOUT)
    partition = Partition(place.prefix + topics.EVENTS, 0)
    older = await bus.writer(partition)
    await older.commit([], 1, "")
    await older.commit([], 2, "")
    newer = await bus.writer(partition)
    await newer.commit([], 7, "")
    await older.close()
    await newer.close()
    await bus.stop()
    await until(lambda: recorded(place, {partition: (7, "")}), TIMEOUT)


# ---------------------------------------------------------------------- topics of an earlier version


async def test_the_retention_of_actions_is_changed_once_it_is_set(place):
    async def retention(*names):
        async with admin(place) as client:
            asked = [kafka_bus.admin.ConfigResource("topic", place.prefix + name) for name in names]
            answers = [one for response in await client.describe_configs(asked) for one in response.resources]
        return [{entry[0]: entry[1] for entry in one[4]}["retention.ms"] for one in answers]

    async def created(**more):
        await kafka_bus.create_topics(
            settings.load(bootstrap=place.bootstrap, prefix=place.prefix, partitions=2, **more)
        )
        return await retention(topics.ACTIONS, topics.VERDICTS)

    verdicts = str(90 * topics.DAY)
    assert await created() == [verdicts, verdicts]
    assert await created(actions_retention_days=365) == [str(365 * topics.DAY), verdicts]
    assert await created() == [str(365 * topics.DAY), verdicts], "it was not set"
    assert await created(actions_retention_days=0) == ["-1", verdicts]


async def test_no_size_ends_what_is_kept_for_good(place):
    """A cluster may bound the bytes of all topics. Referrals under a legal hold, and releases, outlive that."""
    kept = [topics.REFERRALS, topics.POLICIES_HISTORY]

    async def limits():
        asked = [kafka_bus.admin.ConfigResource("topic", place.prefix + name) for name in [*kept, topics.EVENTS]]
        answers = [one for response in await client.describe_configs(asked) for one in response.resources]
        return [{entry[0]: (entry[1], entry[3]) for entry in one[4]}["retention.bytes"] for one in answers]

    async with admin(place) as client:
        fresh = await limits()
        small = {place.prefix + name: "1000000" for name in kept}
        for name, size in small.items():
            request = kafka_bus.admin._AlterConfigs(name, {"retention.bytes": size})
            await client._send_to_controller(request)
        await until(lambda: changed(limits, "1000000"))
        await kafka_bus.create_topics(place)
        again = await limits()
    assert [value for value, _ in fresh] == [value for value, _ in again] == ["-1", "-1", "-1"]
    topic, default = fresh[0][1], fresh[2][1]
    assert topic != default, "set for the topic, whatever the cluster's default is"


async def changed(limits, size):
    return [value for value, _ in await limits()][:2] == [size, size]


async def test_topics_that_take_too_small_records_are_changed_and_nothing_else_of_them(place, monkeypatch, caplog):
    name = place.prefix + topics.EVENTS
    async with admin(place) as client:
        await client.delete_topics([name])
        await asyncio.sleep(1)
        config = {"max.message.bytes": "1000000", "retention.ms": "777777777", "cleanup.policy": "compact"}

        async def created():
            response = await client.create_topics([NewTopic(name, 2, 1, topic_configs=config)])
            return not response.topic_errors[0][1]

        await until(created, TIMEOUT)
        made = await kafka_bus.create_topics(place)
        assert not any(made.values())
        (response,) = await client.describe_configs([kafka_bus.admin.ConfigResource("topic", name)])
        now = {entry[0]: entry[1] for entry in response.resources[0][4]}
    assert (
        now["max.message.bytes"]
        == next(t for t in topics.CATALOGUE if t.name == topics.EVENTS).config["max.message.bytes"]
    )
    assert now["retention.ms"] == "777777777"
    assert "cleanup.policy=[delete]" in caplog.text
