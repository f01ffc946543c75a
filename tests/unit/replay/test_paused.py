"""A paused replay's escalations stay where they are, on the bus in memory and under the engine."""

import asyncio
import contextlib

import pytest

from safeguard_streams.bus.engine import Engine, Limits
from safeguard_streams.bus.interface import Output, Partition
from safeguard_streams.bus.memory import MemoryBus
from safeguard_streams.bus.transform import stateless
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Replay, encode, now
from safeguard_streams.replay.paused import HoldingBus, PausedReplays
from safeguard_streams.runtime.memory_broker import MemoryBroker, StoredRecord
from tests.conftest import until

LIVE, LANE, SINK = topics.ESCALATIONS, topics.ESCALATIONS_REPLAY, "sink"


def job(paused, name, state="paused"):
    replay = Replay(name, (), {}, {}, state, now(), "ann")
    paused.take(StoredRecord(topics.REPLAY_JOBS, 0, 0, 0, name.encode(), encode(replay)))


class Judging:
    """A reasoning worker's engine on a broker in memory. `answered` are the values of the records that it finished."""

    def __init__(self, partitions=2):
        self.broker = MemoryBroker(partitions)
        self.paused = PausedReplays()
        self.inner = MemoryBus(self.broker, [LIVE, LANE])
        self.bus = HoldingBus(self.inner, [LANE], self.paused)
        self.delay = 0.0

    def write(self, topic, *names, partition=0):
        for number, name in enumerate(names):
            value = b'{"replay_id":"%s","n":%d}' % (name.encode(), number) if name else b'{"n":%d}' % number
            self.broker.append(topic, value, partition=partition)

    async def judge(self, records):
        await asyncio.sleep(self.delay)
        return [Output(SINK, None, record.value) for record in records]

    @contextlib.asynccontextmanager
    async def running(self, **limits):
        engine = Engine(self.bus, stateless(self.judge), stage="test", limits=Limits(max_batch=1, **limits))
        stop = asyncio.Event()
        task = asyncio.create_task(engine.run(stop))
        try:
            yield engine
        finally:
            stop.set()
            await task

    @property
    def answered(self):
        return [record.value for record in self.broker.read(SINK)]

    def count(self, name):
        return sum(f'"{name}"'.encode() in value for value in self.answered)


async def test_a_paused_replay_is_not_judged_until_it_goes_on_and_live_content_is():
    judging = Judging()
    judging.write(LANE, *["a"] * 3, *["b"] * 5)
    judging.write(LANE, *["a"] * 4, partition=1)
    judging.write(LIVE, *[""] * 6)
    job(judging.paused, "b")
    async with judging.running():
        await until(lambda: len(judging.answered) == 13)
        await asyncio.sleep(0.3)
        assert (judging.count("a"), judging.count("b")) == (7, 0)
        assert judging.broker.positions[Partition(LANE, 0)][0] == 3
        job(judging.paused, "b", "escalated")
        await until(lambda: judging.count("b") == 5)
    assert len(judging.answered) == 18
    assert judging.broker.positions[Partition(LANE, 0)][0] == 8


async def test_what_is_written_while_a_replay_is_paused_waits_behind_it_in_its_partition_only():
    judging = Judging()
    judging.write(LANE, "a")
    job(judging.paused, "a")
    async with judging.running():
        await asyncio.sleep(0.1)
        judging.write(LANE, "b")
        judging.write(LANE, "b", partition=1)
        await until(lambda: judging.count("b") == 1)
        job(judging.paused, "a", "cancelled")
        await until(lambda: judging.count("b") == 2 and judging.count("a") == 1)


async def test_a_replay_that_is_paused_in_the_middle_is_judged_once_in_all():
    judging = Judging()
    judging.write(LANE, *["a"] * 200)
    judging.delay = 0.005
    async with judging.running(max_in_flight=2, max_buffered=4, max_poll_records=4):
        await until(lambda: judging.count("a") > 20)
        job(judging.paused, "a")
        await asyncio.sleep(0.2)
        stopped = judging.count("a")
        await asyncio.sleep(0.3)
        assert judging.count("a") == stopped < 200
        job(judging.paused, "a", "escalated")
        await until(lambda: judging.count("a") == 200)
    assert len(set(judging.answered)) == len(judging.answered) == 200


async def test_a_worker_that_starts_while_a_replay_is_paused_judges_none_of_it():
    judging = Judging()
    judging.write(LANE, *["a"] * 3)
    job(judging.paused, "a")
    for _ in range(2):
        async with judging.running():
            await asyncio.sleep(0.2)
        judging.inner = MemoryBus(judging.broker, [LIVE, LANE])
        judging.bus = HoldingBus(judging.inner, [LANE], judging.paused)
    assert judging.answered == []
    job(judging.paused, "a", "running")
    async with judging.running():
        await until(lambda: judging.count("a") == 3)


class RecordingListener:
    def __init__(self):
        self.calls = []

    def assigned(self, partitions):
        self.calls.append(("assigned", set(partitions)))

    def reset(self, partition, offset):
        self.calls.append(("reset", partition, offset))

    async def revoked(self, partitions):
        self.calls.append(("revoked", set(partitions)))


async def held(judging, listener):
    """A bus whose first partition of the lane is held, with the first record of it."""
    judging.write(LANE, "a", "b")
    job(judging.paused, "a")
    await judging.bus.start(listener)
    assert await judging.bus.poll(0.01, 10) == {}
    assert judging.inner._paused == {Partition(LANE, 0)}
    return Partition(LANE, 0)


async def test_a_partition_that_the_engine_paused_stays_paused_when_the_replay_goes_on():
    judging = Judging()
    partition = await held(judging, RecordingListener())
    judging.bus.pause(partition)
    judging.paused.ids.clear()
    assert await judging.bus.poll(0.01, 10) == {}
    judging.bus.resume(partition)
    polled = await judging.bus.poll(0.01, 10)
    assert [record.offset for record in polled[partition]] == [0, 1]


async def test_the_engine_cannot_resume_a_partition_that_is_held():
    judging = Judging()
    partition = await held(judging, RecordingListener())
    judging.bus.pause(partition)
    judging.bus.resume(partition)
    assert partition in judging.inner._paused
    assert await judging.bus.poll(0.01, 10) == {}


@pytest.mark.parametrize("change", ["seek", "reset", "assigned"])
async def test_nothing_stays_held_that_is_read_from_elsewhere_or_assigned_again(change):
    judging, listener = Judging(), RecordingListener()
    partition = await held(judging, listener)
    if change == "seek":
        judging.bus.seek(partition, 1)
        assert judging.inner._paused == set()
        polled = await judging.bus.poll(0.01, 10)
        assert [record.offset for record in polled[partition]] == [1], "it belongs to another replay"
    elif change == "reset":
        judging.bus.reset(partition, 1)
        assert judging.inner._paused == set()
        assert listener.calls[-1] == ("reset", partition, 1)
    else:
        await judging.bus.revoked([partition])
        judging.inner.resume(partition)  # as Kafka's client does with a partition that is assigned again
        judging.bus.assigned([partition])
        judging.bus.resume(partition)
        assert await judging.bus.poll(0.01, 10) == {}, "it is held again at the same record"
        assert [name for name, *_ in listener.calls[-2:]] == ["revoked", "assigned"]


async def test_records_that_cannot_be_read_are_handed_on():
    judging = Judging()
    for value in (None, b"", b"no json", b"[]", b'{"replay_id":7}', b'{"replay_id":null}'):
        judging.broker.append(LANE, value, partition=0)
    job(judging.paused, "a")
    await judging.bus.start(RecordingListener())
    polled = await judging.bus.poll(0.01, 10)
    assert len(polled[Partition(LANE, 0)]) == 6


def test_broken_jobs_change_nothing_and_tombstones_end_a_pause(caplog):
    paused = PausedReplays()
    job(paused, "a")
    for value in (b"", b"no json", b"{}"):
        paused.take(StoredRecord(topics.REPLAY_JOBS, 0, 7, 0, b"a", value))
    assert paused.ids == {"a"}
    assert "offset=7" in caplog.text
    paused.take(StoredRecord(topics.REPLAY_JOBS, 0, 8, 0, b"a", None))
    assert paused.ids == set()
