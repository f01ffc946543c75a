"""What moderators do: decide about a content item and take that back, look at what stands, release held actions.

Moderators write to moderation.actions. The agent follows what they wrote, in one order with the verdicts.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import timedelta
from typing import NamedTuple

import msgspec

from safeguard_streams.bus import kafka
from safeguard_streams.bus.dead_letters import was_requeued
from safeguard_streams.bus.interface import Record
from safeguard_streams.contract import topics
from safeguard_streams.contract.intake import read_event
from safeguard_streams.contract.records import (
    Action,
    Enforced,
    Standing,
    Verdict,
    came_later,
    content_sha256,
    decode,
    encode,
    now,
    origin_of,
    schema_header,
    verdict_id,
)
from safeguard_streams.enforcement.plain_text import problem
from safeguard_streams.enforcement.rules import severity
from safeguard_streams.enforcement.state import as_in_effect, effective
from safeguard_streams.enforcement.texts import is_outdated
from safeguard_streams.errors import ConfigurationError, RecordError
from safeguard_streams.releases.erasures import ErasureList
from safeguard_streams.releases.operator import ChangedBy
from safeguard_streams.releases.texts import TextPlace, texts_at
from safeguard_streams.runtime.settings import Settings

FOLLOW_SECONDS = 10.0
UNFOLLOWED = timedelta(days=1)  # how far back to look for decisions that no agent has followed


async def decide(
    settings: Settings, content_id: str, action: Enforced, moderator: ChangedBy, *, any_text: bool = False
) -> Action:
    """Write a moderator's decision about a content item. It overrides all current and future verdicts on its text.

    The decision names the newest text that is known by its hash. any_text: it also covers every text that the item
    gets. Raises ConfigurationError when the pipeline never saw the item, or when the name or the reason is no plain
    text.
    """
    _check(moderator)
    place = await _locate(settings, content_id)
    decision = Action(
        uuid.uuid4().hex,
        content_id,
        action,
        now(),
        moderator.by,
        moderator.why,
        effective=action,
        content_sha256=place.content_sha256,
        origin=place.origin,
        any_text=any_text,
        author_id=place.author_id,
    )
    await _write(settings, [(place.partition, decision)])
    return decision


async def undecide(settings: Settings, content_id: str, moderator: ChangedBy) -> Action:
    """Take the moderator's decision about a content item back: what the verdicts say stands again.

    Returns the record that was written, which names what will be in effect. Raises ConfigurationError when no decision
    about the item is known, or when the name or the reason is no plain text.
    """
    _check(moderator)
    written = await _written_lately(settings, content_id)
    placed = await _standing_on(settings, content_id)
    if placed is not None and (followed := placed.standing.decision) is not None:
        written = {followed.action_id: placed.partition, **written}
    standing_decisions = [(name, partition) for name, partition in written.items() if partition is not None]
    if not standing_decisions:
        raise ConfigurationError(
            f"no moderator's decision about {content_id!r} is in force; see: safeguard enforce show {content_id}"
        )
    last, partition = standing_decisions[-1]
    stands = effective(msgspec.structs.replace(placed.standing, decision=None)) if placed is not None else "allow"
    withdrawal = Action(
        uuid.uuid4().hex,
        content_id,
        stands,
        now(),
        moderator.by,
        moderator.why,
        effective=stands,
        withdraws=last,
    )
    await _write(settings, [(partition, withdrawal)])
    return withdrawal


async def _written_lately(settings: Settings, content_id: str) -> dict[str, int | None]:
    """The decisions about an item that the agent has still to follow, oldest first: ids to partitions.

    Those that somebody took back have None. A decision and its withdrawal are in one partition, so that the agent
    follows them in their order.
    """
    written: dict[str, int | None] = {}
    recent = kafka.read_decoded(settings, [topics.ACTIONS], Action, since=now() - UNFOLLOWED)
    async for record, action in recent:
        if action.content_id != content_id or not action.human:
            continue
        if action.withdraws is not None:
            written[action.withdraws] = None
        elif action.sequence is None:
            written[action.action_id] = record.partition
        elif written.get(action.action_id) is not None:  # followed: what stands has it, or a later one
            del written[action.action_id]
    return written


def _check(moderator: ChangedBy) -> None:
    for option, text in {"--by": moderator.by, "--why": moderator.why}.items():
        if (what := problem(text)) is not None:
            raise ConfigurationError(f"{option}: {what}")


class _Located(NamedTuple):
    """The partition of a content item's records, and its newest text and its author, if they are known."""

    partition: int
    content_sha256: str | None
    origin: str | None
    author_id: str | None = None


async def _locate(settings: Settings, content_id: str) -> _Located:
    """Find an item. What stands outlives all other records, so look there first and last."""
    count = len(await kafka.partitions_of(settings, topics.STANDING))
    likely = kafka.likely_partition(content_id, count)
    placed = await _standing_on(settings, content_id, likely)
    partition = likely if placed else await kafka.partition_of_content(settings, content_id)
    if partition is None:
        placed = await _standing_on(settings, content_id)
        if placed is None:
            raise ConfigurationError(
                f"no event, verdict or action has the content id {content_id!r}: check the id and SAFEGUARD_PREFIX"
            )
        partition = placed.partition
    if placed is not None and placed.standing.content_sha256 is not None:
        known = placed.standing
        return _Located(partition, known.content_sha256, known.origin, known.author_id)
    return await _newest_text(settings, content_id, partition)


async def _standing_on(settings: Settings, content_id: str, partition: int | None = None) -> PlacedStanding | None:
    """What stands on an item, if anything does."""
    found = await all_standing(settings, lambda one: one.content_id == content_id, partition)
    return found[-1] if found else None


async def _newest_text(settings: Settings, content_id: str, partition: int) -> _Located:
    """The newest text of an item on which nothing stands, by the verdicts on it, or else by its events."""
    newest, mention = _Located(partition, None, None), kafka.Mention(content_id)
    for names in ([topics.VERDICTS, topics.CLEARED], [topics.EVENTS]):
        async with contextlib.aclosing(kafka.read_all(settings, names, partition)) as records:
            async for record in records:
                if mention.possible(record.key, record.value) and (text := _text_of(record, content_id)) is not None:
                    later = came_later(text.origin, newest.origin)
                    newest = text if later is not False else newest
        if newest.content_sha256 is not None:
            break
    return newest


def _text_of(record: Record, content_id: str) -> _Located | None:
    """The text that a verdict or an event is about; None for records about other items and for broken ones."""
    with contextlib.suppress(RecordError):
        if record.topic.endswith(topics.EVENTS):
            event, origin = read_event(record.value).event, origin_of(record.partition, record.offset)
            if event.content_id == content_id:
                return _Located(record.partition, content_sha256(event.text), origin, event.author_id or None)
        elif (verdict := decode(record.value, Verdict)).content_id == content_id:
            return _Located(record.partition, verdict.content_sha256, verdict.origin, verdict.author_id)
    return None


async def actions(settings: Settings, partition: int | None = None) -> AsyncIterator[tuple[int, Action]]:
    """All actions with their partitions, or those of one partition; in the order of each.

    What a moderator wrote comes twice under one action_id: as written, and with a sequence once the agent followed it.
    """
    async for record, action in kafka.read_decoded(settings, [topics.ACTIONS], Action, partition):
        if not was_requeued(record):
            yield record.partition, action


async def history(settings: Settings, content_id: str) -> list[Action]:
    """All actions on a content item, oldest first, each once."""
    count = len(await kafka.partitions_of(settings, topics.ACTIONS))
    for partition in (kafka.likely_partition(content_id, count), None):
        by_id: dict[str, Action] = {}
        async for _, action in actions(settings, partition):
            if action.content_id == content_id:
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
    found: dict[tuple[int, bytes], PlacedStanding] = {}
    async for record in kafka.read_all(settings, [topics.STANDING], partition):
        if record.key is None:
            continue
        place = (record.partition, record.key)
        decoded = kafka.decoded_or_left_out(settings, record, Standing)
        standing = decoded and as_in_effect(decoded)
        if standing is not None and wanted(standing):
            found[place] = PlacedStanding(record.partition, standing)
        elif standing is not None or record.value is None:
            found.pop(place, None)
    return list(found.values())


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


async def release(
    settings: Settings, shown: Sequence[HeldAction], moderator: ChangedBy, *, any_text: bool = False
) -> int:
    """Release these held actions and no others. Returns how many the agent has followed within FOLLOW_SECONDS.

    The agent follows a release unless a later verdict or decision replaced the action. any_text: it also follows where
    the item has a newer text by then. Raises ConfigurationError when the name or the reason is no plain text.
    """
    _check(moderator)
    async with kafka.reader(settings, [topics.STANDING], from_end=True) as client:
        for tp in client.assignment():
            await client.position(tp)
        await _write(settings, [(one.partition, _released(one, moderator, any_text=any_text)) for one in shown])
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


async def _write(settings: Settings, placed: Sequence[tuple[int, Action]]) -> None:
    """Write records to their partitions of moderation.actions; returns when the broker has them all."""
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
