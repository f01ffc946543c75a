"""Which text of a content item a verdict is about, and what follows where authors edited it.

The origin of a verdict, the place of its event on content.events, orders the texts of an item. Verdicts arrive in
another order: reasoning on one text may take longer than clearing the next one.
"""

from __future__ import annotations

import msgspec

from safeguard_streams.contract.records import (
    Action,
    ModeratorDecision,
    PolicyStanding,
    Standing,
    Verdict,
    aware,
    came_later,
    newest_place,
)
from safeguard_streams.enforcement.rules import severity


def is_earlier(verdict: Verdict, standing: Standing) -> bool:
    """Whether a verdict is about a text that the item no longer has.

    A judgement of unknown order counts as newer. That the prefilter cleared a text must be known to be newer, because
    it is weaker evidence and comes by the million.
    """
    if verdict.content_sha256 == standing.content_sha256:
        return False
    later = came_later(verdict.origin, standing.origin)
    if later is None and verdict.clears:
        decided = standing.decision
        return standing.origin is not None or decided is None or aware(verdict.decided_at) <= aware(decided.at)
    return later is False and standing.content_sha256 is not None


def is_outdated(about: Action | PolicyStanding, standing: Standing) -> bool:
    """Whether a held action, or what stands under a policy, is about a text that the item no longer has.

    The policy's verdict on the new text is then pending: it would have replaced this.
    """
    known = None not in (about.content_sha256, standing.content_sha256)
    return known and about.content_sha256 != standing.content_sha256


def with_text(standing: Standing, verdict: Verdict) -> Standing:
    """What stands once a verdict made its text the newest one, before the verdict itself is followed.

    A moderator had the last word on the earlier text. Where the decision ends with that text, no action of an earlier
    verdict exceeds it. Such actions remain until verdicts on the new text replace them.
    """
    known = msgspec.structs.replace(
        standing,
        content_sha256=verdict.content_sha256,
        origin=newest_place(
            verdict.origin, standing.origin, same_text=verdict.content_sha256 == standing.content_sha256
        ),
        author_id=verdict.author_id or standing.author_id,
    )
    decided = standing.in_force
    if decided is None or known.in_force is not None:
        return known
    bounded = tuple(
        one if one.content_sha256 == verdict.content_sha256 else _bounded(one, decided) for one in standing.policies
    )
    return msgspec.structs.replace(known, policies=bounded)


def _bounded(policy: PolicyStanding, decided: ModeratorDecision) -> PolicyStanding:
    """What an earlier text's verdict says, after a moderator's decision about that text."""
    if decided.action == "allow" or policy.action == "allow":
        return PolicyStanding(
            policy.policy_id, policy.verdict_ids, content_sha256=policy.content_sha256, origin=policy.origin
        )
    return msgspec.structs.replace(policy, action=min(policy.action, decided.action, key=severity), held=None)


def passed(standing: Standing, verdict: Verdict) -> list[PolicyStanding]:
    """The policies whose action the verdict's event ends: their gates passed it, and its text is a newer one.

    The gate never overrules a judgement of the same text.
    """
    return [
        policy
        for policy in standing.policies
        if not policy.empty
        and verdict.verdict_id not in policy.verdict_ids
        and verdict.passed(policy.policy_id)
        and _is_newer(verdict, policy.held or policy)
    ]


def _is_newer(verdict: Verdict, about: Action | PolicyStanding) -> bool:
    """Whether a verdict is known to be about a newer text than what stands or waits."""
    return about.content_sha256 != verdict.content_sha256 and bool(came_later(verdict.origin, about.origin))
