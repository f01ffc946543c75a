"""Golden gates: a policy's first gate that understands, learned from its golden set and run in shadow beside the gate.

It is a linear function of a text's vector and the score of the present gate. In force, it is a distilled classifier.
"""

from __future__ import annotations

import zlib

import msgspec
import numpy as np

from safeguard_streams.errors import PolicyError
from safeguard_streams.policies import distilled
from safeguard_streams.policies.distilled import BUCKETS, VECTOR, DistilledClassifier, VectorWeights, log_odds
from safeguard_streams.policies.document import Gate, Policy

TRUST = 0.3  # in the log odds of the present gate's score
_ALWAYS = 30.0  # a logit above every threshold; its negative is below all


class Expected(msgspec.Struct, frozen=True):
    """What to expect, in cross-validation on the texts that taught the gate: optimistic.

    recall: of violating golden texts, with its 95% interval; escalated: of texts of the benign bank, the same.
    """

    recall: tuple[float, float, float]
    escalated: tuple[float, float, float]


class GoldenGate(msgspec.Struct, frozen=True):
    """A golden gate, as it travels with a release.

    name: 12 hex digits over all that it was learned from; equal names stand for equal scores.
    policy_id, classifier: the policy, and the fastText model whose scores it adds to.
    harms: those of the present gate; empty means all. weights: what it learned, for one encoder.
    threshold: the score, 0 to 1, that would escalate. rows: golden texts and examples that taught it.
    """

    name: str
    policy_id: str
    classifier: str
    harms: tuple[str, ...]
    weights: VectorWeights
    threshold: float
    rows: int
    expected: Expected

    def usable(self, classifier: str, encoder: str | None) -> bool:
        """Whether a prefilter with this classifier and encoder can score with it."""
        return (self.classifier, self.weights.encoder) == (classifier, encoder)

    def in_force(self, gate: Gate, threshold: float) -> DistilledClassifier:
        """The classifier that decides by the golden gate at this threshold, and without the encoder by the present one.

        Both sets of weights share one threshold: that of the present gate is shifted to it.
        """
        scored = bool(gate.harms) and gate.threshold < 1 and not gate.everything
        bias = _ALWAYS if gate.everything else -_ALWAYS
        if scored:
            present, wanted = log_odds(np.array([gate.threshold, threshold])).tolist()
            bias = wanted - present
        nothing = distilled.vector_weights(np.zeros(BUCKETS), np.zeros(VECTOR), **_NO_VECTOR)
        return DistilledClassifier(
            policy_id=self.policy_id,
            classifier=self.classifier,
            harms=self.harms,
            trust=(1 - gate.general, gate.general) if scored else (0.0, 0.0),
            bias=bias,
            unit=nothing.unit,
            weights=nothing.weights,
            rows=self.rows,
            with_vectors=self.weights,
            origin="golden",
        )

    def deciding(self, policy: Policy) -> Policy:
        """The policy with this gate in force."""
        gate = msgspec.structs.replace(policy.gate, threshold=self.threshold, distilled=self.name, everything=False)
        return msgspec.structs.replace(policy, gate=gate, distilled=self.in_force(policy.gate, self.threshold))


_NO_VECTOR = {"encoder": "", "trust": (0.0, 0.0), "bias": 0.0, "least": 0.0, "most": 0.0}


def trust(gate: Gate) -> tuple[float, float]:
    """The trust in the log odds of the gate's harms and of any harm: a gate without harms is given those of any."""
    general = gate.general if gate.harms else 1.0
    return TRUST * (1 - general), TRUST * general


def read(value: bytes | str) -> GoldenGate:
    """Decode a golden gate. Raises PolicyError when it is none."""
    try:
        gate = msgspec.json.decode(value, type=GoldenGate)
        distilled.check(gate.in_force(Gate(), gate.threshold))
    except (msgspec.MsgspecError, ValueError, zlib.error) as error:
        raise PolicyError(f"not a golden gate; make one with safeguard policy gate: {error}") from error
    return gate


def intact(value: str | None) -> GoldenGate | None:
    """The golden gate of a release; None where it has none, or a broken one, which decides nothing."""
    try:
        return read(value) if value else None
    except PolicyError:
        return None


def write(gate: GoldenGate) -> str:
    """The JSON of a golden gate."""
    return msgspec.json.encode(gate).decode()
