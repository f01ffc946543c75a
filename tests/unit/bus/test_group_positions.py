"""Positions that commands ask for: Kafka's own, or the recorded ones of the same topic."""

import asyncio
import contextlib

import pytest

from safeguard_streams.bus.interface import Partition
from safeguard_streams.bus.kafka import positions
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Position
from safeguard_streams.runtime.settings import Settings

GROUP = "dead-letters-retry"


class Client:
    _client = None

    async def committed(self, partition):
        return 7 if partition.partition == 0 else None


@pytest.mark.parametrize(
    ("recorded_of", "is_now", "found"),
    [
        ("a", "a", {0: 7, 1: 40}),
        ("a", "b", {0: 7}),  # created again: its letters are new
        (None, None, {0: 7, 1: 40}),  # a broker without ids
    ],
)
def test_a_recorded_position_counts_in_its_own_topic_only(monkeypatch, recorded_of, is_now, found):
    @contextlib.asynccontextmanager
    async def outsider(*_):
        yield Client()

    async def recorded(_settings, group):
        assert group == f"eu.{GROUP}"
        name = "eu." + topics.DEAD_LETTERS
        return {Partition(name, n): Position(group, name, n, 40, "", recorded_of) for n in (0, 1, 5)}

    async def topic_ids(_client, names):
        return dict.fromkeys(names, is_now) if is_now else {}

    monkeypatch.setattr(positions, "_outsider", outsider)
    monkeypatch.setattr(positions, "recorded_positions", recorded)
    monkeypatch.setattr(positions, "topic_ids", topic_ids)
    asked = positions.group_positions(Settings(prefix="eu."), GROUP, topics.DEAD_LETTERS, [0, 1, 2])
    assert asyncio.run(asked) == found
