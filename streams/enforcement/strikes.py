"""Strikes against authors, from what stands on their items before and after each input.

A strike is about one text of an item under one policy, and its id says so. It is given while the item is restricted for
a violation of that text: labelled, limited or removed, by a verdict or by a moderator. It is taken back when the item
is no longer restricted for it: a moderator allows it, a superseding verdict finds none, a decision is undone. An edit
takes none back, because the text was published. An item whose author is corrected counts against one author alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

import msgspec

from safeguard_streams.bus.interface import Output
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import (
    Action,
    Enforced,
    Standing,
    Strike,
    TextFacts,
    Verdict,
    Violation,
    encode,
    now,
    schema_header,
    verdict_id,
)
from safeguard_streams.enforcement.author_rules import AuthorRules
from safeguard_streams.enforcement.standing import covers
from safeguard_streams.enforcement.statements import facts_of, with_facts

RESTRICTS: tuple[Enforced, ...] = ("label", "limit", "remove")
_STRIKE = schema_header(Strike)


def strike_id(content_id: str, content_sha256: str | None, policy_id: str) -> str:
    """The id of the strike for a text of an item under a policy: there is one, however often it is judged."""
    return verdict_id(content_id, content_sha256 or "", policy_id, "strike")


def strike_output(strike: Strike) -> Output:
    """A record of moderation.strikes, in the partition of its author."""
    return Output(topics.STRIKES, strike.author_id.encode(), encode(strike), [_STRIKE], by_key=True)


class Followed(NamedTuple):
    """What stands on an item after an input, with its violations, and the records about strikes."""

    standing: Standing
    strikes: list[Strike]


def followed(
    rules: AuthorRules, before: Standing, after: Standing, actions: Sequence[Action], verdict: Verdict | None
) -> Followed:
    """What an input means for the author's strikes.

    before, after: what stood on the item, and what stands. actions: those that follow the input. verdict: the input, if
    it is one that was not followed before.
    """
    about = _facts(before, after, verdict)
    weighed = {
        action.action_id: found
        for action in actions
        if (found := _violation(rules, action, about) or _kept(action, before)) is not None
    }
    after = _with_violations(after, weighed)
    moment = now()
    stood, stands = _given(before, moment), _given(after, moment)
    strikes = [
        _taken_back(strike, moment)
        for name, strike in stood.items()
        if (stands[name].author_id != strike.author_id if name in stands else _is_about(after, strike))
    ]
    strikes += [strike for name, strike in stands.items() if strike != stood.get(name)]
    said = {one.strike_id for one in strikes} | stands.keys()
    if verdict is not None and not verdict.clears and _id_of(verdict) not in said:
        strikes += _of_another_text(verdict, after, actions, weighed, moment)
    return Followed(after, strikes)


def _facts(before: Standing, after: Standing, verdict: Verdict | None) -> TextFacts | None:
    """What is known of the text that an input is about."""
    if verdict is not None and not verdict.clears and verdict.content_sha256 != after.content_sha256:
        return facts_of(verdict, TextFacts())
    return with_facts(before, after, verdict).about


def _violation(rules: AuthorRules, action: Action, about: TextFacts | None) -> Violation | None:
    """What an action's violation weighs; None where there is none, no rule for strikes matches, or nobody wrote it."""
    violates = action.action in RESTRICTS and not action.withdraws if action.human else action.decision == "violates"
    if not violates or not action.author_id or action.state == "held":
        return None
    rule = rules.strike_rule(action)
    if rule is None:
        return None
    at = now()
    return Violation(
        action.author_id,
        rule.weight,
        at,
        at + rules.lifetime(rule),
        rule.name,
        action.action_id,
        action.verdict_id,
        action.rule_ids,
        action.severity,
        (action.cited_policy or "") if action.human else "",
        None if action.human else action.policy_version,
        about,
    )


def _kept(action: Action, before: Standing) -> Violation | None:
    """The violation that still counts after an undetermined verdict on the same text, which reverses nothing."""
    policy = before.policy(action.policy_id or "")
    if action.decision == "undetermined" and action.content_sha256 == policy.content_sha256:
        return policy.violation
    return None


def _with_violations(standing: Standing, weighed: Mapping[str, Violation]) -> Standing:
    """What stands on an item, with what its violations weigh by the actions that were written now."""
    if not weighed:
        return standing
    policies = tuple(
        msgspec.structs.replace(one, violation=weighed.get(one.action_id or "", one.violation))
        for one in standing.policies
    )
    decision = standing.decision
    if decision is not None and decision.action_id in weighed:
        decision = msgspec.structs.replace(decision, violation=weighed[decision.action_id])
    return msgspec.structs.replace(standing, policies=policies, decision=decision)


def _given(standing: Standing, moment: datetime) -> dict[str, Strike]:
    """The strikes that are given for what stands on an item, by id, and have not expired.

    A moderator's decision says what restricts the text that it is about. What it counts itself, it counts only where no
    verdict's violation of that text does, also after that has expired.
    """
    strikes, decided = {}, standing.decision
    for policy in standing.policies:
        covered = decided is not None and covers(decided, policy.content_sha256)
        in_effect = decided.action if decided is not None and covered else policy.action
        if policy.violation is not None and in_effect in RESTRICTS:
            one = _strike(standing.content_id, policy.content_sha256, policy.policy_id, policy.violation)
            strikes[one.strike_id] = one
    if decided is not None and decided.violation is not None:
        text = decided.content_sha256
        if all(one.content_sha256 != text for one in strikes.values()):
            one = _strike(standing.content_id, text, decided.violation.policy_id, decided.violation)
            strikes[one.strike_id] = one
    return {name: one for name, one in strikes.items() if one.expires_at is not None and one.expires_at > moment}


def _of_another_text(
    verdict: Verdict,
    after: Standing,
    actions: Sequence[Action],
    weighed: Mapping[str, Violation],
    moment: datetime,
) -> list[Strike]:
    """The strike that a verdict gives or takes back for a text that the item has no longer, or is not known to have.

    An item on which nothing stands any more is not known. A superseding verdict without a violation therefore takes the
    strike back whether or not one was given.
    """
    author_id, text = verdict.author_id or after.author_id, verdict.content_sha256
    if not author_id or (after.decision is not None and covers(after.decision, text)):
        return []
    if verdict.decision == "safe" and verdict.supersedes is not None:
        return [Strike(_id_of(verdict), author_id, "taken-back", moment, verdict.content_id, text, verdict.policy_id)]
    return [
        _strike(verdict.content_id, text, verdict.policy_id, weighed[action.action_id])
        for action in actions
        if action.action_id in weighed and action.action in RESTRICTS and text != after.content_sha256
    ]


def _strike(content_id: str, text: str | None, policy_id: str, violation: Violation) -> Strike:
    return Strike(
        strike_id(content_id, text, policy_id),
        violation.author_id,
        "given",
        violation.at,
        content_id,
        text,
        policy_id or None,
        violation.verdict_id,
        violation.action_id,
        violation.rule_ids,
        violation.severity,
        violation.rule,
        violation.weight,
        violation.expires_at,
        policy_version=violation.policy_version,
        about=violation.about,
    )


def _taken_back(strike: Strike, moment: datetime) -> Strike:
    return Strike(
        strike.strike_id,
        strike.author_id,
        "taken-back",
        moment,
        strike.content_id,
        strike.content_sha256,
        strike.policy_id,
    )


def _is_about(standing: Standing, strike: Strike) -> bool:
    """Whether what stands on an item is about the text of a strike. After an edit it is not, and the strike stays."""
    return strike.content_sha256 in (
        standing.content_sha256,
        standing.policy(strike.policy_id or "").content_sha256,
    )


def _id_of(verdict: Verdict) -> str:
    return strike_id(verdict.content_id, verdict.content_sha256, verdict.policy_id)
