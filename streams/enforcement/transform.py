"""The transform of the agent: verdicts, moderators' records and appeals, in order, to actions and what stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from safeguard_streams.bus.dead_letters import dead_letter, was_requeued
from safeguard_streams.bus.interface import Output, Partition, Record
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import (
    Action,
    ContentEvent,
    EnforcementInput,
    Standing,
    Verdict,
    carried,
    decode,
    encode,
    now,
    schema_header,
)
from safeguard_streams.enforcement import appeal_inputs, appeals, moderator_actions, referrals, strikes
from safeguard_streams.enforcement.known_authors import StrikesOf, unknown
from safeguard_streams.enforcement.moderator_actions import received, sent_again, told_again
from safeguard_streams.enforcement.referrals import Evidence, no_evidence
from safeguard_streams.enforcement.rules import EnforcementRules
from safeguard_streams.enforcement.signing import Signer
from safeguard_streams.enforcement.stages import ACTING
from safeguard_streams.enforcement.standing import is_known
from safeguard_streams.enforcement.state import EnforcementState, RestoreState
from safeguard_streams.enforcement.statements import Statements
from safeguard_streams.enforcement.verdict_actions import VerdictActions
from safeguard_streams.errors import RecordError
from safeguard_streams.releases.erasures import Erased, never, standing_without_words, without_words
from safeguard_streams.releases.texts import TextPlace

MAX_FORGOTTEN = 100  # items that are forgotten after a batch
_ACTION, _STANDING = schema_header(Action), schema_header(Standing)


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
        self._dry_run = dry_run
        self._erased, self._evidence, strikes_of = lookups
        self._verdicts = VerdictActions(rules, partitions, strikes_of, dry_run=dry_run)
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
            was_sent_again = one.action is not None and one.action.sequence is not None  # and was followed before
            if why := appeal_inputs.objection(one, before):
                outputs.append(dead_letter(record, RecordError("action", why), stage=ACTING, attempts=1))
                actions = self._not_followed(one, before, record.offset, why)
            else:
                actions = self._followed_with_appeals(one, state, record)
                actions = actions if was_sent_again else self._graded(actions)
            outputs += self._referred(one, actions, state, evidence)
            if not was_sent_again:
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

    def _decoded(self, record: Record) -> EnforcementInput:
        if self._dry_run:
            return EnforcementInput(verdict=decode(record.value, Verdict))
        one = decode(record.value, EnforcementInput)
        if one.verdict is None and one.action is None and one.appeal is None:
            raise RecordError("record", "has neither a verdict nor an action; write decisions to moderation.actions")
        return one

    async def _prepare(self, inputs: Sequence[EnforcementInput], state: EnforcementState) -> None:
        """Learn the words of the policies that statements may need, before anything counts as seen."""
        if self._statements is not None:
            await self._statements.prepare(inputs, [state[_content_id(one)] for one in inputs])

    async def _texts_to_refer(self, inputs: Sequence[EnforcementInput]) -> Mapping[TextPlace, ContentEvent]:
        """The texts that rules may refer. They are read before anything is followed: a failure then changes nothing."""
        wanted = [] if self._dry_run else referrals.places(self.rules, [one.verdict for one in inputs if one.verdict])
        return await self._evidence(wanted) if wanted else {}

    def _known(self, content_id: str, state: EnforcementState) -> Standing:
        """What stands on an item as it was written, also after an erasure that came since then."""
        standing = state[content_id]
        written = standing_without_words(standing, self._erased)
        if written != standing:
            state.put(written)
        return written

    def _unseen(self, one: EnforcementInput, state: EnforcementState) -> Verdict | None:
        """The verdict of an input, if there is one that was not followed before."""
        verdict = one.verdict
        if verdict is None or verdict.verdict_id in state.seen_verdicts or is_known(verdict, state[verdict.content_id]):
            return None
        return verdict

    def _not_followed(self, one: EnforcementInput, standing: Standing, sequence: int, why: str) -> Sequence[Action]:
        assert one.action is not None
        return [appeal_inputs.not_followed(received(one.action, self._erased), standing, sequence, why)]

    def _followed_with_appeals(
        self, one: EnforcementInput, state: EnforcementState, record: Record
    ) -> Sequence[Action]:
        """The actions that follow an input, and the ends of appeals. The state includes them on return."""
        actions = self._followed(one, state, record)
        before = state[_content_id(one)]
        if self._dry_run:
            return actions
        standing, ended = appeal_inputs.followed(one, actions, before, self.rules.appeals.days, record.offset)
        if standing != before:
            state.put(standing)
        return [*actions, *ended]

    def _graded(self, actions: Sequence[Action]) -> Sequence[Action]:
        """The actions, those of moderators with the severity of what these cite, for the strikes that follow."""
        return actions if self._statements is None else [self._statements.graded(action) for action in actions]

    def _followed(self, one: EnforcementInput, state: EnforcementState, record: Record) -> Sequence[Action]:
        """The actions that follow an input. The state includes them on return."""
        if one.verdict is not None:
            return self._verdicts.follow(without_words(one.verdict, self._erased), state, record)
        if one.action is None:
            return []
        action = received(one.action, self._erased)
        if action.sequence is not None:
            again = sent_again if self._own(one.action, record) else told_again
            followed = again(action, state, record.offset)
        else:
            # Its dead letter is that of moderation.actions, or of moderation.enforcement if it was not followed.
            requeued = one.requeued or was_requeued(record)
            followed = moderator_actions.followed(action, state, record.offset, self._erased, requeued=requeued)
        return [followed] if followed is not None else []

    def _own(self, action: Action, record: Record) -> bool:
        """Whether an agent wrote an action that is to be sent again, exactly as it is now."""
        return self._signer is not None and self._signer.signed(record.partition, encode(action), record.headers)

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

    def _standings(self, changed: set[str], partition: int) -> list[Output]:
        """What stands now on the items that changed, and tombstones for those on which nothing does."""
        outputs = []
        for content_id in sorted(changed):
            standing = standing_without_words(self.states[partition][content_id], self._erased)
            value = None if standing.empty else encode(standing)
            outputs.append(Output(topics.STANDING, content_id.encode(), value, [_STANDING]))
        return outputs


def _content_id(one: EnforcementInput) -> str:
    """The id of the item that an input is about."""
    about = one.verdict or one.action or one.appeal
    assert about is not None
    return about.content_id
