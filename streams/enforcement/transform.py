"""Verdicts to actions: the pure decision, and the transform that applies it to the states of its partitions."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import msgspec

from safeguard_streams.bus.interface import Output, Partition, Record
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import (
    Action,
    ActionState,
    Enforced,
    Verdict,
    carried,
    decode,
    encode,
    now,
    schema_header,
    verdict_id,
)
from safeguard_streams.enforcement.rules import Cap, EnforcementRules, RuleChoice, severity
from safeguard_streams.enforcement.state import EnforcementState, PolicyStanding, RestoreState
from safeguard_streams.runtime import metrics

log = logging.getLogger(__name__)

STAGE = "enforcement"
_ACTION = schema_header(Action)


class Situation(msgspec.Struct, frozen=True):
    """All that the action for a verdict depends on.

    chosen: what the rules choose for the verdict. standing: what stands under its policy. moderator_decision: what a
    moderator decided about the content item, if one did. cap_reached: one more change would exceed the partition's
    share of the cap. alerted: an alert was raised within the cap's window.
    """

    verdict: Verdict
    chosen: RuleChoice
    standing: PolicyStanding
    moderator_decision: Enforced | None
    cap: Cap
    cap_reached: bool
    alerted: bool


class ActionDecision(msgspec.Struct, frozen=True):
    """The action for a verdict, the rule that chose it, and whether it is applied, held or overridden, and why."""

    chosen: RuleChoice
    state: ActionState
    why: str = ""
    alert: bool = False


def decide_action(situation: Situation) -> ActionDecision | None:
    """Decide what follows a verdict; None where it allows content that is already allowed."""
    chosen, previous, cap = _keep_standing(situation), situation.standing.applied.action, situation.cap
    if chosen.action == previous == "allow" and situation.standing.held is None:
        return None
    if situation.moderator_decision is not None:
        return ActionDecision(chosen, "overridden", f"a moderator decided: {situation.moderator_decision}")
    if chosen.action != previous and situation.cap_reached:
        why = f"above the cap of {cap.max_actions} in {cap.window}"
        return ActionDecision(chosen, "held", why, alert=not situation.alerted)
    return ActionDecision(chosen, "applied")


def _keep_standing(situation: Situation) -> RuleChoice:
    """What the rules choose. An undetermined verdict says nothing about the content, so it reverses nothing."""
    chosen, standing = situation.chosen, situation.standing.applied.action
    if situation.verdict.decision == "undetermined" and severity(standing) > severity(chosen.action):
        return RuleChoice(standing, f"{chosen.rule}; the standing action is kept")
    return chosen


class Enforcer:
    """The transform of the engine, in batches. `states` are those of the partitions that it owns: `restore` reads one
    when its partition is opened, and it is dropped when the partition is closed. partitions is the number of partitions
    of the topic.
    """

    def __init__(
        self, rules: EnforcementRules, partitions: int, restore: RestoreState, *, dry_run: bool = False
    ) -> None:
        self.rules = rules
        self.states: dict[int, EnforcementState] = {}
        self._restore = restore
        self._partitions = partitions
        self._dry_run = dry_run

    async def opened(self, partition: Partition) -> None:
        self.states[partition.partition] = await self._restore(partition)

    def closed(self, partition: Partition) -> None:
        self.states.pop(partition.partition, None)

    async def process(self, records: Sequence[Record]) -> list[Output]:
        # Decode all records first: a malformed one then fails the batch before any verdict counts as seen.
        verdicts = [decode(record.value, Verdict) for record in records]
        outputs = []
        for record, verdict in zip(records, verdicts, strict=True):
            state = self.states[record.partition]
            if not state.seen_verdicts.add(verdict.verdict_id):
                continue
            action = self._action_for(verdict, state, record.partition)
            if action is None:
                continue
            state.apply(action)
            outcome = "dry-run" if action.dry_run else action.state
            metrics.ACTIONS.add(1, {"policy": verdict.policy_id, "action": action.action, "state": outcome})
            outputs.append(Output(topics.ACTIONS, record.key, encode(action), [_ACTION, *carried(record.headers)]))
        return outputs

    def _action_for(self, verdict: Verdict, state: EnforcementState, partition: int) -> Action | None:
        """The action for a verdict; None where it allows content that is already allowed."""
        content_id, policy_id = verdict.content_id, verdict.policy_id
        moment, cap, standing = now(), self.rules.cap_of(policy_id), state.standing(content_id, policy_id)
        decision = decide_action(
            Situation(
                verdict=verdict,
                chosen=self.rules.choose(verdict),
                standing=standing,
                moderator_decision=state.decisions.get(content_id),
                cap=cap,
                cap_reached=state.cap_reached(policy_id, cap, cap.partition_share(partition, self._partitions), moment),
                alerted=state.alerted(policy_id, cap, moment),
            )
        )
        if decision is None:
            return None
        if decision.alert:
            log.error(
                "actions held above the cap policy=%s max_actions=%d window=%s; run: safeguard enforce held",
                policy_id,
                cap.max_actions,
                cap.window,
            )
        action, previous = decision.chosen.action, standing.applied.action
        applied = action if decision.state == "applied" else previous
        return Action(
            action_id=verdict_id(verdict.verdict_id, "dry run" if self._dry_run else "action"),
            content_id=content_id,
            action=action,
            acted_at=moment,
            why=decision.why,
            state=decision.state,
            effective=state.effective(content_id, policy_id, applied),
            previous=previous,
            verdict_id=verdict.verdict_id,
            policy_id=policy_id,
            policy_version=verdict.policy_version,
            decision=verdict.decision,
            rule_ids=verdict.rule_ids,
            reason=verdict.reason,
            rule=decision.chosen.rule,
            reverses=standing.applied.action_id or None,
            alert=decision.alert,
            dry_run=self._dry_run,
        )
