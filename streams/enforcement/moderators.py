"""What moderators look at, and release: what stands on content items, what was done about them, held actions.

Moderators write to moderation.actions. The agent follows what they wrote, in one order with the verdicts.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from typing import NamedTuple, TypeVar

import msgspec

from safeguard_streams.bus import kafka
from safeguard_streams.bus.dead_letters import was_requeued
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import (
    Action,
    ContentEvent,
    Enforced,
    Standing,
    encode,
    now,
    schema_header,
    verdict_id,
)
from safeguard_streams.enforcement.rules import severity
from safeguard_streams.enforcement.standing import as_in_effect
from safeguard_streams.enforcement.texts import is_outdated
from safeguard_streams.releases.erasures import ErasureList
from safeguard_streams.releases.operator import ChangedBy
from safeguard_streams.releases.people import checked
from safeguard_streams.releases.texts import TextPlace, events_at, texts_at
from safeguard_streams.runtime.settings import Settings

T = TypeVar("T")
FOLLOW_SECONDS = 10.0


async def actions(settings: Settings, partition: int | None = None) -> AsyncIterator[tuple[int, Action]]:
    """All actions with their partitions, or those of one partition; in the order of each.

    What a moderator wrote comes twice under one action_id: as written, and with a sequence once the agent followed it.
    """
    async for record, action in kafka.read_decoded(settings, [topics.ACTIONS], Action, partition):
        if not was_requeued(record):
            yield record.partition, action


async def history(settings: Settings, content_id: str, since: datetime | None = None) -> list[Action]:
    """All actions on a content item, or those written since then, oldest first, each once.

    Reads the partition that the id leads to, and the others only if that one has none. Decodes no other item's records.
    """
    count, mention = len(await kafka.partitions_of(settings, topics.ACTIONS)), kafka.Mention(content_id)
    for partition in (kafka.likely_partition(content_id, count), None):
        by_id: dict[str, Action] = {}
        async for record in kafka.read_all(settings, [topics.ACTIONS], partition, since=since):
            if not mention.possible(record.key, record.value) or was_requeued(record):
                continue
            action = kafka.decoded_or_left_out(settings, record, Action)
            if action is not None and action.content_id == content_id:
                by_id[action.action_id] = action
        if by_id:
            return list(by_id.values())
    return []


class PlacedStanding(NamedTuple):
    """What stands on a content item, and the partition of its records."""

    partition: int
    standing: Standing


async def all_standing(
    settings: Settings, wanted: Callable[[Standing], bool] = lambda _: True, partition: int | None = None
) -> list[PlacedStanding]:
    """What stands on the content items that are wanted, from moderation.standing alone. Keeps only these in memory."""
    return await each_standing(settings, lambda one: one if wanted(one.standing) else None, partition)


async def each_standing(
    settings: Settings, made: Callable[[PlacedStanding], T | None], partition: int | None = None
) -> list[T]:
    """What `made` makes of what stands on each content item. Keeps only that in memory; None is left out."""
    found: dict[tuple[int, bytes], T] = {}
    async for record in kafka.read_all(settings, [topics.STANDING], partition):
        if record.key is None:
            continue
        place = (record.partition, record.key)
        decoded = kafka.decoded_or_left_out(settings, record, Standing)
        one = None if decoded is None else made(PlacedStanding(record.partition, as_in_effect(decoded)))
        if one is not None:
            found[place] = one
        elif decoded is not None or record.value is None:
            found.pop(place, None)
    return list(found.values())


async def standing_on(settings: Settings, content_id: str, partition: int | None = None) -> PlacedStanding | None:
    """What stands on an item, if anything does. Decodes no other item's record."""
    key, found = content_id.encode(), None
    async for record in kafka.read_all(settings, [topics.STANDING], partition):
        if record.key != key:
            continue
        decoded = kafka.decoded_or_left_out(settings, record, Standing)
        if decoded is not None:
            found = PlacedStanding(record.partition, as_in_effect(decoded))
        elif record.value is None and found is not None and found.partition == record.partition:
            found = None
    return found


async def standing_of(settings: Settings, content_id: str) -> PlacedStanding | None:
    """What stands on an item, in the partition that its id leads to or else in another one."""
    count = len(await kafka.partitions_of(settings, topics.STANDING))
    likely = kafka.likely_partition(content_id, count)
    return await standing_on(settings, content_id, likely) or await standing_on(settings, content_id)


async def standing(settings: Settings) -> dict[str, Enforced]:
    """What stands on each content item that is not simply allowed, by content id."""
    restricted = await all_standing(settings, lambda one: one.effective != "allow")
    return {one.standing.content_id: one.standing.effective for one in restricted}


class HeldAction(msgspec.Struct, frozen=True):
    """An action held above a cap, its partition, and what would be in effect on the item after a release.

    edited: the item has a newer text, on which the verdict under the action's policy has not come.
    """

    action: Action
    partition: int
    effective: Enforced
    edited: bool = False


async def held(settings: Settings, policy_id: str | None = None) -> list[HeldAction]:
    """Actions that wait for a moderator, oldest first; with policy_id, those under one policy."""
    waiting = [
        HeldAction(
            policy.held,
            partition,
            _effective_after_release(one, policy.policy_id, policy.held.action),
            is_outdated(policy.held, one),
        )
        for partition, one in await all_standing(settings, _waits)
        for policy in one.policies
        if policy.held is not None and policy_id in (None, policy.policy_id)
    ]
    return sorted(waiting, key=lambda one: one.action.acted_at)


async def texts_of(settings: Settings, places: Sequence[TextPlace]) -> dict[TextPlace, str]:
    """The texts that held actions or items in review are about, without those past retention or erased.

    A user who may not read content.events gets none; the `Reading` that observes this counts them as left out.
    """
    erasures = ErasureList()
    await erasures.read(settings)
    return await texts_at(settings, places, erasures.erased)


async def events_of(settings: Settings, places: Sequence[TextPlace]) -> dict[TextPlace, ContentEvent]:
    """The events of the same texts, with what their producers said about them."""
    erasures = ErasureList()
    await erasures.read(settings)
    return await events_at(settings, places, erasures.erased)


async def release(
    settings: Settings, shown: Sequence[HeldAction], moderator: ChangedBy, *, any_text: bool = False
) -> int:
    """Release these held actions and no others. Returns how many the agent has followed within FOLLOW_SECONDS.

    The agent follows a release unless a later verdict or decision replaced the action. any_text: it also follows where
    the item has a newer text by then. Raises ConfigurationError when the name or the reason is no plain text.
    """
    moderator = checked(moderator)
    async with kafka.reader(settings, [topics.STANDING], from_end=True) as client:
        for tp in client.assignment():
            await client.position(tp)
        await write(settings, [(one.partition, _released(one, moderator, any_text=any_text)) for one in shown])
        waiting: dict[bytes, set[str]] = defaultdict(set)
        for one in shown:
            waiting[one.action.content_id.encode()].add(one.action.action_id)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FOLLOW_SECONDS):
                while waiting:
                    record = await client.getone()
                    if record.key in waiting:
                        waiting[record.key] &= _held_ids(kafka.decoded_or_left_out(settings, record, Standing))
                        if not waiting[record.key]:
                            del waiting[record.key]
    return len(shown) - sum(map(len, waiting.values()))


def _effective_after_release(one: Standing, policy_id: str, released: Enforced) -> Enforced:
    others = [policy.action for policy in one.policies if policy.policy_id != policy_id]
    return max([released, *others], key=severity)


def _waits(one: Standing) -> bool:
    return one.in_force is None and any(policy.held for policy in one.policies)


def _held_ids(one: Standing | None) -> set[str]:
    return {policy.held.action_id for policy in one.policies if policy.held} if one and _waits(one) else set()


def _released(held_action: HeldAction, moderator: ChangedBy, *, any_text: bool = False) -> Action:
    action = held_action.action
    return msgspec.structs.replace(
        action,
        action_id=verdict_id(action.action_id, "release"),
        state="applied",
        effective=held_action.effective,
        acted_at=now(),
        by=moderator.by,
        why=moderator.why,
        releases=action.action_id,
        any_text=any_text,
        sequence=None,
    )


async def write(settings: Settings, placed: Sequence[tuple[int, Action]]) -> None:
    """Write moderators' records to their partitions of moderation.actions; returns when the broker has them all."""
    async with kafka.producer(settings) as client:
        sent = [
            await client.send(
                settings.prefix + topics.ACTIONS,
                value=encode(action),
                key=action.content_id.encode(),
                partition=partition,
                headers=[schema_header(Action)],
            )
            for partition, action in placed
        ]
        await asyncio.gather(*sent)
