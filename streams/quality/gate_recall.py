"""The recall of a policy's gates on live traffic, estimated from samples and audits of the content that they let pass.

Caught content is counted: it is the violating verdicts on what the gates escalate. Missed content is estimated: a
violating item that the sample or the audit drew at rate r stands for 1/r items. Both draw from the same content, which
is why r is the rate of both together. The interval is that of `weighted`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime

import msgspec
import numpy as np

from safeguard_streams.bus import kafka
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Verdict
from safeguard_streams.errors import ConfigurationError, choices
from safeguard_streams.quality.verdict_labels import (
    Key,
    LabeledItem,
    Labels,
    decided,
    escalated_events,
    from_verdicts,
    is_reported,
)
from safeguard_streams.quality.weighted import Estimate, share, total
from safeguard_streams.runtime.settings import Settings

MAX_WIDTH = 0.5  # a wider interval is not informative
TARGETS = (0.90, 0.95, 0.99)
NO_LANGUAGE = "und"  # of items whose text is not at hand
LanguageOf = Callable[[str, str | None], str]
"""A text and its event's language tag to a language."""


class StratumRecall(msgspec.Struct, frozen=True):
    """One stratum of the content that the gates let pass.

    audited (by sample or audit) and violating are counts. items and missed are estimates for the stream, and low and
    high bound missed (95%).
    """

    name: str
    rate: float
    audited: int
    violating: int
    items: float
    missed: float
    low: float
    high: float


class RecallCost(msgspec.Struct, frozen=True):
    """The threshold that reaches a recall, and the share of content escalated with it.

    threshold is None where the gates reach the recall already.
    """

    recall: float
    threshold: float | None
    escalated: float


class ReportedItems(msgspec.Struct, frozen=True):
    """Reported texts that were judged, each once, apart from the estimates: a report is no random draw.

    missed: of the violating ones, those that the gates let pass.
    """

    judged: int = 0
    violating: int = 0
    missed: int = 0


class GateRecall(msgspec.Struct, frozen=True):
    """Recall with its 95% interval, low to high. recall is None where nothing was audited or nothing violates.

    caught and missed are violating items of the stream, both estimates where verdicts are undetermined. enough is False
    when the interval is too wide to be informative, and why then tells what to do. escalated is the share of content
    that the gates escalate now. left_out tells which verdicts were not used.
    """

    caught: float
    missed: float
    recall: float | None
    low: float
    high: float
    enough: bool
    why: str
    escalated: float
    strata: list[StratumRecall]
    costs: list[RecallCost]
    left_out: str = ""
    reported: ReportedItems = ReportedItems()


async def from_kafka(
    settings: Settings, policies: Sequence[str] | None = None, since: datetime | None = None
) -> dict[str, GateRecall]:
    """The recall of each of these policies, by default of all that the reasoner judged, from moderation.verdicts.

    since: when the oldest verdict to read was written; by default all. Raises ConfigurationError for a policy without
    verdicts.
    """
    verdicts, names = await _verdicts(settings, policies, since)
    return {
        name: msgspec.structs.replace(from_labels(from_verdicts(verdicts, name)), reported=reported(verdicts, name))
        for name in names
    }


async def by_language(
    settings: Settings, policies: Sequence[str] | None, since: datetime | None, language_of: LanguageOf
) -> dict[str, dict[str, GateRecall]]:
    """As from_kafka, by policy and language. Languages come in the order of their items, most first.

    An item whose escalation no longer exists, or that was erased, has no text: its language is und.
    """
    verdicts, names = await _verdicts(settings, policies, since)
    labels = {name: from_verdicts(verdicts, name) for name in names}
    keys = {row.key for of_policy in labels.values() for row in of_policy.rows}
    languages: dict[Key, str] = {}
    async for key, event in escalated_events(settings, keys):
        if key not in languages:
            languages[key] = language_of(event.text, event.language)
    return {name: _each_language(of_policy, languages) for name, of_policy in labels.items()}


def _each_language(labels: Labels, languages: Mapping[Key, str]) -> dict[str, GateRecall]:
    groups: dict[str, list[LabeledItem]] = {}
    for row in labels.rows:
        groups.setdefault(languages.get(row.key, NO_LANGUAGE), []).append(row)
    order = sorted(groups, key=lambda name: (-sum(row.weight for row in groups[name]), name))
    return {name: from_labels(msgspec.structs.replace(labels, rows=groups[name])) for name in order}


async def _verdicts(
    settings: Settings, policies: Sequence[str] | None, since: datetime | None
) -> tuple[list[Verdict], list[str]]:
    """All verdicts, and the policies to estimate for."""
    await kafka.wait_for_broker(settings, timeout=kafka.COMMAND_SECONDS)
    verdicts = [v async for _, v in kafka.read_decoded(settings, [topics.VERDICTS], Verdict, since=since)]
    judged = sorted({verdict.policy_id for verdict in verdicts if verdict.stage == "reasoner"})
    for name in policies or ():
        if name not in judged:
            raise ConfigurationError(f"the reasoner has judged nothing under {name!r} yet{choices(name, judged)}")
    return verdicts, list(policies or judged)


def reported(verdicts: Iterable[Verdict], policy_id: str) -> ReportedItems:
    """What the reasoner decided about texts that somebody reported, by the newest such verdict on each."""
    of_policy = [one for one in verdicts if one.policy_id == policy_id and one.lane == "live" and is_reported(one)]
    latest = {(one.content_id, one.content_sha256): one for one in sorted(of_policy, key=decided)}
    determined = [one for one in latest.values() if one.decision != "undetermined"]
    violating = [one for one in determined if one.decision == "violates"]
    missed = [one for one in violating if one.prefilter is not None and not one.prefilter.live]
    return ReportedItems(len(determined), len(violating), len(missed))


def from_labels(labels: Labels) -> GateRecall:
    """The recall of the gate that the labels are of, and what was left out."""
    return msgspec.structs.replace(estimate(labels.rows), left_out=labels.left_out)


def estimate(rows: Sequence[LabeledItem]) -> GateRecall:
    """Recall over the time that the verdicts cover. rows are one policy's, of the live and audit lanes."""
    caught_rows = [row for row in rows if not row.drawn]
    passed = [row for row in rows if row.drawn]
    caught, missed = _violating(caught_rows), _violating(passed)
    recall = share(caught, missed) if passed else None
    low, high = (recall.low, recall.high) if recall else (0.0, 1.0)
    why = _why_not_enough(caught.value, len(passed), high - low)
    live = sum(row.weight for row in caught_rows)
    everything = live + sum(row.weight for row in passed)
    return GateRecall(
        caught=caught.value,
        missed=missed.value,
        recall=recall.value if recall else None,
        low=low,
        high=high,
        enough=not why,
        why=why,
        escalated=live / everything if everything else 0.0,
        strata=[_stratum(group) for group in _strata(passed)],
        costs=_costs(caught.value, live, passed),
    )


def _violating(rows: Sequence[LabeledItem]) -> Estimate:
    """The number of violating items in the stream that these drawn ones stand for."""
    largest = max((row.weight for row in rows), default=0.0)
    return total([row.weight for row in rows if row.violates], largest, finite=True)


def _strata(passed: Iterable[LabeledItem]) -> list[list[LabeledItem]]:
    """Drawn items that share a stratum and a weight, in an order that equal verdicts always give."""
    groups: dict[tuple[str, float], list[LabeledItem]] = {}
    for row in passed:
        groups.setdefault((_stratum_name(row), row.weight), []).append(row)
    return [group for _, group in sorted(groups.items(), key=lambda item: item[0], reverse=True)]


def _stratum_name(row: LabeledItem) -> str:
    return (row.prefilter.stratum if row.prefilter else None) or ""


def _stratum(group: Sequence[LabeledItem]) -> StratumRecall:
    weight, missed = group[0].weight, _violating(group)
    return StratumRecall(
        name=_stratum_name(group[0]),
        rate=1 / weight,
        audited=len(group),
        violating=sum(row.violates for row in group),
        items=len(group) * weight,
        missed=missed.value,
        low=missed.low,
        high=missed.high,
    )


def _why_not_enough(caught: float, audited: int, width: float) -> str:
    if not audited:
        return "nothing was audited yet: wait, or raise SAFEGUARD_AUDIT_RATE_NEAR and SAFEGUARD_AUDIT_RATE_FAR"
    if not caught:
        return "nothing violating was caught yet, which leaves nothing to compare missed content with"
    if width > MAX_WIDTH:
        return "the sample is too small to be informative: wait for more audits, or raise the audit rates"
    return ""


def _costs(caught: float, live: float, passed: Sequence[LabeledItem]) -> list[RecallCost]:
    """Thresholds below the current one, from the scores of drawn content. Gates without scores have none.

    caught, live: violating items and all items that the gates escalate now.
    """
    scored = [row for row in passed if row.prefilter is not None and row.prefilter.score is not None]
    if not caught or not scored:
        return []
    scores = np.array([row.prefilter.score for row in scored if row.prefilter], dtype=float)
    order = np.argsort(-scores, kind="stable")
    scores = scores[order]
    weights = np.array([row.weight for row in scored])[order]
    reached = caught + np.cumsum(weights * np.array([row.violates for row in scored])[order])
    violating = caught + sum(row.weight for row in passed if row.violates)
    everything = live + sum(row.weight for row in passed)
    costs = []
    for target in TARGETS:
        if caught / violating >= target:
            costs.append(RecallCost(target, None, live / everything))
            continue
        enough = np.flatnonzero(reached / violating >= target - 1e-12)
        threshold = float(scores[enough[0]]) if len(enough) else 0.0
        if threshold > 0:  # 0 would escalate everything
            costs.append(RecallCost(target, threshold, (live + float(weights[scores >= threshold].sum())) / everything))
    return costs
