"""Curves of gates: the share of content that a gate escalates, by the recall to reach."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from safeguard_streams.prefilter.classifier import Floats
from safeguard_streams.quality.evaluation import ScoredSet
from safeguard_streams.quality.weighted import Estimate

RECALLS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99)
RESAMPLES = 400


class CurvePoint(msgspec.Struct, frozen=True):
    """What share of content a gate escalates for a recall, with its 95% bootstrap interval."""

    recall: float
    escalated: Estimate


def curve(scored: ScoredSet, recalls: Sequence[float] = RECALLS, seed: int = 0) -> list[CurvePoint]:
    """The curve of a gate on rows that it did not see. Some of the rows must violate."""
    rows = len(scored.scores)
    order = np.argsort(-scored.scores, kind="stable")
    ordered = scored.scores[order]
    # The last row that has the score of this one: a threshold takes all rows of a score, or none.
    last = np.searchsorted(-ordered, -ordered, side="right") - 1
    violates, weights = scored.violates[order], scored.weights[order]
    draw = np.random.default_rng(seed)
    every = np.ones(rows)
    drawn = [np.bincount(draw.integers(0, rows, rows), minlength=rows).astype(float) for _ in range(RESAMPLES)]
    shares = [_shares(weights * times, violates, last, recalls) for times in (every, *drawn) if times[violates].any()]
    low, high = np.percentile(shares[1:] or shares, [2.5, 97.5], axis=0)
    return [
        CurvePoint(recall, Estimate(*(round(float(figure), 4) for figure in point)))
        for recall, point in zip(recalls, zip(shares[0], low, high, strict=True), strict=True)
    ]


def _shares(weights: Floats, violates: NDArray[np.bool_], last: NDArray[np.intp], recalls: Sequence[float]) -> Floats:
    """The share of rows, by weight, down to the threshold for each recall. Rows are in order, best score first."""
    reached, taken = np.cumsum(weights * violates), np.cumsum(weights)
    ends = np.searchsorted(reached, np.array(recalls) * reached[-1] - 1e-9)
    return np.asarray(taken[last[ends]] / taken[-1])
