"""Verdicts and moderators' records to actions: the pure decision, and the transform that applies it in order."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from safeguard_streams.bus.dead_letters import dead_letter, was_requeued
from safeguard_streams.bus.interface import Output, Partition, Record
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import (
    EVERY_POLICY,
    Action,
    ActionState,
    ContentEvent,
    EnforcementInput,
    Grounds,
    ModeratorDecision,
    PolicyStanding,
    Standing,
    Verdict,
    aware,
    came_later,
    carried,
    decode,
    encode,
    newest_place,
    now,
    schema_header,
    verdict_id,
)
from safeguard_streams.enforcement import appealing, appeals, referrals, strikes, texts
from safeguard_streams.enforcement.known_authors import StrikesOf, unknown
from safeguard_streams.enforcement.referrals import Evidence, no_evidence
from safeguard_streams.enforcement.rules import Cap, EnforcementRules, RuleChoice, severity
from safeguard_streams.enforcement.signing import Signer
from safeguard_streams.enforcement.state import EnforcementState, RestoreState, effective
from safeguard_streams.enforcement.statements import Statements
from safeguard_streams.errors import RecordError
from safeguard_streams.releases.erasures import Erased, never, standing_without_words, without_words
from safeguard_streams.releases.people import made_plain
from safeguard_streams.releases.texts import TextPlace
from safeguard_streams.runtime import metrics

log = logging.getLogger(__name__)

STAGE = "enforcement"
ACTING = "enforcement-actions"  # the stage and group that follow the one order; STAGE reads the verdicts
DELIVERING = "enforcement-webhook"  # those that send actions to the webhook
REJECTED = "the receiver rejected the message"
_PASSED = "the edited text passed the gate"
MAX_REPLACED = 8  # decisions about an item that an undo can bring back, the newest
MAX_FORGOTTEN = 100  # items that are forgotten after a batch
MAX_VERDICT_IDS = 8  # of one policy on one item, to recognise a verdict that comes again
_ACTION, _STANDING = schema_header(Action), schema_header(Standing)


class Situation(msgspec.Struct, frozen=True):
    """All that the action for a verdict depends on.

    chosen: what the rules choose for the verdict. standing: what stands under its policy. overruled: why the verdict
    has no effect; empty if it has one. share: the changes that the cap allows this partition. cap_reached: one more
    change would exceed them. alerted: an alert was raised within the cap's window.
    """

    verdict: Verdict
    chosen: RuleChoice
    standing: PolicyStanding
    overruled: str
    cap: Cap
    share: int
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
    chosen, previous = _keep_standing(situation), situation.standing.action
    if chosen.action == previous == "allow" and situation.standing.held is None:
        return None
    if situation.overruled:
        return ActionDecision(chosen, "overridden", situation.overruled)
    if chosen.action != previous and situation.cap_reached:
        return ActionDecision(chosen, "held", situation.cap.above(situation.share), alert=not situation.alerted)
    return ActionDecision(chosen, "applied")


def _keep_standing(situation: Situation) -> RuleChoice:
    """What the rules choose. An undetermined verdict says nothing about the content, so it reverses nothing."""
    chosen, standing = situation.chosen, situation.standing.action
    if situation.verdict.decision == "undetermined" and severity(standing) > severity(chosen.action):
        return RuleChoice(standing, f"{chosen.rule}; the standing action is kept")
    return chosen


def _overruled(standing: Standing, *, earlier: bool) -> str:
    """Why a verdict has no effect on an item; empty if it has one. earlier: it is about a text the item had before."""
    if standing.in_force is not None:
        return f"a moderator decided: {standing.in_force.action}"
    return "it is about an earlier text" if earlier else ""


class Lookups(NamedTuple):
    """What the enforcer asks beside its own states.

    erased: whether the words about an item are to go. evidence: the texts that rules refer. strikes_of: the strikes of
    an author, for rules that look at them.
    """

    erased: Erased = never
    evidence: Evidence = no_evidence
    strikes_of: StrikesOf = unknown


_NONE = Lookups()


class Enforcer:
    """The transform of the engine, in batches. `states` are those of the partitions that it owns: `restore` reads one
    when its partition is opened, and it is dropped when the partition is closed. partitions is the number of partitions
    of the topic.

    A dry run reads moderation.verdicts itself, marks its actions and records nothing that stands. Records about erased
    items repeat no words about them. statements: issues the statements of reasons; a dry run has none. signer: signs
    the actions.
    """

    def __init__(
        self,
        rules: EnforcementRules,
        partitions: int,
        restore: RestoreState,
        *,
        dry_run: bool = False,
        lookups: Lookups = _NONE,
        statements: Statements | None = None,
        signer: Signer | None = None,
    ) -> None:
        self.rules = rules
        self.states: dict[int, EnforcementState] = {}
        self._restore = restore
        self._partitions = partitions
        self._dry_run = dry_run
        self._erased, self._evidence, self._strikes_of = lookups
        self._statements = statements
        self._signer = signer

    async def opened(self, partition: Partition) -> None:
        self.states[partition.partition] = await self._restore(partition)

    def closed(self, partition: Partition) -> None:
        self.states.pop(partition.partition, None)

    async def process(self, records: Sequence[Record]) -> list[Output]:
        # Decode all records first: a malformed one then fails the batch before any verdict counts as seen.
        inputs = [self._decoded(record) for record in records]
        await self._prepare(inputs, self.states[records[0].partition])
        evidence = await self._texts_to_refer(inputs)
        outputs: list[Output] = []
        changed: set[str] = set()
        for record, one in zip(records, inputs, strict=True):
            state, content_id = self.states[record.partition], _content_id(one)
            before, verdict = self._known(content_id, state), self._unseen(one, state)
            if why := appealing.objection(one, before):
                outputs.append(dead_letter(record, RecordError("action", why), stage=ACTING, attempts=1))
                actions = self._not_followed(one, before, record.offset, why)
            else:
                actions = self._followed_with_appeals(one, state, record)
            outputs += self._referred(one, actions, state, evidence)
            if one.action is None or one.action.sequence is None:  # what is sent again was followed before
                outputs += self._strikes(before, state, actions, verdict)
            actions, stated = self._stated(one, state, actions, before)
            after = self._remembered(before, state)
            if after != before and not (after.empty and before.empty):
                changed.add(content_id)
            outputs += [self._written(action, record) for action in actions]
            outputs += stated
        if self._dry_run:
            return outputs
        changed.update(self.states[records[0].partition].forgotten(now(), MAX_FORGOTTEN))
        return [*outputs, *self._standings(changed, records[0].partition)]

    def _remembered(self, before: Standing, state: EnforcementState) -> Standing:
        """What stands on an item after an input, with how long that is remembered where nothing stands any more."""
        after = state[before.content_id]
        standing = after if self._dry_run else appeals.kept(before, after, self.rules.appeals.remember_days)
        if standing is not after:
            state.put(standing)
        return standing

    def _written(self, action: Action, cause: Record) -> Output:
        """The record of an action, signed if the agent signs. It goes to the partition of its cause."""
        value, headers = encode(action), [_ACTION, *carried(cause.headers)]
        if self._signer is not None and not self._dry_run:
            headers.append(self._signer.header(cause.partition, value))
        return Output(topics.ACTIONS, action.content_id.encode(), value, headers)

    def _own(self, action: Action, record: Record) -> bool:
        """Whether an agent wrote an action that is to be sent again, exactly as it is now."""
        return self._signer is not None and self._signer.signed(record.partition, encode(action), record.headers)

    def _known(self, content_id: str, state: EnforcementState) -> Standing:
        """What stands on an item as it was written, also after an erasure that came since then."""
        standing = state[content_id]
        written = standing_without_words(standing, self._erased)
        if written != standing:
            state.put(written)
        return written

    async def _prepare(self, inputs: Sequence[EnforcementInput], state: EnforcementState) -> None:
        """Learn the words of the policies that statements may need, before anything counts as seen."""
        if self._statements is not None:
            await self._statements.prepare(inputs, [state[_content_id(one)] for one in inputs])

    def _stated(
        self, one: EnforcementInput, state: EnforcementState, actions: Sequence[Action], before: Standing
    ) -> tuple[Sequence[Action], Sequence[Output]]:
        """The actions with what they say of statements, and the statements. The state includes these on return."""
        if self._statements is None:
            return actions, ()
        after = state[before.content_id]
        stated = self._statements.follow(before, after, actions, one.verdict)
        if stated.standing is not after:
            state.put(stated.standing)
        return stated.actions, stated.outputs

    def _unseen(self, one: EnforcementInput, state: EnforcementState) -> Verdict | None:
        """The verdict of an input, if there is one that was not followed before."""
        verdict = one.verdict
        if (
            verdict is None
            or verdict.verdict_id in state.seen_verdicts
            or _is_known(verdict, state[verdict.content_id])
        ):
            return None
        return verdict

    def _strikes(
        self, before: Standing, state: EnforcementState, actions: Sequence[Action], verdict: Verdict | None
    ) -> list[Output]:
        """The records about the author's strikes that follow an input; none in a dry run. The state includes them."""
        if self._dry_run or not self.rules.authors.strike:
            return []
        after = state[before.content_id]
        found = strikes.followed(self.rules.authors, before, after, actions, verdict)
        if found.standing != after:
            state.put(found.standing)
        return [strikes.strike_output(one) for one in found.strikes]

    def _decoded(self, record: Record) -> EnforcementInput:
        if self._dry_run:
            return EnforcementInput(verdict=decode(record.value, Verdict))
        one = decode(record.value, EnforcementInput)
        if one.verdict is None and one.action is None and one.appeal is None:
            raise RecordError("record", "has neither a verdict nor an action; write decisions to moderation.actions")
        return one

    async def _texts_to_refer(self, inputs: Sequence[EnforcementInput]) -> Mapping[TextPlace, ContentEvent]:
        """The texts that rules may refer. They are read before anything is followed: a failure then changes nothing."""
        wanted = [] if self._dry_run else referrals.places(self.rules, [one.verdict for one in inputs if one.verdict])
        return await self._evidence(wanted) if wanted else {}

    def _referred(
        self,
        one: EnforcementInput,
        actions: Sequence[Action],
        state: EnforcementState,
        evidence: Mapping[TextPlace, ContentEvent],
    ) -> list[Output]:
        """The referrals that go with the actions of a verdict. The state includes them on return."""
        outputs = []
        for action in actions if one.verdict is not None and not self._dry_run else ():
            assert one.verdict is not None
            standing = referrals.referred(self.rules, one.verdict, action, state[action.content_id])
            if standing is not None:
                state.put(standing)
                event = evidence.get(TextPlace.of(one.verdict))
                outputs.append(referrals.output(without_words(one.verdict, self._erased), action, event))
        return outputs

    def _not_followed(self, one: EnforcementInput, standing: Standing, sequence: int, why: str) -> Sequence[Action]:
        assert one.action is not None
        return [appealing.not_followed(_received(one.action, self._erased), standing, sequence, why)]

    def _followed_with_appeals(
        self, one: EnforcementInput, state: EnforcementState, record: Record
    ) -> Sequence[Action]:
        """The actions that follow an input, and the ends of appeals. The state includes them on return."""
        actions = self._followed(one, state, record)
        before = state[_content_id(one)]
        if self._dry_run:
            return actions
        standing, ended = appealing.followed(one, actions, before, self.rules.appeals.days, record.offset)
        if standing != before:
            state.put(standing)
        return [*actions, *ended]

    def _standings(self, changed: set[str], partition: int) -> list[Output]:
        """What stands now on the items that changed, and tombstones for those on which nothing does."""
        outputs = []
        for content_id in sorted(changed):
            standing = standing_without_words(self.states[partition][content_id], self._erased)
            value = None if standing.empty else encode(standing)
            outputs.append(Output(topics.STANDING, content_id.encode(), value, [_STANDING]))
        return outputs

    def _followed(self, one: EnforcementInput, state: EnforcementState, record: Record) -> Sequence[Action]:
        """The actions that follow an input. The state includes them on return."""
        if one.verdict is not None:
            return self._follow_verdict(without_words(one.verdict, self._erased), state, record)
        if one.action is None:
            return []
        action = _received(one.action, self._erased)
        if action.sequence is not None:
            own = self._own(one.action, record)
            followed = _sent_again(action, state, record.offset) if own else _told_again(action, state, record.offset)
        elif action.outcome is not None and appeals.is_repeated(action, state[action.content_id]):
            return []
        elif action.outcome == "upheld":
            followed = appeals.upheld(action, state[action.content_id], record.offset)
        elif action.withdraws is not None:
            followed = _withdrawn(action, state, record.offset)
        elif action.human:
            # Its dead letter is that of moderation.actions, or of moderation.enforcement if it was not followed.
            followed = _decided(action, state, record.offset, requeued=one.requeued or was_requeued(record))
        else:
            followed = _released(action, state, record.offset, self._erased)
        return [followed] if followed is not None else []

    def _follow_verdict(self, verdict: Verdict, state: EnforcementState, record: Record) -> Sequence[Action]:
        """The actions that follow a verdict: its own, and the end of those that an edit left without a reason."""
        before = state[verdict.content_id]
        if verdict.appeal_id is not None:  # advice, which only a dry run reads
            return []
        earlier = texts.is_earlier(verdict, before)
        if verdict.clears:
            if before.empty or earlier:
                return []
        elif _is_known(verdict, before) or not state.seen_verdicts.add(verdict.verdict_id):
            return []
        standing = before if earlier else texts.with_text(before, verdict)
        overruled = _overruled(standing, earlier=earlier)
        actions = []
        for policy_id, chosen in self._choices(verdict, [] if earlier else texts.passed(standing, verdict)):
            action = self._action_for(verdict, policy_id, chosen, standing.policy(policy_id), overruled, state, record)
            if action is not None:
                state.count(action)
                standing = _after(standing, action, follows=not earlier)
                actions.append(action)
        standing = _with_effective(standing)
        state.put(standing)
        return self._told(actions, before, standing, verdict, record.offset)

    def _choices(self, verdict: Verdict, passed: Sequence[PolicyStanding]) -> list[tuple[str, RuleChoice]]:
        """The policies under which a verdict leads to an action, and what the rules choose."""
        choices = [(policy.policy_id, RuleChoice("allow", _PASSED)) for policy in passed]
        if verdict.clears:
            return choices
        known = self._strikes_of(verdict.author_id) if self.rules.look_at_strikes else ()
        return [*choices, (verdict.policy_id, self.rules.choose(verdict, known))]

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

    def _action_for(
        self,
        verdict: Verdict,
        policy_id: str,
        chosen: RuleChoice,
        policy: PolicyStanding,
        overruled: str,
        state: EnforcementState,
        record: Record,
    ) -> Action | None:
        """The action for a verdict under a policy; None where it allows content that is already allowed."""
        moment, cap = now(), self.rules.cap_of(policy_id)
        share = cap.partition_share(record.partition, self._partitions)
        decision = decide_action(
            Situation(
                verdict=verdict,
                chosen=chosen,
                standing=policy,
                overruled=overruled,
                cap=cap,
                share=share,
                cap_reached=state.cap_reached(policy_id, cap, share, moment),
                alerted=state.alerted(policy_id, cap, moment),
            )
        )
        if decision is None:
            return None
        if decision.alert:
            log.error(
                "actions held above the cap policy=%s partition=%d share=%d max_actions=%d window=%s; "
                "run: safeguard enforce held",
                *(policy_id, record.partition, share, cap.max_actions, cap.window),
            )
        own = policy_id == verdict.policy_id
        return Action(
            action_id=self._action_id(verdict, "" if own else policy_id),
            content_id=verdict.content_id,
            action=decision.chosen.action,
            acted_at=moment,
            why=decision.why,
            state=decision.state,
            previous=policy.action,
            verdict_id=verdict.verdict_id,
            policy_id=policy_id,
            policy_version=verdict.policy_version if own else None,
            decision=verdict.decision if own else None,
            rule_ids=verdict.rule_ids if own else (),
            severity=verdict.severity if own else None,
            reason=verdict.reason if own else None,
            rule=decision.chosen.rule,
            reverses=policy.action_id,
            alert=decision.alert,
            dry_run=self._dry_run,
            sequence=None if self._dry_run else record.offset,
            content_sha256=verdict.content_sha256,
            origin=verdict.origin,
            reporter=verdict.prefilter.reporter if own and verdict.prefilter else None,
            account_age=verdict.account_age,
        )

    def _action_id(self, verdict: Verdict, about: str) -> str:
        """The id of an action that follows a verdict. about: a policy other than the verdict's own, or what else."""
        return verdict_id(verdict.verdict_id, "dry run" if self._dry_run else "action", *filter(None, (about,)))


def _received(action: Action, erased: Erased) -> Action:
    """A record of an action as the agent follows it. Of a moderator's record, what only an agent says is left out."""
    action = msgspec.structs.replace(without_words(action, erased), acted_at=aware(action.acted_at))
    if action.sequence is not None:
        return action
    action = msgspec.structs.replace(
        action,
        statement=None,
        ends_statement=None,
        alert=False,
        verdict_id=None if action.human else action.verdict_id,
    )
    return appeals.as_decision(action) if action.outcome == "overturned" else action


def _content_id(one: EnforcementInput) -> str:
    about = one.verdict or one.action or one.appeal
    assert about is not None
    return about.content_id


def _is_known(verdict: Verdict, standing: Standing) -> bool:
    return verdict.verdict_id in standing.policy(verdict.policy_id).verdict_ids


def _edited(before: Standing, after: Standing) -> str:
    """What an edit means for a moderator's decision; empty if it means nothing."""
    decided = after.decision
    if decided is None or before.in_force is after.in_force is not None:
        return ""
    if after.in_force is None:
        return f"the text was edited after a moderator decided: {decided.action}"
    return f"the item has the text again about which a moderator decided: {decided.action}"


def _after(standing: Standing, action: Action, *, follows: bool = True) -> Standing:
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
    return msgspec.structs.replace(
        kept,
        action=action.action,
        action_id=action.action_id,
        at=action.acted_at if action.action != policy.action else policy.at or action.acted_at,
        decision=action.decision,
        rule=action.rule,
        grounds=Grounds(action.policy_version, action.rule_ids, action.reporter, action.releases is not None),
    )


def _with_effective(standing: Standing) -> Standing:
    return msgspec.structs.replace(standing, effective=effective(standing))


def _decided(action: Action, state: EnforcementState, sequence: int, *, requeued: bool) -> Action | None:
    """A moderator's decision about an item. It overrides all verdicts on the text, and an earlier decision.

    A requeued decision stands later in its topic than it belongs, so a newer decision overrides it. One about a text
    that the item no longer has is overridden, too.
    """
    standing, at = state[action.content_id], action.acted_at
    earlier = standing.decision
    if action.action_id in {one.action_id for one in (earlier, *standing.replaced) if one is not None}:
        return None  # followed before; anybody may have written it again
    if requeued and earlier is not None and at <= earlier.at:
        return None
    if not state.add_decision(action):
        return None
    by, why = action.by and made_plain(action.by), made_plain(action.why)
    text = action.content_sha256 or standing.content_sha256
    author = standing.author_id or action.author_id
    followed = msgspec.structs.replace(
        action,
        by=by,
        why=why,
        previous=standing.effective,
        content_sha256=text,
        sequence=sequence,
        author_id=author,
    )
    edited = text != standing.content_sha256 and came_later(action.origin, standing.origin) is False
    if edited and not action.any_text:
        return msgspec.structs.replace(followed, state="overridden", effective=standing.effective)
    cited = (action.cited_policy, action.rule_ids)
    decision = ModeratorDecision(
        *(action.action, action.action_id, at, by, why, text, action.any_text, *cited),
        earlier_texts=appeals.overturned_texts(action, standing, text),
    )
    if not edited:
        same = text == standing.content_sha256
        origin = newest_place(action.origin, standing.origin, same_text=same) or standing.origin
        standing = msgspec.structs.replace(standing, content_sha256=text, origin=origin)
    replaced = (((earlier,) if earlier else ()) + standing.replaced)[:MAX_REPLACED]
    standing = msgspec.structs.replace(standing, decision=decision, replaced=replaced, author_id=author)
    state.put(_with_effective(standing))
    return msgspec.structs.replace(followed, state="applied", effective=action.action)


def _withdrawn(action: Action, state: EnforcementState, sequence: int) -> Action | None:
    """The end of a moderator's decision, if it is still the last one.

    What the verdicts say stands again or, with `reinstates`, the decision that this one replaced. A decision that
    another one replaced meanwhile is over, too: no undo brings it back.
    """
    standing = state[action.content_id]
    if standing.decision is None or standing.decision.action_id != action.withdraws:
        others = tuple(one for one in standing.replaced if one.action_id != action.withdraws)
        state.put(msgspec.structs.replace(standing, replaced=others))
        return None
    replaced = standing.replaced if action.reinstates else ()
    before = replaced[0] if replaced else None
    after = _with_effective(msgspec.structs.replace(standing, decision=before, replaced=replaced[1:]))
    state.put(after)
    return msgspec.structs.replace(
        action,
        action=after.effective,
        by=action.by and made_plain(action.by),
        why=made_plain(action.why),
        state="applied",
        previous=standing.effective,
        effective=after.effective,
        content_sha256=standing.decision.content_sha256,
        sequence=sequence,
        author_id=standing.author_id or action.author_id,
    )


def _released(action: Action, state: EnforcementState, sequence: int, erased: Erased) -> Action | None:
    """The release of a held action, if that action still waits: a later verdict or decision replaces it.

    It is not released for a text that the moderator never saw, unless the moderator says so.
    """
    standing = state[action.content_id]
    policy = standing.policy(action.policy_id or "")
    if standing.in_force is not None or policy.held is None or policy.held.action_id != action.releases:
        return None
    if texts.is_outdated(policy.held, standing) and not action.any_text:
        return None
    released = msgspec.structs.replace(
        without_words(policy.held, erased),
        action_id=action.action_id,
        state="applied",
        previous=policy.action,
        acted_at=action.acted_at,
        by=action.by and made_plain(action.by),
        why=made_plain(action.why),
        releases=action.releases,
        any_text=action.any_text,
        alert=False,
        sequence=sequence,
        author_id=standing.author_id or policy.held.author_id,
    )
    after = _with_effective(_after(standing, released))
    state.put(after)
    return msgspec.structs.replace(released, effective=after.effective)


def _sent_again(action: Action, state: EnforcementState, sequence: int) -> Action | None:
    """An action that the receiver had not accepted, if what it says still stands; with its statement if that holds."""
    standing = state[action.content_id]
    if action.effective != standing.effective:
        return None
    holds = action.statement is not None and action.statement.statement_id == standing.statement
    return msgspec.structs.replace(action, sequence=sequence, statement=action.statement if holds else None)


def _told_again(action: Action, state: EnforcementState, sequence: int) -> Action | None:
    """What stands on an item of which somebody says that the receiver had not accepted an action, if it is that.

    The record may be anybody's. The agent repeats neither its words nor an outcome, nor its id, which a receiver may
    take for that of another message.
    """
    standing = state[action.content_id]
    if action.effective != standing.effective:
        return None
    again = appeals.unchanged(standing, verdict_id(action.action_id, str(sequence), "told again"), sequence)
    return msgspec.structs.replace(again, previous=action.previous, why="sent again")
