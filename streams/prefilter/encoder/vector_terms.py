"""What the vector of a text adds to the logit of a gate, for gates that ask for it."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from safeguard_streams.policies.distilled import VectorWeights
from safeguard_streams.policies.document import Policy
from safeguard_streams.prefilter.encoder import harm_heads
from safeguard_streams.prefilter.encoder.harm_heads import HarmTerm

Floats = NDArray[np.float64]


class VectorTerm(Protocol):
    """least, most: the range of what vectors usually add."""

    least: float
    most: float

    def added(self, vectors: NDArray[np.float32]) -> Floats:
        """What each vector adds [vectors]."""
        ...


class DistilledTerm:
    """What was learned with a distilled classifier."""

    def __init__(self, learned: VectorWeights) -> None:
        self.least, self.most = learned.least, learned.most
        self._table = learned.vector_table

    def added(self, vectors: NDArray[np.float32]) -> Floats:
        """What each vector adds [vectors]."""
        return np.asarray(vectors.astype(np.float64) @ self._table)


def vector_term(policy: Policy, encoder: str | None) -> VectorTerm | None:
    """What vectors add to the policy's gate; None where it asks for none, or for those of another encoder.

    encoder: the name of the encoder at hand. A gate asks with weights of its distilled classifier, or with a
    threshold_with_encoder.
    """
    if policy.distilled is not None:
        learned = policy.distilled.with_vectors
        return DistilledTerm(learned) if learned is not None and policy.distilled.uses(encoder) else None
    if policy.gate.threshold_with_encoder is None or not policy.gate.harms or encoder is None:
        return None
    heads = harm_heads.shipped()
    return None if heads.encoder != encoder else HarmTerm(heads, policy.gate.harms, policy.gate.general)


def uses_vectors(policy: Policy, encoder: str | None) -> bool:
    """Whether vectors of this encoder add to the score of the policy's gate."""
    return vector_term(policy, encoder) is not None
