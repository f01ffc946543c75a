"""Logs that end before the position: what comes there is new, and nothing of it is taken for done."""

import asyncio
import contextlib
import time

import pytest

from safeguard_streams.bus.engine import Engine, Limits
from safeguard_streams.bus.interface import Committed, Output, Partition
from safeguard_streams.bus.memory import MemoryBus
from safeguard_streams.bus.transform import stateless
from safeguard_streams.bus.watermark import pack, unpack
from safeguard_streams.errors import BusError, ConfigurationError, DependencyError, OutputRefusedError
from safeguard_streams.runtime.memory_broker import MemoryBroker
from tests.conftest import TIMEOUT

SOURCE, SINK = "source", "sink"
FIRST = Partition(SOURCE, 0)
LIMITS = Limits(max_batch=1, max_in_flight=8, commit_interval=0.001, reopen_delay=0.005, drain_timeout=0.2)


def fill(broker, first, count):
    for number in range(first, first + count):
        broker.append(SOURCE, str(number).encode())


def values(broker):
    return sorted(int(record.value) for record in broker.read(SINK))


def position(broker):
    """The committed position and the completed set."""
    offset, metadata = broker.positions.get(FIRST, (0, ""))
    return offset, unpack(offset, metadata)


async def echo(records):
    return [Output(SINK, None, record.value) for record in records]


async def until(condition):
    async with asyncio.timeout(TIMEOUT):
        while not condition():
            await asyncio.sleep(0.002)


@contextlib.asynccontextmanager
async def running(bus, transform=echo, limits=LIMITS):
    engine, stop = Engine(bus, stateless(transform), stage="test", limits=limits), asyncio.Event()
    task = asyncio.create_task(engine.run(stop))
    yield engine
    stop.set()
    await task


@pytest.mark.parametrize("max_batch", [1, 10])
async def test_a_log_that_is_cut_off_while_it_is_followed_goes_on_where_it_was_cut(max_batch, caplog):
    broker = MemoryBroker()
    fill(broker, 0, 100)
    limits = Limits(max_batch=max_batch, commit_interval=0.001)
    async with running(MemoryBus(broker, [SOURCE]), limits=limits) as engine:
        await until(lambda: len(values(broker)) == 100)
        broker.truncate(SOURCE, 0)
        fill(broker, 1000, 80)
        await until(lambda: len(values(broker)) == 180)
        assert values(broker) == [*range(100), *range(1000, 1080)]
        await until(lambda: position(broker) == (80, set()))
        assert engine._workers[FIRST].lag == 0
    assert "the log was reset" in caplog.text


async def test_a_committed_position_above_the_end_is_a_reset_that_is_committed_at_once():
    broker = MemoryBroker()
    fill(broker, 0, 3)
    broker.positions[FIRST] = Committed(100, pack(100, {102, 104}))
    async with running(MemoryBus(broker, [SOURCE])):
        await until(lambda: values(broker) == [0, 1, 2])
        fill(broker, 3, 120)
        await until(lambda: len(values(broker)) == 123)
    assert values(broker) == list(range(123)), "the completed set of the earlier log means nothing"
    assert position(broker) == (123, set())


async def test_a_reset_of_an_empty_log_is_committed_without_any_record():
    broker = MemoryBroker()
    broker.positions[FIRST] = Committed(100, pack(100, {102}))
    async with running(MemoryBus(broker, [SOURCE])):
        await until(lambda: position(broker) == (0, set()))
    fill(broker, 0, 150)
    async with running(MemoryBus(broker, [SOURCE])):
        await until(lambda: len(values(broker)) == 150)


@pytest.mark.parametrize("ahead", [{4, 5}, {5}, {3 + 9_000}])
async def test_a_log_that_was_cut_off_between_the_position_and_what_was_done_ahead_of_it_is_a_reset(ahead):
    broker = MemoryBroker()
    fill(broker, 0, 5)
    broker.positions[FIRST] = Committed(3, pack(3, ahead))
    async with running(MemoryBus(broker, [SOURCE])):
        await until(lambda: values(broker) == [3, 4])
        fill(broker, 5, 10)
        await until(lambda: len(values(broker)) == 12)
    assert values(broker) == list(range(3, 15))
    assert position(broker) == (15, set())


async def test_a_log_that_is_cut_off_below_what_an_earlier_owner_did_ahead_is_a_reset_while_it_is_read_up_to_there():
    broker = MemoryBroker()
    fill(broker, 0, 10)
    broker.positions[FIRST] = Committed(3, pack(3, {6, 7, 8, 9}))
    bus = MemoryBus(broker, [SOURCE])
    limits = Limits(max_batch=1, max_poll_records=2, max_buffered=2, commit_interval=0.001)
    release = asyncio.Event()

    async def held(records):
        await release.wait()
        return await echo(records)

    async with running(bus, held, limits):
        await until(lambda: FIRST in bus._paused)
        broker.truncate(SOURCE, bus._next[FIRST])
        release.set()
        await until(lambda: position(broker) == (bus._next[FIRST], set()))
        left = [int(record.value) for record in broker.logs[FIRST]][3:]
        fill(broker, 100, 8)
        await until(lambda: len(values(broker)) == len(left) + 8)
    assert values(broker) == [*left, *range(100, 108)]


async def test_a_completed_set_within_the_log_is_believed():
    broker = MemoryBroker()
    fill(broker, 0, 6)
    broker.positions[FIRST] = Committed(3, pack(3, {4, 5}))
    async with running(MemoryBus(broker, [SOURCE])):
        await until(lambda: broker.positions[FIRST] == Committed(6, ""))
    assert values(broker) == [3]


async def test_what_was_read_before_a_reset_is_answered_and_moves_no_position():
    broker = MemoryBroker()
    fill(broker, 0, 20)
    release = asyncio.Event()

    async def transform(records):
        if int(records[0].value) < 20:
            await release.wait()
        return await echo(records)

    bus = MemoryBus(broker, [SOURCE])
    async with running(bus, transform):
        await until(lambda: bus._next.get(FIRST) == 20)
        broker.truncate(SOURCE, 0)
        fill(broker, 100, 5)
        await until(lambda: position(broker) == (0, set()))
        release.set()
        await until(lambda: len(values(broker)) == 25)
    assert values(broker) == [*range(20), *range(100, 105)]
    assert position(broker) == (5, set())


async def test_a_reset_during_the_opening_is_committed_when_it_is_open():
    broker = MemoryBroker()
    fill(broker, 0, 5)
    broker.positions[FIRST] = Committed(90, "")

    class Slow(MemoryBus):
        async def writer(self, partition):
            await until(lambda: self._next[partition] == 5)  # the reset was reported, and the log was read
            return await super().writer(partition)

    async with running(Slow(broker, [SOURCE])):
        await until(lambda: position(broker) == (5, set()))
    assert values(broker) == list(range(5))


class Silent(MemoryBus):
    """Begins again at the first record without a report, as a client does by itself."""

    def _take(self, max_records):
        for partition, position in self._next.items():
            if position > len(self.broker.logs[partition]):
                self._next[partition] = 0
        return super()._take(max_records)


async def test_records_below_all_that_was_delivered_are_a_reset_even_without_a_report():
    broker = MemoryBroker()
    fill(broker, 0, 100)
    broker.positions[FIRST] = Committed(50, "")
    async with running(Silent(broker, [SOURCE])):
        await until(lambda: len(values(broker)) == 50)
        broker.truncate(SOURCE, 10)
        fill(broker, 1000, 30)
        await until(lambda: len(values(broker)) == 90)
    assert values(broker) == [*range(10), *range(50, 100), *range(1000, 1030)]
    assert position(broker) == (40, set())


async def test_records_that_are_fetched_again_are_processed_once():
    broker = MemoryBroker()
    fill(broker, 0, 50)
    bus, calls = MemoryBus(broker, [SOURCE]), []

    async def transform(records):
        calls.append(records[0].offset)
        if len(calls) % 7 == 3:
            bus.seek(FIRST, max(0, records[0].offset - 3))  # as after a poll that failed half-way
        await asyncio.sleep(0.001)
        return await echo(records)

    limits = Limits(max_batch=1, max_in_flight=4, max_poll_records=5, commit_interval=0.001)
    async with running(bus, transform, limits):
        await until(lambda: len(values(broker)) >= 50)
    assert values(broker) == list(range(50))
    assert sorted(calls) == list(range(50))


async def test_a_run_with_an_end_passes_a_reset():
    broker = MemoryBroker()
    fill(broker, 0, 30)
    engine = Engine(MemoryBus(broker, [SOURCE]), stateless(echo), stage="test", limits=LIMITS)
    broker.positions[FIRST] = Committed(90, "")
    async with asyncio.timeout(TIMEOUT):
        assert await engine.run(asyncio.Event(), until={FIRST: 25}) == {FIRST}
    assert values(broker) == list(range(25))


async def test_after_a_gap_no_call_begins_until_a_commit_has_shown_that_the_partition_is_owned():
    broker, begun, states = MemoryBroker(), [], []
    fill(broker, 0, 200)
    bus = MemoryBus(broker, [SOURCE])
    limits = Limits(
        max_batch=1, max_in_flight=2, max_poll_records=50, max_poll_gap=1.0, reopen_delay=0.02, commit_interval=0.001
    )
    suspended = False

    async def transform(records):
        nonlocal suspended
        begun.append(records[0].offset)
        states.append(engine._workers[FIRST].state.name)
        if len(begun) == 30 and not suspended:
            suspended = True
            # Another member takes over while this process is suspended, and answers the first 60.
            thief = await MemoryBus(broker, [SOURCE]).writer(FIRST)
            outputs = [Output(SINK, None, str(n).encode()) for n in range(60) if n not in set(values(broker))]
            await thief.commit(outputs, 60, "")
            time.sleep(1.2)  # noqa: ASYNC251  (stops the event loop, as SIGSTOP does)
        return await echo(records)

    async with running(bus, transform, limits) as engine:
        await until(lambda: len(values(broker)) >= 200)
    assert values(broker) == list(range(200))
    wasted = sum(30 <= offset < 60 for offset in begun)
    assert wasted < 15, "calls for records that another member has answered"
    assert states.count("FENCED") <= 2, "only calls that had been given a place"


async def test_after_a_gap_a_partition_that_is_still_owned_goes_on():
    broker = MemoryBroker()
    fill(broker, 0, 100)
    calls = 0

    async def transform(records):
        nonlocal calls
        calls += 1
        if calls in (20, 60):
            time.sleep(0.1)  # noqa: ASYNC251  (the event loop is to be blocked)
        return await echo(records)

    limits = Limits(max_batch=1, max_poll_records=10, max_poll_gap=0.05, commit_interval=0.001, stall_timeout=0.08)
    async with running(MemoryBus(broker, [SOURCE]), transform, limits):
        await until(lambda: len(values(broker)) == 100)
    assert calls == 100


async def test_a_call_that_is_cancelled_within_the_stage_is_tried_again():
    broker = MemoryBroker()
    fill(broker, 0, 10)
    cancelled = False

    async def transform(records):
        nonlocal cancelled
        if records[0].offset == 3 and not cancelled:
            cancelled = True
            raise asyncio.CancelledError
        return await echo(records)

    async with running(MemoryBus(broker, [SOURCE]), transform):
        await until(lambda: len(values(broker)) == 10)
    assert broker.positions[FIRST] == Committed(10, "")


async def test_an_engine_that_ends_while_commits_fail_ends_in_bounded_time():
    broker = MemoryBroker()
    fill(broker, 0, 10)

    async def transform(records):
        if records[0].offset == 5:
            raise DependencyError("gone")
        return await echo(records)

    class Stuck(MemoryBus):
        async def writer(self, partition):
            writer = await super().writer(partition)

            async def never(*_):
                await asyncio.Event().wait()

            writer.commit = never
            return writer

    engine = Engine(Stuck(broker, [SOURCE]), stateless(transform), stage="test", limits=LIMITS)
    async with asyncio.timeout(TIMEOUT):
        with pytest.raises(DependencyError):
            await engine.run(asyncio.Event())


class AnswersLost(MemoryBus):
    """The first answers to commits of outputs are lost although the commits take place."""

    lost = 0

    async def writer(self, partition):
        writer = await super().writer(partition)
        commit = writer.commit

        async def commit_without_answer(outputs, *position):
            await commit(outputs, *position)
            if outputs and self.lost:
                self.lost -= 1
                raise BusError("no answer")

        writer.commit = commit_without_answer
        return writer


async def test_work_of_an_earlier_log_is_committed_once_although_it_moves_no_position():
    broker, release = MemoryBroker(), asyncio.Event()
    fill(broker, 0, 3)

    async def held(records):
        await release.wait()
        return await echo(records)

    bus = AnswersLost(broker, [SOURCE])
    async with running(bus, held) as engine:
        await until(lambda: engine._workers and engine._workers[FIRST].backlog.under_way == 3)
        broker.truncate(SOURCE, 0)
        broker.changed.set()
        await until(lambda: position(broker) == (0, set()))
        bus.lost = 2
        release.set()
        await until(lambda: engine._workers[FIRST].backlog.idle)
        fill(broker, 7, 1)
        await until(lambda: broker.positions[FIRST].offset == 1)
    assert values(broker) == [0, 1, 2, 7]


async def test_a_position_that_came_again_after_a_reset_is_not_taken_for_the_one_before():
    broker, release = MemoryBroker(), asyncio.Event()
    fill(broker, 0, 10)
    broker.positions[FIRST] = Committed(5, "")

    async def held(records):
        if int(records[0].value) < 10:
            await release.wait()
        return await echo(records)

    bus = MemoryBus(broker, [SOURCE])
    async with running(bus, held) as engine:
        await until(lambda: engine._workers and engine._workers[FIRST].backlog.under_way == 5)
        # Another member takes over, answers the rest, and begins the new log up to the same position.
        other = MemoryBus(broker, [SOURCE])
        bus.pause(FIRST)
        async with running(other, limits=LIMITS):
            await until(lambda: position(broker) == (10, set()))
            broker.truncate(SOURCE, 0)
            broker.changed.set()
            await until(lambda: position(broker) == (0, set()))
            fill(broker, 100, 5)
            await until(lambda: position(broker) == (5, set()))
        fill(broker, 105, 7)
        release.set()
        bus.resume(FIRST)
        await until(lambda: position(broker) == (12, set()))
    assert values(broker) == [*range(5, 10), *range(100, 112)]


async def test_a_reset_stands_although_an_owner_that_does_not_know_of_it_commits():
    broker, release, again = MemoryBroker(), asyncio.Event(), asyncio.Event()
    fill(broker, 0, 10)
    broker.positions[FIRST] = Committed(5, "")

    class Late(MemoryBus):
        opened = 0

        async def writer(self, partition):
            self.opened += 1
            if self.opened > 1:
                await again.wait()
            return await super().writer(partition)

    async def held(records):
        if int(records[0].value) < 10:
            await release.wait()
        return await echo(records)

    bus = Late(broker, [SOURCE])
    async with running(bus, held) as engine:
        await until(lambda: engine._workers and engine._workers[FIRST].backlog.under_way == 5)
        other = await MemoryBus(broker, [SOURCE]).writer(FIRST)
        broker.truncate(SOURCE, 0)
        broker.changed.set()
        await until(lambda: bus.opened == 2)  # the commit of the reset was fenced
        await other.commit([], 7, "")
        fill(broker, 100, 12)
        again.set()
        await until(lambda: position(broker) == (12, set()))
    assert values(broker) == list(range(100, 112))


@pytest.mark.parametrize("max_batch", [1, 10])
async def test_a_position_moves_over_records_at_the_end_that_an_earlier_owner_finished(max_batch):
    broker = MemoryBroker()
    fill(broker, 0, 6)
    broker.positions[FIRST] = Committed(1, pack(1, {1, 2, 3, 4, 5}))
    async with running(MemoryBus(broker, [SOURCE]), limits=Limits(max_batch=max_batch, commit_interval=0.001)):
        await until(lambda: broker.positions[FIRST] == Committed(6, ""))
    assert values(broker) == []


async def test_a_refused_position_without_outputs_ends_the_engine():
    class Refusing(MemoryBus):
        async def writer(self, partition):
            writer = await super().writer(partition)

            async def refuse(*_):
                raise OutputRefusedError("too large")

            writer.commit = refuse
            return writer

    broker = MemoryBroker()
    fill(broker, 0, 2)
    broker.positions[FIRST] = Committed(9, "")
    engine = Engine(Refusing(broker, [SOURCE]), stateless(echo), stage="test", limits=LIMITS)
    with pytest.raises(ConfigurationError, match="positions refuses"):
        async with asyncio.timeout(TIMEOUT):
            await engine.run(asyncio.Event())
