"""The recall of a policy's gates on live traffic, estimated from audits of the content that they let pass.

Caught content is counted: it is the violating verdicts of the live lane. Missed content is estimated: a violating audit
verdict drawn at rate r stands for 1/r content items. The number drawn in a stratum is Poisson around rate times missed.
Its uncertainty is that of a Poisson mean under Jeffreys' prior, which is drawn for each stratum separately and added
up.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from safeguard_streams.bus import kafka
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Verdict, decode
from safeguard_streams.quality.verdict_labels import LabeledItem, from_verdicts
from safeguard_streams.runtime.settings import Settings

DRAWS = 20_000
MAX_WIDTH = 0.5  # a wider interval is not informative
TARGETS = (0.90, 0.95, 0.99)


class StratumRecall(msgspec.Struct, frozen=True):
    """One stratum of the content that the gates let pass.

    audited and violating are counts. items and missed are estimates for the stream, and low and high bound missed
    (95%).
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


class GateRecall(msgspec.Struct, frozen=True):
    """Recall with its 95% interval, low to high. recall is None where nothing was audited or nothing violates.

    enough is False when the interval is too wide to be informative, and why then tells what to do. escalated is the
    share of content that the gates escalate now.
    """

    caught: int
    missed: float
    recall: float | None
    low: float
    high: float
    enough: bool
    why: str
    escalated: float
    strata: list[StratumRecall]
    costs: list[RecallCost]


async def from_kafka(settings: Settings, policies: Sequence[str] | None = None) -> dict[str, GateRecall]:
    """The recall of each of these policies, by default of all that the reasoner judged, from moderation.verdicts."""
    await kafka.wait_for_broker(settings, timeout=10)
    verdicts = [decode(record.value, Verdict) async for record in kafka.read_all(settings, [topics.VERDICTS])]
    names = policies or sorted({verdict.policy_id for verdict in verdicts if verdict.stage == "reasoner"})
    return {name: estimate(from_verdicts(verdicts, name).rows) for name in names}


def estimate(rows: Sequence[LabeledItem], seed: int = 0) -> GateRecall:
    """Recall over the time that the verdicts cover. rows are one policy's, of the live and audit lanes."""
    live = [row for row in rows if row.prefilter is None or row.prefilter.gate != "audit"]
    audits = [row for row in rows if row.prefilter is not None and row.prefilter.gate == "audit"]
    caught = sum(row.violates for row in live)
    draw = np.random.default_rng(seed)
    missed_draws = np.zeros(DRAWS)
    strata = []
    for group in _strata(audits):
        violating, weight = sum(row.violates for row in group), group[0].weight
        # Content drawn at rate 1 was all judged, so the number missed is known.
        means = draw.gamma(violating + 0.5, weight, DRAWS) if weight > 1 else np.full(DRAWS, float(violating))
        missed_draws += means
        strata.append(_stratum(group, violating, means))
    missed = sum(stratum.missed for stratum in strata)
    recalls = caught / np.maximum(caught + missed_draws, 1e-9) if caught else np.zeros(DRAWS)
    low, high = (float(x) for x in np.percentile(recalls, [2.5, 97.5]))
    if not any(stratum.violating for stratum in strata):
        high = 1.0  # the audits found none missed, and perhaps none is
    if not audits:
        low, high = 0.0, 1.0
    passed = sum(stratum.items for stratum in strata)
    why = _why_not_enough(caught, len(audits), high - low)
    return GateRecall(
        caught=caught,
        missed=missed,
        recall=caught / (caught + missed) if caught + missed and audits else None,
        low=low,
        high=high,
        enough=not why,
        why=why,
        escalated=len(live) / (len(live) + passed) if live else 0.0,
        strata=strata,
        costs=_costs(live, audits),
    )


def _strata(audits: Iterable[LabeledItem]) -> list[list[LabeledItem]]:
    """Audited items that share a stratum and a rate, in an order that equal verdicts always give."""
    groups: dict[tuple[str, float], list[LabeledItem]] = {}
    for row in audits:
        groups.setdefault((_stratum_name(row), row.weight), []).append(row)
    return [group for _, group in sorted(groups.items(), key=lambda item: item[0], reverse=True)]


def _stratum_name(row: LabeledItem) -> str:
    return (row.prefilter.stratum if row.prefilter else None) or ""


def _stratum(group: Sequence[LabeledItem], violating: int, means: NDArray[np.float64]) -> StratumRecall:
    """The estimates of a stratum. means: draws of the number missed; at least the violating audits were missed."""
    weight = group[0].weight
    low, high = np.percentile(means, [2.5, 97.5])
    return StratumRecall(
        name=_stratum_name(group[0]),
        rate=1 / weight,
        audited=len(group),
        violating=violating,
        items=len(group) * weight,
        missed=violating * weight,
        low=float(max(low, violating)) if violating else 0.0,
        high=float(high),
    )


def _why_not_enough(caught: int, audited: int, width: float) -> str:
    if not audited:
        return "nothing was audited yet: wait, or raise SAFEGUARD_AUDIT_RATE_NEAR and SAFEGUARD_AUDIT_RATE_FAR"
    if not caught:
        return "nothing violating was caught yet, which leaves nothing to compare missed content with"
    if width > MAX_WIDTH:
        return "the sample is too small to be informative: wait for more audits, or raise the audit rates"
    return ""


def _costs(live: Sequence[LabeledItem], audits: Sequence[LabeledItem]) -> list[RecallCost]:
    """Thresholds below the current one, from the scores of audited content. Gates without scores have none."""
    caught = sum(row.violates for row in live)
    scored = [row for row in audits if row.prefilter is not None and row.prefilter.score is not None]
    if not caught or not scored:
        return []
    scores = np.array([row.prefilter.score for row in scored if row.prefilter], dtype=float)
    order = np.argsort(-scores, kind="stable")
    scores = scores[order]
    weights = np.array([row.weight for row in scored])[order]
    reached = caught + np.cumsum(weights * np.array([row.violates for row in scored])[order])
    violating = caught + sum(row.weight for row in audits if row.violates)
    everything = len(live) + sum(row.weight for row in audits)
    costs = []
    for target in TARGETS:
        if caught / violating >= target:
            costs.append(RecallCost(target, None, len(live) / everything))
            continue
        enough = np.flatnonzero(reached / violating >= target - 1e-12)
        if len(enough):
            last = int(enough[0])
            share = (len(live) + weights[: last + 1].sum()) / everything
            costs.append(RecallCost(target, float(scores[last]), float(share)))
    return costs
