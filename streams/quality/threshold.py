"""The gate threshold for a target recall, and its expected effect, from labelled or judged content."""

from __future__ import annotations

import decimal
from collections.abc import Sequence
from datetime import datetime
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
from safeguard_streams.prefilter.encoder.encoder import Encoder
from safeguard_streams.quality import verdict_labels
from safeguard_streams.quality.evaluation import Flags
from safeguard_streams.quality.scoring import gate_answers
from safeguard_streams.quality.verdict_labels import LabeledItem
from safeguard_streams.quality.weighted import Estimate, share, total
from safeguard_streams.runtime.settings import Settings

MIN_VIOLATING = 20
FOLDS = 5
_DOWN = decimal.Context(prec=4, rounding=decimal.ROUND_FLOOR)  # significant digits of a threshold
_RECORDED = 0.00005  # a verdict holds a score to four decimals: the score was at most this much lower
WITH_ENCODER = "threshold_with_encoder"
CERTAIN = ("terms", "everything")  # gates that escalate whatever the score

MapName = Literal["isotonic", "platt"]


class Calibration(msgspec.Struct, frozen=True):
    """A threshold and its expected effect on content like that which set it.

    recall and escalated are those of the threshold, 0 to 1, for content like the labels'. probability is that of
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


class Effect(NamedTuple):
    """What a threshold does to content like the labels': the share of what violates, and of all, that it escalates."""

    recall: Estimate
    escalated: Estimate


class ScoredLabels(msgspec.Struct, frozen=True):
    """Labelled items and their gate scores [items], 0 for an item that is escalated without one.

    certain [items]: whether the gate escalates the item whatever its score.
    source tells where the labels come from, left_out what was not used.
    """

    items: Sequence[LabeledItem]
    scores: Floats
    certain: Flags
    source: Literal["labels", "verdicts"]
    left_out: str = ""


def score_file(policy: Policy, classifier: Classifier, path: Path, encoder: Encoder | None = None) -> ScoredLabels:
    """Labelled texts of a file, scored by the policy's gate. Raises ConfigurationError that names file and line.

    encoder: that of the prefilters whose scores to give, or None for those without one. Its harm heads add to the score
    of a gate with harms, whether the gate asks for them or not.
    """
    if encoder and field(policy, encoder=True) == WITH_ENCODER:
        policy = msgspec.structs.replace(policy, gate=msgspec.structs.replace(policy.gate, threshold_with_encoder=1.0))
    items = verdict_labels.from_file(path).rows
    answers = gate_answers(policy, classifier, [item.text or "" for item in items], encoder)
    return ScoredLabels(items, answers.scores, answers.matched, "labels")


async def score_verdicts(settings: Settings, policy_id: str, since: datetime | None = None) -> ScoredLabels:
    """Verdicts on Kafka with the scores that the gate gave. Raises ConfigurationError when there are none.

    Includes what terms escalated, with or without a score.
    """
    labels = await verdict_labels.from_kafka(settings, policy_id, since=since)
    return score_labels(labels, policy_id)


def score_labels(labels: verdict_labels.Labels, policy_id: str) -> ScoredLabels:
    """Labels of verdicts with the lowest scores that the gate can have given, as `score_verdicts`."""
    items = [item for item in labels.rows if _score(item) is not None or _certain(item)]
    if all(_score(item) is None for item in items):
        raise ConfigurationError(f"no verdicts with scores for {policy_id} on Kafka; give --labels")
    scores = np.maximum(0.0, np.array([_score(item) or 0.0 for item in items]) - _RECORDED)
    return ScoredLabels(items, scores, np.array([_certain(item) for item in items]), "verdicts", labels.left_out)


def _score(item: LabeledItem) -> float | None:
    return item.prefilter.score if item.prefilter else None


def calibrate_gate(labels: ScoredLabels, target_recall: float) -> Calibration:
    """The threshold of a gate for this recall. Items that terms or everything escalated need no score."""
    return calibrate(
        labels.scores,
        [item.violates for item in labels.items],
        target_recall,
        [item.weight for item in labels.items],
        labels.certain,
    )


def _certain(item: LabeledItem) -> bool:
    return item.prefilter is not None and item.prefilter.gate in CERTAIN


def field(policy: Policy, *, encoder: bool) -> str:
    """The name of the threshold, of the gate's two, for prefilters with the encoder or without.

    A distilled classifier has one for both.
    """
    return WITH_ENCODER if encoder and policy.distilled is None and policy.gate.harms else "threshold"


def with_calibration(policy: Policy, calibration: Calibration, source: str, *, encoder: bool = False) -> str:
    """The policy's document with the threshold in its gate, and the expected effect beside it.

    encoder: whether the scores were those of prefilters with the encoder. Their threshold, if it is another one, has no
    record of its effect. Raises ConfigurationError when the gate needs no threshold for the recall.
    """
    if calibration.threshold >= 1:
        raise ConfigurationError(
            f"{policy.id}: the terms reach recall {calibration.target_recall:g} without a threshold; "
            "remove harms and threshold from the gate, or raise --target-recall"
        )
    if field(policy, encoder=encoder) == WITH_ENCODER:
        return with_changes(policy.document, "gate", threshold_with_encoder=calibration.threshold)
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

    def reaching(self, recall: float) -> float:
        """The threshold for a recall. Raises ConfigurationError."""
        rows, violating = len(self.scores), int(self.violates.sum())
        if violating < MIN_VIOLATING or violating == rows:
            raise ConfigurationError(
                f"{violating} violating of {rows} texts: a threshold needs at least {MIN_VIOLATING} that violate, "
                "and some that do not"
            )
        exact = weighted_threshold(self.scores, self.violates, self.weights, self.certain, recall)
        # Rounded down: scores that equal the threshold up to rounding must reach it.
        threshold = float(_DOWN.create_decimal(repr(exact)))
        if threshold <= 0:
            raise ConfigurationError(_out_of_reach(self, recall))
        return threshold

    def share(self, taken: Flags, of: Flags) -> Estimate:
        """The share of the items of a kind that is taken, in content like this."""

        def part(where: Flags, least: float) -> Estimate:
            return total(self.weights[where & of], float(self.weights[where].max(initial=least)))

        # A further item that is escalated stands at least for itself. Where none is let pass, none will be.
        estimate = share(part(taken, 1.0), part(~taken, 0.0)) or Estimate(0.0, 0.0, 1.0)
        return Estimate(*(round(figure, 4) for figure in (estimate.value, estimate.low, estimate.high)))

    def effect(self, threshold: float) -> Effect:
        taken = (self.scores >= threshold) | self.certain
        return Effect(self.share(taken, self.violates), self.share(taken, np.ones(len(taken), dtype=bool)))


def effect(scores: Floats, violates: Flags, weights: Floats, certain: Flags, threshold: float) -> Effect:
    """What a threshold does to these rows. certain: rows that are escalated whatever their score."""
    return _Samples(scores, violates, weights, certain).effect(threshold)


def calibrate(
    scores: Sequence[float] | Floats,
    violates: Sequence[bool] | Flags,
    target_recall: float,
    weights: Sequence[float] | Floats | None = None,
    certain: Sequence[bool] | Flags | None = None,
    seed: int = 0,
) -> Calibration:
    """The threshold of a gate and its expected effect, from scores 0 to 1 and the truth, one of each for a row.

    weights, certain and errors: as in `reaching`.
    """
    samples = _samples(scores, violates, weights, certain)
    threshold = samples.reaching(target_recall)
    recall, escalated = samples.effect(threshold)
    probability = _probability(samples, threshold, seed)
    return Calibration(
        target_recall=target_recall,
        threshold=threshold,
        recall=recall,
        escalated=escalated,
        rows=len(samples.scores),
        violating=int(samples.violates.sum()),
        map=probability.map,
        probability=probability.at_threshold,
        brier=probability.brier,
    )


def reaching(
    scores: Sequence[float] | Floats,
    violates: Sequence[bool] | Flags,
    target_recall: float,
    weights: Sequence[float] | Floats | None = None,
    certain: Sequence[bool] | Flags | None = None,
) -> float:
    """The threshold that reaches a recall on these rows.

    weights undo how content was drawn. certain marks rows that are escalated whatever their score. Raises
    ConfigurationError when too few rows violate, or all do, and when only a threshold of 0 reaches the recall.
    """
    return _samples(scores, violates, weights, certain).reaching(target_recall)


def _samples(
    scores: Sequence[float] | Floats,
    violates: Sequence[bool] | Flags,
    weights: Sequence[float] | Floats | None,
    certain: Sequence[bool] | Flags | None,
) -> _Samples:
    rows = len(scores)
    return _Samples(
        np.asarray(scores, dtype=float),
        np.asarray(violates, dtype=bool),
        np.ones(rows) if weights is None else np.asarray(weights, dtype=float),
        np.zeros(rows, dtype=bool) if certain is None else np.asarray(certain, dtype=bool),
    )


def _out_of_reach(samples: _Samples, target_recall: float) -> str:
    """Why no threshold reaches a recall, and what to do."""
    reached = samples.violates & (samples.certain | (samples.scores > 0))
    best = samples.weights[reached].sum() / samples.weights[samples.violates].sum()
    unseen = int(samples.violates.sum() - reached.sum())
    return (
        f"no threshold above 0 reaches recall {target_recall:g}, and 0 would send everything to the model. "
        f"{unseen:,} of {samples.violates.sum():,} violating texts have a score of 0; without them, recall {best:.2f} "
        "is possible: lower --target-recall, add terms to the gate, or distill a classifier"
    )


class _Probability(NamedTuple):
    """The better map, P(violates) at the threshold by it, and both maps' Brier scores on unseen rows."""

    map: MapName
    at_threshold: float
    brier: dict[str, float]


def _probability(samples: _Samples, threshold: float, seed: int) -> _Probability:
    """Fitted on the items that the score decides about; both kinds are needed, or else all items are taken."""
    open_items = samples.take(np.flatnonzero(~samples.certain))
    if FOLDS <= open_items.violates.sum() <= len(open_items.violates) - FOLDS:
        samples = open_items

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
