"""The gates that a policy could have next, each with its scores of the same labels, which it did not see."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from safeguard_streams.errors import ConfigurationError
from safeguard_streams.policies import distilled
from safeguard_streams.policies.document import Policy
from safeguard_streams.policies.files import PolicyFiles, with_changes
from safeguard_streams.prefilter.classifier import Classifier, Floats
from safeguard_streams.prefilter.encoder.encoder import Encoder
from safeguard_streams.quality.copies import Indices, copies
from safeguard_streams.quality.distillation import propose, with_classifier
from safeguard_streams.quality.evaluation import Flags, ScoredSet
from safeguard_streams.quality.gate_choice import aimed_recall
from safeguard_streams.quality.gate_evidence import PolicyState
from safeguard_streams.quality.gate_rungs import WORDS, Gate, Rung, rung_of
from safeguard_streams.quality.scoring import GateAnswers, gate_answers
from safeguard_streams.quality.threshold import reaching
from safeguard_streams.quality.verdict_labels import LabeledItem


class Scorers(NamedTuple):
    """What scores texts. encoder: None where the extra is not installed."""

    classifier: Classifier
    encoder: Encoder | None


def encoder_at_hand() -> Encoder | None:
    """The encoder; None where the extra is not installed."""
    try:
        return Encoder()
    except ConfigurationError:
        return None


class LabelledTexts(NamedTuple):
    """Texts, whether they violate, how many each stands for, and the group of its copies [texts]."""

    texts: Sequence[str]
    violates: Flags
    weights: Floats
    groups: Indices

    @classmethod
    def of(cls, rows: Sequence[LabeledItem]) -> LabelledTexts:
        """The texts of labels that have one."""
        texts = [row.text or "" for row in rows]
        return cls(
            texts,
            np.array([row.violates for row in rows], dtype=bool),
            np.array([row.weight for row in rows], dtype=float),
            copies(texts),
        )

    def scored(self, rung: Rung, answers: GateAnswers) -> ScoredSet:
        """Scores of these texts; 1 where terms escalate a text whatever its score."""
        scores = np.where(answers.matched, 1.0, answers.scores)
        return ScoredSet(WORDS[rung], scores, self.violates, self.weights, self.groups)

    def threshold(self, scores: Floats, certain: Flags, target_recall: float) -> float:
        """The threshold for a recall, with a margin for the number of texts. Raises ConfigurationError."""
        aimed = aimed_recall(target_recall, self.violates, self.weights, self.groups)
        return reaching(scores, self.violates, aimed, self.weights, certain)


def present_gate(policy: Policy, labels: LabelledTexts, scorers: Scorers, *, vectors: bool) -> Gate:
    """The gate in force. vectors: whether the prefilters use its weights for vectors."""
    rung = rung_of(policy, encoder=vectors)
    answers = gate_answers(policy, scorers.classifier, labels.texts, scorers.encoder if vectors else None)
    if rung == "everything":
        answers = GateAnswers(np.ones(len(labels.texts)), np.ones(len(labels.texts), dtype=bool))
    elif rung == "terms":
        answers = answers._replace(scores=np.zeros(len(labels.texts)))
    threshold = policy.gate.threshold if rung not in ("everything", "terms") else None
    scored = msgspec.structs.replace(labels.scored(rung, answers), name="the gate in force")
    return Gate(rung, scored, answers.matched, threshold)


class Candidates(NamedTuple):
    """Gates that could follow, in the order of the ladder, and why others could not be made.

    retuned: the gate in force with the threshold for the target recall.
    """

    retuned: list[Gate]
    gates: list[Gate]
    notes: list[str]


def candidates(
    state: PolicyState, present: Gate, rows: Sequence[LabeledItem], scorers: Scorers, target_recall: float
) -> Candidates:
    """The gates that these labels can make, and the golden gate that runs in shadow."""
    policy, labels = state.policy, LabelledTexts.of(rows)
    found = Candidates([], [], [])

    def add(to: list[Gate], rung: Rung, make: Callable[[], list[Gate]]) -> None:
        try:
            to.extend(make())
        except ConfigurationError as error:
            found.notes.append(f"{WORDS[rung]}: {error}")

    if present.threshold is None:
        add(found.gates, "label", lambda: [_general(policy, labels, scorers, target_recall)])
    else:
        add(found.retuned, present.rung, lambda: [_other_threshold(policy, present, labels, target_recall)])
    add(found.gates, "golden", lambda: _golden(state, labels, scorers, target_recall))
    add(found.gates, "distilled", lambda: _distilled(policy, rows, scorers, target_recall))
    if scorers.encoder is None:
        found.notes.append("vectors were not compared: the extra encoder is not installed here")
    return found


def _general(policy: Policy, labels: LabelledTexts, scorers: Scorers, target_recall: float) -> Gate:
    """The general classifier's probability of any harm."""
    harms = tuple(scorers.classifier.harms)
    gate = msgspec.structs.replace(policy.gate, harms=harms, general=0.0, threshold_with_encoder=None, distilled=None)
    general = msgspec.structs.replace(policy, gate=gate, distilled=None)
    answers = gate_answers(general, scorers.classifier, labels.texts)
    scored = labels.scored("label", answers)
    threshold = labels.threshold(scored.scores, answers.matched, target_recall)
    none = dict.fromkeys(("general", "threshold_with_encoder", "distilled", "everything", "calibration"))
    document = with_changes(policy.document, "gate", harms=list(harms), threshold=threshold, **none)
    return Gate("label", scored, answers.matched, threshold, PolicyFiles(document, None))


def _other_threshold(policy: Policy, present: Gate, labels: LabelledTexts, target_recall: float) -> Gate:
    """The gate in force with another threshold."""
    if policy.gate.threshold_with_encoder is not None:
        raise ConfigurationError("it has two thresholds: set both with safeguard prefilter calibrate --encoder")
    threshold = labels.threshold(present.scored.scores, present.certain, target_recall)
    if threshold >= 1:
        raise ConfigurationError("its terms reach the recall without a threshold")
    document = with_changes(policy.document, "gate", threshold=threshold, calibration=None)
    files = PolicyFiles(document, policy.distilled_file)
    return msgspec.structs.replace(present, threshold=threshold, files=files)


def _golden(state: PolicyState, labels: LabelledTexts, scorers: Scorers, target_recall: float) -> list[Gate]:
    """The golden gate in shadow, in force at the threshold that the labels give; none without it or the encoder.

    Raises ConfigurationError where its scores would be of other models.
    """
    golden, policy, (classifier, encoder) = state.golden, state.policy, scorers
    if golden is None or encoder is None:
        return []
    if not golden.usable(classifier.name, encoder.name):
        raise ConfigurationError(
            "it was learned for another classifier or encoder; "
            f"learn it again: safeguard policy release {policy.id} --library DIR"
        )
    answers = gate_answers(golden.deciding(policy), classifier, labels.texts, encoder)
    scored = labels.scored("golden", answers)
    threshold = labels.threshold(scored.scores, answers.matched, target_recall)
    content = msgspec.json.encode(golden.in_force(policy.gate, threshold))
    return [Gate("golden", scored, answers.matched, threshold, with_classifier(policy, content, threshold))]


def _distilled(policy: Policy, rows: Sequence[LabeledItem], scorers: Scorers, target_recall: float) -> list[Gate]:
    """A classifier distilled from all rows, with and without vectors."""
    proposal = propose(policy, scorers.classifier, rows, encoder=scorers.encoder)
    threshold, content = proposal.threshold(target_recall), proposal.file(target_recall)

    def gate(rung: Rung, scored: ScoredSet, file: bytes) -> Gate:
        named = msgspec.structs.replace(scored, name=WORDS[rung])
        return Gate(rung, named, proposal.matched, threshold, with_classifier(policy, file, threshold))

    gates = [gate("distilled", proposal.scored_after, distilled.without_vectors(content))]
    with_vectors = proposal.shifted_vectors(target_recall)
    return gates if with_vectors is None else [*gates, gate("vectors", with_vectors, content)]
