"""What moderators do: decide about a content item, look at the actions held above a cap, and release them."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import AsyncIterator

import msgspec

from safeguard_streams.bus import kafka
from safeguard_streams.bus.dead_letters import was_requeued
from safeguard_streams.bus.interface import Output
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Action, Enforced, decode, encode, now, schema_header, verdict_id
from safeguard_streams.enforcement.state import EnforcementState
from safeguard_streams.errors import ConfigurationError, RecordError
from safeguard_streams.releases.operator import ChangedBy
from safeguard_streams.runtime.settings import Settings

CHUNK = 2000  # actions in one transaction
_WRITER = "enforcement-people"
# Topics with records about a content item, the shorter topics first. All have them in the partition of the same number.
_KEYED_BY_CONTENT = (topics.ACTIONS, topics.VERDICTS, topics.CLEARED, topics.EVENTS)


async def decide(settings: Settings, content_id: str, action: Enforced, moderator: ChangedBy) -> Action:
    """Write a moderator's decision about a content item. It overrides all current and future verdicts on the item.

    Raises ConfigurationError when the pipeline never saw the item.
    """
    partition = await _partition_of(settings, content_id)
    decision = Action(uuid.uuid4().hex, content_id, action, now(), moderator.by, moderator.why, effective=action)
    async with kafka.exclusive_writer(settings, _WRITER) as write:
        await write([_output(decision)], [partition])
    return decision


async def _partition_of(settings: Settings, content_id: str) -> int:
    for topic in _KEYED_BY_CONTENT:
        async with contextlib.aclosing(kafka.read_all(settings, [topic])) as records:
            async for record in records:
                if record.key == content_id.encode():
                    return record.partition
    raise ConfigurationError(
        f"no event, verdict or action has the content id {content_id!r}: check the id and SAFEGUARD_PREFIX"
    )


async def actions(settings: Settings) -> AsyncIterator[tuple[int, Action]]:
    """All actions with their partitions, in the order of each partition."""
    async for record in kafka.read_all(settings, [topics.ACTIONS]):
        with contextlib.suppress(RecordError):
            if not was_requeued(record):
                yield record.partition, decode(record.value, Action)


async def standing(settings: Settings) -> dict[str, Enforced]:
    """What stands on each content item that is not simply allowed, by content id."""
    states: dict[int, EnforcementState] = {}
    async for partition, action in actions(settings):
        states.setdefault(partition, EnforcementState()).apply(action)
    return {content_id: action for state in states.values() for content_id, action in state.restricted().items()}


class HeldAction(msgspec.Struct, frozen=True):
    """An action held above a cap, its partition, and what would stand on the content item after a release."""

    action: Action
    partition: int
    effective: Enforced


async def held(settings: Settings) -> list[HeldAction]:
    """Actions that wait for a moderator, oldest first."""
    states: dict[int, EnforcementState] = {}
    candidates: dict[str, tuple[int, Action]] = {}
    async for partition, action in actions(settings):
        states.setdefault(partition, EnforcementState()).apply(action)
        if action.state == "held" and not action.dry_run:
            candidates[action.action_id] = partition, action
    waiting = []
    for partition, action in sorted(candidates.values(), key=lambda candidate: candidate[1].acted_at):
        state, content_id, policy_id = states[partition], action.content_id, action.policy_id or ""
        latest = state.standing(content_id, policy_id).held
        if latest and latest.action_id == action.action_id and content_id not in state.decisions:
            effective = state.effective(content_id, policy_id, action.action)
            waiting.append(HeldAction(action, partition, effective))
    return waiting


async def release(settings: Settings, policy_id: str, moderator: ChangedBy) -> int:
    """Release the actions held under a policy, except those that a later decision replaced. Returns their number."""
    async with kafka.exclusive_writer(settings, _WRITER) as write:
        waiting = [one for one in await held(settings) if one.action.policy_id == policy_id]
        for start in range(0, len(waiting), CHUNK):
            chunk = waiting[start : start + CHUNK]
            await write([_output(_released(one, moderator)) for one in chunk], [one.partition for one in chunk])
    return len(waiting)


def _released(held_action: HeldAction, moderator: ChangedBy) -> Action:
    return msgspec.structs.replace(
        held_action.action,
        action_id=verdict_id(held_action.action.action_id, "release"),
        state="applied",
        effective=held_action.effective,
        acted_at=now(),
        by=moderator.by,
        why=moderator.why,
        releases=held_action.action.action_id,
        alert=False,
    )


def _output(action: Action) -> Output:
    return Output(topics.ACTIONS, action.content_id.encode(), encode(action), [schema_header(Action)])
