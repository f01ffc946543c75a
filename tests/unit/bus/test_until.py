"""A run of the engine with an end for each partition."""

import asyncio

from safeguard_streams.bus.engine import Engine, Limits
from safeguard_streams.bus.interface import Committed, Output, Partition
from safeguard_streams.bus.memory import MemoryBus
from safeguard_streams.bus.transform import stateless
from safeguard_streams.runtime.memory_broker import MemoryBroker
from tests.conftest import TIMEOUT
from tests.unit.bus.overtaking import take_over

SOURCE, SINK = "source", "sink"
FIRST, SECOND = Partition(SOURCE, 0), Partition(SOURCE, 1)


async def run(broker, until, *, bus=None, limits=None, transform=None, stop=None):
    async def echo(records):
        return [Output(SINK, record.key, record.value) for record in records]

    engine = Engine(bus or MemoryBus(broker, [SOURCE]), stateless(transform or echo), stage="test", limits=limits)
    async with asyncio.timeout(TIMEOUT):
        return await engine.run(stop or asyncio.Event(), until=until)


def fill(broker, count, partition=0):
    for number in range(count):
        broker.append(SOURCE, str(number).encode(), partition=partition)


def values(broker, partition=0):
    return sorted(int(record.value) for record in broker.logs[Partition(SINK, partition)])


async def test_a_run_ends_when_all_before_the_ends_is_committed_and_leaves_the_rest():
    broker = MemoryBroker(partitions=2)
    fill(broker, 50)
    fill(broker, 30, partition=1)
    seen = []

    async def singly(records):
        seen.append((records[0].partition, records[0].offset))
        await asyncio.sleep(0.001)
        return [Output(SINK, None, record.value) for record in records]

    limits = Limits(max_batch=1, max_in_flight=8, max_poll_records=7)
    ended = await run(broker, {FIRST: 40, SECOND: 30}, transform=singly, limits=limits)
    assert ended == {FIRST, SECOND}
    assert values(broker) == list(range(40))
    assert values(broker, 1) == list(range(30))
    assert broker.positions == {FIRST: Committed(40, ""), SECOND: Committed(30, "")}
    assert max(offset for partition, offset in seen if partition == 0) == 39, "nothing after the end is processed"
    await run(broker, {FIRST: 50, SECOND: 30})
    assert values(broker) == list(range(50)), "the next run goes on where this one ended"


async def test_records_that_come_during_a_run_are_left():
    broker = MemoryBroker()
    fill(broker, 3)

    async def writing(records):
        broker.append(SOURCE, b"99")
        return [Output(SINK, None, record.value) for record in records]

    assert await run(broker, {FIRST: 3}, transform=writing, limits=Limits(max_batch=1)) == {FIRST}
    assert values(broker) == [0, 1, 2]
    assert broker.positions[FIRST] == Committed(3, "")


async def test_a_partition_without_an_end_is_not_read():
    broker = MemoryBroker(partitions=2)
    fill(broker, 5)
    fill(broker, 5, partition=1)
    assert await run(broker, {FIRST: 5}) == {FIRST, SECOND}
    assert values(broker, 1) == []
    assert SECOND not in broker.positions


async def test_a_run_with_nothing_to_read_ends_at_once():
    broker = MemoryBroker()
    assert await run(broker, {FIRST: 0}) == {FIRST}
    fill(broker, 2)
    await run(broker, {FIRST: 2})
    assert await run(broker, {FIRST: 2}) == {FIRST}
    assert values(broker) == [0, 1]


class Marked(MemoryBus):
    """Ends each log with the marker of a transaction, which a position passes although it is no record."""

    async def position(self, partition):
        offset = await super().position(partition)
        return offset + 1 if offset == self.end(partition) else offset


async def test_a_marker_before_the_end_is_no_record_to_wait_for():
    broker = MemoryBroker()
    fill(broker, 4)
    assert await run(broker, {FIRST: 5}, bus=Marked(broker, [SOURCE])) == {FIRST}
    assert broker.positions[FIRST] == Committed(4, "")


class Unassigned(MemoryBus):
    """Is assigned its partitions a while after it joined, as a later member of a group is."""

    async def start(self, listener):
        owned, self._owned = self._owned, set()
        await super().start(listener)
        self.late = asyncio.create_task(self.assign(owned))

    async def assign(self, owned):
        await asyncio.sleep(0.3)
        self._owned = owned
        for partition in owned:
            self._next[partition] = 0
        self._listener.assigned(owned)


async def test_a_member_without_partitions_waits_for_some():
    broker = MemoryBroker()
    fill(broker, 4)
    assert await run(broker, {FIRST: 4}, bus=Unassigned(broker, [SOURCE])) == {FIRST}
    assert values(broker) == [0, 1, 2, 3]


async def test_a_run_that_is_stopped_before_its_end_says_so():
    broker = MemoryBroker()
    fill(broker, 10)
    stop = asyncio.Event()

    async def stopping(records):
        stop.set()
        return [Output(SINK, None, record.value) for record in records]

    assert await run(broker, {FIRST: 10}, transform=stopping, stop=stop, limits=Limits(max_batch=2)) == frozenset()
    assert broker.positions[FIRST].offset == len(values(broker)) < 10


async def test_an_overtaken_partition_is_read_to_its_end():
    broker = MemoryBroker()
    fill(broker, 20)
    taken_over = False

    async def overtaken(records):
        nonlocal taken_over
        if not taken_over:
            taken_over = True
            await take_over(broker, FIRST, 6)
        return [Output(SINK, None, record.value) for record in records]

    # All 20 are polled at once, so the partition stands paused at its end when it is overtaken.
    limits = Limits(max_batch=1, max_in_flight=2, reopen_delay=0.01)
    assert await run(broker, {FIRST: 15}, transform=overtaken, limits=limits) == {FIRST}
    assert values(broker) == list(range(15))


class SlowCommits(MemoryBus):
    """Its commits take longer than the engine waits for them when it leaves."""

    async def writer(self, partition):
        writer = await super().writer(partition)
        commit = writer.commit

        async def slow_commit(*arguments):
            await asyncio.sleep(0.3)
            await commit(*arguments)

        writer.commit = slow_commit
        return writer


async def test_a_run_does_not_end_while_a_commit_is_under_way():
    broker = MemoryBroker()
    fill(broker, 4)
    bus = SlowCommits(broker, [SOURCE])
    assert await run(broker, {FIRST: 4}, bus=bus, limits=Limits(drain_timeout=0.05)) == {FIRST}
    assert broker.positions == {FIRST: Committed(4, "")}
    assert values(broker) == [0, 1, 2, 3]


class Rebalanced(MemoryBus):
    """Loses its partition and is assigned it again while it is asked for a position."""

    rebalanced = False

    async def position(self, partition):
        offset = await super().position(partition)
        if offset == 4 and not self.rebalanced:
            self.rebalanced = True
            await self._listener.revoked([partition])
            self.seek(partition, 0)
            self._listener.assigned([partition])
            await asyncio.sleep(0.05)
        return offset


async def test_a_run_does_not_end_by_positions_from_before_a_rebalance():
    broker = MemoryBroker()
    fill(broker, 4)
    bus = Rebalanced(broker, [SOURCE])

    calls = 0

    async def stuck_at_first(records):
        nonlocal calls
        calls += 1
        if calls == 1:
            await asyncio.Event().wait()
        return [Output(SINK, None, record.value) for record in records]

    limits = Limits(drain_timeout=0.05)
    assert await run(broker, {FIRST: 4}, bus=bus, transform=stuck_at_first, limits=limits) == {FIRST}
    assert values(broker) == [0, 1, 2, 3]
