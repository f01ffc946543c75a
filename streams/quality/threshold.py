"""The threshold of a gate for a wanted recall, and what to expect of it, from labelled or judged content."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss
from sklearn.model_selection import StratifiedKFold

from safeguard_streams.errors import ConfigurationError
from safeguard_streams.policies.distilled import log_odds
from safeguard_streams.quality.evaluation import Estimate, Floats

FEWEST_VIOLATING = 20
RESAMPLES = 400
FOLDS = 5

Flags = NDArray[np.bool_]


class Calibration(msgspec.Struct, frozen=True):
    """A threshold and what it does to content like that which it was set on.

    recall and escalated: of content that was not used to set the threshold, with 95 % intervals, 0 to 1.
    probability: of violating, at the threshold, by the map (isotonic or platt) that predicts unseen rows better;
    brier: mean squared error of both maps on unseen rows.
    """

    target_recall: float
    threshold: float
    recall: Estimate
    escalated: Estimate
    rows: int
    violating: int
    map: str
    probability: float
    brier: dict[str, float]


def weighted_threshold(scores: Floats, violates: Flags, weights: Floats, sure: Flags, recall: float) -> float:
    """The highest threshold at which this share of the violating weight scores enough, or is escalated for sure."""
    total = weights[violates].sum()
    caught = weights[violates & sure].sum()
    open_ = violates & ~sure
    order = np.argsort(-scores[open_], kind="stable")
    reached = caught + np.cumsum(weights[open_][order])
    enough = np.flatnonzero(reached >= recall * total - 1e-9)
    if caught >= recall * total - 1e-9:
        return 1.0
    ranked = scores[open_][order]
    return float(ranked[enough[0]]) if len(enough) else 0.0


def calibrate(
    scores: Sequence[float] | Floats,
    violates: Sequence[bool] | Flags,
    target_recall: float,
    weights: Sequence[float] | Floats | None = None,
    sure: Sequence[bool] | Flags | None = None,
    seed: int = 0,
) -> Calibration:
    """Scores of a gate, 0 to 1, and the truth; weights by how content was drawn; sure: escalated whatever the score.

    Raises ConfigurationError when too few violating rows are there, or none that does not violate.
    """
    s, y = np.asarray(scores, dtype=float), np.asarray(violates, dtype=bool)
    w = np.ones(len(s)) if weights is None else np.asarray(weights, dtype=float)
    other = np.zeros(len(s), dtype=bool) if sure is None else np.asarray(sure, dtype=bool)
    if y.sum() < FEWEST_VIOLATING or y.all():
        raise ConfigurationError(
            f"{int(y.sum())} violating of {len(y)} texts: a threshold needs at least {FEWEST_VIOLATING} that violate, "
            "and some that do not"
        )
    # Rounded down, so that what is scored 0.12345 here and there passes alike.
    threshold = np.floor(weighted_threshold(s, y, w, other, target_recall) * 1e4) / 1e4
    draw = np.random.default_rng(seed)
    recalls, shares = [], []
    for _ in range(RESAMPLES):
        pick = draw.integers(0, len(s), len(s))
        left = np.setdiff1d(np.arange(len(s)), pick)
        if y[pick].any() and y[left].any():
            at = weighted_threshold(s[pick], y[pick], w[pick], other[pick], target_recall)
            taken = (s[left] >= at) | other[left]
            recalls.append(float(w[left][taken & y[left]].sum() / w[left][y[left]].sum()))
            shares.append(float(w[left][taken].sum() / w[left].sum()))
    brier, chosen, probability = _map(s, y, w, float(threshold), seed)
    return Calibration(
        target_recall,
        float(threshold),
        _estimate(recalls),
        _estimate(shares),
        len(s),
        int(y.sum()),
        chosen,
        probability,
        brier,
    )


def _estimate(values: Sequence[float]) -> Estimate:
    low, high = np.percentile(values, [2.5, 97.5])
    return Estimate(*(round(float(x), 4) for x in (np.mean(values), low, high)))


def _map(s: Floats, y: Flags, w: Floats, threshold: float, seed: int) -> tuple[dict[str, float], str, float]:
    """Brier scores of the two maps on unseen rows, the better one's name, and P(violates) at the threshold by it."""

    def isotonic(train: NDArray[np.intp], at: Floats) -> Floats:
        model = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
        return np.asarray(model.fit(s[train], y[train], sample_weight=w[train]).predict(at))

    def platt(train: NDArray[np.intp], at: Floats) -> Floats:
        model = LogisticRegression().fit(log_odds(s[train])[:, None], y[train], sample_weight=w[train])
        return np.asarray(model.predict_proba(log_odds(at)[:, None])[:, 1])

    maps = {"isotonic": isotonic, "platt": platt}
    said = {name: np.zeros(len(s)) for name in maps}
    for train, test in StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(s, y):
        for name, fit in maps.items():
            said[name][test] = fit(train, s[test])
    brier = {name: round(float(brier_score_loss(y, p, sample_weight=w)), 5) for name, p in said.items()}
    chosen = min(brier, key=lambda name: brier[name])
    at_threshold = maps[chosen](np.arange(len(s)), np.array([threshold]))
    return brier, chosen, round(float(at_threshold[0]), 4)
