"""Verdicts and moderators' records to actions: the pure decision, and the transform that applies it in order."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from safeguard_streams.bus.interface import Output, Partition, Record
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import (
    Action,
    ActionState,
    EnforcementInput,
    ModeratorDecision,
    PolicyStanding,
    Standing,
    Verdict,
    carried,
    decode,
    encode,
    now,
    schema_header,
    verdict_id,
)
from safeguard_streams.enforcement.plain_text import made_plain
from safeguard_streams.enforcement.rules import Cap, EnforcementRules, RuleChoice, severity
from safeguard_streams.enforcement.state import EnforcementState, RestoreState, effective
from safeguard_streams.errors import RecordError
from safeguard_streams.releases.erasures import Erased, never, without_words
from safeguard_streams.runtime import metrics

log = logging.getLogger(__name__)

STAGE = "enforcement"
ACTING = "enforcement-actions"  # the stage and group that follow the one order; STAGE reads the verdicts
MAX_VERDICT_IDS = 8  # of one policy on one item, to recognise a verdict that comes again
_ACTION, _STANDING = schema_header(Action), schema_header(Standing)


class Situation(msgspec.Struct, frozen=True):
    """All that the action for a verdict depends on.

    chosen: what the rules choose for the verdict. standing: what stands under its policy. moderator_decision: what a
    moderator decided about the content item, if one did. cap_reached: one more change would exceed the partition's
    share of the cap. alerted: an alert was raised within the cap's window.
    """

    verdict: Verdict
    chosen: RuleChoice
    standing: PolicyStanding
    moderator_decision: ModeratorDecision | None
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
    chosen, previous, cap = _keep_standing(situation), situation.standing.action, situation.cap
    if chosen.action == previous == "allow" and situation.standing.held is None:
        return None
    if situation.moderator_decision is not None:
        return ActionDecision(chosen, "overridden", _overridden_by(situation.moderator_decision, situation.verdict))
    if chosen.action != previous and situation.cap_reached:
        why = f"above the cap of {cap.max_actions} in {cap.window}"
        return ActionDecision(chosen, "held", why, alert=not situation.alerted)
    return ActionDecision(chosen, "applied")


def _keep_standing(situation: Situation) -> RuleChoice:
    """What the rules choose. An undetermined verdict says nothing about the content, so it reverses nothing."""
    chosen, standing = situation.chosen, situation.standing.action
    if situation.verdict.decision == "undetermined" and severity(standing) > severity(chosen.action):
        return RuleChoice(standing, f"{chosen.rule}; the standing action is kept")
    return chosen


def _overridden_by(decision: ModeratorDecision, verdict: Verdict) -> str:
    """Why a verdict has no effect. A decision covers the item whatever its text, and a reviewer can find edits."""
    edited = decision.content_sha256 not in (None, verdict.content_sha256)
    return f"a moderator decided{' about an earlier text' if edited else ''}: {decision.action}"


class Enforcer:
    """The transform of the engine, in batches. `states` are those of the partitions that it owns: `restore` reads one
    when its partition is opened, and it is dropped when the partition is closed. partitions is the number of partitions
    of the topic.

    A dry run reads moderation.verdicts itself, marks its actions and records nothing that stands. Records about items
    that `erased` names repeat no words about them.
    """

    def __init__(
        self,
        rules: EnforcementRules,
        partitions: int,
        restore: RestoreState,
        *,
        dry_run: bool = False,
        erased: Erased = never,
    ) -> None:
        self.rules = rules
        self.states: dict[int, EnforcementState] = {}
        self._restore = restore
        self._partitions = partitions
        self._dry_run = dry_run
        self._erased = erased

    async def opened(self, partition: Partition) -> None:
        self.states[partition.partition] = await self._restore(partition)

    def closed(self, partition: Partition) -> None:
        self.states.pop(partition.partition, None)

    async def process(self, records: Sequence[Record]) -> list[Output]:
        # Decode all records first: a malformed one then fails the batch before any verdict counts as seen.
        inputs = [self._decoded(record) for record in records]
        outputs: list[Output] = []
        changed: set[str] = set()
        for record, one in zip(records, inputs, strict=True):
            state, content_id = self.states[record.partition], _content_id(one)
            before = state[content_id]
            action = self._followed(one, state, record)
            if state[content_id] != before:
                changed.add(content_id)
            if action is not None:
                outputs.append(
                    Output(
                        topics.ACTIONS,
                        action.content_id.encode(),
                        encode(action),
                        [_ACTION, *carried(record.headers)],
                    )
                )
        return outputs if self._dry_run else [*outputs, *self._standings(changed, records[0].partition)]

    def _decoded(self, record: Record) -> EnforcementInput:
        if self._dry_run:
            return EnforcementInput(verdict=decode(record.value, Verdict))
        one = decode(record.value, EnforcementInput)
        if one.verdict is None and one.action is None:
            raise RecordError("record", "has neither a verdict nor an action; write decisions to moderation.actions")
        return one

    def _standings(self, changed: set[str], partition: int) -> list[Output]:
        """What stands now on the items that changed, and tombstones for those on which nothing does."""
        outputs = []
        for content_id in sorted(changed):
            standing = self.states[partition][content_id]
            value = None if standing.empty else encode(standing)
            outputs.append(Output(topics.STANDING, content_id.encode(), value, [_STANDING]))
        return outputs

    def _followed(self, one: EnforcementInput, state: EnforcementState, record: Record) -> Action | None:
        """The action that follows an input; None where none does. The state includes it on return."""
        if one.verdict is not None:
            return self._follow_verdict(without_words(one.verdict, self._erased), state, record)
        assert one.action is not None
        action = without_words(one.action, self._erased)
        if action.sequence is not None:
            return _sent_again(action, state, record.offset)
        if action.human:
            return _decided(action, state, record.offset, requeued=one.requeued)
        if action.releases is not None:
            return _released(action, state, record.offset, self._erased)
        _adopt(action, state)
        return None

    def _follow_verdict(self, verdict: Verdict, state: EnforcementState, record: Record) -> Action | None:
        standing = state[verdict.content_id]
        policy = standing.policy(verdict.policy_id)
        if verdict.verdict_id in policy.verdict_ids or not state.seen_verdicts.add(verdict.verdict_id):
            return None
        action = self._action_for(verdict, standing, state, record)
        if action is None:
            return None
        state.put(_after(standing, policy, action, verdict.content_sha256))
        state.count(action)
        outcome = "dry-run" if action.dry_run else action.state
        metrics.ACTIONS.add(1, {"policy": verdict.policy_id, "action": action.action, "state": outcome})
        return msgspec.structs.replace(action, effective=state[verdict.content_id].effective)

    def _action_for(
        self, verdict: Verdict, standing: Standing, state: EnforcementState, record: Record
    ) -> Action | None:
        """The action for a verdict; None where it allows content that is already allowed."""
        policy_id, policy = verdict.policy_id, standing.policy(verdict.policy_id)
        moment, cap = now(), self.rules.cap_of(policy_id)
        share = cap.partition_share(record.partition, self._partitions)
        decision = decide_action(
            Situation(
                verdict=verdict,
                chosen=self.rules.choose(verdict),
                standing=policy,
                moderator_decision=standing.decision,
                cap=cap,
                cap_reached=state.cap_reached(policy_id, cap, share, moment),
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
        return Action(
            action_id=verdict_id(verdict.verdict_id, "dry run" if self._dry_run else "action"),
            content_id=verdict.content_id,
            action=decision.chosen.action,
            acted_at=moment,
            why=decision.why,
            state=decision.state,
            previous=policy.action,
            verdict_id=verdict.verdict_id,
            policy_id=policy_id,
            policy_version=verdict.policy_version,
            decision=verdict.decision,
            rule_ids=verdict.rule_ids,
            reason=verdict.reason,
            rule=decision.chosen.rule,
            reverses=policy.action_id,
            alert=decision.alert,
            dry_run=self._dry_run,
            sequence=None if self._dry_run else record.offset,
        )


def _content_id(one: EnforcementInput) -> str:
    about = one.verdict or one.action
    assert about is not None
    return about.content_id


def _after(standing: Standing, policy: PolicyStanding, action: Action, content_sha256: str | None = None) -> Standing:
    """What stands on an item after an action under a policy."""
    if action.verdict_id is not None and action.releases is None:
        ids = (action.verdict_id, *policy.verdict_ids)[:MAX_VERDICT_IDS]
        policy = msgspec.structs.replace(policy, verdict_ids=ids)
    if action.state == "held":
        policy = msgspec.structs.replace(policy, held=action)
    elif action.state == "applied":
        action_id = None if action.action == "allow" else action.action_id
        policy = msgspec.structs.replace(policy, action=action.action, action_id=action_id, held=None)
    others = tuple(other for other in standing.policies if other.policy_id != policy.policy_id)
    return _with_effective(
        msgspec.structs.replace(
            standing,
            policies=(*others, policy),
            content_sha256=content_sha256 or standing.content_sha256,
        )
    )


def _with_effective(standing: Standing) -> Standing:
    return msgspec.structs.replace(standing, effective=effective(standing))


def _decided(action: Action, state: EnforcementState, sequence: int, *, requeued: bool) -> Action | None:
    """A moderator's decision about an item. It overrides all verdicts, and an earlier decision.

    A requeued decision stands later in its topic than it belongs, so a newer decision overrides it.
    """
    standing, at = state[action.content_id], _aware(action.acted_at)
    earlier = standing.decision
    if earlier is not None and (earlier.action_id == action.action_id or (requeued and at <= earlier.at)):
        return None
    by, why = action.by and made_plain(action.by), made_plain(action.why)
    decision = ModeratorDecision(action.action, action.action_id, at, by, why, standing.content_sha256)
    state.put(_with_effective(msgspec.structs.replace(standing, decision=decision)))
    return msgspec.structs.replace(
        action,
        acted_at=at,
        by=by,
        why=why,
        state="applied",
        previous=standing.effective,
        effective=action.action,
        sequence=sequence,
    )


def _released(action: Action, state: EnforcementState, sequence: int, erased: Erased) -> Action | None:
    """The release of a held action, if that action still waits: a later verdict or decision replaces it."""
    standing = state[action.content_id]
    policy = standing.policy(action.policy_id or "")
    if standing.decision is not None or policy.held is None or policy.held.action_id != action.releases:
        return None
    released = msgspec.structs.replace(
        without_words(policy.held, erased),
        action_id=action.action_id,
        state="applied",
        previous=policy.action,
        acted_at=_aware(action.acted_at),
        by=action.by and made_plain(action.by),
        why=made_plain(action.why),
        releases=action.releases,
        alert=False,
        sequence=sequence,
    )
    state.put(_after(standing, policy, released))
    return msgspec.structs.replace(released, effective=state[action.content_id].effective)


def _adopt(action: Action, state: EnforcementState) -> None:
    """Add an action that an agent without moderation.standing wrote, and that was delivered then."""
    standing = state[action.content_id]
    state.put(_after(standing, standing.policy(action.policy_id or ""), action))


def _sent_again(action: Action, state: EnforcementState, sequence: int) -> Action | None:
    """An action that the receiver had not accepted, if what it says still stands."""
    if action.effective != state[action.content_id].effective:
        return None
    return msgspec.structs.replace(action, sequence=sequence)


def _aware(moment: datetime) -> datetime:
    """A time without an offset is taken as UTC."""
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
