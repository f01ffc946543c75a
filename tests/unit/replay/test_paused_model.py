"""Paused replays under the model of the engine: in random programs nothing is lost, judged twice, or judged while it is
held.

Replays are paused and go on at any moment, while commits fail, partitions move, and logs are cut off.
"""

import asyncio
from unittest import mock

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule, run_state_machine_as_test

from safeguard_streams.replay import paused
from safeguard_streams.replay.paused import HoldingBus, PausedReplays
from tests.unit.bus.test_model import PARTITIONS, SOURCE, Bus, Model, number_of

REPLAYS = ("a", "b", None)  # each has three records, then the next one has


def replay_of(record):
    return REPLAYS[number_of(record) // 3 % 3]


class Holding(HoldingBus):
    """A member's bus that holds paused replays. What the model reaches into is that of the bus below."""

    def __init__(self, model):
        self.below = Bus(model)
        super().__init__(self.below, [SOURCE], model.replays)

    @property
    def _owned(self):
        return self.below._owned

    @property
    def _next(self):
        return self.below._next

    def own(self, partition):
        self._forget([partition])
        self.below.own(partition)


class PausingModel(Model):
    def __init__(self):
        self.replays = PausedReplays()
        super().__init__()
        self.patches.append(mock.patch.object(paused, "_replay_of", replay_of))
        self.patches[-1].start()

    def bus(self):
        return Holding(self)

    @rule(replay=st.sampled_from(REPLAYS[:2]), goes_on=st.booleans(), settles=st.booleans())
    def change(self, replay, goes_on, settles):
        (self.replays.ids.discard if goes_on else self.replays.ids.add)(replay)
        if settles:
            self.settle()

    @precondition(lambda self: not self.replays.ids)
    @rule(partition=st.sampled_from(PARTITIONS), back=st.integers(1, 9))
    def fetch_again(self, partition, back):
        """As in the engine's model, while no replay is paused: a hold would keep the bus below what it handed out."""
        bus = self.owners[partition].bus
        worker = self.owners[partition].engine._workers.get(partition)
        if worker is not None and worker.backlog.first is not None and partition not in bus.below._paused:
            bus.below.seek(partition, max(worker.backlog.first, bus._next[partition] - back))
        self.settle()

    @invariant()
    def a_partition_is_paused_by_a_replay_or_by_the_engine_and_by_nothing_else(self):
        for partition, member in getattr(self, "owners", {}).items():
            worker = member.engine._workers.get(partition)
            held, below = partition in member.bus._held, partition in member.bus.below._paused
            assert below == (held or (worker is not None and worker._paused))

    async def finish(self):
        """What is held waits, and what stands before it does not. Then all goes on."""
        self.faults.clear()
        self.released.set()
        await asyncio.sleep(0.2)
        before = self.answers()
        await asyncio.sleep(0.2)
        assert self.answers() == before
        for partition in PARTITIONS:
            for record in self.broker.logs[partition]:
                if replay_of(record) in self.replays.ids or self.resets[partition]:
                    break  # what stood where a log was cut off may have been held, and its place then waits
                assert number_of(record) in before
        self.replays.ids.clear()
        await super().finish()


TestPausingModel = PausingModel.TestCase
TestPausingModel.settings = settings(max_examples=40, stateful_step_count=30, derandomize=True, database=None)


@pytest.mark.slow
def test_the_model_holds_for_many_more_programs():
    many = settings(max_examples=600, stateful_step_count=50, derandomize=True, database=None)
    run_state_machine_as_test(PausingModel, settings=many)
