"""The agent's process in memory: what moderators write while a state is restored, and what a restart restores."""

import asyncio
import contextlib
import weakref
from datetime import UTC, datetime

import pytest

from safeguard_streams.bus.interface import Partition
from safeguard_streams.bus.kafka import reading
from safeguard_streams.bus.memory import MemoryBus
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Action, DeadLetter, Standing, Verdict, decode, encode
from safeguard_streams.enforcement import app, cleared, state
from safeguard_streams.errors import ForbiddenError, SafeguardError
from safeguard_streams.runtime import settings
from safeguard_streams.runtime.memory_broker import MemoryBroker, StoredRecord
from tests.conftest import TIMEOUT
from tests.unit.enforcement.test_edits import KIND, THREAT, judged
from tests.unit.enforcement.test_edits import cleared as cleared_verdict
from tests.unit.enforcement.test_transform import RULES


def decision(content_id, action, number):
    return encode(Action(f"d{number}", content_id, action, datetime.now(UTC), by="Ada", effective=action))


def violating(content_id, number=0):
    return encode(
        Verdict(
            verdict_id=f"v{number}-{content_id}",
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


class Group(MemoryBroker):
    """A broker as one of several groups sees it: the same records, with positions and writers of the group's own."""

    def __init__(self, broker, name):
        super().__init__()
        self.logs, self.changed = broker.logs, asyncio.Event()
        self._positions = broker.groups[name]
        broker.seen_by.append(self)

    @property
    def positions(self):
        return self._positions


class Broker(MemoryBroker):
    def __init__(self):
        super().__init__()
        self.seen_by = []
        self.reading, self.read_on = asyncio.Event(), asyncio.Event()

    def bus(self, _, names, group):
        return MemoryBus(Group(self, group), names)

    async def read_all(self, _, names, partition=None, **__):
        """The standing records up to their present end; slowly: `read_on` is set by a test."""
        records = list(self.logs[names[0], partition])
        self.reading.set()
        await self.read_on.wait()
        for record in records:
            yield record

    @contextlib.asynccontextmanager
    async def logs_of(self, _, number):
        yield MemoryLogs(self, number)

    def actions(self):
        """What the agent did, by its order."""
        found = [decode(record.value, Action) for record in self.read(topics.ACTIONS)]
        return [action for action in found if action.sequence is not None]


class MemoryLogs:
    """What the stage for cleared texts reads beside its input."""

    def __init__(self, broker, number):
        self.broker, self.number = broker, number

    async def last_cleared(self, offsets):
        for record in self.broker.logs[topics.CLEARED, self.number][-offsets:]:
            yield [record]

    async def standing(self):
        read = 0
        while True:
            records = self.broker.logs[topics.STANDING, self.number][read:]
            read += len(records)
            yield records, True
            await asyncio.sleep(0.01)

    async def cleared_at(self, offset):
        return self.broker.logs[topics.CLEARED, self.number][offset]

    async def write(self, outputs):
        for output in outputs:
            self.broker.append(output.topic, output.value, output.key, self.number)


async def without_records(_follower, _settings, caught_up):
    caught_up.set()
    await asyncio.Event().wait()


@pytest.fixture
def broker(monkeypatch):
    broker = Broker()
    monkeypatch.setattr(state.kafka, "read_all", broker.read_all)
    monkeypatch.setattr(reading, "read_all", broker.read_all)
    monkeypatch.setattr(app, "KafkaBus", broker.bus)
    monkeypatch.setattr(cleared, "kafka_logs", broker.logs_of)
    monkeypatch.setattr(app.ErasureList, "follow", without_records)
    monkeypatch.setattr(app.KnownPolicies, "follow", without_records)
    return broker


class Running:
    """The agent, from entering the block until it is left."""

    def __init__(self):
        self.agent = app.EnforcementAgent(settings.load(), RULES, 1)

    async def __aenter__(self):
        self._stop = asyncio.Event()
        self._running = asyncio.create_task(self.agent.run(self._stop))
        return self.agent

    async def __aexit__(self, *_):
        self._stop.set()
        await self._running


async def until(condition):
    async with asyncio.timeout(TIMEOUT):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_moderators_decision_during_the_restoring_of_a_state_overrides_later_verdicts(broker):
    broker.append(topics.ACTIONS, decision("before", "allow", 1))
    async with Running():
        await asyncio.wait_for(broker.reading.wait(), TIMEOUT)
        broker.append(topics.ACTIONS, decision("meanwhile", "remove", 2))
        broker.append(topics.ACTIONS, decision("meanwhile", "allow", 3))
        await until(lambda: len(broker.read(topics.ENFORCEMENT)) == 3)
        for content_id in ("before", "meanwhile", "neither"):
            broker.append(topics.VERDICTS, violating(content_id))
        broker.read_on.set()
        await until(lambda: len(broker.actions()) == 6)
    states = {action.content_id: (action.state, action.effective) for action in broker.actions()}
    assert states["before"] == states["meanwhile"] == ("overridden", "allow")
    assert states["neither"][0] == "applied"


async def test_what_stands_outlives_the_actions_that_led_to_it(broker):
    """After retention has deleted every verdict and every action."""
    broker.read_on.set()
    async with Running():
        for content_id in ("decided", "removed"):
            broker.append(topics.VERDICTS, violating(content_id))
        await until(lambda: len(broker.actions()) == 2)
        broker.append(topics.ACTIONS, decision("decided", "allow", 1))
        await until(lambda: len(broker.actions()) == 3)
    removed = broker.actions()[1]
    for name in (topics.VERDICTS, topics.ENFORCEMENT, topics.ACTIONS):
        broker.logs[name, 0].clear()
    broker.groups.clear()
    async with Running():
        broker.append(topics.VERDICTS, violating("removed"))  # comes again
        broker.append(topics.VERDICTS, violating("decided", 2))
        safe = violating("removed", 2).replace(b'"violates"', b'"safe"')
        broker.append(topics.VERDICTS, safe)
        await until(lambda: len(broker.actions()) == 2)
    overridden, back = broker.actions()
    assert (overridden.content_id, overridden.state, overridden.effective) == ("decided", "overridden", "allow")
    assert (back.action, back.previous, back.reverses, back.effective) == (
        "allow",
        "review",
        removed.action_id,
        "allow",
    )
    last = {record.key: record.value for record in broker.read(topics.STANDING)}
    assert last[b"removed"] is None, "nothing stands on it any more"
    assert last[b"decided"] is not None


def removed(content="c1", number=1):
    return encode(judged(number, THREAT, 1, content=content))


def harmless(content="c1"):
    return encode(cleared_verdict(9, content, KIND, 2))


def stands(broker):
    """The action in effect by content id, as the standing records say it."""
    last = {record.key: record.value for record in broker.read(topics.STANDING)}
    return {decode(value, Standing).content_id: decode(value, Standing).effective for value in last.values() if value}


def was_cleared(broker):
    """Whether the first cleared verdict was read and committed."""
    return broker.groups[cleared.STAGE].get((topics.CLEARED, 0), (0, ""))[0] == 1


def append(broker, topic, value, content="c1"):
    broker.append(topic, value, content.encode())


async def test_of_the_cleared_only_those_of_items_on_which_something_stands_are_passed_on(broker):
    broker.read_on.set()
    async with Running():
        append(broker, topics.VERDICTS, removed())
        await until(lambda: stands(broker) == {"c1": "remove"})
        for number in range(100):
            append(broker, topics.CLEARED, harmless(f"other{number}"), f"other{number}")
        append(broker, topics.CLEARED, harmless())
        await until(lambda: stands(broker) == {})
    assert len(broker.read(topics.ENFORCEMENT)) == 2


async def test_an_edit_that_is_cleared_before_the_verdict_on_the_earlier_text_ends_its_action(broker):
    broker.read_on.set()
    async with Running():
        append(broker, topics.CLEARED, harmless())
        await until(lambda: was_cleared(broker))
        append(broker, topics.VERDICTS, removed())
        await until(lambda: len(broker.actions()) == 2)
    assert [action.effective for action in broker.actions()] == ["remove", "allow"]
    assert stands(broker) == {}


async def test_a_restart_between_the_edit_and_the_verdict_loses_neither(broker):
    broker.read_on.set()
    async with Running():
        append(broker, topics.CLEARED, harmless())
        await until(lambda: was_cleared(broker))
    append(broker, topics.VERDICTS, removed())
    async with Running():
        await until(lambda: len(broker.actions()) == 2)
    assert stands(broker) == {}


async def test_what_stood_before_a_restart_is_ended_by_an_edit_after_it(broker):
    broker.read_on.set()
    async with Running():
        append(broker, topics.VERDICTS, removed())
        await until(lambda: stands(broker) == {"c1": "remove"})
    append(broker, topics.CLEARED, harmless())
    async with Running():
        await until(lambda: stands(broker) == {})


async def test_what_is_no_verdict_about_an_item_on_which_something_stands_is_a_dead_letter(broker):
    broker.read_on.set()
    async with Running():
        append(broker, topics.VERDICTS, removed())
        await until(lambda: stands(broker) == {"c1": "remove"})
        append(broker, topics.CLEARED, b"no verdict")
        append(broker, topics.CLEARED, b"no verdict", "c2")
        append(broker, topics.CLEARED, harmless())
        await until(lambda: stands(broker) == {})
    (letter,) = [decode(record.value, DeadLetter) for record in broker.read(topics.DEAD_LETTERS)]
    assert letter.stage == cleared.STAGE


async def test_the_agent_ends_when_it_may_not_read_what_stands(broker, monkeypatch):
    @contextlib.asynccontextmanager
    async def refused(_, number):
        raise ForbiddenError("topic moderation.cleared")
        yield

    monkeypatch.setattr(cleared, "kafka_logs", refused)
    with pytest.raises(SafeguardError, match=r"moderation\.cleared"):
        await asyncio.wait_for(app.EnforcementAgent(settings.load(), RULES, 1).run(asyncio.Event()), TIMEOUT)


def test_the_window_holds_the_last_cleared_verdicts_and_no_more():
    items = cleared.StandingItems(window=10)
    for offset in range(30):
        assert not items.clear(b"c%d" % offset, offset)
    found = [items.stand(b"c%d" % offset) for offset in range(30)]
    assert found[25:] == list(range(25, 30))
    assert found[:20] == [None] * 20
    assert items.clear(b"c7", 30)
    items.end(b"c7")
    assert not items.clear(b"c7", 31)


async def test_a_restart_between_the_verdict_on_an_edit_and_a_late_one_on_the_text_before_keeps_their_order(broker):
    broker.read_on.set()
    async with Running():
        append(broker, topics.VERDICTS, encode(judged(2, KIND, 2, None)))
        await until(lambda: broker.groups["enforcement-actions"].get((topics.ENFORCEMENT, 0), (0, ""))[0] == 1)
    append(broker, topics.VERDICTS, removed())
    async with Running():
        await until(lambda: len(broker.actions()) == 1)
    (late,) = broker.actions()
    assert (late.state, late.effective) == ("overridden", "allow")
    assert stands(broker) == {}


class FewRecords(StoredRecord, weakref=True, frozen=True):
    """Records whose life a test observes."""


class LongLog(MemoryLogs):
    """A log of many cleared verdicts; `most` is the largest number of them that was in memory at once."""

    most = 0

    async def last_cleared(self, offsets):
        alive = weakref.WeakSet()
        for first in range(0, 1000, 10):
            records = [FewRecords(topics.CLEARED, 0, first + i, 0, b"c%d" % (first + i), b"{}") for i in range(10)]
            alive.update(records)
            self.most = max(self.most, len(alive))
            yield records
            del records


async def test_the_window_is_restored_without_the_verdicts_themselves_in_memory(broker):
    log = LongLog(broker, 0)
    texts = cleared.ClearedTexts(lambda _: contextlib.nullcontext(log))
    await texts.opened(Partition(topics.CLEARED, 0))
    assert texts._items[0].stand(b"c999") == 999
    assert log.most <= 30
    texts.closed(Partition(topics.CLEARED, 0))
    await texts.aclose()
