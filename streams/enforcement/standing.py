"""What stands on one content item: which action is in effect, and what an action changes. Pure functions."""

from __future__ import annotations

import msgspec

from safeguard_streams.contract.records import (
    Action,
    Enforced,
    Grounds,
    ModeratorDecision,
    PolicyStanding,
    Standing,
    Verdict,
)
from safeguard_streams.enforcement.rules import severity

MAX_VERDICT_IDS = 8  # of one policy on one item, to recognise a verdict that comes again


def effective(standing: Standing) -> Enforced:
    """The action in effect: a moderator's decision about the text, or else the most severe action of the policies."""
    if standing.in_force is not None:
        return standing.in_force.action
    return max((policy.action for policy in standing.policies), key=severity, default="allow")


def with_effective(standing: Standing) -> Standing:
    """What stands, with the action that is in effect by it."""
    return msgspec.structs.replace(standing, effective=effective(standing))


def as_in_effect(standing: Standing) -> Standing:
    """What a record of moderation.standing says, with its decision in force if that is in effect.

    An earlier version of the agent let a decision hold for every text. It covers the newest of them here.
    """
    decided = standing.decision
    if decided is None or standing.effective == effective(standing):
        return standing
    decided = msgspec.structs.replace(decided, content_sha256=standing.content_sha256)
    return msgspec.structs.replace(standing, decision=decided)


def is_known(verdict: Verdict, standing: Standing) -> bool:
    """Whether a verdict was followed before, as far as its policy on the item remembers."""
    return verdict.verdict_id in standing.policy(verdict.policy_id).verdict_ids


def covers(decided: ModeratorDecision, text: str | None) -> bool:
    """Whether a moderator's decision is about a text, or says that nothing is wrong about it."""
    if decided.any_text or decided.content_sha256 is None:
        return True
    return text == decided.content_sha256 or (text is not None and text in decided.earlier_texts)


def after_action(standing: Standing, action: Action, *, follows: bool = True) -> Standing:
    """What stands on an item after an action under a policy. follows: whether the verdict is the policy's last word."""
    policy = standing.policy(action.policy_id or "")
    if action.verdict_id is not None and action.releases is None:
        ids = (action.verdict_id, *policy.verdict_ids)[:MAX_VERDICT_IDS]
        policy = msgspec.structs.replace(policy, verdict_ids=ids)
    if action.state == "held":
        policy = msgspec.structs.replace(policy, held=action)
    elif follows:
        policy = _said(policy, action)
    others = tuple(other for other in standing.policies if other.policy_id != policy.policy_id)
    return msgspec.structs.replace(standing, policies=(*others, policy))


def _said(policy: PolicyStanding, action: Action) -> PolicyStanding:
    """What an action says under its policy, whether or not a moderator's decision overrides it now."""
    kept = PolicyStanding(
        policy.policy_id, policy.verdict_ids, content_sha256=action.content_sha256, origin=action.origin
    )
    if action.action == "allow":
        return kept
    at = action.acted_at if action.action != policy.action else policy.at or action.acted_at
    kept = msgspec.structs.replace(kept, action=action.action, action_id=action.action_id, at=at)
    same = (policy.action, policy.content_sha256) == (action.action, action.content_sha256)
    if same and action.decision == "undetermined" and policy.decision == "violates":  # that reverses nothing
        return msgspec.structs.replace(kept, decision=policy.decision, rule=policy.rule, grounds=policy.grounds)
    return msgspec.structs.replace(
        kept,
        decision=action.decision,
        rule=action.rule,
        grounds=Grounds(
            action.policy_version, action.rule_ids, action.reporter, action.releases is not None, action.severity
        ),
    )
