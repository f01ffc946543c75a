"""What waits for a moderator: content that a rule, an undetermined verdict or a moderator sent to review, and held
actions.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, datetime
from typing import Literal, NamedTuple

import msgspec

from safeguard_streams.contract.records import EVERY_POLICY, AppealStanding, Enforced, PolicyStanding, Standing, aware
from safeguard_streams.enforcement import moderators
from safeguard_streams.enforcement.appeals import deciders, open_appeals
from safeguard_streams.enforcement.moderators import PlacedStanding
from safeguard_streams.enforcement.texts import is_outdated
from safeguard_streams.policies.document import in_languages, on_surface
from safeguard_streams.policies.vocabulary import SEVERITIES, Severity
from safeguard_streams.releases.texts import TextPlace
from safeguard_streams.runtime.settings import Settings

PART = 200  # items whose events are in memory at once
_UNKNOWN = datetime.min.replace(tzinfo=UTC)
Cause = Literal["rule", "undetermined", "held", "moderator", "appealed"]


class Waiting(msgspec.Struct, frozen=True, gc=False):
    """One item that waits under one policy, or under all of them if a moderator sent it to review or it is appealed.

    since: when the action was written; None for what an earlier version of the agent wrote. rule: the enforcement rule.
    action: what a release would do, of a held action. in_effect: the action that is in effect now. edited: the item has
    a newer text, on which the verdict under the policy has not come. text, surface, language: those of the event that
    it is about; None if they were not asked for, if the event names none, or if it is not there to be read. appeal_id,
    due, not_by: of an appeal, the first due of the item's: its deadline, and who decided before and may not decide it.
    severity: of the violation, where one stands or is held; of several, the highest.
    """

    content_id: str
    policy_id: str
    cause: Cause
    action: Enforced
    in_effect: Enforced
    since: datetime | None = None
    rule: str | None = None
    edited: bool = False
    content_sha256: str | None = None
    origin: str | None = None
    text: str | None = None
    surface: str | None = None
    language: str | None = None
    appeal_id: str | None = None
    due: datetime | None = None
    not_by: tuple[str, ...] = ()
    severity: Severity | None = None


class Wanted(NamedTuple):
    """Which of the waiting items to look at, and whether with their events.

    surface, language: None for all. Items of which that is unknown are always wanted, because they would be hidden from
    everybody otherwise.
    """

    surface: str | None = None
    language: str | None = None
    texts: bool = True


async def waiting(settings: Settings, policy_id: str | None = None) -> list[Waiting]:
    """What waits for a moderator, by policy and oldest first; with policy_id, under that policy.

    Holds in memory only what waits, about half a KB for each.
    """

    def made(placed: PlacedStanding) -> list[Waiting] | None:
        return [one for one in waiting_on(placed.standing) if policy_id in (None, one.policy_id)] or None

    found = [one for several in await moderators.each_standing(settings, made) for one in several]
    return sorted(found, key=lambda one: (one.policy_id, one.since or _UNKNOWN, one.content_id))


async def looked_at(
    settings: Settings, waiting: Sequence[Waiting], wanted: Wanted, limit: int | None = None
) -> AsyncIterator[Waiting]:
    """The wanted ones of what waits, in its order, at most `limit` of each policy.

    Reads the events that this needs, in parts: only one part is in memory, and the rest is not read.
    """
    for _, group in itertools.groupby(waiting, lambda one: one.policy_id):
        left = limit
        while part := list(itertools.islice(group, PART)):
            for one in await _with_events(settings, part, wanted):
                if left == 0:
                    break
                left = None if left is None else left - 1
                yield one
            if left == 0:
                break


async def _with_events(settings: Settings, part: Sequence[Waiting], wanted: Wanted) -> Sequence[Waiting]:
    """The wanted ones of a part, with what their events say about them."""
    if wanted == Wanted(texts=False):
        return part
    places = [TextPlace(one.content_id, one.content_sha256, one.origin) for one in part]
    events = await moderators.events_of(settings, places)
    found = []
    for one, place in zip(part, places, strict=True):
        event = events.get(place)
        surface, language = (event.surface, event.language) if event else (None, None)
        in_scope = on_surface(surface, [wanted.surface] if wanted.surface else [])
        if in_scope and in_languages(language, [wanted.language] if wanted.language else []):
            text = event.text if event and wanted.texts else None
            found.append(msgspec.structs.replace(one, text=text, surface=surface, language=language))
    return found


def waiting_on(standing: Standing) -> Iterator[Waiting]:
    """What of all that stands on an item waits for a moderator."""
    decided = standing.in_force
    appeal = next(iter(open_appeals(standing)), None)
    if appeal is not None:
        yield _appealed(standing, appeal)
    if decided is None:
        for policy in standing.policies:
            if (cause := _cause(policy)) is not None:
                yield _waiting(standing, policy, cause)
    elif decided.action == "review" and appeal is None:
        yield Waiting(
            standing.content_id,
            EVERY_POLICY,
            "moderator",
            "review",
            standing.effective,
            aware(decided.at),
            content_sha256=standing.content_sha256,
            origin=standing.origin,
            severity=_worst(standing),
        )


def _appealed(standing: Standing, appeal: AppealStanding) -> Waiting:
    return Waiting(
        standing.content_id,
        EVERY_POLICY,
        "appealed",
        standing.effective,
        standing.effective,
        aware(appeal.opened_at),
        content_sha256=standing.content_sha256,
        origin=standing.origin,
        appeal_id=appeal.appeal_id,
        due=aware(appeal.due_at),
        not_by=tuple(sorted(deciders(standing))),
        severity=_worst(standing),
    )


def _worst(standing: Standing) -> Severity | None:
    """The highest severity of the violations on an item, whatever a moderator decided."""
    found = [one for policy in standing.policies if (one := _severity(policy)) is not None]
    return max(found, key=SEVERITIES.index, default=None)


def _severity(policy: PolicyStanding) -> Severity | None:
    """The severity of the violation that stands under a policy, or of the held one that is to replace it."""
    if policy.held is not None:
        return policy.held.severity
    return policy.grounds.severity if policy.grounds else None


def _cause(policy: PolicyStanding) -> Cause | None:
    if policy.held is not None:
        return "held"
    if policy.action != "review":
        return None
    return "undetermined" if policy.decision == "undetermined" else "rule"


def _waiting(standing: Standing, policy: PolicyStanding, cause: Cause) -> Waiting:
    held = policy.held
    since, rule = (policy.at, policy.rule) if held is None else (held.acted_at, held.rule)
    about = held or policy
    return Waiting(
        standing.content_id,
        policy.policy_id,
        cause,
        about.action,
        standing.effective,
        since and aware(since),
        rule,
        is_outdated(about, standing),
        about.content_sha256,
        about.origin,
        severity=_severity(policy),
    )
