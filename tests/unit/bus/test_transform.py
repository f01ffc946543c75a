"""When the engine opens and closes a transform's partitions: state belongs to one ownership."""

import asyncio
import contextlib

import pytest

from safeguard_streams.bus.engine import Engine, Limits
from safeguard_streams.bus.interface import Output, Partition
from safeguard_streams.bus.memory import MemoryBus
from safeguard_streams.bus.transform import stateless
from safeguard_streams.errors import BusError
from safeguard_streams.runtime.memory_broker import MemoryBroker
from tests.conftest import TIMEOUT

SOURCE, SINK = "source", "sink"
FIRST, SECOND = Partition(SOURCE, 0), Partition(SOURCE, 1)
SINGLY = Limits(max_batch=1, max_in_flight=4, drain_timeout=0.2, reopen_delay=0.01)


class Counting:
    """Numbers the records of each ownership, from what it restored on; notes when partitions were opened and closed."""

    def __init__(self, broker):
        self.broker = broker
        self.counts = {}
        self.calls = []
        self.slow = False

    async def opened(self, partition):
        self.calls.append(("opened", partition.partition))
        await asyncio.sleep(0.01)
        assert partition.partition not in self.counts, "the ownership before has ended"
        self.counts[partition.partition] = len(self.broker.logs[Partition(SINK, partition.partition)])

    async def process(self, records):
        (record,) = records
        self.counts[record.partition] += 1
        number = self.counts[record.partition]
        if self.slow:
            await asyncio.sleep(3600)
        return [Output(SINK, None, str(number).encode())]

    def closed(self, partition):
        self.calls.append(("closed", partition.partition))
        self.counts.pop(partition.partition, None)


@contextlib.asynccontextmanager
async def running(engine):
    stop = asyncio.Event()
    task = asyncio.create_task(engine.run(stop))
    yield
    stop.set()
    await task


async def until(condition):
    async with asyncio.timeout(TIMEOUT):
        while not condition():
            await asyncio.sleep(0.005)


def numbers(broker, partition):
    return [int(record.value) for record in broker.logs[Partition(SINK, partition)]]


async def test_the_state_of_a_lost_partition_is_dropped_and_that_of_an_owned_one_stays():
    broker = MemoryBroker(partitions=2)
    transform = Counting(broker)
    bus = MemoryBus(broker, [SOURCE])
    engine = Engine(bus, transform, stage="test", limits=SINGLY)
    for partition in (0, 1):
        broker.append(SOURCE, b"x", partition=partition)
    async with running(engine):
        await until(lambda: engine.committed == 2)
        bus._owned -= {FIRST}
        await engine.revoked([FIRST])
        assert transform.counts == {1: 1}
        broker.append(SOURCE, b"x", partition=1)
        await until(lambda: numbers(broker, 1) == [1, 2])
    assert transform.counts == {}
    assert sorted(transform.calls) == [("closed", 0), ("closed", 1), ("opened", 0), ("opened", 1)]


async def test_a_partition_that_is_lost_and_taken_again_is_restored_after_the_earlier_ownership_ended():
    broker = MemoryBroker()
    transform = Counting(broker)
    bus = MemoryBus(broker, [SOURCE])
    engine = Engine(bus, transform, stage="test", limits=SINGLY)
    broker.append(SOURCE, b"x")
    async with running(engine):
        await until(lambda: engine.committed == 1)
        transform.slow = True  # counted, and never committed
        broker.append(SOURCE, b"x")
        await until(lambda: transform.counts == {0: 2})
        await engine.revoked([FIRST])
        assert transform.counts == {}
        transform.slow = False
        bus.seek(FIRST, 1)
        engine.assigned([FIRST])
        await until(lambda: numbers(broker, 0) == [1, 2])
    assert transform.calls == [("opened", 0), ("closed", 0)] * 2


async def test_an_overtaken_partition_is_closed_and_opened_again():
    broker = MemoryBroker()
    transform = Counting(broker)
    engine = Engine(MemoryBus(broker, [SOURCE]), transform, stage="test", limits=SINGLY)
    async with running(engine):
        await until(lambda: engine.ready)
        thief = await MemoryBus(broker, [SOURCE]).writer(FIRST)
        for _ in range(4):
            broker.append(SOURCE, b"x")
        await thief.commit([Output(SINK, None, str(n).encode()) for n in (1, 2)], 2, "")
        await until(lambda: numbers(broker, 0) == [1, 2, 3, 4])
    assert transform.calls == [("opened", 0), ("closed", 0)] * 2


async def test_a_partition_that_could_not_be_opened_is_closed_and_the_error_ends_the_engine():
    broker = MemoryBroker()
    closed = []

    class Failing(Counting):
        async def opened(self, partition):
            raise BusError("nothing to restore from")

        def closed(self, partition):
            closed.append(partition)

    engine = Engine(MemoryBus(broker, [SOURCE]), Failing(broker), stage="test", limits=SINGLY)
    with pytest.raises(BusError, match="nothing to restore from"):
        await engine.run(asyncio.Event())
    assert closed == [FIRST]


async def test_opening_is_cancelled_when_the_partition_is_lost_meanwhile():
    broker = MemoryBroker()

    class Stuck(Counting):
        async def opened(self, partition):
            await super().opened(partition)
            await asyncio.sleep(3600)

    transform = Stuck(broker)
    engine = Engine(MemoryBus(broker, [SOURCE]), transform, stage="test", limits=SINGLY)
    async with running(engine):
        await until(lambda: transform.counts)
        assert not engine.ready
        await engine.revoked([FIRST])
        assert transform.counts == {}
    assert transform.calls == [("opened", 0), ("closed", 0)]


async def test_a_function_is_a_transform_without_state():
    async def double(records):
        return [*records, *records]

    transform = stateless(double)
    await transform.opened(FIRST)
    assert await transform.process(["a"]) == ["a", "a"]
    transform.closed(FIRST)
