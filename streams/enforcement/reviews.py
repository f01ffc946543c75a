"""What waits for a moderator: content that a rule, an undetermined verdict or a moderator sent to review, and held
actions.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Literal

import msgspec

from safeguard_streams.contract.records import EVERY_POLICY, PolicyStanding, Standing
from safeguard_streams.enforcement import moderators
from safeguard_streams.runtime.settings import Settings

_UNKNOWN = datetime.min.replace(tzinfo=UTC)
Cause = Literal["rule", "undetermined", "held", "moderator"]


class Waiting(msgspec.Struct, frozen=True):
    """One item that waits under one policy, or under all of them if a moderator sent it to review.

    since: when the action was written; None for what an earlier version of the agent wrote. rule: the enforcement rule.
    action: what a release would do, of a held action. in_effect: the action that is in effect now.
    """

    content_id: str
    policy_id: str
    cause: Cause
    action: str
    in_effect: str
    since: datetime | None = None
    rule: str | None = None


async def waiting(settings: Settings, policy_id: str | None = None) -> list[Waiting]:
    """What waits for a moderator, by policy and oldest first; with policy_id, under that policy."""
    placed = await moderators.all_standing(settings, lambda one: any(_of(one)))
    found = [one for place in placed for one in _of(place.standing) if policy_id in (None, one.policy_id)]
    return sorted(found, key=lambda one: (one.policy_id, one.since or _UNKNOWN, one.content_id))


def _of(standing: Standing) -> Iterator[Waiting]:
    decided = standing.in_force
    if decided is None:
        for policy in standing.policies:
            if (cause := _cause(policy)) is not None:
                yield _waiting(standing, policy, cause)
    elif decided.action == "review":
        yield Waiting(standing.content_id, EVERY_POLICY, "moderator", "review", standing.effective, decided.at)


def _cause(policy: PolicyStanding) -> Cause | None:
    if policy.held is not None:
        return "held"
    if policy.action != "review":
        return None
    return "undetermined" if policy.decision == "undetermined" else "rule"


def _waiting(standing: Standing, policy: PolicyStanding, cause: Cause) -> Waiting:
    held = policy.held
    since, rule = (policy.at, policy.rule) if held is None else (held.acted_at, held.rule)
    action = policy.action if held is None else held.action
    return Waiting(standing.content_id, policy.policy_id, cause, action, standing.effective, since, rule)
