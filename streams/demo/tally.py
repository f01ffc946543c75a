"""Counts the answers to published events: totals, latencies, and what is unanswered or duplicated."""

from __future__ import annotations

import hashlib
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

from safeguard_streams.bus.interface import Record
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import DeadLetter, Escalation, Rationale, Verdict, VerdictLane, decode
from safeguard_streams.errors import RecordError


def percentile(values: Iterable[float], share: float) -> float | None:
    """The value below which `share` (0 to 1) of the values lie, by nearest rank; None when there are no values."""
    ordered = sorted(values)
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 1) if ordered else None


def _digest(value: bytes) -> bytes:
    return hashlib.sha256(value).digest()


def _escalated_live(escalated: Counter[tuple[str, VerdictLane]]) -> int:
    """How often an event was escalated instead of cleared; an audited event was cleared."""
    return max((count for (_, lane), count in escalated.items() if lane == "live"), default=0)


class Tally:
    """Counts the records of one run, by key.

    The answer to an event is one cleared verdict, or one verdict for each policy that escalated it. Each audit adds a
    verdict. The answer to a line that is not a valid event is its dead letter.
    """

    def __init__(self) -> None:
        self.published = 0
        self.topics: Counter[str] = Counter()
        self.verdicts: list[Verdict] = []
        self.rationales: dict[str, Rationale] = {}  # by verdict_id
        self.repeated = 0  # records whose verdict_id was read before, which consumers drop
        self.latency: dict[str, list[float]] = {"cleared": [], "judged": []}
        self._lines: Counter[bytes | None] = Counter()
        self._lines_by_digest: dict[bytes, bytes | None] = {}
        self._sent: dict[bytes | None, float] = {}
        self._dead: Counter[bytes | None] = Counter()
        self._cleared: Counter[bytes | None] = Counter()
        # By key: counts by policy and lane.
        self._escalated: dict[bytes | None, Counter[tuple[str, VerdictLane]]] = defaultdict(Counter)
        self._judged: dict[bytes | None, Counter[tuple[str, VerdictLane]]] = defaultdict(Counter)
        self.dead_letters: list[DeadLetter] = []
        self._verdict_ids: set[str] = set()

    def sent(self, key: bytes | None, line: bytes) -> None:
        """Record that a line was handed to the broker now."""
        self.published += 1
        self._lines[key] += 1
        self._lines_by_digest[_digest(line)] = key
        self._sent[key] = time.monotonic()

    def take(self, topic: str, record: Record) -> None:
        """Count a record read from `topic` (without prefix); records of other runs are ignored."""
        try:
            if topic == topics.DEAD_LETTERS:
                self._take_dead_letter(record)
            elif topic == topics.RATIONALES:
                self._take_rationale(record)
            elif record.key in self._lines:
                self._take_answer(topic, record)
        except RecordError:
            self.topics["unreadable"] += 1

    def _take_answer(self, topic: str, record: Record) -> None:
        self.topics[topic] += 1
        if topic == topics.CLEARED:
            self._cleared[record.key] += 1
            self._answered("cleared", record.key, decode(record.value, Verdict))
        elif topic in {topics.ESCALATIONS, topics.ESCALATIONS_AUDIT}:
            escalation = decode(record.value, Escalation)
            self._escalated[record.key][escalation.policy_id, escalation.lane] += 1
        elif topic == topics.VERDICTS:
            verdict = decode(record.value, Verdict)
            self.verdicts.append(verdict)
            self._judged[record.key][verdict.policy_id, verdict.lane] += 1
            self._answered("judged", record.key, verdict)

    def _take_rationale(self, record: Record) -> None:
        rationale = decode(record.value, Rationale)
        if rationale.content_id.encode() in self._lines:
            self.topics[topics.RATIONALES] += 1
            self.rationales[rationale.verdict_id] = rationale

    def _take_dead_letter(self, record: Record) -> None:
        letter = decode(record.value, DeadLetter)
        value = letter.original()[1]
        if value is not None and _digest(value) in self._lines_by_digest:
            self._dead[self._lines_by_digest[_digest(value)]] += 1
            self.topics[topics.DEAD_LETTERS] += 1
            self.dead_letters.append(letter)

    def _answered(self, kind: str, key: bytes | None, verdict: Verdict) -> None:
        self.latency[kind].append((time.monotonic() - self._sent[key]) * 1000)
        self.repeated += verdict.verdict_id in self._verdict_ids
        self._verdict_ids.add(verdict.verdict_id)

    def unanswered(self) -> int:
        """The number of lines without a complete answer."""
        missing = 0
        for key, lines in self._lines.items():
            escalated, judged = self._escalated[key], self._judged[key]
            undecided = lines - self._dead[key] - self._cleared[key] - _escalated_live(escalated)
            unjudged = max((count - judged[question] for question, count in escalated.items()), default=0)
            missing += max(0, undecided) + max(0, unjudged)
        return missing

    def duplicates(self) -> int:
        """The number of answers beyond one for each event, or for each of its escalations."""
        extra = 0
        for key, lines in self._lines.items():
            escalated, judged = self._escalated[key], self._judged[key]
            extra += max(0, self._dead[key] + self._cleared[key] + _escalated_live(escalated) - lines)
            extra += sum(max(0, count - escalated[question]) for question, count in judged.items())
        return extra

    @property
    def escalated_events(self) -> int:
        return sum(1 for escalated in self._escalated.values() if _escalated_live(escalated))

    def by_policy(self) -> dict[str, Counter[str]]:
        """Decisions counted by policy."""
        table: dict[str, Counter[str]] = defaultdict(Counter)
        for verdict in self.verdicts:
            table[verdict.policy_id][verdict.decision] += 1
        return dict(sorted(table.items()))

    def summary(self) -> dict[str, Any]:
        """The figures of the run; latency in ms, from publishing an event to reading its answer."""
        return {
            "published": self.published,
            "cleared": self.topics[topics.CLEARED],
            "escalated": self.escalated_events,
            "escalations": self.topics[topics.ESCALATIONS],
            "audited": self.topics[topics.ESCALATIONS_AUDIT],
            "verdicts": self.topics[topics.VERDICTS],
            "undetermined": sum(v.decision == "undetermined" for v in self.verdicts),
            "dead_letters": self.topics[topics.DEAD_LETTERS],
            "unanswered": self.unanswered(),
            "duplicates": self.duplicates(),
            "repeated": self.repeated,
            "by_policy": {policy: dict(counts) for policy, counts in self.by_policy().items()},
            "latency_ms": {
                kind: {"p50": percentile(values, 0.5), "p99": percentile(values, 0.99)}
                for kind, values in self.latency.items()
            },
        }
