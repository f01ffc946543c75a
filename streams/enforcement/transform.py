"""Verdicts to actions: the transform, and what it knows of its partitions."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from safeguard_streams.bus.interface import Output, Partition, Record
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import (
    Action,
    ActionState,
    Verdict,
    carried,
    decode,
    encode,
    now,
    schema_header,
    verdict_id,
)
from safeguard_streams.enforcement.rules import Rules, severity
from safeguard_streams.enforcement.state import EnforcementState, RestoreState
from safeguard_streams.runtime import metrics

log = logging.getLogger(__name__)

STAGE = "enforcement"
_ACTION = schema_header(Action)


class Enforcer:
    """The transform of the engine, in batches. `states` are those of the partitions that it owns: `restore` reads one when
    its partition is opened, and it is dropped when the partition is closed. partitions is the count of them all.
    """

    def __init__(self, rules: Rules, partitions: int, restore: RestoreState, *, dry_run: bool = False) -> None:
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
        # All are read before any counts: a record at fault is then found without the others counting twice.
        verdicts = [decode(record.value, Verdict) for record in records]
        outputs = []
        for record, verdict in zip(records, verdicts, strict=True):
            standing_state = self.states[record.partition]
            action = (
                self._follow(verdict, standing_state, record.partition)
                if standing_state.seen.add(verdict.verdict_id)
                else None
            )
            if action is not None:
                standing_state.take(action)
                state = "dry-run" if action.dry_run else action.state
                metrics.ACTIONS.add(1, {"policy": verdict.policy_id, "action": action.action, "state": state})
                outputs.append(Output(topics.ACTIONS, record.key, encode(action), [_ACTION, *carried(record.headers)]))
        return outputs

    def _follow(self, verdict: Verdict, standing_state: EnforcementState, partition: int) -> Action | None:
        """The action for a verdict; None where it allows what is allowed already."""
        content, policy = verdict.content_id, verdict.policy_id
        standing = standing_state.standing(content, policy)
        previous = standing.applied.action
        action, rule = self.rules.decide(verdict)
        if verdict.decision == "undetermined" and severity(previous) > severity(action):
            # It says nothing of the content: what stands, stands.
            action, rule = previous, f"{rule}; what stands is kept"
        if action == previous == "allow" and standing.held is None:
            return None
        moment, cap = now(), self.rules.cap_of(policy)
        state: ActionState = "applied"
        why = ""
        if content in standing_state.people:
            state, why = "overridden", f"a person decided: {standing_state.people[content]}"
        elif action != previous and standing_state.above(
            policy, cap, cap.of_partition(partition, self._partitions), moment
        ):
            state, why = "held", f"above the cap of {cap.max_actions} in {cap.window}"
        alert = state == "held" and not standing_state.alerted(policy, cap, moment)
        if alert:
            log.error(
                "%s: actions are held, above the cap of %d in %s; see: safeguard enforce held",
                policy,
                cap.max_actions,
                cap.window,
            )
        return Action(
            action_id=verdict_id(verdict.verdict_id, "dry run" if self._dry_run else "action"),
            content_id=content,
            action=action,
            acted_at=moment,
            why=why,
            state=state,
            effective=standing_state.effective(content, policy, action if state == "applied" else previous),
            previous=previous,
            verdict_id=verdict.verdict_id,
            policy_id=policy,
            policy_version=verdict.policy_version,
            decision=verdict.decision,
            rule_ids=verdict.rule_ids,
            reason=verdict.reason,
            rule=rule,
            reverses=standing.applied.action_id or None,
            alert=alert,
            dry_run=self._dry_run,
        )
