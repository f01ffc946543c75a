"""Making a replay's flips count: superseding verdicts on moderation.verdicts, and taking them back.

Only content whose decision changes gets one; content that was cleared before counts as safe. What the new text says of a
content decides, also where the new gate would not send it to the model: it is known now. Content that was judged again since
is left alone.

What is written already is read from the topic itself, after any other writer was fenced: whatever is killed, running it
again writes what is missing and nothing twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from safeguard_streams.bus import kafka
from safeguard_streams.bus.interface import Output
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Replay, Replayed, Verdict, decode, encode, now, schema_header, verdict_id
from safeguard_streams.quality.proportions import Proportion, proportion
from safeguard_streams.runtime.settings import Settings

CHUNK = 2000  # verdicts in one transaction
_VERDICT = schema_header(Verdict)
Way = Literal["promote", "revert"]


class Change(msgspec.Struct, frozen=True):
    """A content that flips: its verdict before, if it had one, the replay's, and the partition that holds what is said of it."""

    before: Verdict | None
    after: Verdict
    partition: int

    @property
    def promoted(self) -> Verdict:
        """The verdict that makes the replay's decision count."""
        return msgspec.structs.replace(
            self.after,
            verdict_id=_id(self.after, "promote"),
            lane="live",
            decided_at=now(),
            supersedes=self.before.verdict_id if self.before else None,
        )

    @property
    def reverted(self) -> Verdict:
        """The verdict that takes the promoted one back: what stood before, or that it is safe where it was cleared."""
        stood = self.before or msgspec.structs.replace(
            self.after, decision="safe", rule_ids=(), score=None, confidence=None, reason=None
        )
        return msgspec.structs.replace(
            stood,
            verdict_id=_id(self.after, "revert"),
            lane="live",
            decided_at=now(),
            replay_id=self.after.replay_id,
            supersedes=_id(self.after, "promote"),
        )


class Plan(msgspec.Struct, frozen=True):
    """What promoting or reverting would write, and how many contents were compared for it."""

    changes: list[Change]
    compared: int

    @property
    def share(self) -> Proportion:
        """Flips of what was compared."""
        return proportion(len(self.changes), self.compared)

    def count(self, decision: str) -> int:
        """Flips to a decision."""
        return sum(change.after.decision == decision for change in self.changes)


def _id(verdict: Verdict, way: Way) -> str:
    return verdict_id(verdict.verdict_id, way)


async def plan(settings: Settings, replay: Replay, policy: Replayed, way: Way) -> Plan:
    """Read the replay's verdicts and all others on the same content, and choose what is to be written now."""
    after: dict[str, tuple[int, int, Verdict]] = {}
    async for record in kafka.read_all(settings, [topics.REPLAYS]):
        verdict = decode(record.value, Verdict)
        mine = (verdict.replay_id, verdict.policy_id) == (replay.replay_id, policy.policy_id)
        if mine and verdict.policy_version == policy.version:
            after[verdict.content_id] = record.partition, record.offset, verdict
    promoted = {_id(verdict, "promote") for _, _, verdict in after.values()}
    reverted = {_id(verdict, "revert") for _, _, verdict in after.values()}
    before: dict[str, Verdict] = {}
    last: dict[str, str] = {}
    there: set[str] = set()
    async for record in kafka.read_all(settings, [topics.VERDICTS]):
        verdict = decode(record.value, Verdict)
        content = verdict.content_id
        if verdict.policy_id != policy.policy_id or content not in after:
            continue
        last[content] = verdict.verdict_id
        if verdict.verdict_id in promoted | reverted:
            there.add(verdict.verdict_id)
        elif _id(after[content][2], "promote") not in there:
            before[content] = verdict
    changes, compared = [], 0
    for content, (partition, _, verdict) in sorted(after.items(), key=lambda item: item[1][:2]):
        known = before.get(content)
        change = Change(known, verdict, partition)
        if way == "revert":
            # Only where the promoted verdict still is the last word.
            if last.get(content) == _id(verdict, "promote"):
                changes.append(change)
            compared += _id(verdict, "promote") in there
            continue
        if known is None and verdict.prefilter is not None and verdict.prefilter.live:
            continue  # it had a verdict, which is not there: nothing is known to change
        compared += 1
        newer = known is not None and known.decided_at > verdict.decided_at
        decision = known.decision if known else "safe"
        flips = verdict.decision not in (decision, "undetermined")
        if flips and not newer and _id(verdict, "promote") not in there:
            changes.append(change)
    return Plan(changes, compared)


async def publish(
    settings: Settings,
    replay: Replay,
    policy: Replayed,
    way: Way,
    on_progress: Callable[[int, int], None] = lambda done, of: None,
) -> int:
    """Write the superseding verdicts that are not there yet; returns how many. told gets how many are written, of how many."""
    async with kafka.exclusive_writer(settings, f"promote-{replay.replay_id}") as write:
        changes = (await plan(settings, replay, policy, way)).changes
        for start in range(0, len(changes), CHUNK):
            chunk = changes[start : start + CHUNK]
            await write([_output(change, way) for change in chunk], [change.partition for change in chunk])
            on_progress(start + len(chunk), len(changes))
    return len(changes)


def _output(change: Change, way: Way) -> Output:
    verdict = change.promoted if way == "promote" else change.reverted
    return Output(topics.VERDICTS, verdict.content_id.encode(), encode(verdict), [_VERDICT])


def preview(found: Plan) -> Sequence[tuple[str, int]]:
    """Numbers for whoever has to confirm."""
    return [
        ("content that becomes violating", found.count("violates")),
        ("content that becomes safe", found.count("safe")),
        ("content compared", found.compared),
    ]
