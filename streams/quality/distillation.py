"""Distils a classifier for one policy from texts judged under it, and measures whether the policy's gate improves."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

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
from safeguard_streams.policies.files import with_changes
from safeguard_streams.prefilter.classifier import Classifier, Floats
from safeguard_streams.prefilter.normalise import tokens
from safeguard_streams.quality.evaluation import Figures, Flags, ScoredSet, figures
from safeguard_streams.quality.scoring import gate_answers, gate_scores
from safeguard_streams.quality.threshold import calibrate
from safeguard_streams.quality.verdict_labels import LabeledItem

MIN_ROWS = 100
MIN_ROWS_PER_SIDE = 20  # that violate, and that do not
TRUST = 0.2  # in the harms' log odds before there is evidence
INVERSE_STRENGTHS = (2.0, 6.0, 20.0)  # of the regularisation
FOLDS = 4


class Proposal(msgspec.Struct, frozen=True):
    """A distilled classifier, trained on all rows, compared with the gate in force.

    distilled is the file that travels with the policy. In cross-validation each row of scored_after comes from a
    classifier that did not see it. matched [rows]: whether the gate's terms or patterns match, which it keeps.
    """

    distilled: bytes
    before: Figures
    after: Figures
    scored_before: ScoredSet
    scored_after: ScoredSet
    matched: Flags

    def threshold(self, target_recall: float) -> float:
        """The distilled classifier's threshold for this recall, 0 to 1."""
        after = self.scored_after
        return calibrate(after.scores, after.violates, target_recall, after.weights, self.matched).threshold


def propose(policy: Policy, classifier: Classifier, rows: Sequence[LabeledItem], seed: int = 0) -> Proposal:
    """Distil from all rows, and compare with the gate in force by cross-validation.

    Raises ConfigurationError when there are too few rows to learn from.
    """
    violates = np.array([row.violates for row in rows], dtype=bool)
    if len(rows) < MIN_ROWS or min(violates.sum(), (~violates).sum()) < MIN_ROWS_PER_SIDE:
        raise ConfigurationError(
            f"{policy.id}: {len(rows)} judged texts, {int(violates.sum())} of them violating: too few to learn from; "
            f"at least {MIN_ROWS} are needed, {MIN_ROWS_PER_SIDE} of each side. Raise the policy's sample rate and wait"
        )
    texts = [row.text or "" for row in rows]
    weights = np.array([row.weight for row in rows])
    before = gate_answers(policy, classifier, texts)
    features = _Features(policy, classifier, texts)
    after = np.zeros(len(rows))
    for seen, unseen in StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(texts, violates):
        after[unseen] = _fit(features, seen, violates, weights, seed).scores(features, unseen)
    model = _fit(features, np.arange(len(rows)), violates, weights, seed)
    distilled_file = distilled.write(
        model.weights,
        policy_id=policy.id,
        classifier=classifier.name,
        harms=policy.gate.harms,
        trust=(float(model.trust[0]), float(model.trust[1])),
        bias=model.bias,
        rows=len(rows),
    )
    scored_before = ScoredSet("gate in force", before.scores, violates, weights)
    scored_after = ScoredSet("distilled classifier", after, violates, weights)
    return Proposal(
        distilled=distilled_file,
        before=figures(scored_before, seed),
        after=figures(scored_after, seed),
        scored_before=scored_before,
        scored_after=scored_after,
        matched=before.matched,
    )


def write(policy: Policy, proposal: Proposal, threshold: float, folder: Path) -> list[Path]:
    """Write policy.md and distilled.json with the proposed classifier and threshold. Returns their paths."""
    digest = hashlib.sha256(proposal.distilled).hexdigest()[:12]
    document = with_changes(policy.document, "gate", distilled=digest, threshold=threshold, calibration=None)
    files = {folder / "distilled.json": proposal.distilled, folder / "policy.md": document.encode()}
    folder.mkdir(parents=True, exist_ok=True)
    for path, content in files.items():
        path.write_bytes(content)
    return list(files)


class _Features:
    """What the distilled classifier sees of texts.

    groups counts letter groups, over the square root of their number [texts, buckets]. odds is the log odds of the
    gate's harms and of any harm [texts, 2], whatever gate is in force.
    """

    def __init__(self, policy: Policy, classifier: Classifier, texts: Sequence[str]) -> None:
        rows, columns, values = [], [], []
        for row, text in enumerate(texts):
            in_text = [group for word in tokens(text) for group in distilled.groups(word)]
            groups, counts = np.unique(np.array(in_text, dtype=np.intp), return_counts=True)
            rows += [row] * len(groups)
            columns += groups.tolist()
            values += (counts / np.sqrt(max(1, len(in_text)))).tolist()
        self.groups = sparse.csr_matrix((values, (rows, columns)), shape=(len(texts), distilled.BUCKETS))
        gate_harms = msgspec.structs.replace(policy, distilled=None)
        any_harm = msgspec.structs.replace(gate_harms, gate=msgspec.structs.replace(policy.gate, harms=()))
        harms = [gate_scores(p, classifier, texts) for p in (gate_harms, any_harm)]
        self.odds = log_odds(np.column_stack(harms))

    def matrix(self, idf: Floats) -> sparse.csr_matrix:
        return sparse.hstack([self.groups.multiply(idf), self.odds * TRUST]).tocsr()

    def idf(self, rows: NDArray[np.intp]) -> Floats:
        """Inverse document frequency [buckets]: rare groups weigh more, and groups that do not occur weigh nothing."""
        frequency = np.asarray((self.groups[rows] > 0).sum(axis=0)).ravel()
        return np.where(frequency > 0, np.log((1 + len(rows)) / (1 + frequency)) / 3, 0.0)


class _LinearModel(msgspec.Struct, frozen=True):
    """Weights of the letter groups [buckets], trust in the two log odds [2], and the bias."""

    weights: Floats
    trust: Floats
    bias: float

    def scores(self, features: _Features, rows: NDArray[np.intp]) -> Floats:
        logits = features.groups[rows] @ self.weights + features.odds[rows] @ self.trust + self.bias
        return np.asarray(1 / (1 + np.exp(-logits)))


def _fit(features: _Features, rows: NDArray[np.intp], violates: Flags, weights: Floats, seed: int) -> _LinearModel:
    """Logistic regression. Cross-validation chooses its strength and whether rare groups weigh more."""
    y, w = violates[rows], weights[rows]
    folds = list(StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(rows, y))

    def fit(strength: float, x: sparse.csr_matrix, on: NDArray[np.intp]) -> LogisticRegression:
        model = LogisticRegression(C=strength, solver="liblinear", intercept_scaling=10.0, random_state=seed)
        return model.fit(x[on], y[on], sample_weight=w[on])

    best: tuple[float, LogisticRegression, Floats] | None = None
    idf = features.idf(rows)
    for table in (idf, np.ones_like(idf)):
        x = features.matrix(table)[rows]
        for strength in INVERSE_STRENGTHS:
            predicted = np.zeros(len(rows))
            for train, test in folds:
                predicted[test] = fit(strength, x, train).predict_proba(x[test])[:, 1]
            loss = float(log_loss(y, predicted, sample_weight=w))
            if best is None or loss < best[0]:
                best = loss, fit(strength, x, np.arange(len(rows))), table
    assert best is not None
    _, model, table = best
    coefficients = model.coef_[0]
    return _LinearModel(coefficients[:-2] * table, coefficients[-2:] * TRUST, float(model.intercept_[0]))
