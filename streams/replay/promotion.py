"""Promotes a replay: writes its changed decisions to moderation.verdicts, or takes them back.

Only content whose decision changes gets a superseding verdict. Content that was cleared before counts as safe. The new
text's decision counts even where the new gate would not escalate the content, because the decision is known now.
Content that was judged again after the replay keeps its newer verdict. Of an edited item, only the newest text counts,
and only verdicts on that text. That an item has a newer text is known from verdicts under any policy, and from those
that cleared it.

The replay's record notes who began either, when and why, before the first verdict is written.

A plan is computed once, shown, and published as it was shown. Publishing fences any other writer, and reads what was
written since the plan was made. Items that were judged again since then are left out; none are added. A plan holds only
the verdicts that are missing, and publishing repeats none after a crash. It holds none of erased items.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from typing import NamedTuple

import msgspec

from safeguard_streams.bus import kafka
from safeguard_streams.bus.interface import Output, Partition, Record
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import (
    Decision,
    Direction,
    Publication,
    Replay,
    Replayed,
    Verdict,
    aware,
    came_later,
    encode,
    now,
    schema_header,
    verdict_id,
)
from safeguard_streams.quality.proportions import Proportion, proportion
from safeguard_streams.releases.erasures import ErasureList, is_about_erased
from safeguard_streams.releases.operator import ChangedBy
from safeguard_streams.replay import jobs
from safeguard_streams.runtime.settings import Settings

CHUNK = 2000  # verdicts in one transaction
_JUDGED = (topics.VERDICTS, topics.CLEARED)  # where every text that was decided about has a verdict
_VERDICT = schema_header(Verdict)


class ReplayedVerdict(NamedTuple):
    """A verdict of a replay and its place on moderation.replays."""

    partition: int
    offset: int
    verdict: Verdict


class VerdictChange(msgspec.Struct, frozen=True):
    """A content item whose decision changes. before is None where it was cleared. partition holds it on all topics."""

    before: Verdict | None
    after: Verdict
    partition: int

    def result(self, direction: Direction) -> Verdict:
        """The superseding verdict that a promotion or a reversion writes."""
        return self.promoted if direction == "promote" else self.reverted

    @property
    def promoted(self) -> Verdict:
        """The superseding verdict that promotes the replay's decision."""
        return msgspec.structs.replace(
            self.after,
            verdict_id=_id(self.after, "promote"),
            lane="live",
            decided_at=now(),
            supersedes=self.before.verdict_id if self.before else None,
        )

    @property
    def reverted(self) -> Verdict:
        """The superseding verdict that restores the one before; safe where the item was cleared."""
        restored = self.before or msgspec.structs.replace(
            self.after, decision="safe", rule_ids=(), score=None, confidence=None, reason=None
        )
        return msgspec.structs.replace(
            restored,
            verdict_id=_id(self.after, "revert"),
            lane="live",
            decided_at=now(),
            replay_id=self.after.replay_id,
            supersedes=_id(self.after, "promote"),
        )


class PromotionPlan(msgspec.Struct, frozen=True):
    """The changes that promoting or reverting writes.

    compared: the number of items whose earlier decision is known or, for a reversion, that were promoted. pairs: what
    is known of the items that change. ends: where the verdicts' topics ended before the plan was made.
    """

    direction: Direction
    changes: list[VerdictChange]
    compared: int
    pairs: dict[str, Pair] = {}
    ends: dict[Partition, int] = {}

    @property
    def share(self) -> Proportion:
        """Changes as a share of what was compared."""
        return proportion(len(self.changes), self.compared)

    def count(self, decision: Decision) -> int:
        """Changes after which this decision stands."""
        return sum(change.result(self.direction).decision == decision for change in self.changes)


class Pair:
    """A content item that a replay judged, and what moderation.verdicts holds about it under the same policy.

    after is the replay's verdict. before is the last verdict that stood before its promotion. last_id is the id of the
    newest verdict, and promoted tells whether the replay's verdict was ever promoted. All are about the text that the
    replay judged. edited: a later text was judged or cleared, under whatever policy.
    """

    __slots__ = ("after", "before", "edited", "last_id", "partition", "promote_id", "promoted", "revert_id")

    def __init__(self, partition: int, after: Verdict) -> None:
        self.partition = partition
        self.after = after
        self.promote_id = _id(after, "promote")
        self.revert_id = _id(after, "revert")
        self.before: Verdict | None = None
        self.last_id: str | None = None
        self.promoted = False
        self.edited = False

    def add(self, verdict: Verdict) -> None:
        """Take the next verdict on the item, in the order of the topic."""
        if verdict.content_sha256 != self.after.content_sha256:
            later = came_later(verdict.origin, self.after.origin)
            self.edited |= _is_newer(verdict, self.after) if later is None else later
            return
        if verdict.policy_id != self.after.policy_id:
            return
        self.last_id = verdict.verdict_id
        if verdict.verdict_id == self.promote_id:
            self.promoted = True
        elif verdict.verdict_id != self.revert_id and not self.promoted:
            self.before = verdict

    @property
    def compared(self) -> bool:
        """Whether the decision before is known. It is not where the item was escalated and its verdict is gone."""
        result = self.after.prefilter
        return self.before is not None or result is None or not result.live

    @property
    def to_promote(self) -> bool:
        """Whether the replay's decision is to be promoted: it differs, none is newer, and it was not promoted yet."""
        if self.edited:
            return False
        before = "safe" if self.before is None else self.before.decision
        newer = self.before is not None and _is_newer(self.before, self.after)
        return self.compared and self.after.decision not in (before, "undetermined") and not newer and not self.promoted

    @property
    def to_revert(self) -> bool:
        """Whether the promoted verdict is still the newest."""
        return self.last_id == self.promote_id and not self.edited

    @property
    def change(self) -> VerdictChange:
        """What promoting the item changes, or what reverting it restores."""
        return VerdictChange(self.before, self.after, self.partition)


def _is_newer(verdict: Verdict, than: Verdict) -> bool:
    return aware(verdict.decided_at) > aware(than.decided_at)


def pair_up(replayed: Iterable[ReplayedVerdict]) -> dict[str, Pair]:
    """A pair for each replayed content item, by content id and in the order of the topic.

    The last verdict on the newest text counts.
    """
    last: dict[str, ReplayedVerdict] = {}
    for one in replayed:
        known = last.get(one.verdict.content_id)
        if known is None or not came_later(known.verdict.origin, one.verdict.origin):
            last[one.verdict.content_id] = one
    return {one.verdict.content_id: Pair(one.partition, one.verdict) for one in sorted(last.values(), key=_place)}


def _place(replayed: ReplayedVerdict) -> tuple[int, int]:
    return replayed.partition, replayed.offset


def decide(pairs: Iterable[Pair], direction: Direction) -> PromotionPlan:
    """The changes to write, from pairs that hold all verdicts."""
    if direction == "revert":
        promoted = [pair for pair in pairs if pair.promoted]
        return PromotionPlan(direction, [pair.change for pair in promoted if pair.to_revert], len(promoted))
    compared = [pair for pair in pairs if pair.compared]
    return PromotionPlan(direction, [pair.change for pair in compared if pair.to_promote], len(compared))


def _id(verdict: Verdict, direction: Direction) -> str:
    return verdict_id(verdict.verdict_id, direction)


async def plan(settings: Settings, replay: Replay, policy: Replayed, direction: Direction) -> PromotionPlan:
    """Read the replay's verdicts, then all others on the same content, and decide what to write."""
    replayed = []
    since = replay.created_at - jobs.CLOCK_SKEW
    erasures = ErasureList()
    await erasures.read(settings)
    async for record, verdict in kafka.read_decoded(settings, [topics.REPLAYS], Verdict, since=since):
        version = verdict.replay_id, verdict.policy_id, verdict.policy_version
        of_replay = version == (replay.replay_id, policy.policy_id, policy.version)
        if of_replay and not is_about_erased(verdict, erasures.erased):
            replayed.append(ReplayedVerdict(record.partition, record.offset, verdict))
    pairs = pair_up(replayed)
    ends = {place: end for topic in _JUDGED for place, end in (await kafka.end_offsets(settings, topic)).items()}
    since_event = await jobs.first_event_at(settings, replay)
    await _add(pairs, kafka.read_decoded(settings, _JUDGED, Verdict, since=since_event))
    decided = decide(pairs.values(), direction)
    changing = {change.after.content_id: pairs[change.after.content_id] for change in decided.changes}
    return msgspec.structs.replace(decided, pairs=changing, ends=ends)


async def _add(pairs: dict[str, Pair], verdicts: AsyncIterator[tuple[Record, Verdict]]) -> None:
    async for _, verdict in verdicts:
        if verdict.content_id in pairs:
            pairs[verdict.content_id].add(verdict)


async def publish(
    settings: Settings,
    replay: Replay,
    policy: Replayed,
    planned: PromotionPlan,
    changed_by: ChangedBy,
    on_progress: Callable[[int, int], None] = lambda done, of: None,
) -> int:
    """Note who publishes a plan and why, write its superseding verdicts, and return their number.

    Items that were judged, promoted, reverted or erased since the plan was made are left as they are. on_progress gets
    how many are written, and of how many.
    """
    direction = planned.direction
    async with kafka.exclusive_writer(settings, f"promote-{replay.replay_id}") as write:
        await _add(planned.pairs, kafka.read_decoded(settings, _JUDGED, Verdict, after=planned.ends))
        erasures = ErasureList()
        await erasures.read(settings)
        kept = [pair for pair in planned.pairs.values() if not is_about_erased(pair.after, erasures.erased)]
        still = {change.after.content_id: change for change in decide(kept, direction).changes}
        changes = [change for change in planned.changes if still.get(change.after.content_id) == change]
        if changes:
            who = Publication(direction, policy.policy_id, now(), changed_by.by, changed_by.why, len(changes))
            await jobs.note(settings, replay, who)
        for start in range(0, len(changes), CHUNK):
            chunk = changes[start : start + CHUNK]
            await write([_output(change, direction) for change in chunk], [change.partition for change in chunk])
            on_progress(start + len(chunk), len(changes))
    return len(changes)


def _output(change: VerdictChange, direction: Direction) -> Output:
    verdict = change.result(direction)
    return Output(topics.VERDICTS, verdict.content_id.encode(), encode(verdict), [_VERDICT])
