"""What people look at and write about appeals: which are open, what appellants say, and the outcome of each.

The outcome is a record of moderation.actions with an id of its appeal and of the person. A second click, a retried
request and a process that was killed between sending and answering change nothing more. Two people at once may both
write; the agent follows the first.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection
from datetime import datetime
from typing import Literal, NamedTuple

import msgspec

from safeguard_streams.bus import kafka
from safeguard_streams.bus.interface import Record
from safeguard_streams.contract import topics
from safeguard_streams.contract.appeals import read_appeal
from safeguard_streams.contract.records import (
    EVERY_POLICY,
    Action,
    Appeal,
    AppealStanding,
    AppealState,
    Appellant,
    Enforced,
    Standing,
    aware,
    now,
    verdict_id,
)
from safeguard_streams.enforcement.appeal_inputs import refusal
from safeguard_streams.enforcement.appeals import NOT_BEFORE, deciders, is_repeated, objection, open_appeals, person
from safeguard_streams.enforcement.decisions import NOTHING_CITED, Cited, write_once
from safeguard_streams.enforcement.moderators import FOLLOW_SECONDS, PlacedStanding, each_standing, history
from safeguard_streams.errors import ConfigurationError, RecordError
from safeguard_streams.releases.erasures import ErasureList
from safeguard_streams.releases.operator import ChangedBy
from safeguard_streams.releases.people import checked
from safeguard_streams.runtime.settings import Settings

Outcome = Literal["upheld", "overturned"]


class ListedAppeal(msgspec.Struct, frozen=True):
    """An appeal and what became of it. action: what was in effect when it was read; in_effect: what is now.

    not_by: who decided about the item before, in the form in which names are compared. reason, new_context, language:
    what the appellant says; None where that was not asked for, was erased, or is past retention.
    """

    appeal_id: str
    content_id: str
    appellant: Appellant
    state: AppealState
    opened_at: datetime
    due_at: datetime
    overdue: bool
    action: Enforced
    in_effect: Enforced
    closed_at: datetime | None = None
    by: str | None = None
    outcome_id: str | None = None
    not_by: tuple[str, ...] = ()
    reason: str | None = None
    new_context: str | None = None
    language: str | None = None


class FoundAppeal(NamedTuple):
    """An appeal, what stands on its item, and the partition of the item's records."""

    partition: int
    standing: Standing
    appeal: AppealStanding


async def listed(settings: Settings, *, only_open: bool = True, words: bool = True) -> list[ListedAppeal]:
    """The appeals of all items, the first due first. words: with what the appellants say."""

    def made(placed: PlacedStanding) -> list[ListedAppeal] | None:
        chosen = open_appeals(placed.standing) if only_open else placed.standing.appeals
        return [_listed(placed.standing, one) for one in chosen] or None

    found = [one for several in await each_standing(settings, made) for one in several]
    said = await _said(settings, {one.content_id for one in found}) if words and found else {}
    told = [_with_words(one, said.get((one.content_id, one.appeal_id))) for one in found]
    return sorted(told, key=lambda one: (one.due_at, one.content_id, one.appeal_id))


async def shown(settings: Settings, appeal_id: str) -> ListedAppeal:
    """One appeal with what the appellant says. Raises ConfigurationError for an id that no appeal has."""
    found = await find(settings, appeal_id)
    content_id = found.standing.content_id
    said = await _said(settings, {content_id})
    return _with_words(_listed(found.standing, found.appeal), said.get((content_id, appeal_id)))


async def decide(
    settings: Settings,
    appeal_id: str,
    outcome: Outcome,
    moderator: ChangedBy,
    *,
    action: Enforced | None = None,
    cited: Cited = NOTHING_CITED,
) -> AppealStanding:
    """Decide an appeal. Returns what the agent made of it within FOLLOW_SECONDS; it is open until the agent followed.

    action: what is to stand after an appeal that is overturned; default: allow for an author's appeal. The same request
    again writes nothing more, unless the agent did not follow it: then the agent is asked again. Raises
    ConfigurationError when somebody who decided about the item before decides, when the appeal is not open, when the
    action reverses nothing, when the name or the reason is no plain text, or where the agent does not follow, for
    the reason that it gives.
    """
    moderator = checked(moderator)
    found = await find(settings, appeal_id)
    if outcome == "overturned" and action is None and found.appeal.appellant == "notifier":
        raise ConfigurationError("to overturn a notifier's appeal, say what to do about the item: --action ACTION")
    record = outcome_of(found.standing, appeal_id, outcome, moderator, action=action, cited=cited)
    if is_repeated(record, found.standing):
        return found.appeal
    await _check(settings, found.standing, record)
    answers = [topics.STANDING, topics.ACTIONS]
    async with kafka.reader(settings, answers, from_end=True, partition=found.partition) as client:
        for tp in client.assignment():
            await client.position(tp)
        await write_once(settings, found.partition, record)
        key, latest, why = record.content_id.encode(), found.appeal, ""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FOLLOW_SECONDS):
                while latest.state == "open" and not why:
                    written = await client.getone()
                    if written.key == key and written.topic.endswith(topics.STANDING):
                        latest = _appeal_of(settings, written, latest)
                    elif written.key == key:
                        why = _refusal_of(settings, written, record)
    if why:
        latest = (await find(settings, appeal_id)).appeal  # somebody else may have decided it at the same moment
        if latest.state == "open":
            raise ConfigurationError(f"appeal {appeal_id}: {why}")
    return latest


def _appeal_of(settings: Settings, written: Record, known: AppealStanding) -> AppealStanding:
    """An appeal as a record of moderation.standing about its item has it."""
    standing = kafka.decoded_or_left_out(settings, written, Standing)
    named = standing.appeals if standing is not None else ()
    return next((one for one in named if one.appeal_id == known.appeal_id), known)


def _refusal_of(settings: Settings, written: Record, outcome: Action) -> str:
    """Why the agent did not follow an outcome, if a record of moderation.actions says that; empty otherwise."""
    action = kafka.decoded_or_left_out(settings, written, Action)
    return refusal(action) if action is not None and action.action_id == outcome.action_id else ""


def outcome_of(
    standing: Standing,
    appeal_id: str,
    outcome: Outcome,
    moderator: ChangedBy,
    *,
    action: Enforced | None = None,
    cited: Cited = NOTHING_CITED,
) -> Action:
    """The record of an outcome. moderator: as `checked` returns it."""
    overturned = outcome == "overturned"
    chosen = (action or "allow") if overturned else standing.effective
    return Action(
        verdict_id("appeal", appeal_id, standing.content_id, "outcome", person(moderator.by)),
        standing.content_id,
        chosen,
        now(),
        moderator.by,
        moderator.why,
        effective=chosen,
        policy_id=None if overturned else EVERY_POLICY,
        rule_ids=() if cited.rule_id is None else (cited.rule_id,),
        content_sha256=standing.content_sha256,
        origin=standing.origin,
        cited_policy=cited.policy_id,
        author_id=standing.author_id,
        appeal_id=appeal_id,
        outcome=outcome,
    )


async def _check(settings: Settings, standing: Standing, record: Action) -> None:
    """Raise ConfigurationError for an outcome that the agent would not follow, or whose person decided before.

    The history also knows those who decided while nothing stood on the item afterwards. It has the same outcome, too,
    where no agent followed it yet.
    """
    problem = objection(record, standing)
    if not problem:
        written = await history(settings, standing.content_id)
        others = [one for one in written if one.state != "overridden" and one.action_id != record.action_id]
        problem = NOT_BEFORE if person(record.by) in {person(one.by) for one in others if one.by} else ""
    if problem:
        raise ConfigurationError(f"appeal {record.appeal_id}: {problem}")


async def find(settings: Settings, appeal_id: str) -> FoundAppeal:
    """An appeal by its id. Raises ConfigurationError where the agent knows none, or where several items have one."""
    mention, found = kafka.Mention(appeal_id), dict[tuple[int, bytes], FoundAppeal]()
    async for record in kafka.read_all(settings, [topics.STANDING]):
        if record.key is None:
            continue
        found.pop((record.partition, record.key), None)
        if record.value is None or not mention.possible(None, record.value):
            continue
        standing = kafka.decoded_or_left_out(settings, record, Standing)
        for one in standing.appeals if standing is not None else ():
            if standing is not None and one.appeal_id == appeal_id:
                found[record.partition, record.key] = FoundAppeal(record.partition, standing, one)
    if len(found) > 1:
        items = ", ".join(sorted(one.standing.content_id for one in found.values()))
        raise ConfigurationError(f"several items have an appeal {appeal_id}: {items}; give each appeal its own id")
    if not found:
        raise ConfigurationError(f"the agent knows no appeal {appeal_id!r}; see: safeguard appeals list --all")
    return next(iter(found.values()))


async def _said(settings: Settings, content_ids: Collection[str]) -> dict[tuple[str, str], Appeal]:
    """What appellants say about items, by item and appeal, without what was erased; of equal ids the newest."""
    erasures = ErasureList()
    await erasures.read(settings)
    said: dict[tuple[str, str], Appeal] = {}
    async for record in kafka.read_all(settings, [topics.APPEALS]):
        with contextlib.suppress(RecordError):  # a dead letter of the agent's
            appeal = read_appeal(record.value)
            if appeal.content_id in content_ids and not erasures.erased(appeal.content_id, record.timestamp):
                said[appeal.content_id, appeal.identity] = appeal
    return said


def _listed(standing: Standing, one: AppealStanding) -> ListedAppeal:
    return ListedAppeal(
        one.appeal_id,
        standing.content_id,
        one.appellant,
        one.state,
        aware(one.opened_at),
        aware(one.due_at),
        one.state == "open" and aware(one.due_at) <= now(),
        one.action,
        standing.effective,
        one.closed_at,
        one.by,
        one.outcome_id,
        tuple(sorted(deciders(standing))) if one.state == "open" else (),
    )


def _with_words(one: ListedAppeal, said: Appeal | None) -> ListedAppeal:
    if said is None:
        return one
    words = {"reason": said.reason, "new_context": said.new_context, "language": said.language}
    return msgspec.structs.replace(one, **words)
