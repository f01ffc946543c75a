"""What people do: decide about a content, look at what is held above a cap, let it through."""

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
# Where what was said of a content stands, the shorter topics first; all have it in the partition of the same number.
_TRACES = (topics.ACTIONS, topics.VERDICTS, topics.CLEARED, topics.EVENTS)


async def decide(settings: Settings, content_id: str, action: Enforced, author: ChangedBy) -> Action:
    """A person's decision on a content: it overrides all verdicts on it, those to come too.

    Raises ConfigurationError when the pipeline never saw the content.
    """
    partition = await _partition_of(settings, content_id)
    decision = Action(uuid.uuid4().hex, content_id, action, now(), author.by, author.why, effective=action)
    async with kafka.exclusive_writer(settings, _WRITER) as write:
        await write([_output(decision)], [partition])
    return decision


async def _partition_of(settings: Settings, content_id: str) -> int:
    for topic in _TRACES:
        async with contextlib.aclosing(kafka.read_all(settings, [topic])) as records:
            async for record in records:
                if record.key == content_id.encode():
                    return record.partition
    raise ConfigurationError(f"nothing is known of content {content_id!r}: no event, no verdict, no action")


async def actions(settings: Settings) -> AsyncIterator[tuple[int, Action]]:
    """All actions, with the partitions that they stand in; of each partition in order."""
    async for record in kafka.read_all(settings, [topics.ACTIONS]):
        with contextlib.suppress(RecordError):
            if not was_requeued(record):
                yield record.partition, decode(record.value, Action)


async def standing(settings: Settings) -> dict[str, Enforced]:
    """What stands on each content that is not simply allowed."""
    states: dict[int, EnforcementState] = {}
    async for partition, action in actions(settings):
        states.setdefault(partition, EnforcementState()).take(action)
    return {
        content: action for standing_state in states.values() for content, action in standing_state.restricted().items()
    }


class Held(msgspec.Struct, frozen=True):
    """An action above a cap, the partition that it stands in, and what would stand on the content if it were let through."""

    action: Action
    partition: int
    effective: Enforced


async def held(settings: Settings) -> list[Held]:
    """What waits for a person, oldest first."""
    states: dict[int, EnforcementState] = {}
    waiting: dict[str, tuple[int, Action]] = {}
    async for partition, action in actions(settings):
        states.setdefault(partition, EnforcementState()).take(action)
        if action.state == "held" and not action.dry_run:
            waiting[action.action_id] = partition, action
    found = []
    for partition, action in sorted(waiting.values(), key=lambda one: one[1].acted_at):
        standing_state, content, policy = states[partition], action.content_id, action.policy_id or ""
        last = standing_state.standing(content, policy).held
        if last and last.action_id == action.action_id and content not in standing_state.people:
            found.append(Held(action, partition, standing_state.effective(content, policy, action.action)))
    return found


async def release(settings: Settings, policy_id: str, author: ChangedBy) -> int:
    """Let through what is held under a policy; what was decided otherwise since is left alone. Returns how many."""
    async with kafka.exclusive_writer(settings, _WRITER) as write:
        found = [one for one in await held(settings) if one.action.policy_id == policy_id]
        for start in range(0, len(found), CHUNK):
            chunk = found[start : start + CHUNK]
            await write([_output(_released(one, author)) for one in chunk], [one.partition for one in chunk])
    return len(found)


def _released(held: Held, author: ChangedBy) -> Action:
    return msgspec.structs.replace(
        held.action,
        action_id=verdict_id(held.action.action_id, "release"),
        state="applied",
        effective=held.effective,
        acted_at=now(),
        by=author.by,
        why=author.why,
        releases=held.action.action_id,
        alert=False,
    )


def _output(action: Action) -> Output:
    return Output(topics.ACTIONS, action.content_id.encode(), encode(action), [schema_header(Action)])
