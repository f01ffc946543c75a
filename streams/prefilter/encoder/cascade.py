"""Which texts are worth encoding, given what the first stage knows of them. Pure functions of arrays.

A gate's logit is a sum: what letter groups and log odds say, and what the vector adds. What vectors usually add has a
range, which is learned with the weights, and no vector adds more or less. A text whose logit is on one side of the
threshold for all of the range needs no vector, and gets the middle of the range instead: whether it is encoded for
another policy changes no decision.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from safeguard_streams.policies.distilled import log_odds
from safeguard_streams.prefilter.encoder.passages import PassageVectors
from safeguard_streams.prefilter.encoder.vector_terms import VectorTerm

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


class VectorGates:
    """The second stage of some gates. Columns of all arrays are the policies, in the order given.

    terms: what vectors add to each policy's logit, or None; thresholds: the score, 0 to 1, that escalates.
    """

    def __init__(self, terms: Sequence[VectorTerm | None], thresholds: Floats) -> None:
        self._terms = [(column, term) for column, term in enumerate(terms) if term is not None]
        self.uses_vectors: Flags = np.array([term is not None for term in terms], dtype=bool)
        self._least = np.array([0.0 if term is None else term.least for term in terms])
        self._most = np.array([0.0 if term is None else term.most for term in terms])
        self._thresholds = log_odds(np.asarray(thresholds, dtype=np.float64))

    def undecided(self, scores: Floats, settled: Flags) -> Flags:
        """Whether the vector of a text could change the decision of some policy [texts].

        scores [texts, policies]: P(violates) of the first stage, without a vector; settled [texts, policies]: whether a
        decision is made whatever the score: the policy does not cover the text, a term matched, or the gate escalates
        everything.
        """
        logits = log_odds(scores)
        open_to_both = (logits + self._least < self._thresholds) & (logits + self._most >= self._thresholds)
        return np.asarray((open_to_both & self.uses_vectors & ~settled).any(axis=1))

    def scores(self, scores: Floats, vectors: PassageVectors, encoded: Flags) -> Floats:
        """The scores with what vectors add [texts, policies]. Policies that use none keep theirs.

        encoded [texts]: which texts have vectors; vectors: those of their passages, in the order of these texts.
        """
        added = np.tile((self._least + self._most) / 2, (len(scores), 1))
        for column, term in self._terms:
            most = vectors.highest(term.added(vectors.vectors))
            added[encoded, column] = np.clip(most, self._least[column], self._most[column])
        return np.where(self.uses_vectors, 1 / (1 + np.exp(-log_odds(scores) - added)), scores)
