"""Learns a golden gate, and measures it beside the present gate on texts that it was not learned from."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold

from safeguard_streams.policies import distilled
from safeguard_streams.policies.distilled import BUCKETS, log_odds
from safeguard_streams.policies.document import Policy
from safeguard_streams.policies.golden_gates import TRUST, Expected, GoldenGate, trust
from safeguard_streams.prefilter.classifier import Classifier, Floats
from safeguard_streams.prefilter.encoder.encoder import Encoder
from safeguard_streams.prefilter.encoder.tokens import undisguised
from safeguard_streams.prefilter.normalise import read
from safeguard_streams.quality.evaluation import Flags, threshold_for
from safeguard_streams.quality.golden_corpus import Corpus
from safeguard_streams.quality.proportions import Proportion, proportion
from safeguard_streams.quality.scoring import GateAnswers, gate_answers
from safeguard_streams.quality.weighted import Estimate

FOLDS = 5
TARGET_RECALL = 0.95  # of the gates that a release learns
SCALE = 3.0  # of vectors: what their mean distance from their mean becomes
STRENGTH = 20.0  # inverse of the regularisation's
SAFE, BENIGN, OTHERS = 1 / 3, 1 / 2, 1 / 4  # total weights of what should pass, where what violates weighs 1
RESAMPLES = 200
MATCHED = 2.0  # a score above all: terms and patterns escalate, whatever the score
_BOUNDS = (0.0001, 0.9999)  # of a threshold

Indices = NDArray[np.intp]


class Side(msgspec.Struct, frozen=True):
    """One gate on the texts of a corpus.

    recall: of violating golden texts; safe, others, benign: the shares that it escalates of what should pass, all at
    its own threshold. for_recall: the share of benign texts at the threshold for the target recall. auc: ROC-AUC of
    violating golden texts against each kind that should pass.
    """

    recall: Proportion
    safe: Proportion
    others: Proportion
    benign: Proportion
    for_recall: Estimate
    auc: dict[str, Estimate]


class Fitted(NamedTuple):
    """A golden gate, and both gates' figures. Each score of the golden gate is one without the text it is for."""

    gate: GoldenGate
    target_recall: float
    present: Side
    golden: Side


class TextVectors:
    """Vectors of texts, each computed once: policies share most of their texts."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder.name
        self._encode = encoder.encode
        self._known: dict[str, NDArray[np.float32]] = {}

    def of(self, texts: Sequence[str]) -> Floats:
        """[texts, 512]."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        self._known.update(zip(new, self._encode(undisguised(read(new), range(len(new)))), strict=True))
        return np.array([self._known[text] for text in texts], dtype=np.float64)


@cache
def shared_vectors() -> TextVectors:
    """Those of this process. Raises ConfigurationError when the extra `encoder` is not installed."""
    return TextVectors(Encoder())


def learn(
    policy: Policy,
    corpus: Corpus,
    classifier: Classifier,
    vectors: TextVectors,
    target_recall: float = TARGET_RECALL,
    seed: int = 0,
) -> Fitted:
    """Learn from all texts of the corpus. Its threshold and the figures are those of cross-validation."""
    texts = corpus.texts
    answers = gate_answers(policy, classifier, texts)
    present = TRUST * log_odds(answers.scores)
    of_texts = vectors.of(texts)
    unseen = np.zeros(len(texts))
    for seen, left_out in _folds(corpus, seed):
        unseen[left_out] = present[left_out] + _fit(corpus, of_texts, seen).added(of_texts[left_out])
    model = _fit(corpus, of_texts, np.arange(len(texts)))
    scores = np.where(answers.matched, MATCHED, 1 / (1 + np.exp(-unseen)))
    threshold = _threshold(scores[corpus.rows("violating")], target_recall)
    measure = _Measure(corpus, target_recall, seed)
    golden = measure.side(scores, scores >= threshold)
    gate = GoldenGate(
        name=corpus.name(policy, classifier.name, vectors.encoder),
        policy_id=policy.id,
        classifier=classifier.name,
        harms=policy.gate.harms,
        weights=_weights(model, of_texts, corpus, policy, vectors.encoder),
        threshold=threshold,
        rows=len(corpus.violating) + len(corpus.safe) + len(corpus.shown),
        expected=Expected(_figures(golden.recall), _figures(golden.benign)),
    )
    return Fitted(gate, target_recall, measure.side(*_of_present(policy, answers)), golden)


def _of_present(policy: Policy, answers: GateAnswers) -> tuple[Floats, Flags]:
    """The scores of the present gate, and what it escalates."""
    gate = policy.gate
    reached = (answers.scores >= gate.threshold) & bool(gate.harms)
    return np.where(answers.matched, MATCHED, answers.scores), reached | answers.matched | gate.everything


def _figures(share: Proportion) -> tuple[float, float, float]:
    return share.value or 0.0, share.low, share.high


def _threshold(violating: Floats, recall: float) -> float:
    highest = threshold_for(violating, np.ones(len(violating), dtype=bool), np.ones(len(violating)), recall)
    return min(max(math.floor(highest * 1e4) / 1e4, _BOUNDS[0]), _BOUNDS[1])


def _folds(corpus: Corpus, seed: int) -> list[tuple[Indices, Indices]]:
    """Each kind cut into folds. Examples and rules are never left out: nothing is measured on them."""
    everything = np.arange(len(corpus.texts))
    kinds = [corpus.rows(kind) for kind in ("violating", "safe", "benign", "others")]
    cuts = [
        [rows[left_out] for _, left_out in KFold(min(FOLDS, len(rows)), shuffle=True, random_state=seed).split(rows)]
        if len(rows) > 1
        else [rows]
        for rows in kinds
    ]
    left_out = [np.concatenate([cut[number] for cut in cuts if number < len(cut)]) for number in range(FOLDS)]
    return [(np.setdiff1d(everything, rows), rows) for rows in left_out]


class _Linear(NamedTuple):
    """What a vector adds to the log odds: its product with the weights [512], and the bias."""

    weights: Floats
    bias: float

    def added(self, vectors: Floats) -> Floats:
        return np.asarray(vectors @ self.weights + self.bias)


def _fit(corpus: Corpus, vectors: Floats, rows: Indices) -> _Linear:
    """Logistic regression on vectors, centred and scaled by the benign bank."""
    bank = vectors[np.intersect1d(corpus.rows("benign"), rows)]
    mean = bank.mean(axis=0)
    factor = SCALE / max(float(np.sqrt(((bank - mean) ** 2).sum(axis=1).mean())), 1e-6)
    violates = np.isin(rows, np.concatenate([corpus.rows("violating"), corpus.rows("shown")]))
    weights = np.where(violates, 1 / violates.sum(), 0.0)
    for kind, total in (("safe", SAFE), ("benign", BENIGN), ("others", OTHERS)):
        of_kind = np.isin(rows, corpus.rows(kind))
        weights[of_kind] = total / max(1, of_kind.sum())
    model = LogisticRegression(C=STRENGTH, max_iter=1000)
    model.fit((vectors[rows] - mean) * factor, violates, sample_weight=weights)
    of_vector = model.coef_[0] * factor
    return _Linear(of_vector, float(model.intercept_[0]) - float(mean @ of_vector))


def _weights(model: _Linear, vectors: Floats, corpus: Corpus, policy: Policy, encoder: str) -> distilled.VectorWeights:
    """The weights as prefilters use them. What a vector usually adds reaches from benign to violating texts."""
    added = vectors @ model.weights
    return distilled.vector_weights(
        np.zeros(BUCKETS),
        model.weights,
        encoder=encoder,
        trust=trust(policy.gate),
        bias=model.bias,
        least=float(np.percentile(added[corpus.rows("benign")], 1)),
        most=float(np.percentile(added[corpus.rows("violating")], 99)),
    )


def table_lines(fitted: Sequence[Fitted]) -> list[str]:
    """Both gates of each policy in Markdown, with 95% intervals."""
    names = ["policy", "gate", "recall", "safe golden texts", "others' golden texts", "benign texts"]
    names += [f"benign for recall {fitted[0].target_recall:.2f}", "ROC-AUC, others", "ROC-AUC, benign"]
    lines = [f"| {' | '.join(names)} |", "| --- | --- |" + " ---: |" * (len(names) - 2)]
    for one in fitted:
        for gate, side in (("present", one.present), ("golden", one.golden)):
            shares = (side.recall, side.safe, side.others, side.benign, side.for_recall)
            cells = [one.gate.policy_id, gate, *shares, side.auc["others"], side.auc["benign"]]
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


class _Measure:
    """Measures gates on the texts of a corpus. All are measured on the same resamples."""

    def __init__(self, corpus: Corpus, target_recall: float, seed: int) -> None:
        self._corpus = corpus
        self._target_recall = target_recall
        self._seed = seed

    def side(self, scores: Floats, escalated: Flags) -> Side:
        """The figures of a gate with these scores, which escalates these texts [texts]."""
        shares = {
            kind: proportion(int(escalated[rows].sum()), len(rows))
            for kind in ("violating", "safe", "others", "benign")
            for rows in (self._corpus.rows(kind),)
        }
        return Side(
            recall=shares["violating"],
            safe=shares["safe"],
            others=shares["others"],
            benign=shares["benign"],
            for_recall=self._estimate(scores, "benign", self._share_for_recall),
            auc={kind: self._estimate(scores, kind, _roc_auc) for kind in ("safe", "others", "benign")},
        )

    def _share_for_recall(self, violating: Floats, passing: Floats) -> float:
        ones = np.ones(len(violating))
        return float((passing >= threshold_for(violating, ones > 0, ones, self._target_recall)).mean())

    def _estimate(self, scores: Floats, kind: str, figure: Callable[[Floats, Floats], float]) -> Estimate:
        violating, passing = scores[self._corpus.rows("violating")], scores[self._corpus.rows(kind)]
        draw = np.random.default_rng(self._seed)
        resampled = [
            figure(draw.choice(violating, len(violating)), draw.choice(passing, len(passing))) for _ in range(RESAMPLES)
        ]
        low, high = np.percentile(resampled, [2.5, 97.5]).tolist()
        return Estimate(*(round(value, 4) for value in (figure(violating, passing), low, high)))


def _roc_auc(violating: Floats, passing: Floats) -> float:
    """The probability that a violating text scores higher; equal scores count half."""
    ordered = np.sort(passing)
    below, at_most = (np.searchsorted(ordered, violating, side) for side in ("left", "right"))
    return float((below + at_most).mean() / 2 / len(passing))
