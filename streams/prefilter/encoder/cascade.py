"""Which texts are worth encoding, given what the first stage knows of them. A pure function of arrays.

A gate's logit is a sum: what letter groups and log odds say, and what the vector says. The last part has bounds. A text
whose logit stays on one side of the threshold, whatever its vector, needs none.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

MIN_REACH_TEXTS = 100


class Reach(NamedTuple):
    """The least and the most that a vector adds to the logit of each policy [policies]. Both 0: no use of vectors."""

    low: Floats
    high: Floats

    @classmethod
    def certain(cls, weights: Floats) -> Reach:
        """Bounds that hold for every text: no vector of length 1 adds more than the length of the weights.

        weights [policies, 512].
        """
        length = np.linalg.norm(weights, axis=1)
        return cls(-length, length)

    @classmethod
    def measured(cls, weights: Floats, vectors: NDArray[np.float32], missed: float = 0.001) -> Reach:
        """Bounds that this share of texts like those of `vectors` exceeds on each side.

        weights [policies, 512]; vectors [texts, 512]. Too few texts give the certain bounds.
        """
        if len(vectors) < MIN_REACH_TEXTS:
            return cls.certain(weights)
        low, high = np.quantile(vectors.astype(np.float64) @ weights.T, [missed, 1 - missed], axis=0)
        return cls(low, high)


def undecided(logits: Floats, thresholds: Floats, reach: Reach, settled: Flags) -> Flags:
    """Whether the vector of a text could change the decision of some policy [texts].

    logits, settled [texts, policies]; thresholds [policies].
    logits: what a gate says without the vector; thresholds: the logit that escalates.
    settled: whether the decision is made whatever the score: the policy does not cover the text, a term matched, a
        sample drew it, or the gate escalates everything.
    """
    certain = (logits + reach.high < thresholds) | (logits + reach.low >= thresholds)
    uses_vectors = reach.high > reach.low
    return np.asarray((~certain & ~settled & uses_vectors).any(axis=1))


def with_vectors(logits: Floats, weights: Floats, vectors: NDArray[np.float32], encoded: Flags) -> Floats:
    """The logits, with what vectors add for the encoded texts.

    weights [policies, 512]; vectors [encoded texts, 512], in the order of the texts; encoded [texts].
    """
    result = logits.copy()
    result[encoded] += vectors.astype(np.float64) @ weights.T
    return result
