"""The actions that follow a verdict: its own, and the end of those that an edit of the text left without a reason."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime

import msgspec

from safeguard_streams.bus.interface import Record
from safeguard_streams.contract.records import EVERY_POLICY, Action, PolicyStanding, Standing, Verdict, now, verdict_id
from safeguard_streams.enforcement import texts
from safeguard_streams.enforcement.action_decision import ActionDecision, Situation, decide_action, overruled
from safeguard_streams.enforcement.known_authors import StrikesOf
from safeguard_streams.enforcement.rules import EnforcementRules, RuleChoice
from safeguard_streams.enforcement.standing import after_action, is_known, with_effective
from safeguard_streams.enforcement.state import EnforcementState
from safeguard_streams.runtime import metrics

log = logging.getLogger(__name__)

_PASSED = "the edited text passed the gate"


class VerdictActions:
    """Follows verdicts by the rules. partitions is the number of partitions of the topic, which share the caps.

    strikes_of: the strikes of an author, for rules that look at them. A dry run marks its actions.
    """

    def __init__(self, rules: EnforcementRules, partitions: int, strikes_of: StrikesOf, *, dry_run: bool) -> None:
        self._rules = rules
        self._partitions = partitions
        self._strikes_of = strikes_of
        self._dry_run = dry_run

    def follow(self, verdict: Verdict, state: EnforcementState, record: Record) -> Sequence[Action]:
        """The actions that follow a verdict; none if it was followed before. The state includes them on return."""
        before = state[verdict.content_id]
        if verdict.appeal_id is not None:  # advice, which only a dry run reads
            return []
        earlier = texts.is_earlier(verdict, before)
        if verdict.clears:
            if before.empty or earlier:
                return []
        elif is_known(verdict, before) or not state.seen_verdicts.add(verdict.verdict_id):
            return []
        standing = before if earlier else texts.with_text(before, verdict)
        why_not = overruled(standing, earlier=earlier)
        actions = []
        for policy_id, chosen in self._choices(verdict, [] if earlier else texts.passed(standing, verdict)):
            moment = now()
            situation = self._situation(verdict, chosen, standing.policy(policy_id), why_not, state, record, moment)
            decision = decide_action(situation)
            if decision is None:
                continue
            if decision.alert:
                _alert(situation, record.partition)
            action = self._action(situation, decision, moment, record.offset)
            state.count(action)
            standing = after_action(standing, action, follows=not earlier)
            actions.append(action)
        standing = with_effective(standing)
        state.put(standing)
        return self._told(actions, before, standing, verdict, record.offset)

    def _choices(self, verdict: Verdict, passed: Sequence[PolicyStanding]) -> list[tuple[str, RuleChoice]]:
        """The policies under which a verdict leads to an action, and what the rules choose."""
        choices = [(policy.policy_id, RuleChoice("allow", _PASSED)) for policy in passed]
        if verdict.clears:
            return choices
        known = self._strikes_of(verdict.author_id) if self._rules.look_at_strikes else ()
        return [*choices, (verdict.policy_id, self._rules.choose(verdict, known))]

    def _situation(
        self,
        verdict: Verdict,
        chosen: RuleChoice,
        policy: PolicyStanding,
        why_not: str,
        state: EnforcementState,
        record: Record,
        moment: datetime,
    ) -> Situation:
        cap = self._rules.cap_of(policy.policy_id)
        share = cap.partition_share(record.partition, self._partitions)
        return Situation(
            verdict=verdict,
            chosen=chosen,
            standing=policy,
            overruled=why_not,
            cap=cap,
            share=share,
            cap_reached=state.cap_reached(policy.policy_id, cap, share, moment),
            alerted=state.alerted(policy.policy_id, cap, moment),
        )

    def _action(self, situation: Situation, decision: ActionDecision, moment: datetime, sequence: int) -> Action:
        """The record of a decision. What it says about the verdict's policy, it says of no other."""
        verdict, policy = situation.verdict, situation.standing
        own = policy.policy_id == verdict.policy_id
        return Action(
            action_id=self._action_id(verdict, "" if own else policy.policy_id),
            content_id=verdict.content_id,
            action=decision.chosen.action,
            acted_at=moment,
            why=decision.why,
            state=decision.state,
            previous=policy.action,
            verdict_id=verdict.verdict_id,
            policy_id=policy.policy_id,
            policy_version=verdict.policy_version if own else None,
            decision=verdict.decision if own else None,
            rule_ids=verdict.rule_ids if own else (),
            severity=verdict.severity if own else None,
            reason=verdict.reason if own else None,
            rule=decision.chosen.rule,
            reverses=policy.action_id,
            alert=decision.alert,
            dry_run=self._dry_run,
            sequence=None if self._dry_run else sequence,
            content_sha256=verdict.content_sha256,
            origin=verdict.origin,
            reporter=verdict.prefilter.reporter if own and verdict.prefilter else None,
            account_age=verdict.account_age,
        )

    def _told(
        self, actions: Sequence[Action], before: Standing, after: Standing, verdict: Verdict, sequence: int
    ) -> Sequence[Action]:
        """The actions with what stands after them. One more where an edit changes that, and none of them says it."""
        note = _edited(before, after)
        told = [
            msgspec.structs.replace(
                action,
                effective=after.effective,
                why="; ".join(filter(None, (action.why, note))),
                author_id=verdict.author_id or after.author_id,
            )
            for action in actions
        ]
        if after.effective != before.effective and not any(action.changes for action in told):
            told.append(
                Action(
                    action_id=self._action_id(verdict, "text"),
                    content_id=verdict.content_id,
                    action=after.effective,
                    acted_at=now(),
                    why=note,
                    effective=after.effective,
                    previous=before.effective,
                    verdict_id=verdict.verdict_id,
                    policy_id=EVERY_POLICY,
                    rule="another text",
                    dry_run=self._dry_run,
                    sequence=None if self._dry_run else sequence,
                    content_sha256=verdict.content_sha256,
                    origin=verdict.origin,
                    author_id=verdict.author_id or after.author_id,
                )
            )
        for action in told:
            outcome = "dry-run" if action.dry_run else action.state
            metrics.ACTIONS.add(1, {"policy": action.policy_id or "", "action": action.action, "state": outcome})
        return told

    def _action_id(self, verdict: Verdict, about: str) -> str:
        """The id of an action that follows a verdict. about: a policy other than the verdict's own, or what else."""
        return verdict_id(verdict.verdict_id, "dry run" if self._dry_run else "action", *filter(None, (about,)))


def _alert(situation: Situation, partition: int) -> None:
    """Log that the cap holds actions."""
    cap = situation.cap
    log.error(
        "actions held above the cap policy=%s partition=%d share=%d max_actions=%d window=%s; "
        "run: safeguard enforce held",
        *(situation.standing.policy_id, partition, situation.share, cap.max_actions, cap.window),
    )


def _edited(before: Standing, after: Standing) -> str:
    """What an edit means for a moderator's decision; empty if it means nothing."""
    decided = after.decision
    if decided is None or before.in_force is after.in_force is not None:
        return ""
    if after.in_force is None:
        return f"the text was edited after a moderator decided: {decided.action}"
    return f"the item has the text again about which a moderator decided: {decided.action}"
