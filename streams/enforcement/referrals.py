"""Referrals: what a rule with `refer` writes to moderation.referrals, with the action and in its transaction.

A referral holds the evidence, the text included, because the event on content.events expires and may be erased. It is
written once for each text and rule of an item, whatever comes again. Nothing sends it anywhere.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec

from safeguard_streams.bus.interface import Output
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import (
    Action,
    ContentEvent,
    Referral,
    Standing,
    Verdict,
    encode,
    schema_header,
    verdict_id,
)
from safeguard_streams.enforcement.rules import EnforcementRules
from safeguard_streams.enforcement.standing import covers
from safeguard_streams.releases.texts import TextPlace
from safeguard_streams.runtime import metrics

# The events of texts, without those past retention or erased.
Evidence = Callable[[Sequence[TextPlace]], Awaitable[Mapping[TextPlace, ContentEvent]]]
MAX_REFERRED = 256  # referrals of an item that are known, the newest: one is for each text that its author makes of it
_SCHEMA = schema_header(Referral)


async def no_evidence(_: Sequence[TextPlace]) -> Mapping[TextPlace, ContentEvent]:
    """No event is there to be read."""
    return {}


def places(rules: EnforcementRules, verdicts: Sequence[Verdict]) -> list[TextPlace]:
    """The texts of the verdicts that rules may refer, whatever strikes their authors have by then."""
    return list(dict.fromkeys(TextPlace.of(one) for one in verdicts if rules.may_refer(one)))


def referred(rules: EnforcementRules, verdict: Verdict, action: Action, standing: Standing) -> Standing | None:
    """What stands with a referral of this action; None if the rule refers nothing, or did so before.

    A moderator's decision about the text prevents a referral. A cap does not: it only delays the action. Nor does an
    edit that came before the verdict: the text was published.
    """
    refers = action.rule is not None and rules.refers(action.rule) and action.policy_id == verdict.policy_id
    name = referral_id(verdict, action)
    text = verdict.content_sha256
    decided = (standing.decision is not None and covers(standing.decision, text)) or any(
        one.content_sha256 == text for one in standing.replaced
    )
    if not refers or decided or name in standing.referred:
        return None
    return msgspec.structs.replace(standing, referred=(*standing.referred, name)[-MAX_REFERRED:])


def referral_id(verdict: Verdict, action: Action) -> str:
    """The id of a referral: equal for the same text and rule, whichever verdict comes."""
    return verdict_id("referral", verdict.content_id, verdict.content_sha256, action.rule or "")


def output(verdict: Verdict, action: Action, event: ContentEvent | None) -> Output:
    """The record of a referral. event: that of the text, if it is there."""
    metrics.REFERRALS.add(1, {"rule": action.rule or ""})
    record = Referral(
        referral_id(verdict, action),
        verdict.content_id,
        verdict.policy_id,
        verdict.policy_version,
        verdict.verdict_id,
        action.rule or "",
        action.action_id,
        action.action if action.state == "applied" else action.effective or "allow",
        action.acted_at,
        verdict.content_sha256,
        verdict.rule_ids,
        action.author_id or (event.author_id if event else None),
        event.text if event else None,
        event.created_at if event else None,
        event.surface if event else verdict.surface,
        event.language if event else verdict.language,
        verdict.origin,
    )
    return Output(topics.REFERRALS, record.referral_id.encode(), encode(record), [_SCHEMA])
