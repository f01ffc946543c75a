"""Distil a label for one policy from texts that were judged under it, and say whether its gate would gain by it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold

from safeguard_streams.errors import ConfigurationError
from safeguard_streams.policies import distilled
from safeguard_streams.policies.distilled import log_odds
from safeguard_streams.policies.document import Policy
from safeguard_streams.prefilter.classifier import Classifier, Floats
from safeguard_streams.prefilter.gates import Gates
from safeguard_streams.prefilter.normalise import tokens
from safeguard_streams.quality.evaluation import Figures, figures
from safeguard_streams.quality.verdict_labels import LabeledItem

FEWEST = 100  # rows; and at least FEWEST_EACH of each side
FEWEST_EACH = 20
TRUST = 0.2  # how far the harms' log odds are trusted before there is evidence
STRENGTHS = (2.0, 6.0, 20.0)  # inverse of the regularisation
FOLDS = 4

Flags = NDArray[np.bool_]


class Proposal(msgspec.Struct, frozen=True):
    """A distilled label, trained on all rows; after is of labels on the rows that each did not see."""

    label: bytes
    before: Figures
    after: Figures
    scores: tuple[Floats, Floats]  # before, after [rows]
    violates: Flags  # [rows]


def gate_scores(policy: Policy, classifier: Classifier, texts: Sequence[str]) -> Floats:
    """What the policy's gate gives these texts, 0 to 1; of a gate without labels, 1 - P(none)."""
    if policy.distilled is None and not policy.gate.harms:
        gate = msgspec.structs.replace(policy.gate, harms=tuple(classifier.harms))
        policy = msgspec.structs.replace(policy, gate=gate)
    gates = Gates([policy], classifier)
    return np.concatenate([gates.evaluate(texts[at : at + 1000]).scores[:, 0] for at in range(0, len(texts), 1000)])


def propose(policy: Policy, classifier: Classifier, rows: Sequence[LabeledItem], seed: int = 0) -> Proposal:
    """Compare the gate in force with labels distilled from three quarters of the rows on the fourth; distil from all.

    Raises ConfigurationError when there are too few rows to learn from.
    """
    violates = np.array([row.violates for row in rows], dtype=bool)
    if len(rows) < FEWEST or min(violates.sum(), (~violates).sum()) < FEWEST_EACH:
        raise ConfigurationError(
            f"{policy.id}: {len(rows)} judged texts, {int(violates.sum())} of them violating: too few to learn from; "
            f"at least {FEWEST} are needed, {FEWEST_EACH} of each side. Raise the policy's sample rate, and wait"
        )
    texts = [row.text or "" for row in rows]
    weights = np.array([row.weight for row in rows])
    before = gate_scores(policy, classifier, texts)
    features = _Features(policy, classifier, texts)
    after = np.zeros(len(rows))
    for seen, unseen in StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(texts, violates):
        after[unseen] = _fit(features, seen, violates, weights, seed).scores(features, unseen)
    label = _fit(features, np.arange(len(rows)), violates, weights, seed)
    written = distilled.write(
        label.weights,
        policy_id=policy.id,
        classifier=classifier.name,
        harms=policy.gate.harms,
        trust=(float(label.trust[0]), float(label.trust[1])),
        bias=label.bias,
        rows=len(rows),
    )
    return Proposal(
        written,
        figures("gate in force", before, violates, seed),
        figures("distilled label", after, violates, seed),
        (before, after),
        violates,
    )


class _Features:
    """Texts as counts of letter groups over the square root of their number, and the log odds of the gate's labels and of
    any harm [texts, 2], whatever is in force.
    """

    def __init__(self, policy: Policy, classifier: Classifier, texts: Sequence[str]) -> None:
        rows, columns, values = [], [], []
        for row, text in enumerate(texts):
            found = [group for word in tokens(text) for group in distilled.groups(word)]
            groups, counts = np.unique(np.array(found, dtype=np.intp), return_counts=True)
            rows += [row] * len(groups)
            columns += groups.tolist()
            values += (counts / np.sqrt(max(1, len(found)))).tolist()
        self.groups = sparse.csr_matrix((values, (rows, columns)), shape=(len(texts), distilled.BUCKETS))
        plain = msgspec.structs.replace(policy, distilled=None)
        broad = msgspec.structs.replace(plain, gate=msgspec.structs.replace(policy.gate, harms=()))
        harms = [gate_scores(p, classifier, texts) for p in (plain, broad)]
        self.odds = log_odds(np.column_stack(harms))

    def matrix(self, idf: Floats) -> sparse.csr_matrix:
        return sparse.hstack([self.groups.multiply(idf), self.odds * TRUST]).tocsr()

    def idf(self, rows: NDArray[np.intp]) -> Floats:
        """Rare groups weigh more; a group that is not there yet weighs nothing."""
        frequency = np.asarray((self.groups[rows] > 0).sum(axis=0)).ravel()
        return np.where(frequency > 0, np.log((1 + len(rows)) / (1 + frequency)) / 3, 0.0)


class _Label(msgspec.Struct, frozen=True):
    weights: Floats
    trust: Floats
    bias: float

    def scores(self, features: _Features, rows: NDArray[np.intp]) -> Floats:
        logits = features.groups[rows] @ self.weights + features.odds[rows] @ self.trust + self.bias
        return np.asarray(1 / (1 + np.exp(-logits)))


def _fit(features: _Features, rows: NDArray[np.intp], violates: Flags, weights: Floats, seed: int) -> _Label:
    """Logistic regression; its strength and whether rare groups weigh more are chosen by cross-validation."""
    y, w = violates[rows], weights[rows]
    folds = list(StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(rows, y))

    def fit(strength: float, x: sparse.csr_matrix, on: NDArray[np.intp]) -> LogisticRegression:
        model = LogisticRegression(C=strength, solver="liblinear", intercept_scaling=10.0, random_state=seed)
        return model.fit(x[on], y[on], sample_weight=w[on])

    best: tuple[float, LogisticRegression, Floats] | None = None
    idf = features.idf(rows)
    for table in (idf, np.ones_like(idf)):
        x = features.matrix(table)[rows]
        for strength in STRENGTHS:
            said = np.zeros(len(rows))
            for train, test in folds:
                said[test] = fit(strength, x, train).predict_proba(x[test])[:, 1]
            loss = float(log_loss(y, said, sample_weight=w))
            if best is None or loss < best[0]:
                best = loss, fit(strength, x, np.arange(len(rows))), table
    assert best is not None
    _, model, table = best
    coefficients = model.coef_[0]
    return _Label(coefficients[:-2] * table, coefficients[-2:] * TRUST, float(model.intercept_[0]))
