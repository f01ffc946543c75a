"""Scores of texts, 0 to 1: the probability of any harm, and what a policy's gate gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from safeguard_streams.policies.document import Policy
from safeguard_streams.prefilter.classifier import NONE, Classifier, Floats
from safeguard_streams.prefilter.encoder.encoder import Encoder
from safeguard_streams.prefilter.encoder.tokens import undisguised
from safeguard_streams.prefilter.encoder.vector_terms import uses_vectors
from safeguard_streams.prefilter.gates import GateResults, Gates
from safeguard_streams.prefilter.normalise import Flags

BATCH = 1000  # texts
Score = Callable[[Sequence[str]], Floats]
"""Texts to their scores, one for each."""


def harm_scores(classifier: Classifier, texts: Sequence[str]) -> Floats:
    """The probability of any harm, 1 - P(none) [texts]."""
    batches = (classifier.score(texts[at : at + BATCH]) for at in range(0, len(texts), BATCH))
    return np.array([1 - scores[NONE] for batch in batches for scores in batch])


class GateAnswers(NamedTuple):
    """What a policy's gate says of texts: its scores, and whether a term or pattern matches [texts]."""

    scores: Floats
    matched: Flags


def gate_answers(
    policy: Policy, classifier: Classifier, texts: Sequence[str], encoder: Encoder | None = None
) -> GateAnswers:
    """What the policy's gate says. A gate without harms and distilled classifier scores 1 - P(none).

    encoder: that of the prefilters whose scores to give, or None for those without one.
    """
    if policy.distilled is None and not policy.gate.harms:
        gate = msgspec.structs.replace(policy.gate, harms=tuple(classifier.harms), general=0.0)
        policy = msgspec.structs.replace(policy, gate=gate)
    gates = Gates([policy], classifier, encoder.name if encoder else None)
    scores, matched = np.zeros(len(texts)), np.zeros(len(texts), dtype=bool)
    for at in range(0, len(texts), BATCH):
        results = gates.evaluate(texts[at : at + BATCH])
        if encoder and uses_vectors(policy, encoder.name):
            results = _with_all_vectors(gates, results, encoder)
        scores[at : at + BATCH] = results.scores[:, 0]
        matched[[at + text for text, _ in results.matches]] = True
    return GateAnswers(scores, matched)


def _with_all_vectors(gates: Gates, results: GateResults, encoder: Encoder) -> GateResults:
    every = np.ones(len(results.scores), dtype=bool)
    return gates.with_vectors(results, encoder.encode_passages(undisguised(results.views, range(len(every)))), every)


def gate_scores(policy: Policy, classifier: Classifier, texts: Sequence[str], encoder: Encoder | None = None) -> Floats:
    """The scores of `gate_answers`."""
    return gate_answers(policy, classifier, texts, encoder).scores
