"""Golden gates in shadow: what they say of a share of the content that is judged anyway. They decide nothing.

Only judged content has labels, and only labels tell whether a golden gate is better than the present one. It is
therefore scored on what the sample or the audit draws, and on a share of what the present gate escalates.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from safeguard_streams.contract.records import GoldenScore
from safeguard_streams.policies.golden_gates import GoldenGate
from safeguard_streams.prefilter.classifier import Classifier
from safeguard_streams.prefilter.encoder.passages import PassageVectors
from safeguard_streams.prefilter.gates import GateResults, Gates
from safeguard_streams.prefilter.long_texts import evaluate
from safeguard_streams.prefilter.normalise import Flags
from safeguard_streams.prefilter.sampling import drawn, hashed
from safeguard_streams.releases.feed import Released

log = logging.getLogger(__name__)

RATE = 0.05  # of what the present gate escalates: encoding costs twenty times as much as all other gates
_SEED = np.array([hashed("golden")], dtype=np.uint64)  # one draw for all policies: few texts serve many golden gates
SCORE_DIGITS = 4

_ignored: set[str] = set()  # golden gates that this process has no use for, each logged once


class GoldenShadows:
    """The golden gates beside some policies in force.

    columns [golden gates]: the column of each one's policy. Without the encoder there are none.
    """

    def __init__(self, released: Sequence[Released], classifier: Classifier, encoder: str | None) -> None:
        usable = [
            (column, one, one.golden)
            for column, one in enumerate(released)
            if one.golden is not None and one.policy.distilled is None and _usable(one.golden, classifier.name, encoder)
        ]
        self.columns = np.array([column for column, _, _ in usable], dtype=np.intp)
        self.gates = [golden for _, _, golden in usable]
        policies = [golden.deciding(one.policy) for _, one, golden in usable]
        self._evaluated = Gates(policies, classifier, encoder) if policies else None

    def drawn(self, items: NDArray[np.uint64], judged: Flags, triggered: Flags) -> Flags:
        """Which items get a score [items, golden gates]. items: hashes of their ids.

        judged, triggered [items, policies]: what is judged, and what of it the present gate escalates.
        """
        judged, triggered = judged[:, self.columns], triggered[:, self.columns]
        return np.asarray(judged & (~triggered | (drawn(items, _SEED) < RATE)))

    def begin(self, texts: Sequence[str]) -> GateResults | None:
        """The first stage, on the texts of items that get a score."""
        return evaluate(self._evaluated, texts).results if self._evaluated and texts else None

    def scores(self, results: GateResults | None, vectors: PassageVectors) -> NDArray[np.float64]:
        """The scores, given the vectors of all texts [texts, golden gates]."""
        if self._evaluated is None or results is None:
            return np.zeros((0, len(self.gates)))
        every = np.ones(len(results.scores), dtype=bool)
        return self._evaluated.with_vectors(results, vectors, every).scores

    def record(self, number: int, score: float, *, triggered: bool) -> GoldenScore:
        """What a golden gate says, by its number, for the result of the present gate."""
        golden = self.gates[number]
        rate = RATE if triggered else 1.0
        return GoldenScore(golden.name, round(score, SCORE_DIGITS), golden.threshold, rate)


def _usable(golden: GoldenGate, classifier: str, encoder: str | None) -> bool:
    usable = golden.usable(classifier, encoder)
    if not usable and golden.name not in _ignored:
        _ignored.add(golden.name)
        reason = "needs the extra encoder" if encoder is None else "was learned for another classifier or encoder"
        log.warning("golden gate ignored, it %s policy=%s name=%s", reason, golden.policy_id, golden.name)
    return usable
