"""The ladder of gates: what each policy's gate goes by, from words and a sample to a classifier of its own."""

from __future__ import annotations

from typing import Literal

import msgspec

from safeguard_streams.policies.document import Policy
from safeguard_streams.policies.files import PolicyFiles
from safeguard_streams.quality.evaluation import Flags, ScoredSet, escalated_for
from safeguard_streams.quality.gate_curve import CurvePoint, curve
from safeguard_streams.quality.threshold import effect
from safeguard_streams.quality.weighted import Estimate

_NEVER = 2.0  # a threshold that no score reaches
Rung = Literal["everything", "terms", "label", "golden", "distilled", "vectors"]
WORDS: dict[Rung, str] = {
    "everything": "everything",
    "terms": "terms and sample",
    "label": "general classifier",
    "golden": "golden gate",
    "distilled": "distilled",
    "vectors": "distilled, vectors",
}


def rung_of(policy: Policy, *, encoder: bool = True) -> Rung:
    """The rung of a policy's gate. encoder: whether the prefilters use the vectors that it has weights for."""
    if policy.gate.everything or policy.gate.sample >= 1:
        return "everything"
    if policy.distilled is not None and policy.distilled.origin == "golden":
        return "golden"
    if policy.distilled is not None:
        return "vectors" if encoder and policy.distilled.encoder else "distilled"
    return "label" if policy.gate.harms else "terms"


class MeasuredGate(msgspec.Struct, frozen=True):
    """A gate on verdicts that it did not see: what it escalates, and its curve.

    recall and escalated: at its threshold, which is None for a gate without a score. curve: by the recall to reach;
    empty for a gate without a score. rows, violating: the verdicts that it was measured on.
    """

    rung: Rung
    threshold: float | None
    recall: Estimate
    escalated: Estimate
    rows: int
    violating: int
    curve: list[CurvePoint]


class Gate(msgspec.Struct, frozen=True):
    """A gate that can be compared with others on the same rows, and what puts it into force.

    scored: the scores of the rows; 1 where it escalates whatever the score, which is `certain`. files: the policy with
    this gate; None for the gate in force.
    """

    rung: Rung
    scored: ScoredSet
    certain: Flags
    threshold: float | None
    files: PolicyFiles | None = None

    @property
    def scores_texts(self) -> bool:
        """Whether the gate has a score, and hence a curve."""
        return self.threshold is not None

    def curve_at(self, recall: float) -> float:
        """The share of content that it escalates for a recall."""
        s = self.scored
        return escalated_for(s.scores, s.violates, s.weights, recall)

    def on(self, rows: Flags) -> Gate:
        """The same gate on some of the rows."""
        s = self.scored
        part = ScoredSet(s.name, s.scores[rows], s.violates[rows], s.weights[rows], s.groups[rows])
        return msgspec.structs.replace(self, scored=part, certain=self.certain[rows])

    def measured(self, seed: int = 0) -> MeasuredGate:
        """The figures of the gate on its rows."""
        s = self.scored
        threshold = _NEVER if self.threshold is None else self.threshold
        recall, escalated = effect(s.scores, s.violates, s.weights, self.certain, threshold)
        return MeasuredGate(
            self.rung,
            self.threshold,
            recall,
            escalated,
            len(s.scores),
            int(s.violates.sum()),
            curve(s, seed=seed) if self.scores_texts else [],
        )
