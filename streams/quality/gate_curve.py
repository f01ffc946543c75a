"""Curves of gates: the share of content that a gate escalates, by the recall to reach."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
import numpy as np

from safeguard_streams.prefilter.classifier import Floats
from safeguard_streams.quality import copies
from safeguard_streams.quality.evaluation import ScoredSet
from safeguard_streams.quality.weighted import Estimate

RECALLS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99)
RESAMPLES = 400


class CurvePoint(msgspec.Struct, frozen=True):
    """What share of content a gate escalates for a recall, with its 95% bootstrap interval."""

    recall: float
    escalated: Estimate


class Ranked:
    """The rows of a gate in the order of their scores: the same rows in another number need no further sorting."""

    def __init__(self, scored: ScoredSet) -> None:
        self._order = np.argsort(-scored.scores, kind="stable")
        ordered = scored.scores[self._order]
        # The last row that has the score of this one: a threshold takes all rows of a score, or none.
        self._last = np.searchsorted(-ordered, -ordered, side="right") - 1
        self._violates, self._weights = scored.violates[self._order], scored.weights[self._order]

    def escalated(self, times: Floats, recalls: Sequence[float]) -> Floats:
        """The shares of content that reach the thresholds for these recalls, if each row [rows] is there so often."""
        weights = self._weights * times[self._order]
        reached, taken = np.cumsum(weights * self._violates), np.cumsum(weights)
        ends = np.searchsorted(reached, np.array(recalls) * reached[-1] - 1e-9)
        return np.asarray(taken[self._last[ends]] / taken[-1])


def resamples(scored: ScoredSet, seed: int, number: int = RESAMPLES) -> Iterator[Floats]:
    """How often each row [rows] is in each bootstrap resample; those without a violating row are left out."""
    for times in copies.resamples(scored.groups, number, seed):
        if times[scored.violates].any():
            yield times


def curve(scored: ScoredSet, recalls: Sequence[float] = RECALLS, seed: int = 0) -> list[CurvePoint]:
    """The curve of a gate on rows that it did not see. Some of the rows must violate."""
    ranked = Ranked(scored)
    values = ranked.escalated(np.ones(len(scored.scores)), recalls)
    drawn = [ranked.escalated(times, recalls) for times in resamples(scored, seed)]
    low, high = np.percentile(drawn or [values], [2.5, 97.5], axis=0)
    return [
        CurvePoint(recall, Estimate(*(round(float(figure), 4) for figure in point)))
        for recall, point in zip(recalls, zip(values, low, high, strict=True), strict=True)
    ]
