"""Calibration of scores: reliability by bin, expected calibration error, and a map from scores to probabilities."""

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
from safeguard_streams.policies.document import SCORE_BOUND, Policy, ScoreMap
from safeguard_streams.policies.files import with_changes
from safeguard_streams.quality.verdict_labels import LabeledItem
from safeguard_streams.workers.evaluation.interface import TextJudge

BINS = 10
FOLDS = 5

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


class Bin(msgspec.Struct, frozen=True):
    """Content items whose scores lie in one tenth: their number, their mean score, and the share that violates.

    Mean and share weigh each item by the number of items that it stands for.
    """

    count: int
    score: float
    violating: float


class Calibration(msgspec.Struct, frozen=True):
    """How close scores are to probabilities.

    error: the expected calibration error, 0 to 1: the mean distance between a bin's score and its share that violates,
        weighted by the content in each bin.
    brier: the mean squared distance to the label, 0 to 1.
    """

    bins: tuple[Bin, ...]
    error: float
    brier: float


class CalibrationFit(msgspec.Struct, frozen=True):
    """A fitted score map, and the calibration of raw and mapped scores.

    rows, violating: the numbers of scored rows, and of those that violate.
    after: cross-validated; the map of each fold was fitted without the rows that it is measured on.
    """

    rows: int
    violating: int
    before: Calibration
    after: Calibration
    score_map: ScoreMap


async def calibrate(judge: TextJudge, policy: Policy, rows: Sequence[LabeledItem]) -> CalibrationFit:
    """Judge labelled texts and fit a map to their raw scores. Texts without a score are left out.

    Raises ConfigurationError as `fit` does.
    """
    title = f"judging under {policy.id} {policy.version}"
    judgements = await judge.judge(policy, [row.text or "" for row in rows], title)
    scores = [judgement.findings[policy.id].score for judgement in judgements]
    scored = [(score, row.violates, row.weight) for score, row in zip(scores, rows, strict=True) if score is not None]
    return fit([score for score, _, _ in scored], [violates for _, violates, _ in scored], [w for _, _, w in scored])


def write_score_map(policy: Policy, path: Path, score_map: ScoreMap) -> None:
    """Set the map in a policy's file."""
    changed = with_changes(policy.document, "judging", score_map=msgspec.to_builtins(score_map))
    path.write_text(changed, encoding="utf-8")


def measure(
    scores: Sequence[float] | Floats, violates: Sequence[bool] | Flags, weights: Sequence[float] | Floats | None = None
) -> Calibration:
    """The calibration of scores from 0 to 1. Source of the error: Naeini et al. 2015, with bins of equal width.

    weights: the number of items that each row stands for; by default 1.
    """
    s, y = np.asarray(scores, dtype=np.float64), np.asarray(violates, dtype=np.bool_)
    w = np.ones(len(s)) if weights is None else np.asarray(weights, dtype=np.float64)
    bin_of = np.minimum((s * BINS).astype(int), BINS - 1)
    members = [bin_of == number for number in range(BINS) if (bin_of == number).any()]
    means = [(np.average(s[m], weights=w[m]), np.average(y[m], weights=w[m])) for m in members]
    bins = [
        Bin(int(m.sum()), round(float(score), 4), round(float(violating), 4))
        for m, (score, violating) in zip(members, means, strict=True)
    ]
    error = sum(w[m].sum() * abs(b.score - b.violating) for m, b in zip(members, bins, strict=True)) / w.sum()
    return Calibration(tuple(bins), round(float(error), 4), round(float(brier_score_loss(y, s, sample_weight=w)), 4))


def fit(
    scores: Sequence[float], violates: Sequence[bool], weights: Sequence[float] | None = None, seed: int = 0
) -> CalibrationFit:
    """Fit a score map, and measure it by cross-validation.

    weights: the number of items that each row stands for; by default 1. Raises ConfigurationError with fewer than FOLDS
    violating or other rows.
    """
    s, y = np.asarray(scores, dtype=np.float64), np.asarray(violates, dtype=np.bool_)
    w = np.ones(len(s)) if weights is None else np.asarray(weights, dtype=np.float64)
    if min(y.sum(), (~y).sum()) < FOLDS:
        raise ConfigurationError(
            f"{int(y.sum())} violating and {int((~y).sum())} other texts have a score: give at least {FOLDS} of each"
        )
    unseen = np.empty_like(s)
    for train, test in StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(s, y):
        mapped = _platt(s[train], y[train], w[train])
        unseen[test] = [mapped.apply(float(score)) for score in s[test]]
    before, after = measure(s, y, w), measure(unseen, y, w)
    fitted = {"rows": len(s), "violating": int(y.sum()), "error": [before.error, after.error]}
    whole = _platt(s, y, w)
    return CalibrationFit(len(s), int(y.sum()), before, after, ScoreMap(whole.slope, whole.intercept, fitted))


def _platt(scores: Floats, violates: Flags, weights: Floats) -> ScoreMap:
    clipped = np.clip(scores, SCORE_BOUND, 1 - SCORE_BOUND)
    odds = np.log(clipped / (1 - clipped)).reshape(-1, 1)
    # Slightly regularised: on a few rows that the scores separate perfectly, the slope would grow without bound.
    line = LogisticRegression(C=10.0).fit(odds, violates, sample_weight=weights / weights.mean())
    return ScoreMap(round(float(line.coef_[0, 0]), 6), round(float(line.intercept_[0]), 6))


def plot(fitted: CalibrationFit, path: Path, title: str) -> None:
    """Draw a reliability diagram of raw and mapped scores: .svg or .png."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(5.5, 5.0))
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1, label="perfectly calibrated")
    for name, calibration, marker in (("raw scores", fitted.before, "o"), ("mapped scores", fitted.after, "s")):
        sizes = [20 + 200 * b.count / fitted.rows for b in calibration.bins]
        axes.scatter(
            [b.score for b in calibration.bins],
            [b.violating for b in calibration.bins],
            sizes,
            marker=marker,
            alpha=0.7,
            label=f"{name}, error {calibration.error:.3f}",
        )
    axes.set(xlabel="mean score", ylabel="share violating", xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), title=title)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)
