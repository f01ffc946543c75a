"""The engine on the bus in memory: order, isolation, recovery, end."""

import asyncio
import random

import pytest

from safeguard_streams.bus.engine import Engine, Limits, Retry
from safeguard_streams.bus.interface import Committed, Output, Partition
from safeguard_streams.bus.memory import MemoryBus, MemoryWriter
from safeguard_streams.bus.partition_worker import WorkerState
from safeguard_streams.bus.transform import stateless
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import DeadLetter, decode
from safeguard_streams.errors import BusError, DependencyError, FencedError, RecordError, StalledError
from safeguard_streams.runtime.memory_broker import MemoryBroker
from tests.conftest import TIMEOUT
from tests.unit.bus.overtaking import take_over

SOURCE = "source"
SINK = "sink"
SINGLY = Limits(max_batch=1, max_in_flight=8, drain_timeout=2.0)


def echo(records):
    return [Output(SINK, r.key, r.value) for r in records]


async def batches(records):
    return echo(records)


def fill(broker, count, partitions=1):
    for n in range(count):
        broker.append(SOURCE, str(n).encode(), partition=n % partitions)


async def run(broker, transform, until, *, limits=None, retry=None, bus=None, timeout=TIMEOUT):
    """Run an engine until a condition on the broker holds."""
    engine = Engine(bus or MemoryBus(broker, [SOURCE]), stateless(transform), stage="test", limits=limits, retry=retry)
    stop = asyncio.Event()

    async def watch():
        async with asyncio.timeout(timeout):
            while not until():
                await asyncio.sleep(0.01)
        stop.set()

    await asyncio.gather(engine.run(stop), watch())
    return engine


def values(broker, topic=SINK):
    return [int(r.value) for r in broker.read(topic)]


async def test_batches_keep_their_order():
    broker = MemoryBroker(partitions=3)
    fill(broker, 3000, 3)
    await run(broker, batches, lambda: len(values(broker)) == 3000, limits=Limits(max_batch=70))
    for partition in range(3):
        got = [int(r.value) for r in broker.logs[Partition(SINK, partition)]]
        assert got == [n for n in range(3000) if n % 3 == partition]
    assert all(broker.positions[Partition(SOURCE, p)] == Committed(1000, "") for p in range(3))


async def test_a_slow_record_delays_none_behind_it():
    broker = MemoryBroker()
    fill(broker, 50)
    release = asyncio.Event()

    async def transform(records):
        if records[0].value == b"0":
            await release.wait()
        return echo(records)

    def others_are_out():
        if len(values(broker)) == 49:
            position, metadata = broker.positions[Partition(SOURCE, 0)]
            assert position == 0
            assert metadata
            release.set()
        return len(values(broker)) == 50

    await run(broker, transform, others_are_out, limits=SINGLY)
    assert values(broker)[-1] == 0
    assert broker.positions[Partition(SOURCE, 0)] == Committed(50, "")


async def test_each_record_takes_effect_once_through_kills_and_restarts():
    broker = MemoryBroker(partitions=2)
    fill(broker, 600, 2)
    draw = random.Random(3)
    calls = 0

    async def transform(records):
        nonlocal calls
        calls += 1
        await asyncio.sleep(draw.random() * 0.01)
        return echo(records)

    for _ in range(6):  # killed without a chance to drain
        engine = Engine(MemoryBus(broker, [SOURCE]), stateless(transform), stage="test", limits=SINGLY)
        task = asyncio.create_task(engine.run(asyncio.Event()))
        await asyncio.sleep(0.15)
        for worker in list(engine._workers.values()):
            await worker.close()
        engine._workers.clear()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await run(broker, transform, lambda: len(values(broker)) >= 600, limits=SINGLY)
    assert sorted(values(broker)) == list(range(600))
    # A kill repeats at most the calls that were under way, or finished since the last commit.
    assert calls - 600 <= 6 * 2 * (8 + 40)


async def test_a_failing_record_becomes_a_dead_letter_and_the_others_pass():
    broker = MemoryBroker()
    fill(broker, 200)

    async def transform(records):
        if any(r.value in {b"7", b"150"} for r in records):
            raise RecordError("text", "is wrong")
        return echo(records)

    await run(broker, transform, lambda: len(broker.read(topics.DEAD_LETTERS)) == 2)
    assert values(broker) == [n for n in range(200) if n not in {7, 150}]
    letters = [decode(r.value, DeadLetter) for r in broker.read(topics.DEAD_LETTERS)]
    assert [letter.origin.offset for letter in letters] == [7, 150]
    assert letters[0].field == "text"
    assert letters[0].reason == "text: is wrong"
    assert letters[0].original()[1] == b"7"


async def test_errors_are_retried_up_to_the_limit_and_their_text_stays_out_of_dead_letters():
    broker = MemoryBroker()
    broker.append(SOURCE, b"secret words", key=b"k", headers=[("traceparent", b"00-x")])
    tries = 0

    async def transform(records):
        nonlocal tries
        tries += 1
        raise ValueError(records[0].value.decode())

    retry = Retry(max_attempts=4, initial_delay=0.001)
    await run(broker, transform, lambda: broker.read(topics.DEAD_LETTERS), limits=SINGLY, retry=retry)
    assert tries == 4
    (dead,) = broker.read(topics.DEAD_LETTERS)
    letter = decode(dead.value, DeadLetter)
    assert letter.attempts == 4
    assert letter.error == "ValueError"
    assert "secret" not in letter.reason
    assert letter.original() == (b"k", b"secret words", [("traceparent", b"00-x")])


class FlakyBus(MemoryBus):
    """Fails commits before or after they take effect, as planned."""

    def __init__(self, broker, plan):
        super().__init__(broker, [SOURCE])
        self.plan = list(plan)

    async def writer(self, partition):
        inner = await super().writer(partition)
        bus = self

        class Flaky(MemoryWriter):
            async def commit(self, outputs, offset, metadata):
                step = bus.plan.pop(0) if bus.plan else "works"
                if step == "fails":
                    raise BusError("broker away")
                if step == "fenced":
                    raise FencedError("another owner")
                await inner.commit(outputs, offset, metadata)
                if step == "answer lost":
                    raise BusError("timed out")

        return Flaky(self.broker, partition, inner._epoch)


@pytest.mark.parametrize("plan", [["fails"], ["answer lost"], ["fenced"], ["works", "answer lost", "fails", "works"]])
async def test_a_commit_that_failed_or_seemed_to_is_neither_lost_nor_doubled(plan):
    broker = MemoryBroker()
    fill(broker, 300)
    calls = 0

    async def transform(records):
        nonlocal calls
        calls += len(records)
        await asyncio.sleep(0.002)
        return echo(records)

    limits = Limits(max_batch=1, max_in_flight=4, reopen_delay=0.01)
    await run(broker, transform, lambda: len(values(broker)) >= 300, limits=limits, bus=FlakyBus(broker, plan))
    assert sorted(values(broker)) == list(range(300))
    assert calls == 300, "finished calls are kept when a commit fails"


async def test_work_that_another_owner_committed_is_not_repeated():
    broker = MemoryBroker()
    fill(broker, 100)
    taken_over = False

    async def transform(records):
        nonlocal taken_over
        if not taken_over:
            taken_over = True
            # Another member processes the first 60 during this call.
            await take_over(broker, Partition(SOURCE, 0), 60)
        return echo(records)

    limits = Limits(max_batch=1, max_in_flight=1, reopen_delay=0.01)
    await run(broker, transform, lambda: len(values(broker)) >= 100, limits=limits)
    assert sorted(values(broker)) == list(range(100))


class SlowBus(MemoryBus):
    """Takes a while to open a writer, as a broker does."""

    async def writer(self, partition):
        await asyncio.sleep(0.05)
        return await super().writer(partition)


async def test_calls_that_finish_after_another_owner_took_over_are_dropped():
    broker = MemoryBroker()
    fill(broker, 100)
    answered = asyncio.Event()

    async def transform(records):
        number = int(records[0].value)
        if number >= 60 or answered.is_set():
            return echo(records)
        if number == 0:
            # Another member processes the first 60; this one learns of it when it commits.
            await take_over(broker, Partition(SOURCE, 0), 60)
            answered.set()
        else:
            await answered.wait()
            await asyncio.sleep(0.02)  # finishes between this member's failed commit and its new writer
        return echo(records)

    limits = Limits(max_batch=1, max_in_flight=8, reopen_delay=0.01)
    bus = SlowBus(broker, [SOURCE])
    await run(broker, transform, lambda: len(set(values(broker))) == 100, limits=limits, bus=bus)
    assert sorted(values(broker)) == list(range(100))


async def test_a_worker_that_is_given_up_while_it_recovers_is_not_replaced():
    broker = MemoryBroker()
    fill(broker, 8)
    partition = Partition(SOURCE, 0)
    bus = SlowBus(broker, [SOURCE])
    begun = asyncio.Event()

    async def transform(records):
        if records[0].offset:
            begun.set()
            await asyncio.sleep(0.3)  # still under way when the partition is given up
        else:
            await begun.wait()
            await take_over(broker, partition, 2)
        return echo(records)

    engine = Engine(
        bus, stateless(transform), stage="test", limits=Limits(max_batch=1, max_in_flight=2, reopen_delay=0.01)
    )
    stop = asyncio.Event()
    running = asyncio.create_task(engine.run(stop))
    await begun.wait()
    while broker.positions.get(partition) is None:
        await asyncio.sleep(0.001)
    bus._owned = set()
    await engine.revoked([partition])
    await asyncio.sleep(0.2)
    assert broker.epochs[partition] <= 3, "the other owner's writer, this member's, and at most one to look"
    assert not engine._workers
    stop.set()
    await running


async def test_stopping_finishes_calls_under_way_and_begins_none():
    broker = MemoryBroker()
    fill(broker, 100)
    stop = asyncio.Event()
    begun = 0

    async def transform(records):
        nonlocal begun
        begun += 1
        if begun == 5:
            stop.set()
        await asyncio.sleep(0.05)
        return echo(records)

    await Engine(MemoryBus(broker, [SOURCE]), stateless(transform), stage="test", limits=SINGLY).run(stop)
    assert len(values(broker)) == begun < 100


async def test_a_lost_dependency_ends_the_engine_and_makes_no_dead_letters():
    broker = MemoryBroker()
    fill(broker, 20)

    async def transform(records):
        if records[0].offset < 3:
            return echo(records)
        raise DependencyError("the engine died")

    engine = Engine(MemoryBus(broker, [SOURCE]), stateless(transform), stage="test", limits=SINGLY)
    with pytest.raises(DependencyError):
        await engine.run(asyncio.Event())
    assert not broker.read(topics.DEAD_LETTERS)
    assert sorted(values(broker)) == [0, 1, 2]


class Refusing(MemoryBus):
    """Refuses every commit, and opens no writer at all when told."""

    refused = 0
    closed = False

    async def writer(self, partition):
        if self.closed:
            raise BusError("broker away")
        writer = await super().writer(partition)

        async def refuse(*_):
            self.refused += 1
            raise BusError("not enough replicas")

        writer.commit = refuse
        return writer


async def test_refused_commits_hold_the_limits_show_in_the_figures_and_end_the_engine():
    broker = MemoryBroker()
    for number in range(2000):
        broker.append(SOURCE, str(number).zfill(100).encode())
    limits = Limits(
        max_batch=1, max_buffered=100, max_poll_records=50, max_poll_gap=0.3, stall_timeout=0.4, reopen_delay=0.005
    )
    bus = Refusing(broker, [SOURCE])
    engine, stop, read, ages, lags = None, asyncio.Event(), [0], [], []

    async def transform(records):
        return echo(records)

    async def watch():
        await asyncio.sleep(0.1)
        while not running.done():
            for worker in engine._workers.values():
                read.append(bus._next[Partition(SOURCE, 0)])
                ages.append(worker.backlog.age)
                lags.append(worker.lag)
            await asyncio.sleep(0.02)

    engine = Engine(bus, stateless(transform), stage="test", limits=limits)
    async with asyncio.timeout(TIMEOUT):
        running = asyncio.create_task(engine.run(stop))
        watching = asyncio.create_task(watch())
        with pytest.raises(StalledError, match=r"source\[0\]: 1\d\d records wait and none was committed"):
            await running
        await watching
    assert bus.refused > 2, "it was tried again"
    assert max(read) <= 150, "reading stopped"
    assert set(lags) == {2000}
    assert min(ages) > 0
    assert values(broker) == []


async def test_bytes_of_results_that_are_not_committed_hold_back_calls():
    broker = MemoryBroker()
    fill(broker, 500)
    calls = 0

    async def transform(records):
        nonlocal calls
        calls += 1
        return [Output(SINK, None, b"x" * 10_000)]

    limits = Limits(
        max_batch=1,
        max_in_flight=4,
        max_buffered_bytes=100_000,
        stall_timeout=0.4,
        reopen_delay=0.01,
        drain_timeout=0.1,
    )
    with pytest.raises(StalledError):
        await Engine(Refusing(broker, [SOURCE]), stateless(transform), stage="test", limits=limits).run(asyncio.Event())
    assert calls <= 10 + 4


async def test_a_partition_whose_writer_cannot_be_opened_ends_the_engine():
    broker = MemoryBroker()
    fill(broker, 1)
    bus = Refusing(broker, [SOURCE])
    bus.closed = True
    limits = Limits(max_batch=1, stall_timeout=0.2, drain_timeout=0.1, reopen_delay=0.01)
    with pytest.raises(StalledError, match=r"source\[0\]: 1 records wait and none was begun"):
        await Engine(bus, echoing(), stage="test", limits=limits).run(asyncio.Event())


def echoing():
    return stateless(batches)


async def test_a_record_that_takes_long_stops_neither_its_partition_nor_the_process():
    broker = MemoryBroker()
    fill(broker, 2000)
    release = asyncio.Event()

    async def transform(records):
        if records[0].value == b"3":
            await release.wait()
        return echo(records)

    limits = Limits(
        max_batch=1,
        max_in_flight=8,
        max_buffered=20,
        max_poll_records=20,
        max_poll_gap=0.15,  # less than the next, so that a machine that stands still is no stall of the partition
        stall_timeout=0.2,
        commit_interval=0.005,
    )
    bus = MemoryBus(broker, [SOURCE])
    loop, others_done = asyncio.get_running_loop(), None

    def finished():
        nonlocal others_done
        if len(values(broker)) == 1999 and others_done is None:
            others_done = loop.time()
        if others_done is not None and loop.time() > others_done + 0.5:  # twice the time after which a stall ends it
            release.set()
        return len(values(broker)) == 2000

    await run(broker, transform, finished, limits=limits, bus=bus)
    assert broker.positions[Partition(SOURCE, 0)] == Committed(2000, "")


class Watched(MemoryBus):
    """Counts pauses."""

    pauses = 0

    def pause(self, partition):
        self.pauses += 1
        super().pause(partition)


async def test_a_full_partition_is_paused_while_polling_continues():
    broker = MemoryBroker()
    fill(broker, 500)
    bus = Watched(broker, [SOURCE])
    max_ahead = 0

    async def transform(records):
        nonlocal max_ahead
        await asyncio.sleep(0.01)
        (position,) = bus._next.values()
        max_ahead = max(max_ahead, position - len(values(broker)))
        return echo(records)

    limits = Limits(max_batch=10, max_buffered=40, max_poll_records=20)
    await run(broker, transform, lambda: len(values(broker)) == 500, limits=limits, bus=bus)
    assert values(broker) == list(range(500))
    assert bus.pauses > 3
    assert max_ahead <= 40 + 20


async def test_a_partition_that_was_paused_when_another_owner_overtook_it_is_resumed():
    broker = MemoryBroker()
    fill(broker, 100)
    taken_over = False

    async def transform(records):
        nonlocal taken_over
        if not taken_over:
            taken_over = True
            await take_over(broker, Partition(SOURCE, 0), 30)
        return echo(records)

    limits = Limits(max_batch=1, max_in_flight=1, max_buffered=20, max_poll_records=50, reopen_delay=0.01)
    await run(broker, transform, lambda: len(values(broker)) >= 100, limits=limits)
    assert sorted(values(broker)) == list(range(100))


async def test_a_fenced_worker_begins_no_call_until_it_knows_its_position():
    """Another owner may already process its records, so each call would be repeated work."""
    broker, states, workers = MemoryBroker(), [], []
    fill(broker, 200)

    async def slow(records):
        worker = workers[0]._workers[Partition(SOURCE, 0)]
        states.append(worker.state)
        if len(states) == 50:
            await MemoryBus(broker, [SOURCE]).writer(Partition(SOURCE, 0))  # fences, and commits nothing
        await asyncio.sleep(0.005)
        return echo(records)

    limits = Limits(max_batch=1, max_in_flight=4, reopen_delay=0.05, commit_interval=0.01)
    engine = Engine(MemoryBus(broker, [SOURCE]), stateless(slow), stage="test", limits=limits)
    workers.append(engine)
    stop, fenced = asyncio.Event(), False

    async def watch():
        nonlocal fenced
        async with asyncio.timeout(TIMEOUT):
            while len(values(broker)) < 200:
                fenced = fenced or any(worker.state is WorkerState.FENCED for worker in engine._workers.values())
                await asyncio.sleep(0.005)
        stop.set()

    await asyncio.gather(engine.run(stop), watch())
    assert fenced
    assert WorkerState.FENCED not in states
    assert sorted(values(broker)) == list(range(200))
    assert len(states) == 200, "what was finished before it was fenced is committed, not repeated"


class NeverStarting(MemoryBus):
    """A bus whose broker does not answer."""

    cancelled = stopped = False

    def __init__(self, broker):
        super().__init__(broker, [SOURCE])
        self.starting = asyncio.Event()

    async def start(self, listener):
        self.starting.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise

    async def stop(self):
        self.stopped = True
        await super().stop()


async def test_a_stop_during_the_start_ends_it():
    """Before, a process that was stopped while it waited for its broker or its group ended only at its bound."""
    bus, stop = NeverStarting(MemoryBroker()), asyncio.Event()
    running = asyncio.create_task(Engine(bus, stateless(batches), stage="test").run(stop))
    await bus.starting.wait()
    stop.set()
    assert await asyncio.wait_for(running, TIMEOUT) == frozenset()
    assert (bus.cancelled, bus.stopped) == (True, True)


async def test_a_bus_that_cannot_start_is_stopped():
    class Failing(NeverStarting):
        async def start(self, listener):
            raise BusError("no broker")

    bus = Failing(MemoryBroker())
    with pytest.raises(BusError, match="no broker"):
        await Engine(bus, stateless(batches), stage="test").run(asyncio.Event())
    assert bus.stopped
