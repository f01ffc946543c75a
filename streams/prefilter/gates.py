"""The gates of all policies in force, compiled once per release and evaluated for a whole batch of texts at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import ahocorasick_rs
import msgspec
import numpy as np
from numpy.typing import NDArray

from safeguard_streams.policies.distilled import DistilledClassifier, log_odds
from safeguard_streams.policies.document import Gate, Policy
from safeguard_streams.policies.patterns import Patterns
from safeguard_streams.policies.terms import Hit, Terms
from safeguard_streams.prefilter.classifier import NONE, Classifier, Floats, Windows
from safeguard_streams.prefilter.encoder.cascade import VectorGates
from safeguard_streams.prefilter.encoder.passages import PassageVectors
from safeguard_streams.prefilter.encoder.vector_terms import VectorTerm, vector_term
from safeguard_streams.prefilter.normalise import Flags, Folded, Views, fold, read

_LEAST = 1e-12  # probability whose log odds count: texts of few known words differ far below a millionth
_NEVER = 2.0  # a threshold that no probability reaches
Matches = dict[tuple[int, int], str]  # (text, policy) to the first term or pattern that matched


class GateResults(NamedTuple):
    """What the gates found in a batch.

    scores [texts, policies]: probability, 0 to 1, of the gate's harms in the text's worst window, mixed with that of
        any harm where the gate says so, or that of the policy's distilled classifier; 0 for a gate with neither.
    likeliest [texts, policies]: number, among the classifier's classes, of the gate's most probable harm.
    reached [texts, policies]: whether the score reaches the gate's threshold.
    matches: the terms and patterns that matched.
    views: the texts as the gates read them.
    """

    scores: Floats
    likeliest: NDArray[np.intp]
    reached: Flags
    matches: Matches
    views: Views


class CompiledGate(msgspec.Struct, frozen=True):
    """The part of one policy's gate that scores texts.

    scored: whether the gate has a score at all; threshold: the score that escalates.
    weights: for each of the classifier's classes, 1.0 if the gate counts it and 0.0 otherwise.
    harms: numbers of the classes that the gate may name as the likeliest harm.
    general: share of any harm's log odds in the score; vector_term: what the vector of a text adds to it.
    """

    scored: bool
    threshold: float
    weights: list[float]
    harms: list[int]
    distilled: DistilledClassifier | None
    general: float
    vector_term: VectorTerm | None

    @classmethod
    def of(cls, policy: Policy, classifier: Classifier, encoder: str | None) -> CompiledGate:
        """Compile a policy's gate. A distilled classifier without harms counts all of them.

        encoder: the name of the encoder at hand, which says which of a distilled classifier's weights count.
        """
        harms: Sequence[str] = policy.gate.harms
        if policy.distilled is not None:
            harms = policy.distilled.harms or classifier.harms
        own = policy.gate
        term = vector_term(policy, encoder) if encoder else None
        threshold = own.threshold
        if term and policy.distilled is None and own.threshold_with_encoder is not None:
            threshold = own.threshold_with_encoder
        return cls(
            scored=bool(harms),
            threshold=threshold if harms else _NEVER,
            weights=[float(name in harms) for name in classifier.classes],
            harms=[number for number, name in enumerate(classifier.classes) if name in harms and name != NONE],
            distilled=policy.distilled.beside(encoder) if policy.distilled else None,
            general=0.0 if policy.distilled else own.general,
            vector_term=term,
        )


class Gates:
    """The gates of some policies. Columns of all arrays are the policies, in the order given.

    encoder: the name of the encoder at hand. Gates to which its vectors add get a second stage.
    """

    def __init__(self, policies: Sequence[Policy], classifier: Classifier, encoder: str | None = None) -> None:
        gates = [CompiledGate.of(policy, classifier, encoder) for policy in policies]
        self._distilled = [(column, gate.distilled) for column, gate in enumerate(gates) if gate.distilled is not None]
        self.classifier = classifier.with_distilled([distilled for _, distilled in self._distilled])
        self.scored = np.array([gate.scored for gate in gates], dtype=bool)
        self.thresholds = np.array([gate.threshold for gate in gates], dtype=np.float64)
        weights = np.array([gate.weights for gate in gates], dtype=np.float64)
        self._weights = weights.reshape(len(gates), len(classifier.classes)).T.copy()  # [classes, policies]
        self._harms = [np.array(gate.harms, dtype=np.intp) for gate in gates]
        self._none = classifier.classes.index(NONE)
        self._general = np.array([gate.general for gate in gates], dtype=np.float64)
        self._mixed = np.flatnonzero(self._general)
        self._matchers = _Matchers([policy.gate for policy in policies])
        second = VectorGates([gate.vector_term for gate in gates], self.thresholds)
        self._second = second if second.uses_vectors.any() else None

    def evaluate(self, texts: Sequence[str]) -> GateResults:
        """Evaluate the first stage of all gates on each text, which needs no vector."""
        views = read(texts)
        windows = self.classifier.windows(views)
        scores = np.zeros((len(texts), len(self.thresholds)))
        np.maximum.at(scores, windows.text, windows.probabilities @ self._weights)
        if self._distilled or len(self._mixed):
            none = np.ones(len(texts))
            np.minimum.at(none, windows.text, windows.probabilities[:, self._none])
            self._mix(scores, 1 - none)
            self._apply_distilled(scores, windows, 1 - none)
        matches = self._matchers.find(texts, views.folded)
        return GateResults(scores, self._likeliest(len(texts), windows), scores >= self.thresholds, matches, views)

    def undecided(self, results: GateResults, settled: Flags) -> Flags:
        """Whether a vector could change what the gates decide about a text [texts]. settled: as in VectorGates."""
        if self._second is None:
            return np.zeros(len(results.scores), dtype=bool)
        return self._second.undecided(results.scores, settled)

    def with_vectors(self, results: GateResults, vectors: PassageVectors, encoded: Flags) -> GateResults:
        """The results of both stages. vectors, encoded: as in VectorGates."""
        if self._second is None:
            return results
        scores = self._second.scores(results.scores, vectors, encoded)
        return results._replace(scores=scores, reached=scores >= self.thresholds)

    def matches(self, texts: Sequence[str]) -> Matches:
        """The terms and patterns that match, without the classifier."""
        return self._matchers.find(texts, fold(texts))

    def _likeliest(self, texts: int, windows: Windows) -> NDArray[np.intp]:
        best = np.zeros((texts, windows.probabilities.shape[1]))
        np.maximum.at(best, windows.text, windows.probabilities)
        likeliest = np.zeros((texts, len(self._harms)), dtype=np.intp)
        for column, harms in enumerate(self._harms):
            if len(harms):
                likeliest[:, column] = harms[best[:, harms].argmax(axis=1)]
        return likeliest

    def _mix(self, scores: Floats, any_harm: Floats) -> None:
        """Mix any harm's log odds, in place, into the scores of the policies that ask for it. any_harm [texts]."""
        own, share = log_odds(scores[:, self._mixed], _LEAST), self._general[self._mixed]
        logits = (1 - share) * own + share * log_odds(any_harm, _LEAST)[:, None]
        scores[:, self._mixed] = 1 / (1 + np.exp(-logits))

    def _apply_distilled(self, scores: Floats, windows: Windows, any_harm: Floats) -> None:
        """Replace, in place, the scores of the policies that have a distilled classifier. any_harm [texts]."""
        logits = np.full((len(scores), len(self._distilled)), -np.inf)
        np.maximum.at(logits, windows.section_text, windows.distilled_logits)
        for number, (column, distilled) in enumerate(self._distilled):
            scores[:, column] = distilled.probability(scores[:, column], any_harm, logits[:, number])


def _searched(needles: Sequence[str]) -> Callable[[str], Iterable[Hit]]:
    automaton = ahocorasick_rs.AhoCorasick(needles)
    return lambda text: automaton.find_matches_as_indexes(text, overlapping=True)


class _Matchers:
    """The terms and patterns of all policies, found in one pass over a batch. A term comes before a pattern."""

    def __init__(self, gates: Sequence[Gate]) -> None:
        self._term_owners = [(column, term) for column, gate in enumerate(gates) for term in gate.terms]
        self._pattern_owners = [(column, pattern) for column, gate in enumerate(gates) for pattern in gate.patterns]
        self._terms = Terms([term for _, term in self._term_owners], _searched)
        self._patterns = Patterns([pattern for _, pattern in self._pattern_owners])

    def find(self, texts: Sequence[str], folded: Folded) -> Matches:
        matches: Matches = {}
        if not self._term_owners and not self._pattern_owners:
            return matches
        for text, number in self._terms.find(folded.plain):
            column, term = self._term_owners[number]
            matches.setdefault((text, column), term)
        for text, number in self._patterns.find(texts, folded.plain, folded.latin):
            column, pattern = self._pattern_owners[number]
            matches.setdefault((text, column), pattern)
        return matches
