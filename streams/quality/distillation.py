"""Distils a classifier for one policy from texts judged under it, and measures whether the policy's gate improves."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from copy import copy
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from safeguard_streams.errors import ConfigurationError
from safeguard_streams.policies import distilled
from safeguard_streams.policies.distilled import log_odds
from safeguard_streams.policies.document import Policy
from safeguard_streams.policies.files import PolicyFiles, with_changes
from safeguard_streams.prefilter.classifier import Classifier, Floats
from safeguard_streams.prefilter.encoder.encoder import Encoder, Vectors
from safeguard_streams.prefilter.encoder.passages import PassageVectors
from safeguard_streams.prefilter.encoder.tokens import undisguised
from safeguard_streams.prefilter.normalise import read, tokens
from safeguard_streams.quality.copies import Indices, copies, folds, originals
from safeguard_streams.quality.evaluation import Figures, Flags, ScoredSet, figures
from safeguard_streams.quality.gate_choice import Choice, aimed_recall, compare
from safeguard_streams.quality.scoring import gate_answers, gate_scores
from safeguard_streams.quality.threshold import reaching
from safeguard_streams.quality.verdict_labels import LabeledItem

MIN_ROWS = 100
MIN_ROWS_PER_SIDE = 20  # that violate, and that do not
RANGE = 2.0  # standard deviations from the mean: what vectors usually add; up to 0.3% of decisions change beyond it
TRUST = 0.2  # in the harms' log odds before there is evidence
INVERSE_STRENGTHS = (2.0, 6.0, 20.0)  # of the regularisation
# The same with vectors, by their scale: their mean distance from their mean, where letter groups have a length near 1.
VECTOR_STRENGTHS = {3.0: (0.1, 0.5, 2.0, 8.0), 1.0: (2.0, 6.0, 20.0)}
FOLDS = 4


class Proposal(msgspec.Struct, frozen=True, dict=True):
    """A distilled classifier, trained on all rows, compared with the gate in force.

    distilled is the file that travels with the policy. In cross-validation each row of scored_after comes from a
    classifier that did not see it. matched [rows]: whether the gate's terms or patterns match, which it keeps: these
    rows are escalated by any of the gates, and have the score 1.
    scored_vectors: the same with the vectors of an encoder, if there was one.
    """

    distilled: bytes
    scored_before: ScoredSet
    scored_after: ScoredSet
    matched: Flags
    scored_vectors: ScoredSet | None = None
    seed: int = 0

    @cached_property
    def before(self) -> Figures:
        """The figures of the gate in force."""
        return figures(self.scored_before, self.seed)

    @cached_property
    def after(self) -> Figures:
        """The figures of the distilled classifier."""
        return figures(self.scored_after, self.seed)

    @cached_property
    def after_vectors(self) -> Figures | None:
        """The figures of the distilled classifier with vectors."""
        return figures(self.scored_vectors, self.seed) if self.scored_vectors else None

    @property
    def figures(self) -> list[Figures]:
        """The figures of all that are compared."""
        return [self.before, self.after, *([self.after_vectors] if self.after_vectors else [])]

    @property
    def scored(self) -> list[ScoredSet]:
        """The scores of all that are compared."""
        return [self.scored_before, self.scored_after, *([self.scored_vectors] if self.scored_vectors else [])]

    def choices(self, target_recall: float) -> list[Choice]:
        """Each gate beside the one before it in `scored`, by what they escalate for this recall."""
        return [compare(one, than, target_recall) for than, one in pairwise(self.scored)]

    def aimed_recall(self, target_recall: float) -> float:
        """The recall on these rows that makes up for their number: a standard error above the target, at most 1."""
        return aimed_recall(
            target_recall, self.scored_after.violates, self.scored_after.weights, self.scored_after.groups
        )

    def threshold(self, target_recall: float) -> float:
        """The distilled classifier's threshold for this recall, 0 to 1, with a margin for the number of rows."""
        return self._threshold(self.scored_after, target_recall)

    def file(self, target_recall: float) -> bytes:
        """distilled.json. A shift of the second set of weights gives both the same threshold for this recall."""
        if self.scored_vectors is None:
            return self.distilled
        return distilled.shifted(self.distilled, *self._logits(self.scored_vectors, target_recall))

    def shifted_vectors(self, target_recall: float) -> ScoredSet | None:
        """The scores with vectors as the file's second set of weights gives them."""
        if self.scored_vectors is None:
            return None
        wanted, own = self._logits(self.scored_vectors, target_recall)
        scores = 1 / (1 + np.exp(own - wanted - log_odds(self.scored_vectors.scores)))
        return msgspec.structs.replace(self.scored_vectors, scores=np.where(self.matched, 1.0, scores))

    def _logits(self, with_vectors: ScoredSet, target_recall: float) -> tuple[float, float]:
        """The threshold of both sets of weights, and what that of the second would be without a shift."""
        wanted, own = self.threshold(target_recall), self._threshold(with_vectors, target_recall)
        logits = log_odds(np.array([wanted, own]))
        return float(logits[0]), float(logits[1])

    def _threshold(self, scored: ScoredSet, target_recall: float) -> float:
        aimed = self.aimed_recall(target_recall)
        return reaching(scored.scores, scored.violates, aimed, scored.weights, self.matched)


def propose(
    policy: Policy,
    classifier: Classifier,
    rows: Sequence[LabeledItem],
    seed: int = 0,
    encoder: Encoder | None = None,
) -> Proposal:
    """Distil from all rows, and compare with the gate in force by cross-validation.

    With an encoder, a second set of weights is learned for prefilters that have it.
    Raises ConfigurationError when there are too few rows to learn from.
    """
    violates = np.array([row.violates for row in rows], dtype=bool)
    texts = [row.text or "" for row in rows]
    _require_enough(policy, violates, copies(texts))
    weights = np.array([row.weight for row in rows])
    before = gate_answers(policy, classifier, texts, encoder)
    features = Features(policy, classifier, texts, encoder)
    learned = learn(features, violates, weights, seed)
    of_vectors = learn(features, violates, weights, seed, vectors=True) if encoder else None
    distilled_file = distilled.write(
        learned.model.weights,
        policy_id=policy.id,
        classifier=classifier.name,
        harms=policy.gate.harms,
        trust=learned.model.trusts,
        bias=learned.model.bias,
        rows=len(rows),
        with_vectors=_vector_weights(of_vectors.model, features, encoder.name) if encoder and of_vectors else None,
    )

    def scored(name: str, scores: Floats) -> ScoredSet:
        return ScoredSet(name, np.where(before.matched, 1.0, scores), violates, weights, features.copies)

    scored_before = scored("gate in force", before.scores)
    scored_after = scored("distilled classifier", learned.unseen)
    scored_vectors = scored("with the encoder", of_vectors.unseen) if of_vectors else None
    return Proposal(distilled_file, scored_before, scored_after, before.matched, scored_vectors, seed)


def _require_enough(policy: Policy, violates: Flags, groups: Indices) -> None:
    """Raise ConfigurationError where the texts are too few to learn from. All copies of a text count as one."""
    different = violates[originals(groups)]
    if len(different) < MIN_ROWS or min(different.sum(), (~different).sum()) < MIN_ROWS_PER_SIDE:
        but_for = "" if len(different) == len(violates) else f", {len(different)} of them different"
        raise ConfigurationError(
            f"{policy.id}: {len(violates)} judged texts{but_for}, {int(different.sum())} of these violating: too few "
            f"to learn from; at least {MIN_ROWS} different ones are needed, {MIN_ROWS_PER_SIDE} of each side. Raise "
            "the policy's sample rate and wait"
        )


def with_classifier(policy: Policy, content: bytes, threshold: float) -> PolicyFiles:
    """The policy's files with this distilled.json and its threshold in the gate.

    Raises ConfigurationError for a threshold of 1, which no text reaches: terms and patterns find enough alone.
    """
    if threshold >= 1:
        raise ConfigurationError(
            f"{policy.id}: the terms reach the recall without a threshold, and a classifier would escalate nothing "
            "more; raise --target-recall, or keep the gate"
        )
    digest = hashlib.sha256(content).hexdigest()[:12]
    replaced = dict.fromkeys(("general", "threshold_with_encoder", "calibration", "everything"))
    gate = {"distilled": digest, "threshold": threshold, **replaced}
    return PolicyFiles(with_changes(policy.document, "gate", **gate), content.decode())


def write(policy: Policy, proposal: Proposal, target_recall: float, folder: Path) -> list[Path]:
    """Write policy.md and distilled.json with the proposed classifier and its threshold. Returns their paths.

    Raises ConfigurationError where the gate's terms reach the recall alone.
    """
    content = proposal.file(target_recall)
    document, _ = with_classifier(policy, content, proposal.threshold(target_recall))
    files = {folder / "distilled.json": content, folder / "policy.md": document.encode()}
    folder.mkdir(parents=True, exist_ok=True)
    for path, written in files.items():
        path.write_bytes(written)
    return list(files)


class Features:
    """What the distilled classifier sees of texts.

    groups counts letter groups, over the square root of their number [texts, buckets]. odds is the log odds of the
    gate's harms and of any harm [texts, 2], whatever gate is in force. passages: the encoder's vectors of all passages;
    without an encoder there are none. copies [texts]: the group of each text's copies.
    """

    def __init__(
        self, policy: Policy, classifier: Classifier, texts: Sequence[str], encoder: Encoder | None = None
    ) -> None:
        rows, columns, values = [], [], []
        for row, text in enumerate(texts):
            in_text = [group for word in tokens(text) for group in distilled.groups(word)]
            groups, counts = np.unique(np.array(in_text, dtype=np.intp), return_counts=True)
            rows += [row] * len(groups)
            columns += groups.tolist()
            values += (counts / np.sqrt(max(1, len(in_text)))).tolist()
        self.copies = copies(texts)
        self.groups = sparse.csr_matrix((values, (rows, columns)), shape=(len(texts), distilled.BUCKETS))
        gate = msgspec.structs.replace(policy.gate, general=0.0)
        gate_harms = msgspec.structs.replace(policy, distilled=None, gate=gate)
        any_harm = msgspec.structs.replace(gate_harms, gate=msgspec.structs.replace(gate, harms=()))
        harms = [gate_scores(p, classifier, texts) for p in (gate_harms, any_harm)]
        self.odds = log_odds(np.column_stack(harms))
        self.passages = PassageVectors.one_each(np.zeros((0, distilled.VECTOR), dtype=np.float32))
        if encoder:
            self.passages = encoder.encode_passages(undisguised(read(texts), range(len(texts))))

    @property
    def vectors(self) -> Vectors:
        """Those of the texts' beginnings, from which the weights are learned [texts, 512]; without an encoder none."""
        return self.passages.vectors[self.passages.first]

    def added(self, vector: Floats) -> Floats:
        """What the vectors of each text add with these weights, as prefilters score it [texts]."""
        return self.passages.highest(self.passages.vectors.astype(np.float64) @ vector)

    def without_odds(self) -> Features:
        """The same without log odds, to measure what they add."""
        other = copy(self)
        other.odds = np.zeros_like(self.odds)
        return other

    def idf(self, rows: NDArray[np.intp]) -> Floats:
        """Inverse document frequency [buckets]: rare groups weigh more, and groups that do not occur weigh nothing."""
        frequency = np.asarray((self.groups[rows] > 0).sum(axis=0)).ravel()
        return np.where(frequency > 0, np.log((1 + len(rows)) / (1 + frequency)) / 3, 0.0)


class LinearModel(msgspec.Struct, frozen=True):
    """Weights of letter groups [buckets], trust in the two log odds [2], weights of the vector [512], and the bias."""

    weights: Floats
    trust: Floats
    vector: Floats
    bias: float

    @property
    def trusts(self) -> tuple[float, float]:
        return float(self.trust[0]), float(self.trust[1])

    def scores(self, features: Features, rows: NDArray[np.intp]) -> Floats:
        """P(violates) of these rows."""
        logits = features.groups[rows] @ self.weights + features.odds[rows] @ self.trust + self.bias
        if self.vector.any():
            logits = logits + features.added(self.vector)[rows]
        return np.asarray(1 / (1 + np.exp(-logits)))


class Learned(NamedTuple):
    """A model of all rows, and for each row the score of a model that did not see it."""

    model: LinearModel
    unseen: Floats


def learn(features: Features, violates: Flags, weights: Floats, seed: int, *, vectors: bool = False) -> Learned:
    """Learn from all rows, and score each by cross-validation: by a model that saw neither the row nor a copy of it."""
    scores = np.zeros(len(violates))
    for seen, unseen in folds(violates, features.copies, FOLDS, seed):
        scores[unseen] = fit(features, seen, violates, weights, seed, vectors=vectors).scores(features, unseen)
    return Learned(fit(features, np.arange(len(violates)), violates, weights, seed, vectors=vectors), scores)


def _vector_weights(model: LinearModel, features: Features, encoder: str) -> distilled.VectorWeights:
    added = features.added(model.vector)
    mean, deviation = float(added.mean()), float(added.std())
    return distilled.vector_weights(
        model.weights,
        model.vector,
        encoder=encoder,
        trust=model.trusts,
        bias=model.bias,
        least=mean - RANGE * deviation,
        most=mean + RANGE * deviation,
    )


class _Centred(NamedTuple):
    """Vectors less their mean, such that their mean distance from it is 1: `factor` times the difference."""

    vectors: Floats
    mean: Floats
    factor: float

    @classmethod
    def of(cls, vectors: Vectors) -> _Centred:
        mean = vectors.astype(np.float64).mean(axis=0)
        distance = max(float(np.sqrt(((vectors - mean) ** 2).sum(axis=1).mean())), 1e-6)
        return cls((vectors - mean) / distance, mean, 1 / distance)


class _Candidate(NamedTuple):
    """A way to fit: weights of letter groups [buckets], the vectors' scale or 0 for none, the inverse strength."""

    idf: Floats
    scale: float
    strength: float


def _candidates(idf: Floats, *, vectors: bool) -> list[_Candidate]:
    strengths = VECTOR_STRENGTHS if vectors else {0.0: INVERSE_STRENGTHS}
    tables = (idf, np.ones_like(idf))
    return [_Candidate(table, scale, one) for table in tables for scale, each in strengths.items() for one in each]


def fit(
    features: Features,
    rows: NDArray[np.intp],
    violates: Flags,
    weights: Floats,
    seed: int,
    *,
    vectors: bool = False,
) -> LinearModel:
    """Logistic regression. Cross-validation chooses its strength, the weight of rare groups, and the vectors' scale.

    Weights count relative to their mean: regularisation depends on the number of rows, not on what they stand for.
    """
    y, w = violates[rows], weights[rows] / weights[rows].mean()
    parts = list(folds(y, features.copies[rows], FOLDS, seed))
    centred = _Centred.of(features.vectors[rows] if vectors else np.zeros((len(rows), 0), dtype=np.float32))
    occurring = np.flatnonzero(features.groups[rows].getnnz(axis=0))  # the weight of any other group would be 0
    groups = features.groups[rows][:, occurring]

    def design(candidate: _Candidate) -> sparse.csr_matrix:
        dense = np.hstack([features.odds[rows] * TRUST, centred.vectors * candidate.scale])
        return sparse.hstack([groups.multiply(candidate.idf[occurring]), dense]).tocsr()

    def regression(candidate: _Candidate, x: sparse.csr_matrix, on: NDArray[np.intp]) -> LogisticRegression:
        model = LogisticRegression(C=candidate.strength, solver="liblinear", intercept_scaling=10.0, random_state=seed)
        return model.fit(x[on], y[on], sample_weight=w[on])

    def loss(candidate: _Candidate) -> float:
        x, predicted = design(candidate), np.zeros(len(rows))
        for train, test in parts:
            predicted[test] = regression(candidate, x, train).predict_proba(x[test])[:, 1]
        return float(log_loss(y, predicted, sample_weight=w))

    chosen = min(_candidates(features.idf(rows), vectors=vectors), key=loss)
    model = regression(chosen, design(chosen), np.arange(len(rows)))
    of_groups, trust, of_vector = np.split(model.coef_[0], [len(occurring), len(occurring) + 2])
    weights_of = np.zeros(distilled.BUCKETS)
    weights_of[occurring] = of_groups * chosen.idf[occurring]
    vector = of_vector * centred.factor * chosen.scale
    bias = float(model.intercept_[0]) - float(vector @ centred.mean)
    return LinearModel(weights_of, trust * TRUST, vector if vectors else np.zeros(distilled.VECTOR), bias)
