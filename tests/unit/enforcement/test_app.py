"""The agent's process in memory: what moderators write while a state is restored."""

import asyncio
import contextlib
from datetime import UTC, datetime

import pytest

from safeguard_streams.bus.memory import MemoryBus
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Action, Verdict, decode, encode
from safeguard_streams.enforcement import app, state
from safeguard_streams.runtime import settings
from safeguard_streams.runtime.memory_broker import MemoryBroker
from tests.unit.enforcement.test_transform import RULES


def decision(content_id, action, number):
    return encode(Action(f"d{number}", content_id, action, datetime.now(UTC), by="Ada", effective=action))


def violating(content_id):
    return encode(
        Verdict(
            verdict_id=f"v-{content_id}",
            content_id=content_id,
            content_sha256="0" * 64,
            policy_id="p",
            policy_version="1",
            decision="violates",
            stage="reasoner",
            lane="live",
            model="m",
            decided_at=datetime.now(UTC),
        )
    )


class Follower:
    """A consumer of moderation.actions from its end on."""

    def __init__(self, broker):
        self._broker = broker
        self.next = len(broker.read(topics.ACTIONS))

    def assignment(self):
        return set()

    async def __aiter__(self):
        while True:
            for record in self._broker.read(topics.ACTIONS)[self.next :]:
                yield record
                self.next += 1
            await asyncio.sleep(0.01)


@pytest.fixture
def broker(monkeypatch):
    """A broker whose actions are read up to their present end, and slowly: `read` is set by a test."""
    broker = MemoryBroker()
    broker.reading, broker.read_on = asyncio.Event(), asyncio.Event()
    follower = broker.follower = Follower(broker)

    async def read_all(_, names, partition=None):
        records = list(broker.logs[names[0], partition])
        broker.reading.set()
        await broker.read_on.wait()
        for record in records:
            yield record

    @contextlib.asynccontextmanager
    async def reader(*_, **__):
        yield follower

    monkeypatch.setattr(state.kafka, "read_all", read_all)
    monkeypatch.setattr(app.kafka, "reader", reader)
    monkeypatch.setattr(app, "KafkaBus", lambda _, names, __: MemoryBus(broker, names))
    return broker


async def until(condition):
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_moderators_decision_during_the_restoring_of_a_state_overrides_later_verdicts(broker):
    broker.append(topics.ACTIONS, decision("before", "allow", 1))
    broker.follower.next = 1
    stop = asyncio.Event()
    running = asyncio.create_task(app.EnforcementAgent(settings.load(), RULES, 1).run(stop))
    await asyncio.wait_for(broker.reading.wait(), 5)
    broker.append(topics.ACTIONS, decision("meanwhile", "remove", 2))
    broker.append(topics.ACTIONS, decision("meanwhile", "allow", 3))
    await until(lambda: broker.follower.next == 3)
    broker.read_on.set()
    for content_id in ("before", "meanwhile", "neither"):
        broker.append(topics.VERDICTS, violating(content_id))
    await until(lambda: len(broker.read(topics.ACTIONS)) == 6)
    stop.set()
    await running
    actions = [decode(record.value, Action) for record in broker.read(topics.ACTIONS)[3:]]
    states = {action.content_id: (action.state, action.effective) for action in actions}
    assert states["before"] == states["meanwhile"] == ("overridden", "allow")
    assert states["neither"][0] == "applied"
