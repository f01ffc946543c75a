"""Promotes a replay: writes its changed decisions to moderation.verdicts, or takes them back.

Only content whose decision changes gets a superseding verdict. Content that was cleared before counts as safe. The new
version's decision counts even where its gate would not escalate the content, because the decision is known now.
Content that was judged again after the replay keeps its newer verdict. `pairs` holds the rule for each item, which the
diff shares.

The replay's record notes who began either, when and why, before the first verdict is written.

A plan is computed once, shown, and published as it was shown. Publishing fences any other writer, and reads what was
written since the plan was made. Items that were judged again since then are left out; none are added. A plan holds only
the verdicts that are missing, and publishing repeats none after a crash. It holds none of erased items.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import msgspec

from safeguard_streams.bus import kafka
from safeguard_streams.bus.interface import Output, Partition, Record
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import (
    Decision,
    Direction,
    Escalation,
    Publication,
    Replay,
    Replayed,
    Verdict,
    encode,
    now,
    schema_header,
)
from safeguard_streams.quality.proportions import Proportion, proportion
from safeguard_streams.releases.erasures import ErasureList, is_about_erased
from safeguard_streams.releases.operator import ChangedBy
from safeguard_streams.replay import jobs
from safeguard_streams.replay.pairs import COMPARED, JUDGED, Outcome, Pair, passed_on_at, superseding_id
from safeguard_streams.runtime.settings import Settings

if TYPE_CHECKING:
    from safeguard_streams.replay.diff_tables import DiffTables

CHUNK = 2000  # verdicts in one transaction
_VERDICT = schema_header(Verdict)


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
            verdict_id=superseding_id(self.after, "promote"),
            lane="live",
            decided_at=now(),
            supersedes=self.before.verdict_id if self.before else None,
        )

    @property
    def reverted(self) -> Verdict:
        """The superseding verdict that restores the one before; safe where the item was cleared."""
        restored = self.before or msgspec.structs.replace(
            self.after, decision="safe", rule_ids=(), score=None, confidence=None, reason=None, severity=None
        )
        return msgspec.structs.replace(
            restored,
            verdict_id=superseding_id(self.after, "revert"),
            lane="live",
            decided_at=now(),
            replay_id=self.after.replay_id,
            supersedes=superseding_id(self.after, "promote"),
        )


class PromotionPlan(msgspec.Struct, frozen=True):
    """The changes that promoting or reverting writes.

    compared: the number of compared items or, for a reversion, of those that were promoted. outcomes: what becomes of
    all items. pairs: what is known of the items that change. ends: where the verdicts' topics ended before the plan
    was made.
    """

    direction: Direction
    changes: list[VerdictChange]
    compared: int
    outcomes: Mapping[Outcome, int] = {}
    pairs: dict[str, Pair] = {}
    ends: dict[Partition, int] = {}

    @property
    def share(self) -> Proportion:
        """Changes as a share of what was compared."""
        return proportion(len(self.changes), self.compared)

    def count(self, decision: Decision) -> int:
        """Changes after which this decision stands."""
        return sum(change.result(self.direction).decision == decision for change in self.changes)


def decide(pairs: Iterable[Pair], direction: Direction) -> PromotionPlan:
    """The changes to write, from pairs that hold all verdicts."""
    outcomes: Counter[Outcome] = Counter()
    changes, promoted = [], 0
    for pair in pairs:
        outcomes[pair.outcome] += 1
        promoted += pair.promoted
        if pair.changes(direction) and pair.after is not None:
            changes.append(VerdictChange(pair.before, pair.after, pair.partition))
    compared = promoted if direction == "revert" else sum(outcomes[one] for one in COMPARED)
    return PromotionPlan(direction, changes, compared, outcomes)


def changing(loaded: DiffTables, policy: Replayed, direction: Direction) -> PromotionPlan:
    """The changes to write, from tables that hold all verdicts whole. Memory holds those items alone that change."""
    pairs: dict[str, Pair] = {}

    def each() -> Iterator[Pair]:
        for content_id, pair in loaded.pairs(policy):
            if pair.changes(direction):
                pairs[content_id] = pair
            yield pair

    decided = decide(each(), direction)
    loaded.complete(list(pairs.values()))
    return msgspec.structs.replace(decided, changes=decide(pairs.values(), direction).changes, pairs=pairs)


async def plan(settings: Settings, replay: Replay, policy: Replayed, direction: Direction) -> PromotionPlan:
    """Read the replay's verdicts, then all others on the same content, and decide what to write."""
    from safeguard_streams.replay.diff_tables import tables  # DuckDB, which other commands do without

    since = replay.created_at - jobs.CLOCK_SKEW
    erasures = ErasureList()
    await erasures.read(settings)
    wanted = replay.replay_id, policy.policy_id, policy.version
    with tables(whole=True) as loaded:
        async for _, escalation in kafka.read_decoded(settings, [topics.ESCALATIONS_REPLAY], Escalation, since=since):
            if _version(escalation) == wanted:
                loaded.escalated(escalation)
        async for record, verdict in kafka.read_decoded(settings, [topics.REPLAYS], Verdict, since=since):
            if _version(verdict) == wanted:
                loaded.replayed(verdict, erasures.erased, record.partition)
        ends = {place: end for topic in JUDGED for place, end in (await kafka.end_offsets(settings, topic)).items()}
        since_event = await jobs.first_event_at(settings, replay)
        async for _, verdict in kafka.read_decoded(settings, JUDGED, Verdict, since=since_event):
            loaded.judged(verdict)
        return msgspec.structs.replace(changing(loaded, policy, direction), ends=ends)


def _version(one: Escalation | Verdict) -> tuple[str | None, str, str]:
    return one.replay_id, one.policy_id, one.policy_version


async def _add(pairs: dict[str, Pair], verdicts: AsyncIterator[tuple[Record, Verdict]]) -> None:
    async for _, verdict in verdicts:
        if verdict.content_id in pairs:
            pairs[verdict.content_id].add(verdict, passed_on_at(verdict))


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
        await _add(planned.pairs, kafka.read_decoded(settings, JUDGED, Verdict, after=planned.ends))
        erasures = ErasureList()
        await erasures.read(settings)
        still = {change.after.content_id: change for change in decide(planned.pairs.values(), direction).changes}
        changes = [
            change
            for change in planned.changes
            if still.get(change.after.content_id) == change and not is_about_erased(change.after, erasures.erased)
        ]
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
