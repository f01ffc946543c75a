"""What waits for a moderator: content that a rule, an undetermined verdict or a moderator sent to review, and held
actions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Literal

import msgspec

from safeguard_streams.contract.records import EVERY_POLICY, Enforced, PolicyStanding, Standing
from safeguard_streams.enforcement import moderators
from safeguard_streams.enforcement.texts import is_outdated
from safeguard_streams.releases.texts import TextPlace
from safeguard_streams.runtime.settings import Settings

_UNKNOWN = datetime.min.replace(tzinfo=UTC)
Cause = Literal["rule", "undetermined", "held", "moderator"]


class Waiting(msgspec.Struct, frozen=True):
    """One item that waits under one policy, or under all of them if a moderator sent it to review.

    since: when the action was written; None for what an earlier version of the agent wrote. rule: the enforcement rule.
    action: what a release would do, of a held action. in_effect: the action that is in effect now. edited: the item has
    a newer text, on which the verdict under the policy has not come. text: the text that it is about; None if it was
    not asked for, or is not there to be read.
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


async def with_texts(settings: Settings, waiting: Sequence[Waiting]) -> list[Waiting]:
    """The same with the texts that they are about."""
    places = [TextPlace(one.content_id, one.content_sha256, one.origin) for one in waiting]
    found = await moderators.texts_of(settings, places)
    return [msgspec.structs.replace(one, text=found.get(place)) for one, place in zip(waiting, places, strict=True)]


async def waiting(settings: Settings, policy_id: str | None = None) -> list[Waiting]:
    """What waits for a moderator, by policy and oldest first; with policy_id, under that policy."""
    placed = await moderators.all_standing(settings, lambda one: any(waiting_on(one)))
    found = [one for place in placed for one in waiting_on(place.standing) if policy_id in (None, one.policy_id)]
    return sorted(found, key=lambda one: (one.policy_id, one.since or _UNKNOWN, one.content_id))


def waiting_on(standing: Standing) -> Iterator[Waiting]:
    """What of all that stands on an item waits for a moderator."""
    decided = standing.in_force
    if decided is None:
        for policy in standing.policies:
            if (cause := _cause(policy)) is not None:
                yield _waiting(standing, policy, cause)
    elif decided.action == "review":
        yield Waiting(
            standing.content_id,
            EVERY_POLICY,
            "moderator",
            "review",
            standing.effective,
            decided.at,
            content_sha256=standing.content_sha256,
            origin=standing.origin,
        )


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
        since,
        rule,
        is_outdated(about, standing),
        about.content_sha256,
        about.origin,
    )
