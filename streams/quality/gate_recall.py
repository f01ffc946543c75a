"""The recall of a policy's gates on live traffic, from what the audit lane drew of the content that passed them.

What was caught is counted: violating verdicts of the live lane. What was missed is estimated: a violating audit verdict
drawn at rate r stands for 1/r contents. The number drawn in a stratum is Poisson around rate times missed, so its
uncertainty is that of a Poisson mean under Jeffreys' prior, drawn for each stratum apart and added.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from safeguard_streams.quality.verdict_labels import LabeledItem

DRAWS = 20_000
TOO_WIDE = 0.5  # an interval this wide says nothing
TARGETS = (0.90, 0.95, 0.99)


class Stratum(msgspec.Struct, frozen=True):
    """One stratum of what passed. contents and missed are estimates for the stream; low and high bound missed (95 %)."""

    name: str
    rate: float
    audited: int
    violating: int
    contents: float
    missed: float
    low: float
    high: float


class Cost(msgspec.Struct, frozen=True):
    """To reach this recall the threshold would be lowered to `threshold`, and this share of content escalated."""

    recall: float
    threshold: float | None
    escalated: float


class Recall(msgspec.Struct, frozen=True):
    """recall is None when nothing violating was seen at all. low and high are its 95 % interval, always given.

    enough is False when the interval is too wide to say anything. escalated: share of content that is escalated now.
    """

    caught: int
    missed: float
    recall: float | None
    low: float
    high: float
    enough: bool
    why: str
    escalated: float
    strata: list[Stratum]
    costs: list[Cost]


def estimate(rows: Sequence[LabeledItem], seed: int = 0) -> Recall:
    """Recall over the time that the verdicts cover; rows are one policy's, of live and audit lanes."""
    live = [row for row in rows if row.prefilter is None or row.prefilter.gate != "audit"]
    audits = [row for row in rows if row.prefilter is not None and row.prefilter.gate == "audit"]
    caught = sum(row.violates for row in live)
    draw = np.random.default_rng(seed)
    missed_draws = np.zeros(DRAWS)
    strata = []
    keys = sorted({(row.prefilter.stratum or "", row.weight) for row in audits if row.prefilter}, reverse=True)
    for name, weight in keys:
        group = [r for r in audits if r.prefilter and (r.prefilter.stratum or "", r.weight) == (name, weight)]
        violating = sum(row.violates for row in group)
        # All were judged at rate 1: then what is missed is known, and nothing is drawn.
        means = draw.gamma(violating + 0.5, weight, DRAWS) if weight > 1 else np.full(DRAWS, float(violating))
        low, high = _interval(means, at_least=violating)
        missed_draws += means
        strata.append(
            Stratum(name, 1 / weight, len(group), violating, len(group) * weight, violating * weight, low, high)
        )
    missed = sum(s.missed for s in strata)
    violating = sum(s.violating for s in strata)
    recalls = caught / np.maximum(caught + missed_draws, 1e-9) if caught else np.zeros(DRAWS)
    low, high = (float(x) for x in np.percentile(recalls, [2.5, 97.5]))
    if not violating:
        high = 1.0  # none was found missed: perhaps none is
    if not audits:
        low, high = 0.0, 1.0
    passed = sum(s.contents for s in strata)
    why = _why_not(caught, len(audits), high - low)
    return Recall(
        caught,
        missed,
        caught / (caught + missed) if caught + missed and audits else None,
        low,
        high,
        not why,
        why,
        len(live) / (len(live) + passed) if live else 0.0,
        strata,
        _costs(live, audits),
    )


def _interval(means: np.ndarray, at_least: int) -> tuple[float, float]:
    low, high = np.percentile(means, [2.5, 97.5])
    return (float(max(low, at_least)) if at_least else 0.0), float(high)


def _why_not(caught: int, audited: int, width: float) -> str:
    if not audited:
        return "nothing was audited yet: wait, or raise SAFEGUARD_AUDIT_RATE_NEAR and SAFEGUARD_AUDIT_RATE_FAR"
    if not caught:
        return "nothing violating was caught yet, so there is nothing to compare what is missed with"
    if width > TOO_WIDE:
        return "the sample is too small to say anything: wait for more audits, or raise the audit rates"
    return ""


def _costs(live: Sequence[LabeledItem], audits: Sequence[LabeledItem]) -> list[Cost]:
    """Thresholds below the one in force, from the audited content's scores; only gates that score can be lowered."""
    caught = sum(row.violates for row in live)
    scored = [row for row in audits if row.prefilter is not None and row.prefilter.score is not None]
    if not caught or not scored:
        return []
    order = sorted(scored, key=lambda row: -(row.prefilter.score or 0.0 if row.prefilter else 0.0))
    weight = np.array([row.weight for row in order])
    found = caught + np.cumsum(weight * np.array([row.violates for row in order]))
    total = caught + sum(row.weight for row in audits if row.violates)
    everything = len(live) + sum(row.weight for row in audits)
    costs = []
    for target in TARGETS:
        if caught / total >= target:
            costs.append(Cost(target, None, len(live) / everything))
            continue
        reached = np.flatnonzero(found / total >= target - 1e-12)
        if len(reached):
            at = int(reached[0])
            prefilter = order[at].prefilter
            share = (len(live) + weight[: at + 1].sum()) / everything
            costs.append(Cost(target, prefilter.score if prefilter else None, float(share)))
    return costs
