"""One contract for every bus: memory, the embedded broker, Apache Kafka."""

import asyncio
import contextlib

import pytest
from aiokafka import AIOKafkaProducer

from safeguard_streams.bus import kafka as kafka_bus
from safeguard_streams.bus.engine import Engine, Limits
from safeguard_streams.bus.interface import Committed, Output, Partition
from safeguard_streams.bus.kafka import KafkaBus
from safeguard_streams.bus.memory import MemoryBus
from safeguard_streams.bus.transform import stateless
from safeguard_streams.contract import topics
from safeguard_streams.errors import FencedError
from safeguard_streams.runtime.memory_broker import MemoryBroker
from safeguard_streams.runtime.security import client_options
from tests.conftest import TIMEOUT, own_topics


class Memory:
    transactional = True

    def __init__(self):
        self.broker = MemoryBroker(partitions=2)

    async def create(self):
        return

    def bus(self, topic=topics.EVENTS):
        return MemoryBus(self.broker, [topic])

    async def ends(self, topic):
        return {Partition(topic, number): len(self.broker.logs[Partition(topic, number)]) for number in (0, 1)}

    async def publish(self, values):
        for n, value in enumerate(values):
            self.broker.append(topics.EVENTS, value, str(n).encode(), n % 2)

    async def read(self, topic):
        return self.broker.read(topic)


class OnBroker:
    def __init__(self, settings, transactional):
        self.settings = settings
        self.transactional = transactional

    async def create(self):
        await kafka_bus.create_topics(self.settings)

    def bus(self, topic=topics.EVENTS):
        return KafkaBus(self.settings, [topic], "contract")

    async def ends(self, topic):
        async with kafka_bus.reader(self.settings, [topic]) as reader:
            return await (await kafka_bus.EndOffsets.now(reader)).resolve()

    async def publish(self, values):
        topic = self.settings.prefix + topics.EVENTS
        async with kafka_bus.producer(self.settings) as producer:
            for n, value in enumerate(values):
                await producer.send(topic, value=value, key=str(n).encode(), partition=n % 2)
            await producer.flush()

    async def read(self, topic):
        return [record async for record in kafka_bus.read_all(self.settings, [topic])]


@pytest.fixture(params=["memory", "embedded", "kafka"])
async def place(request, patient):
    if request.param == "memory":
        bus_place = Memory()
    else:
        current = own_topics(request.getfixturevalue(f"{request.param}_address"))
        is_kafka = request.param == "kafka"
        bus_place = OnBroker(patient(current) if is_kafka else current, is_kafka)
    await bus_place.create()
    return bus_place


class Listening:
    def __init__(self):
        self.owned = set()

    def assigned(self, partitions):
        self.owned |= set(partitions)

    async def revoked(self, partitions):
        self.owned -= set(partitions)


@contextlib.asynccontextmanager
async def started(place):
    bus, listener = place.bus(), Listening()
    await bus.start(listener)
    try:
        async with asyncio.timeout(TIMEOUT):
            while len(listener.owned) < 2:
                await bus.poll(0.1, 1)
        yield bus, listener
    finally:
        await bus.stop()


async def poll(bus, count):
    records = []
    async with asyncio.timeout(TIMEOUT):
        while len(records) < count:
            for polled in (await bus.poll(0.2, 1000)).values():
                records += polled
    return records


async def echo(records):
    return [Output(topics.CLEARED, r.key, r.value, r.headers) for r in records]


async def run_engine(place, transform, count, limits=None):
    engine = Engine(place.bus(), stateless(transform), stage="contract", limits=limits)
    stop = asyncio.Event()

    async def watch():
        async with asyncio.timeout(TIMEOUT):
            while engine.committed < count:
                await asyncio.sleep(0.02)
        stop.set()

    await asyncio.gather(engine.run(stop), watch())


async def test_a_partition_is_read_in_order_and_headers_arrive(place):
    await place.publish([str(n).encode() for n in range(40)])
    async with started(place) as (bus, _):
        records = await poll(bus, 40)
    for number in (0, 1):
        mine = [r for r in records if r.partition == number]
        assert [int(r.value) for r in mine] == list(range(number, 40, 2))
        assert [r.offset for r in mine] == sorted(r.offset for r in mine)


async def test_outputs_and_position_are_committed_together(place):
    await place.publish([b"a", b"b"])
    async with started(place) as (bus, listener):
        partition = min(listener.owned)
        writer = await bus.writer(partition)
        assert await writer.committed() == Committed(None, "")
        outputs = [Output(topics.CLEARED, b"k", b"1", [("h", b"v")]), Output(topics.VERDICTS, b"k", b"2")]
        await writer.commit(outputs, 1, "beyond")
        await writer.close()
        writer = await bus.writer(partition)
        # On a broker that keeps no metadata the engine repeats what was done above the position, and loses nothing.
        assert await writer.committed() in (
            {Committed(1, "beyond")} | (set() if place.transactional else {Committed(1, "")})
        )
        await writer.commit([Output(topics.RATIONALES, b"k", None)], 2, "")
        await writer.close()
        writer = await bus.writer(partition)
        assert await writer.committed() == Committed(2, "")
        await writer.close()
    (cleared,) = await place.read(topics.CLEARED)
    assert (cleared.key, cleared.value, list(cleared.headers)) == (b"k", b"1", [("h", b"v")])
    assert cleared.partition == partition.partition, "everything about a content item stays in its partition"
    (tombstone,) = await place.read(topics.RATIONALES)
    assert tombstone.value is None


async def test_a_newer_writer_fences_the_older(place):
    if not place.transactional:
        pytest.skip("the embedded broker has no transactions, so nothing to fence with")
    await place.publish([b"a", b"b"])
    async with started(place) as (bus, listener):
        partition = min(listener.owned)
        zombie = await bus.writer(partition)
        await zombie.commit([Output(topics.CLEARED, b"k", b"before")], 1, "")
        owner = await bus.writer(partition)
        with pytest.raises(FencedError):
            await zombie.commit([Output(topics.CLEARED, b"k", b"zombie")], 2, "")
        await owner.commit([Output(topics.CLEARED, b"k", b"after")], 2, "")
        await zombie.close()
        await owner.close()
    assert [r.value for r in await place.read(topics.CLEARED)] == [b"before", b"after"]


async def test_a_paused_partition_is_not_read_and_the_other_is(place):
    async with started(place) as (bus, _):
        bus.pause(Partition(*min(bus.assignment())))
        await place.publish([str(n).encode() for n in range(10)])
        assert {r.partition for r in await poll(bus, 5)} == {1}
        assert not await bus.poll(0.3, 10)
        bus.resume(min(bus.assignment()))
        assert {r.partition for r in await poll(bus, 5)} == {0}
        bus.seek(min(bus.assignment()), 2)
        again = await poll(bus, 3)
        assert [r.offset for r in again] == [2, 3, 4]


async def test_the_position_is_past_what_was_polled(place):
    await place.publish([str(n).encode() for n in range(6)])
    async with started(place) as (bus, listener):
        await poll(bus, 6)
        assert [await bus.position(partition) for partition in sorted(listener.owned)] == [3, 3]
        assert await bus.position(Partition("another topic", 0)) is None


async def test_a_run_ends_at_its_ends_also_where_these_are_markers_of_transactions(place):
    await place.publish([str(n).encode() for n in range(20)])
    await run_engine(place, echo, 20)  # on a bus with transactions, each partition of its output ends with a marker
    ends = await place.ends(topics.CLEARED)

    async def publish(records):
        await place.publish([b"late"] * len(records))
        return [Output(topics.VERDICTS, record.key, record.value) for record in records]

    engine = Engine(place.bus(topics.CLEARED), stateless(publish), stage="contract")
    async with asyncio.timeout(TIMEOUT):
        ended = await engine.run(asyncio.Event(), until={partition: end for partition, end in ends.items() if end})
    assert len(ended) >= 2
    assert ended >= {partition for partition, end in ends.items() if end}
    assert engine.committed == 20
    assert sorted(int(r.value) for r in await place.read(topics.VERDICTS)) == list(range(20))


BATCHES, SINGLY = Limits(max_batch=50), Limits(max_batch=1, max_in_flight=16)


@pytest.mark.parametrize(
    ("place", "limits"),
    # On the embedded broker, which starts slowly, only the mode that demands more of a bus.
    [("memory", BATCHES), ("memory", SINGLY), ("embedded", SINGLY), ("kafka", BATCHES), ("kafka", SINGLY)],
    ids=["memory-batches", "memory-singly", "embedded-singly", "kafka-batches", "kafka-singly"],
    indirect=["place"],
)
async def test_the_engine_processes_each_record_once_and_resumes(place, limits):
    await place.publish([str(n).encode() for n in range(300)])
    await run_engine(place, echo, 300, limits)
    await place.publish([str(n).encode() for n in range(300, 400)])
    await run_engine(place, echo, 100, limits)
    assert sorted(int(r.value) for r in await place.read(topics.CLEARED)) == list(range(400))


async def test_a_large_record_passes_whole(place):
    large = b'"' + b"x" * (3 * topics.MiB) + b'"'
    await place.publish([large, b"small"])
    await run_engine(place, echo, 2)
    assert sorted(len(r.value) for r in await place.read(topics.CLEARED)) == [5, len(large)]


async def test_records_of_an_aborted_transaction_are_never_read(kafka):
    place = OnBroker(kafka, transactional=True)
    await place.create()
    producer = AIOKafkaProducer(**client_options(kafka), transactional_id=f"{kafka.prefix}abort")
    await producer.start()
    await producer.begin_transaction()
    await producer.send_and_wait(kafka.prefix + topics.CLEARED, b"never", partition=0)
    await producer.abort_transaction()
    await producer.stop()
    assert await place.read(topics.CLEARED) == []


async def test_an_output_may_go_to_the_partition_of_its_key_in_the_same_commit(place):
    """Records about authors come from the partitions of their items, and meet in one partition for each author."""
    await place.publish([b"a", b"b"])
    keys = [f"author {number}".encode() for number in range(20)]
    async with started(place) as (bus, listener):
        for partition in sorted(listener.owned):
            writer = await bus.writer(partition)
            outputs = [Output(topics.VERDICTS, key, b"1", by_key=True) for key in keys]
            await writer.commit([*outputs, Output(topics.CLEARED, b"k", b"2")], 1, "")
            await writer.close()
    placed = {(record.key, record.partition) for record in await place.read(topics.VERDICTS)}
    assert {key for key, _ in placed} == set(keys)
    assert len(placed) == len(keys), "whatever the input's partition"
    assert {partition for _, partition in placed} == {0, 1}
    assert {record.partition for record in await place.read(topics.CLEARED)} == {0, 1}
