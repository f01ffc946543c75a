"""The gate threshold for a target recall, and its expected effect, from labelled or judged content."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss
from sklearn.model_selection import StratifiedKFold

from safeguard_streams.errors import ConfigurationError
from safeguard_streams.policies.distilled import log_odds
from safeguard_streams.policies.document import Policy
from safeguard_streams.policies.files import with_changes
from safeguard_streams.prefilter.classifier import Classifier, Floats
from safeguard_streams.quality import verdict_labels
from safeguard_streams.quality.evaluation import Estimate, Flags
from safeguard_streams.quality.scoring import gate_scores
from safeguard_streams.quality.verdict_labels import LabeledItem
from safeguard_streams.runtime.settings import Settings

MIN_VIOLATING = 20
RESAMPLES = 400
FOLDS = 5

MapName = Literal["isotonic", "platt"]


class Calibration(msgspec.Struct, frozen=True):
    """A threshold and its expected effect on content like that which set it.

    recall and escalated are measured on content that did not set the threshold, 0 to 1. probability is that of
    violating at the threshold, by the map from scores to probabilities that predicts unseen rows better. brier is the
    mean squared error of each map on unseen rows.
    """

    target_recall: float
    threshold: float
    recall: Estimate
    escalated: Estimate
    rows: int
    violating: int
    map: MapName
    probability: float
    brier: dict[str, float]


class ScoredLabels(msgspec.Struct, frozen=True):
    """Labelled items and their gate scores [items]. source tells where the labels come from."""

    items: Sequence[LabeledItem]
    scores: Floats
    source: Literal["labels", "verdicts"]


def score_file(policy: Policy, classifier: Classifier, path: Path) -> ScoredLabels:
    """Labelled texts of a file, scored by the policy's gate. Raises ConfigurationError that names file and line."""
    items = verdict_labels.from_file(path).rows
    return ScoredLabels(items, gate_scores(policy, classifier, [item.text or "" for item in items]), "labels")


async def score_verdicts(settings: Settings, policy_id: str) -> ScoredLabels:
    """Verdicts on Kafka with the scores that the gate gave. Raises ConfigurationError when there are none."""
    labels = await verdict_labels.from_kafka(settings, policy_id)
    scored = [item for item in labels.rows if item.prefilter is not None and item.prefilter.score is not None]
    if not scored:
        raise ConfigurationError(f"no verdicts with scores for {policy_id} on Kafka; give --labels")
    scores = np.array([item.prefilter.score for item in scored if item.prefilter], dtype=float)
    return ScoredLabels(scored, scores, "verdicts")


def calibrate_gate(labels: ScoredLabels, target_recall: float) -> Calibration:
    """The threshold of a gate for this recall. Items that terms or everything escalated need no score."""
    return calibrate(
        labels.scores,
        [item.violates for item in labels.items],
        target_recall,
        [item.weight for item in labels.items],
        [item.prefilter is not None and item.prefilter.gate in {"terms", "everything"} for item in labels.items],
    )


def with_calibration(policy: Policy, calibration: Calibration, source: str) -> str:
    """The policy's document with the threshold in its gate, and the expected effect beside it."""
    expected = {
        "target_recall": calibration.target_recall,
        "recall": [calibration.recall.value, calibration.recall.low, calibration.recall.high],
        "escalated": [calibration.escalated.value, calibration.escalated.low, calibration.escalated.high],
        "violating": calibration.violating,
        "rows": calibration.rows,
        "source": source,
    }
    return with_changes(policy.document, "gate", threshold=calibration.threshold, calibration=expected)


def weighted_threshold(scores: Floats, violates: Flags, weights: Floats, certain: Flags, recall: float) -> float:
    """The highest threshold at which this share of the violating weight is escalated, by score or certainly."""
    total = weights[violates].sum()
    caught = weights[violates & certain].sum()
    uncertain = violates & ~certain
    order = np.argsort(-scores[uncertain], kind="stable")
    reached = caught + np.cumsum(weights[uncertain][order])
    enough = np.flatnonzero(reached >= recall * total - 1e-9)
    if caught >= recall * total - 1e-9:
        return 1.0
    ranked = scores[uncertain][order]
    return float(ranked[enough[0]]) if len(enough) else 0.0


class _Samples(NamedTuple):
    """Scores, truth, weights and certain escalation, one of each for a row."""

    scores: Floats
    violates: Flags
    weights: Floats
    certain: Flags

    def take(self, rows: NDArray[np.intp]) -> _Samples:
        return _Samples(self.scores[rows], self.violates[rows], self.weights[rows], self.certain[rows])

    def threshold(self, recall: float) -> float:
        return weighted_threshold(self.scores, self.violates, self.weights, self.certain, recall)


def calibrate(
    scores: Sequence[float] | Floats,
    violates: Sequence[bool] | Flags,
    target_recall: float,
    weights: Sequence[float] | Floats | None = None,
    certain: Sequence[bool] | Flags | None = None,
    seed: int = 0,
) -> Calibration:
    """The threshold of a gate, from scores 0 to 1 and the truth, one of each for a row.

    weights undo how content was drawn. certain marks rows that are escalated whatever their score. Raises
    ConfigurationError when too few rows violate, or all do.
    """
    rows = len(scores)
    samples = _Samples(
        np.asarray(scores, dtype=float),
        np.asarray(violates, dtype=bool),
        np.ones(rows) if weights is None else np.asarray(weights, dtype=float),
        np.zeros(rows, dtype=bool) if certain is None else np.asarray(certain, dtype=bool),
    )
    violating = int(samples.violates.sum())
    if violating < MIN_VIOLATING or violating == rows:
        raise ConfigurationError(
            f"{violating} violating of {rows} texts: a threshold needs at least {MIN_VIOLATING} that violate, "
            "and some that do not"
        )
    # Rounded down: scores that equal the threshold up to rounding must reach it.
    threshold = float(np.floor(samples.threshold(target_recall) * 1e4) / 1e4)
    draw = np.random.default_rng(seed)
    recalls, shares = [], []
    for _ in range(RESAMPLES):
        pick = draw.integers(0, rows, rows)
        drawn, unseen = samples.take(pick), samples.take(np.setdiff1d(np.arange(rows), pick))
        if drawn.violates.any() and unseen.violates.any():
            taken = (unseen.scores >= drawn.threshold(target_recall)) | unseen.certain
            weight = unseen.weights
            recalls.append(float(weight[taken & unseen.violates].sum() / weight[unseen.violates].sum()))
            shares.append(float(weight[taken].sum() / weight.sum()))
    probability = _probability(samples, threshold, seed)
    return Calibration(
        target_recall=target_recall,
        threshold=threshold,
        recall=_estimate(recalls),
        escalated=_estimate(shares),
        rows=rows,
        violating=violating,
        map=probability.map,
        probability=probability.at_threshold,
        brier=probability.brier,
    )


def _estimate(values: Sequence[float]) -> Estimate:
    low, high = np.percentile(values, [2.5, 97.5])
    return Estimate(*(round(float(x), 4) for x in (np.mean(values), low, high)))


class _Probability(NamedTuple):
    """The better map, P(violates) at the threshold by it, and both maps' Brier scores on unseen rows."""

    map: MapName
    at_threshold: float
    brier: dict[str, float]


def _probability(samples: _Samples, threshold: float, seed: int) -> _Probability:
    def isotonic(train: _Samples, at: Floats) -> Floats:
        model = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
        return np.asarray(model.fit(train.scores, train.violates, sample_weight=train.weights).predict(at))

    def platt(train: _Samples, at: Floats) -> Floats:
        odds = log_odds(train.scores)[:, None]
        model = LogisticRegression().fit(odds, train.violates, sample_weight=train.weights)
        return np.asarray(model.predict_proba(log_odds(at)[:, None])[:, 1])

    rows = len(samples.scores)
    maps = {"isotonic": isotonic, "platt": platt}
    predicted = {name: np.zeros(rows) for name in maps}
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    for train, test in folds.split(samples.scores, samples.violates):
        for name, predict in maps.items():
            predicted[name][test] = predict(samples.take(train), samples.scores[test])
    brier = {
        name: round(float(brier_score_loss(samples.violates, values, sample_weight=samples.weights)), 5)
        for name, values in predicted.items()
    }
    best: MapName = "isotonic" if brier["isotonic"] <= brier["platt"] else "platt"
    return _Probability(best, round(float(maps[best](samples, np.array([threshold]))[0]), 4), brier)
