"""Verdicts of a year by policy, with the recall that audits show."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Container, Iterator
from functools import cache
from typing import Any

import msgspec

from safeguard_streams.contract.records import PrefilterResult, Verdict
from safeguard_streams.exporting.transparency.notices import Judgement
from safeguard_streams.exporting.transparency.source import Source
from safeguard_streams.quality.gate_recall import estimate
from safeguard_streams.quality.verdict_labels import DRAWS, from_verdicts, is_reported

_COLUMNS = (
    *("verdict_id", "content_id", "content_sha256", "policy_id", "policy_version", "decision", "stage", "lane"),
    *("decided_at", "prefilter"),
)


class RecallEstimate(msgspec.Struct, frozen=True):
    """Share of violating items that the gates escalated, 0 to 1, with its 95% interval.

    audited: items that the gates had let pass, and that were judged to find what they miss. recall is None where no
    item was audited, or none violates. enough: whether the interval is narrow enough to say anything.
    """

    recall: float | None
    low: float
    high: float
    audited: int
    enough: bool


class Verdicts(msgspec.Struct, frozen=True):
    """The verdicts of a year. decisions: numbers by policy and decision, of live and audited items.

    judgements: by wanted item, the last verdict under each policy that a report led to, whatever the year.
    """

    decisions: dict[str, Counter[str]]
    recall: dict[str, RecallEstimate]
    judgements: dict[str, list[Judgement]]


def read_verdicts(source: Source, year: int, reported: Container[str]) -> Verdicts:
    """Read the verdicts once. A verdict that was written twice counts once. reported: the wanted items."""
    decisions: dict[str, Counter[str]] = {}
    judged: dict[str, list[Verdict]] = {}
    by_report: dict[str, dict[str, Verdict]] = {}
    for one in _once(source):
        if one.content_id in reported and is_reported(one):
            of_item = by_report.setdefault(one.content_id, {})
            if one.policy_id not in of_item or of_item[one.policy_id].decided_at <= one.decided_at:
                of_item[one.policy_id] = one
        if one.decided_at.year == year:
            decisions.setdefault(one.policy_id, Counter())[one.decision] += 1
            judged.setdefault(one.policy_id, []).append(one)
    return Verdicts(
        decisions,
        {policy: _recall(verdicts, policy) for policy, verdicts in judged.items()},
        {
            content_id: [Judgement(one.decided_at, one.decision) for one in of_item.values()]
            for content_id, of_item in by_report.items()
        },
    )


def _once(source: Source) -> Iterator[Verdict]:
    """The reasoner's verdicts on live and audited items, each verdict_id once."""
    seen: set[str] = set()
    for row in source.rows("verdicts", _COLUMNS):
        if row["stage"] == "reasoner" and row["lane"] in {"live", "audit"} and row["verdict_id"] not in seen:
            seen.add(row["verdict_id"])
            shared = {name: sys.intern(row[name]) for name in ("policy_id", "policy_version")}
            yield msgspec.convert({**row, **shared, "model": "", "prefilter": _prefilter(row["prefilter"])}, Verdict)


@cache
def _of_gate(gate: str) -> PrefilterResult:
    return PrefilterResult(gate)


def _prefilter(stored: dict[str, Any] | None) -> PrefilterResult | None:
    """What an estimate reads of why an item was escalated: of one that was not drawn, its gate. Millions share it."""
    if stored is None:
        return None
    if stored["gate"] not in DRAWS:
        return _of_gate(stored["gate"])
    return PrefilterResult(
        stored["gate"],
        score=stored["score"],
        threshold=stored["threshold"],
        rate=stored["rate"],
        stratum=stored["stratum"],
        fingerprint=stored["fingerprint"] and sys.intern(stored["fingerprint"]),
    )


def _recall(verdicts: list[Verdict], policy_id: str) -> RecallEstimate:
    """The recall under all versions of the year and with all gates, each of which its own audits are about."""
    versions = {one.policy_version for one in verdicts}
    labels = from_verdicts(verdicts, policy_id, versions, one_gate=False)
    found = estimate(labels.rows)
    audited = sum(row.drawn for row in labels.rows)
    return RecallEstimate(found.recall, found.low, found.high, audited, found.enough)
