"""Whether scores mean what they say: reliability by bin, expected calibration error, and a map that mends it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss
from sklearn.model_selection import StratifiedKFold

from safeguard_streams.errors import ConfigurationError
from safeguard_streams.policies.document import SCORE_BOUND, ScoreMap

BINS = 10
FOLDS = 5

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


class Bin(msgspec.Struct, frozen=True):
    """Contents whose scores lie in one tenth: how many, their mean score, and the share of them that violate."""

    count: int
    score: float
    violating: float


class Reliability(msgspec.Struct, frozen=True):
    """error is the expected calibration error: the mean distance between score and share violating over the bins,
    weighted by their counts, 0 to 1. brier is the mean squared distance to the label, 0 to 1."""

    bins: tuple[Bin, ...]
    error: float
    brier: float


class Fit(msgspec.Struct, frozen=True):
    """before is of the scores as they are, after of scores mapped by a fit that did not see them (by folds)."""

    rows: int
    violating: int
    before: Reliability
    after: Reliability
    score_map: ScoreMap


def measure(scores: Sequence[float] | Floats, violates: Sequence[bool] | Flags) -> Reliability:
    """Reliability of scores, 0 to 1. Source of the error: Naeini et al. 2015, with bins of equal width."""
    s, y = np.asarray(scores, dtype=np.float64), np.asarray(violates, dtype=np.bool_)
    places = np.minimum((s * BINS).astype(int), BINS - 1)
    bins = [
        Bin(int(here.sum()), round(float(s[here].mean()), 4), round(float(y[here].mean()), 4))
        for place in range(BINS)
        if (here := places == place).any()
    ]
    error = sum(b.count * abs(b.score - b.violating) for b in bins) / len(s)
    return Reliability(tuple(bins), round(error, 4), round(float(brier_score_loss(y, s)), 4))


def fit(scores: Sequence[float], violates: Sequence[bool], seed: int = 0) -> Fit:
    """Fit a score map, and measure what it does on rows that it did not see.

    Raises ConfigurationError with fewer than FOLDS rows of either side.
    """
    s, y = np.asarray(scores, dtype=np.float64), np.asarray(violates, dtype=np.bool_)
    if min(y.sum(), (~y).sum()) < FOLDS:
        raise ConfigurationError(
            f"{int(y.sum())} violating and {int((~y).sum())} other contents were decided: give at least {FOLDS} of each"
        )
    unseen = np.empty_like(s)
    for train, test in StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(s, y):
        mapped = _platt(s[train], y[train])
        unseen[test] = [mapped.apply(float(score)) for score in s[test]]
    before, after = measure(s, y), measure(unseen, y)
    fitted = {"rows": len(s), "violating": int(y.sum()), "error": [before.error, after.error]}
    whole = _platt(s, y)
    return Fit(len(s), int(y.sum()), before, after, ScoreMap(whole.slope, whole.intercept, fitted))


def _platt(scores: Floats, violates: Flags) -> ScoreMap:
    kept = np.clip(scores, SCORE_BOUND, 1 - SCORE_BOUND)
    odds = np.log(kept / (1 - kept)).reshape(-1, 1)
    # Slightly held back: where a few contents are all on their right sides, the slope would have no end.
    line = LogisticRegression(C=10.0).fit(odds, violates)
    return ScoreMap(round(float(line.coef_[0, 0]), 6), round(float(line.intercept_[0]), 6))


def plot(fitted: Fit, path: Path, title: str) -> None:
    """Reliability before and after, as a picture: .svg or .png."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(5.5, 5.0))
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1, label="as it should be")
    for name, reliability, marker in (("as scored", fitted.before, "o"), ("mapped", fitted.after, "s")):
        sizes = [20 + 200 * b.count / fitted.rows for b in reliability.bins]
        axes.scatter(
            [b.score for b in reliability.bins],
            [b.violating for b in reliability.bins],
            sizes,
            marker=marker,
            alpha=0.7,
            label=f"{name}, error {reliability.error:.3f}",
        )
    axes.set(xlabel="mean score", ylabel="share that violates", xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), title=title)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)
