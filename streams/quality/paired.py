"""Several scores of the same texts, side by side: figures with bootstrap intervals, and the gain of the last score."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from safeguard_streams.prefilter.classifier import Floats
from safeguard_streams.quality.evaluation import Flags, escalated_for
from safeguard_streams.quality.weighted import Estimate

TARGET_RECALL = 0.95
RESAMPLES = 200
FIGURES = ("ROC-AUC", f"escalated for {TARGET_RECALL}")


class Paired(NamedTuple):
    """Figures of some texts' scores, or the mean figures of several sets of texts.

    values [figures, scores], and the same for resampled texts [resamples, figures, scores]. The share escalated is that
    of texts that reach the threshold for a recall of 0.95, chosen on the same texts.
    """

    name: str
    texts: int
    violating: int
    values: Floats
    resampled: Floats

    def estimate(self, figure: int, score: int) -> Estimate:
        """A figure of a score with its 95% interval."""
        return _estimate(self.values[figure, score], self.resampled[:, figure, score])

    def gain(self, figure: int) -> Estimate:
        """What the last score has more than the one before it, with its 95% interval."""
        last, before = self.resampled[:, figure, -1], self.resampled[:, figure, -2]
        return _estimate(self.values[figure, -1] - self.values[figure, -2], last - before)


def paired(name: str, scores: Sequence[Floats], violates: Flags, seed: int = 0) -> Paired:
    """Figures of scores of the same texts, on the same resamples of them. Both kinds of texts must be there."""
    draw = np.random.default_rng(seed)
    sides = [np.flatnonzero(violates), np.flatnonzero(~violates)]
    resampled = []
    for _ in range(RESAMPLES):
        rows = np.concatenate([side[draw.integers(len(side), size=len(side))] for side in sides])
        resampled.append(_figures([one[rows] for one in scores], violates[rows]))
    return Paired(name, len(violates), int(violates.sum()), _figures(scores, violates), np.array(resampled))


def mean(name: str, sets: Sequence[Paired]) -> Paired:
    """The mean over sets. Its interval is that for these sets, not for others."""
    return Paired(
        name,
        sum(one.texts for one in sets),
        sum(one.violating for one in sets),
        np.mean([one.values for one in sets], axis=0),
        np.mean([one.resampled for one in sets], axis=0),
    )


def _figures(scores: Sequence[Floats], violates: Flags) -> Floats:
    ones = np.ones(len(violates))
    each = [(roc_auc_score(violates, one), escalated_for(one, violates, ones, TARGET_RECALL)) for one in scores]
    return np.array(each).T


def _estimate(value: float, resampled: NDArray[np.float64]) -> Estimate:
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Estimate(float(value), float(low), float(high))


def markdown(names: Sequence[str], sets: Sequence[Paired]) -> Iterator[str]:
    """A table with a row for each set. names: of the scores."""
    columns = ["set", "texts", "violating"]
    for figure in FIGURES:
        columns += [f"{figure}: {name}" for name in names] + ["gain of the last"]
    yield f"| {' | '.join(columns)} |"
    yield "| --- |" + " ---: |" * (len(columns) - 1)
    for one in sets:
        yield row(one)


def row(one: Paired) -> str:
    """A row of the table."""
    cells = [one.name, f"{one.texts:,}", f"{one.violating:,}"]
    for figure in range(len(FIGURES)):
        cells += [str(one.estimate(figure, score)) for score in range(one.values.shape[1])]
        gain = one.gain(figure)
        cells.append(f"{gain.value:+.3f} ({gain.low:+.3f} to {gain.high:+.3f})")
    return f"| {' | '.join(cells)} |"
