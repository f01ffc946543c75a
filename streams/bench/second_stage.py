"""Policies whose gates use vectors for a given share of a benchmark's texts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

from safeguard_streams.policies import distilled
from safeguard_streams.policies.distilled import log_odds
from safeguard_streams.policies.document import Policy
from safeguard_streams.policies.files import with_changes
from safeguard_streams.policies.parsing import parse
from safeguard_streams.prefilter.classifier import NONE, Classifier
from safeguard_streams.prefilter.encoder.files import NAME

GATES = 2  # policies whose gates use vectors
SHARES = (0.05, 0.2, 1.0)  # of texts that are encoded
ESCALATED = 0.05  # share of texts that the first stage of these gates escalates
_FAR = 100.0  # logits: the range of vectors that leaves every text open


def with_vectors(policies: Sequence[Policy], texts: Sequence[str], share: float) -> list[Policy]:
    """The policies, the first ones with a gate that leaves this share of the texts to their vectors.

    Such a gate scores any harm, and the vector adds nothing: it costs what every vector costs.
    """
    classifier = Classifier()
    logits = log_odds(np.array([1 - scores[NONE] for scores in classifier.score(texts)]))
    threshold = float(np.quantile(logits, 1 - ESCALATED))
    reach = _FAR if share >= 1 else float(np.quantile(np.abs(logits - threshold), share))
    no_groups = np.zeros(distilled.BUCKETS)
    other = distilled.vector_weights(
        no_groups, np.zeros(distilled.VECTOR), encoder=NAME, trust=(1, 0), bias=0.0, least=-reach, most=reach
    )
    changed = []
    for policy in policies[:GATES]:
        content = distilled.write(
            no_groups,
            other,
            policy_id=policy.id,
            classifier=classifier.name,
            harms=(),
            trust=(1, 0),
            bias=0.0,
            rows=len(texts),
        )
        gate = {"distilled": hashlib.sha256(content).hexdigest()[:12], "threshold": 1 / (1 + float(np.exp(-threshold)))}
        document = with_changes(policy.document, "gate", calibration=None, **gate)
        changed.append(parse(document, distilled=content.decode()))
    return [*changed, *policies[GATES:]]


def share_encoded(policies: Iterable[Policy], texts: Sequence[str]) -> float:
    """The share of the texts that the prefilter encodes under these policies."""
    from safeguard_streams.bench.prefilter import records
    from safeguard_streams.bench.variants import prefilter_under

    return round(len(prefilter_under(policies).begin(records(texts)).texts) / len(texts), 3)
