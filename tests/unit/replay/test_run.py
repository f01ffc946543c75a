"""How a replay runs and ends, on the bus in memory."""

import asyncio

import msgspec
import pytest

from safeguard_streams.bus.interface import Output, Partition
from safeguard_streams.bus.memory import MemoryBus
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Replay, ReplayProgress, decode, encode, now
from safeguard_streams.replay import jobs, runner
from safeguard_streams.replay.selection import Selection
from safeguard_streams.runtime.memory_broker import MemoryBroker
from safeguard_streams.runtime.settings import Settings
from tests.conftest import TIMEOUT

SINK = "sink"
FIRST = Partition(topics.EVENTS, 0)


class ReplayRun:
    """A broker in memory, and the record of one replay that can be changed from outside."""

    def __init__(self, monkeypatch):
        self.broker = MemoryBroker(partitions=2)
        for number in range(40):
            self.broker.append(topics.EVENTS, str(number).encode(), partition=number % 2)
        self.replay = Replay("r", (), {"0": 0, "1": 0}, {"0": 15, "1": 20}, "running", now(), "ann", "why")
        self.bus = MemoryBus(self.broker, [topics.EVENTS])
        self.changes, self.delay = [], 0.0
        for name in ("find", "progress", "finish", "is_committed"):
            monkeypatch.setattr(jobs, name, getattr(self, name))
        monkeypatch.setattr(runner, "earlier_decisions", self.nothing)
        monkeypatch.setattr(runner, "ReplaySelector", lambda *_: self.select)
        monkeypatch.setattr(runner.kafka, "read_decoded", self.read_progress)
        monkeypatch.setattr(runner.kafka, "KafkaBus", lambda *_, record_seconds: self.bus)
        monkeypatch.setattr(runner.ErasureList, "read", self.nothing)
        monkeypatch.setattr(runner.kafka, "set_first_positions", self.nothing)

    async def nothing(self, *_):
        return None

    async def select(self, records):
        await asyncio.sleep(self.delay)
        return Selection([Output(SINK, None, record.value) for record in records], len(records), 0)

    async def read_progress(self, _, names, kind, since):
        assert (names, kind) == ([topics.REPLAY_PROGRESS], ReplayProgress)
        for record in self.broker.read(topics.REPLAY_PROGRESS):
            yield record, decode(record.value, ReplayProgress)

    @property
    def counted(self):
        """The last progress of each partition."""
        read = [decode(record.value, ReplayProgress) for record in self.broker.read(topics.REPLAY_PROGRESS)]
        return {one.partition: one for one in read}

    async def find(self, *_):
        return self.replay

    async def progress(self, *_):
        return sum(committed.offset for committed in self.broker.positions.values())

    async def is_committed(self, *_):
        return await self.progress() == self.replay.total

    async def finish(self, _, replay):
        assert replay.replay_id == self.replay.replay_id
        current = await jobs.find(None, replay.replay_id)
        self.changes.append("escalated" if current.state == "running" else current.state)
        return msgspec.structs.replace(current, state=self.changes[-1], escalated_at=now())

    async def run(self, stop=None, on_progress=lambda done: None):
        async with asyncio.timeout(TIMEOUT):
            return await runner.run(Settings(), self.replay, None, stop or asyncio.Event(), on_progress)

    @property
    def selected(self):
        return sorted(int(record.value) for record in self.broker.read(SINK))


@pytest.fixture
def replay_run(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    return ReplayRun(monkeypatch)


async def test_a_replay_is_escalated_when_all_is_committed_to_its_ends(replay_run):
    reported = []
    assert await replay_run.run(on_progress=reported.append) == "escalated"
    assert replay_run.changes == ["escalated"]
    assert replay_run.selected == sorted([*range(0, 30, 2), *range(1, 40, 2)])
    assert replay_run.broker.positions[FIRST].offset == 15
    assert reported[-1] == replay_run.replay.total == 35
    assert {n: (one.position, one.items, one.escalated) for n, one in replay_run.counted.items()} == {
        0: (15, 15, 15),
        1: (20, 20, 20),
    }


async def test_what_is_read_again_is_counted_once(replay_run):
    """Without transactions, a runner may die between its outputs and its position."""
    for number, position in ((0, 8), (1, 20)):
        progress = ReplayProgress("r", number, position, items=position, escalated=position)
        replay_run.broker.append(topics.REPLAY_PROGRESS, encode(progress), progress.key)
    other = ReplayProgress("another", 0, 3, items=1000)
    replay_run.broker.append(topics.REPLAY_PROGRESS, encode(other), other.key)
    assert await replay_run.run() == "escalated"
    assert {n: (one.position, one.items) for n, one in replay_run.counted.items() if one.replay_id == "r"} == {
        0: (15, 15),
        1: (20, 20),
    }


async def test_a_replay_whose_last_commit_is_not_known_stays_to_be_resumed(replay_run, monkeypatch):
    async def under_way(self, stop, until):
        return frozenset(until)

    monkeypatch.setattr(runner.Engine, "run", under_way)
    assert await replay_run.run() == "running"
    assert (replay_run.changes, replay_run.selected) == ([], [])


async def test_a_replay_that_somebody_pauses_ends_and_keeps_its_position(replay_run):
    replay_run.delay = 0.1
    running = asyncio.create_task(replay_run.run())
    replay_run.replay = Replay("r", (), replay_run.replay.starts, replay_run.replay.ends, "paused", now(), "ann", "why")
    assert await running == "paused"
    assert replay_run.changes == []


async def test_a_runner_that_is_stopped_leaves_the_replay_running(replay_run):
    stop = asyncio.Event()
    stop.set()
    replay_run.delay = 0.3
    assert await replay_run.run(stop) == "running"
    assert replay_run.changes == []


async def test_a_runner_that_owns_a_part_leaves_the_end_to_the_one_that_has_the_rest(replay_run):
    replay_run.bus._owned = {FIRST}
    assert await replay_run.run() == "running"
    assert replay_run.changes == []
    assert replay_run.selected == list(range(0, 30, 2))


async def test_a_replay_that_was_cancelled_as_it_ended_stays_cancelled(replay_run, monkeypatch):
    async def job(*_):
        state = "cancelled" if replay_run.selected else "running"
        return Replay("r", (), replay_run.replay.starts, replay_run.replay.ends, state, now(), "ann", "why")

    monkeypatch.setattr(jobs, "find", job)
    assert await replay_run.run() == "cancelled"
    assert "escalated" not in replay_run.changes


async def test_an_error_of_the_watch_ends_the_run_and_is_raised(replay_run, monkeypatch):
    async def progress(*_):
        raise ConnectionError("away")

    monkeypatch.setattr(jobs, "progress", progress)
    replay_run.delay = 0.1
    with pytest.raises(ConnectionError, match="away"):
        await replay_run.run()
    assert replay_run.bus.assignment() == set()


async def test_a_stop_while_a_runner_reads_what_it_has_to_know_ends_it(replay_run, monkeypatch):
    """Before, this reading did not look at `stop`, and the process ended only at its bound."""
    reading, stop = asyncio.Event(), asyncio.Event()

    async def endless(*_):
        reading.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(runner, "earlier_decisions", endless)
    running = asyncio.create_task(replay_run.run(stop))
    await reading.wait()
    stop.set()
    assert await running == "running"
    assert not replay_run.selected
