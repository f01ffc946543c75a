"""Moderators' decisions about content items, each written once: decide, take a decision back, undo it.

The commands and the console decide through these functions. An agent follows a decision once, by its action_id, however
often it was written. The same request therefore has the same action_id. That of a decision comes from the request's
key, and that of a withdrawal from the decision that it ends. A second click, a retried request and a process that was
killed between sending and answering change nothing more.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Collection, Sequence
from datetime import timedelta
from typing import NamedTuple

import msgspec

from safeguard_streams.bus import kafka
from safeguard_streams.bus.dead_letters import was_requeued
from safeguard_streams.bus.interface import Partition
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Action, Enforced, ModeratorDecision, Standing, now, verdict_id
from safeguard_streams.enforcement.appeal_inputs import was_refused
from safeguard_streams.enforcement.appeals import objection
from safeguard_streams.enforcement.moderators import standing_on, write
from safeguard_streams.enforcement.places import KnownItem, content_id_of, locate
from safeguard_streams.enforcement.standing import effective
from safeguard_streams.enforcement.state import REPEATED
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.releases.operator import ChangedBy
from safeguard_streams.releases.people import checked
from safeguard_streams.runtime.settings import Settings

LONGEST_KEY = 200  # characters
UNFOLLOWED = timedelta(days=1)  # how far back to look for decisions that no agent has followed


class Cited(NamedTuple):
    """The policy, and the rule of it, that a moderator cites as the ground of a decision."""

    policy_id: str | None = None
    rule_id: str | None = None


NOTHING_CITED = Cited()


class Written(NamedTuple):
    """What moderators wrote about an item, in order, and what the agent wrote again as it followed that."""

    partition: int
    actions: list[Action]


async def decide(
    settings: Settings,
    item: str | KnownItem,
    action: Enforced,
    moderator: ChangedBy,
    *,
    any_text: bool = False,
    cited: Cited = NOTHING_CITED,
    key: str | None = None,
) -> Action:
    """Write a moderator's decision about a content item. It overrides all current and future verdicts on its text.

    item: an id, whose newest text is looked up, or a `KnownItem` with the text that the moderator saw, which needs no
    look-up. any_text: the decision covers every text that the item gets. cited: its ground, for the record.

    key: names the request, as a form's hidden field does. The same request with the same key writes nothing more and
    returns the record that was written first. A key is recognised for an hour; an agent follows each action_id once.

    Raises ConfigurationError when the pipeline never saw the item, when the name or the reason is no plain text, or
    when the key named another request.
    """
    moderator = checked(moderator)
    action_id = uuid.uuid4().hex if key is None else _named(key)
    known = await locate(settings, item)
    decision = Action(
        verdict_id(action_id, known.content_id),
        known.content_id,
        action,
        now(),
        moderator.by,
        moderator.why,
        effective=action,
        rule_ids=() if cited.rule_id is None else (cited.rule_id,),
        content_sha256=known.content_sha256,
        origin=known.origin,
        any_text=any_text,
        cited_policy=cited.policy_id,
        author_id=known.author_id,
    )
    if isinstance(item, str):
        await _check_appeals(settings, known, decision)
    if key is not None:
        return await write_once(settings, known.partition, decision)
    await write(settings, [(known.partition, decision)])
    return decision


def id_of(key: str, content_id: str) -> str:
    """The action_id of the decision that a request with a key writes about an item."""
    return verdict_id(_named(key), content_id)


async def undecide(settings: Settings, item: str | KnownItem, moderator: ChangedBy) -> Action:
    """Take back what moderators decided about a content item: what the verdicts say stands again.

    Returns the record that was written, which names what will be in effect. Raises ConfigurationError when no decision
    about the item is known, or when the name or the reason is no plain text.
    """
    return await _withdraw(settings, item, None, moderator)


async def undo(settings: Settings, item: str | KnownItem, decision_id: str, moderator: ChangedBy) -> Action:
    """Take one decision back, by its action_id: what stood before it stands again, an earlier decision included.

    Returns the record that was written, which names what will be in effect. The same undo again writes nothing more and
    returns that record, also after the agent has followed it, for an hour. Raises ConfigurationError when the decision
    is not the last about the item, or when the name or the reason is no plain text.
    """
    return await _withdraw(settings, item, decision_id, moderator)


async def _withdraw(settings: Settings, item: str | KnownItem, decision_id: str | None, moderator: ChangedBy) -> Action:
    """Write the end of a decision: of the last one or, for an undo, of the one named."""
    moderator = checked(moderator)
    known = await locate(settings, item)
    if decision_id is not None:
        done, _ = await _written(settings, known.partition, _withdrawal_id(decision_id))
        if done is not None:
            return done
    written = await written_lately(settings, [known.content_id], known.partition)  # first: what is followed stands
    placed = await standing_on(settings, known.content_id, known.partition)
    standing = placed.standing if placed is not None else Standing(known.content_id, "allow", 0)
    decisions = in_order(standing, written[known.content_id].actions if written else ())
    if not decisions:
        raise ConfigurationError(
            f"no moderator's decision about {known.content_id!r} is in force; "
            f"see: safeguard enforce show {known.content_id}"
        )
    if decision_id not in (None, decisions[-1].action_id):
        raise ConfigurationError(
            f"decision {decision_id} is not the last about {known.content_id!r}: look at what stands, then decide"
        )
    withdrawal = withdrawal_of(standing, decisions, moderator, reinstates=decision_id is not None)
    if problem := objection(withdrawal, standing):
        raise ConfigurationError(problem)
    return await write_once(settings, known.partition, withdrawal)


async def _check_appeals(settings: Settings, known: KnownItem, decision: Action) -> None:
    """Raise ConfigurationError for a decision that the agent would not follow while an appeal of the item is open."""
    placed = await standing_on(settings, known.content_id, known.partition)
    if placed is not None and (problem := objection(decision, placed.standing)):
        raise ConfigurationError(problem)


def withdrawal_of(
    standing: Standing, decisions: Sequence[ModeratorDecision], moderator: ChangedBy, *, reinstates: bool
) -> Action:
    """The end of the last decision about an item. decisions: as `in_order` returns them, at least one."""
    before = decisions[-2] if reinstates and len(decisions) > 1 else None
    stands = effective(msgspec.structs.replace(standing, decision=before))
    return Action(
        _withdrawal_id(decisions[-1].action_id),
        standing.content_id,
        stands,
        now(),
        moderator.by,
        moderator.why,
        effective=stands,
        withdraws=decisions[-1].action_id,
        reinstates=reinstates,
    )


def in_order(standing: Standing, written: Sequence[Action]) -> list[ModeratorDecision]:
    """The decisions about an item that nobody took back, oldest first: those that stand, then those to follow.

    written: the actions that `written_lately` found about it.
    """
    decisions = [*reversed(standing.replaced), *([standing.decision] if standing.decision else [])]
    followed = {one.action_id for one in decisions} | {one.action_id for one in written if not one.to_follow}
    for action in written:
        if action.action_id in followed:
            continue
        if action.withdraws is None:
            followed.add(action.action_id)  # it may have been written twice
            decisions.append(_as_decision(action))
        elif decisions and decisions[-1].action_id == action.withdraws:
            decisions = decisions[:-1] if action.reinstates else []
        else:
            decisions = [one for one in decisions if one.action_id != action.withdraws]
    return decisions


def _as_decision(action: Action) -> ModeratorDecision:
    return ModeratorDecision(
        action.action,
        action.action_id,
        action.acted_at,
        action.by,
        action.why,
        action.content_sha256,
        action.any_text,
    )


async def written_lately(
    settings: Settings,
    ids: Collection[str],
    partition: int | None = None,
    *,
    wanted: Callable[[Action], bool] = lambda action: action.human,
) -> dict[str, Written]:
    """What moderators wrote about items within a day, by id, for those about which they did.

    wanted: which actions, by default decisions about the items themselves and their withdrawals.
    """
    found: dict[str, Written] = {}
    async for record in kafka.read_all(settings, [topics.ACTIONS], partition, since=now() - UNFOLLOWED):
        if content_id_of(record) in ids and not was_requeued(record):
            action = kafka.decoded_or_left_out(settings, record, Action)
            if action is not None and wanted(action):
                found.setdefault(action.content_id, Written(record.partition, [])).actions.append(action)
    return found


def _named(key: str) -> str:
    """What the id of a decision is made of. Raises ConfigurationError for a key that cannot name a request."""
    if not 0 < len(key) <= LONGEST_KEY or not key.isprintable():
        raise ConfigurationError(f"key: use 1 to {LONGEST_KEY} printable characters, such as a UUID")
    return verdict_id(key, "request")


def _withdrawal_id(decision_id: str) -> str:
    """The id of the record that ends a decision: it ends once, by whichever request came first."""
    return verdict_id(decision_id, "withdrawal")


async def write_once(settings: Settings, partition: int, wanted: Action) -> Action:
    """Write a record unless one with its id is there, and return the first that is there.

    One that the agent did not follow is as good as none: to ask again is to get another answer. Two requests at once
    may both write. The agent follows the first, and both callers get that one. Raises
    ConfigurationError when the first is another request's.
    """
    first, end = await _written(settings, partition, wanted.action_id)
    if first is None:
        await write(settings, [(partition, wanted)])
        first, _ = await _written(settings, partition, wanted.action_id, end)
    if first is not None and _request(first) != _request(wanted):
        raise ConfigurationError("another request had this key and was written first: give each request its own key")
    return first or wanted


def _request(action: Action) -> tuple[object, ...]:
    """What makes two records the same request: all that a person chose."""
    if action.withdraws is not None:
        return (action.content_id, action.withdraws)
    chosen = (action.content_id, action.action, action.by, action.why, action.any_text)
    return (*chosen, action.cited_policy, action.rule_ids, action.outcome)


async def _written(settings: Settings, partition: int, action_id: str, start: int = 0) -> tuple[Action | None, int]:
    """The first record with an id of those that were written within an hour, and the offset after those read.

    None where the agent did not follow it.
    """
    mark, end = action_id.encode(), start
    first: Action | None = None
    after = {Partition(settings.prefix + topics.ACTIONS, partition): start}
    records = kafka.read_all(settings, [topics.ACTIONS], partition, since=now() - REPEATED, after=after)
    async with contextlib.aclosing(records):
        async for record in records:
            end = record.offset + 1
            if record.value is not None and mark in record.value:
                action = kafka.decoded_or_left_out(settings, record, Action)
                if action is not None and action.action_id == action_id:
                    first = None if was_refused(action) else first or action
    return first, end
