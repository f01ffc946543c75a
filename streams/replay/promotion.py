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
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

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
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.quality.proportions import Proportion, proportion
from safeguard_streams.releases.erasures import ErasureList, is_about_erased
from safeguard_streams.releases.operator import ChangedBy
from safeguard_streams.replay import jobs
from safeguard_streams.replay.pairs import COMPARED, JUDGED, Outcome, Pair, passed_on_at, superseding_id
from safeguard_streams.replay.status import ReplayStatus, statuses
from safeguard_streams.runtime.settings import Settings

if TYPE_CHECKING:
    from safeguard_streams.replay.diff_tables import DiffTables

CHUNK = 2000  # verdicts in one transaction
BUDGET = 0.05  # share of the compared items that may flip, unless an operator says otherwise
LEFT_OUT: dict[Outcome, str] = {
    "edited": "because a newer text was judged or cleared since",
    "judged_since": "because of a newer verdict",
    "undetermined": "because the replay reached no decision",
    "unknown": "because the earlier verdict no longer exists",
    "erased": "because of an erasure",
}
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

    def only(self, judgements: Collection[str]) -> PromotionPlan:
        """The same plan for these verdicts of the replay alone, by their ids."""
        kept = [change for change in self.changes if change.after.verdict_id in judgements]
        return msgspec.structs.replace(self, changes=kept)

    def require_within(self, budget: float, replay_id: str) -> None:
        """Raise ConfigurationError if more than this share of the compared items would flip."""
        flips = self.share.value
        if flips is not None and flips > budget:
            raise ConfigurationError(
                f"{flips:.1%} of the compared items would flip, more than the budget of {budget:.1%}: check "
                f"safeguard replay diff {replay_id}, and raise --budget if this is intended"
            )


class Prepared(NamedTuple):
    """A plan for a policy of a replay, and the replay's status when it was made."""

    status: ReplayStatus
    policy: Replayed
    plan: PromotionPlan

    @property
    def figures(self) -> dict[str, int]:
        """What the plan would do, in words for people."""
        plan, counts = self.plan, self.status.counts
        again = "" if plan.direction == "promote" else " again"
        lines = {
            f"content items that become violating{again}": plan.count("violates"),
            f"content items that become safe{again}": plan.count("safe"),
        }
        if plan.direction == "promote":
            lines["content items compared"] = plan.compared
            lines |= {
                f"left out, {why}": count for outcome, why in LEFT_OUT.items() if (count := plan.outcomes.get(outcome))
            }
            lines["judgements still to come, to be promoted later"] = counts.escalated - counts.done
        else:
            lines["content items that become undetermined again"] = plan.count("undetermined")
            lines["content items that were promoted"] = plan.compared
            lines["of these, reverted already or judged again since"] = plan.compared - len(plan.changes)
        return lines


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


async def prepare(settings: Settings, replay_id: str, policy_id: str | None, direction: Direction) -> Prepared:
    """Plan for the named policy of a replay, or its only one.

    Raises ConfigurationError where there is none, or the replay's items are not all escalated.
    """
    replay = await jobs.find(settings, replay_id)
    policy = jobs.policy_of(replay, policy_id)
    if replay.state != "escalated":
        raise ConfigurationError(_not_publishable(replay))
    (status,) = await statuses(settings, replay.replay_id)
    return Prepared(status, policy, await plan(settings, replay, policy, direction))


def _not_publishable(replay: Replay) -> str:
    """Why a replay's verdicts cannot be promoted or reverted, and what to do."""
    name = replay.replay_id
    if replay.state == "cancelled":
        return f"replay {name} is cancelled: start another one"
    if replay.state == "paused":
        return f"replay {name} is paused: resume it first, with: safeguard replay resume {name}"
    return f"replay {name} is escalating: wait until it ends, or continue it with: safeguard replay resume {name}"


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
