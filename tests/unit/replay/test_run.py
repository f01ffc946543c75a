"""How a replay runs and ends, on the bus in memory."""

import asyncio

import pytest

from safeguard_streams.bus.interface import Output, Partition
from safeguard_streams.bus.memory import MemoryBus
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Replay, now
from safeguard_streams.replay import jobs, runner
from safeguard_streams.runtime.memory_broker import MemoryBroker
from safeguard_streams.runtime.settings import Settings

SINK = "sink"
FIRST = Partition(topics.EVENTS, 0)


class Place:
    """A broker in memory, and the record of one replay that can be changed from outside."""

    def __init__(self, monkeypatch):
        self.broker = MemoryBroker(partitions=2)
        for number in range(40):
            self.broker.append(topics.EVENTS, str(number).encode(), partition=number % 2)
        self.replay = Replay("r", (), {"0": 0, "1": 0}, {"0": 15, "1": 20}, "running", now(), "ann", "why")
        self.bus = MemoryBus(self.broker, [topics.EVENTS])
        self.changes, self.delay = [], 0.0
        for name in ("find", "progress", "set_state"):
            monkeypatch.setattr(jobs, name, getattr(self, name))
        monkeypatch.setattr(runner, "earlier_decisions", self.nothing)
        monkeypatch.setattr(runner, "ReplaySelector", lambda *_: self.select)
        monkeypatch.setattr(runner.kafka, "KafkaBus", lambda *_: self.bus)
        monkeypatch.setattr(runner.kafka, "set_first_positions", self.nothing)

    async def nothing(self, *_):
        return None

    async def select(self, records):
        await asyncio.sleep(self.delay)
        return [Output(SINK, None, record.value) for record in records]

    async def find(self, *_):
        return self.replay

    async def progress(self, *_):
        return sum(committed.offset for committed in self.broker.positions.values())

    async def set_state(self, _, replay, state):
        assert replay is self.replay
        self.changes.append(state)
        return Replay("r", (), replay.starts, replay.ends, state, replay.created_at, "ann", "why")

    async def run(self, stop=None, on_progress=lambda done: None):
        async with asyncio.timeout(10):
            return await runner.run(Settings(), self.replay, None, stop or asyncio.Event(), on_progress)

    @property
    def selected(self):
        return sorted(int(record.value) for record in self.broker.read(SINK))


@pytest.fixture
def place(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    return Place(monkeypatch)


async def test_a_replay_is_escalated_when_all_is_committed_to_its_ends(place):
    reported = []
    assert await place.run(on_progress=reported.append) == "escalated"
    assert place.changes == ["escalated"]
    assert place.selected == sorted([*range(0, 30, 2), *range(1, 40, 2)])
    assert place.broker.positions[FIRST].offset == 15
    assert reported[-1] == place.replay.total == 35


async def test_a_replay_that_somebody_pauses_ends_and_keeps_its_position(place):
    place.delay = 0.1
    running = asyncio.create_task(place.run())
    place.replay = Replay("r", (), place.replay.starts, place.replay.ends, "paused", now(), "ann", "why")
    assert await running == "paused"
    assert place.changes == []


async def test_a_runner_that_is_stopped_leaves_the_replay_running(place):
    stop = asyncio.Event()
    stop.set()
    place.delay = 0.3
    assert await place.run(stop) == "running"
    assert place.changes == []


async def test_a_runner_that_owns_a_part_leaves_the_end_to_the_one_that_has_the_rest(place):
    place.bus._owned = {FIRST}
    assert await place.run() == "running"
    assert place.changes == []
    assert place.selected == list(range(0, 30, 2))


async def test_a_replay_that_was_cancelled_as_it_ended_stays_cancelled(place):
    async def job(*_):
        state = "cancelled" if place.selected else "running"
        return Replay("r", (), place.replay.starts, place.replay.ends, state, now(), "ann", "why")

    runner.job = job
    assert await place.run() == "cancelled"
    assert place.changes == []


async def test_an_error_of_the_watch_ends_the_run_and_is_raised(place):
    async def progress(*_):
        raise ConnectionError("away")

    runner.progress = progress
    place.delay = 0.1
    with pytest.raises(ConnectionError, match="away"):
        await place.run()
    assert place.bus.assignment() == set()
