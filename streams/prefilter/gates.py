"""The gates of all policies in force, compiled once per release and evaluated for a whole batch of texts at a time."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import ahocorasick_rs
import msgspec
import numpy as np
import re2
from numpy.typing import NDArray

from safeguard_streams.policies.distilled import DistilledClassifier
from safeguard_streams.policies.document import Policy, pattern_options
from safeguard_streams.prefilter.classifier import NONE, Classifier, Floats, Windows
from safeguard_streams.prefilter.normalise import Flags, Views, codes, read

_NEVER = 2.0  # a threshold that no probability reaches
_PATTERN_MEMORY = 256 * 2**20  # bytes for RE2's automaton of all patterns; RE2 rebuilds it when it is full
_SPACES = re.compile(" {2,}")
# Two characters inside one word. A term may end anywhere in scripts that are written without spaces.
_SPACELESS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff"
_INSIDE_WORD = re.compile(rf"[^\W_{_SPACELESS}][^\W_{_SPACELESS}]")

Matches = dict[tuple[int, int], str]  # (text, policy) to the first term or pattern that matched


class GateResults(NamedTuple):
    """What the gates found in a batch.

    scores [texts, policies]: probability, 0 to 1, of the gate's harms in the text's worst window, or that of the
        policy's distilled classifier; 0 for a gate with neither.
    likeliest [texts, policies]: number, among the classifier's classes, of the gate's most probable harm.
    reached [texts, policies]: whether the score reaches the gate's threshold.
    matches: the terms and patterns that matched.
    """

    scores: Floats
    likeliest: NDArray[np.intp]
    reached: Flags
    matches: Matches


class CompiledGate(msgspec.Struct, frozen=True):
    """The part of one policy's gate that scores texts.

    scored: whether the gate has a score at all; threshold: the score that escalates.
    weights: for each of the classifier's classes, 1.0 if the gate counts it and 0.0 otherwise.
    harms: numbers of the classes that the gate may name as the likeliest harm.
    """

    scored: bool
    threshold: float
    weights: list[float]
    harms: list[int]
    distilled: DistilledClassifier | None

    @classmethod
    def of(cls, policy: Policy, classifier: Classifier) -> CompiledGate:
        """Compile a policy's gate. A distilled classifier without harms counts all of them."""
        harms: Sequence[str] = policy.gate.harms
        if policy.distilled is not None:
            harms = policy.distilled.harms or classifier.harms
        return cls(
            scored=bool(harms),
            threshold=policy.gate.threshold if harms else _NEVER,
            weights=[float(name in harms) for name in classifier.classes],
            harms=[number for number, name in enumerate(classifier.classes) if name in harms and name != NONE],
            distilled=policy.distilled,
        )


class Gates:
    """The gates of some policies. Columns of all arrays are the policies, in the order given."""

    def __init__(self, policies: Sequence[Policy], classifier: Classifier) -> None:
        gates = [CompiledGate.of(policy, classifier) for policy in policies]
        self._distilled = [(column, gate.distilled) for column, gate in enumerate(gates) if gate.distilled is not None]
        self.classifier = classifier.with_distilled([distilled for _, distilled in self._distilled])
        self.scored = np.array([gate.scored for gate in gates], dtype=bool)
        self.thresholds = np.array([gate.threshold for gate in gates], dtype=np.float64)
        weights = np.array([gate.weights for gate in gates], dtype=np.float64)
        self._weights = weights.reshape(len(gates), len(classifier.classes)).T.copy()  # [classes, policies]
        self._harms = [np.array(gate.harms, dtype=np.intp) for gate in gates]
        self._none = classifier.classes.index(NONE)
        numbered = list(enumerate(policy.gate for policy in policies))
        self._terms = _Terms((column, term) for column, gate in numbered for term in gate.terms)
        self._patterns = _Patterns((column, pattern) for column, gate in numbered for pattern in gate.patterns)

    def evaluate(self, texts: Sequence[str]) -> GateResults:
        """Evaluate all gates on each text."""
        views = read(texts)
        windows = self.classifier.windows(views)
        scores = np.zeros((len(texts), len(self.thresholds)))
        np.maximum.at(scores, windows.text, windows.probabilities @ self._weights)
        self._apply_distilled(scores, windows)
        return GateResults(
            scores, self._likeliest(len(texts), windows), scores >= self.thresholds, self._matches(views)
        )

    def matches(self, texts: Sequence[str]) -> Matches:
        """The terms and patterns that match, without the classifier."""
        return self._matches(read(texts))

    def _matches(self, views: Views) -> Matches:
        return self._patterns.find(views) | self._terms.find(views)

    def _likeliest(self, texts: int, windows: Windows) -> NDArray[np.intp]:
        best = np.zeros((texts, windows.probabilities.shape[1]))
        np.maximum.at(best, windows.text, windows.probabilities)
        likeliest = np.zeros((texts, len(self._harms)), dtype=np.intp)
        for column, harms in enumerate(self._harms):
            if len(harms):
                likeliest[:, column] = harms[best[:, harms].argmax(axis=1)]
        return likeliest

    def _apply_distilled(self, scores: Floats, windows: Windows) -> None:
        """Replace, in place, the scores of the policies that have a distilled classifier."""
        if not self._distilled:
            return
        logits = np.full((len(scores), len(self._distilled)), -np.inf)
        np.maximum.at(logits, windows.section_text, windows.distilled_logits)
        none = np.ones(len(scores))
        np.minimum.at(none, windows.text, windows.probabilities[:, self._none])
        for number, (column, distilled) in enumerate(self._distilled):
            scores[:, column] = distilled.probability(scores[:, column], 1 - none, logits[:, number])


class _Terms:
    """Words and phrases of all policies, found in one pass over a batch."""

    def __init__(self, terms: Iterable[tuple[int, str]]) -> None:
        self._owners: list[tuple[int, str]] = []
        needles: list[str] = []
        for column, term in terms:
            needle = " ".join(read([term]).lines[0].split())
            if needle:
                needles.append(needle)
                self._owners.append((column, term))
        self._automaton = ahocorasick_rs.AhoCorasick(needles) if needles else None

    def find(self, views: Views) -> Matches:
        matches: Matches = {}
        if self._automaton is None:
            return matches
        text = "\n" + "\n".join(views.lines) + "\n"
        if "  " in text:
            text = _SPACES.sub(" ", text)
        hits = [
            (number, start)
            for number, start, end in self._automaton.find_matches_as_indexes(text, overlapping=True)
            if not _INSIDE_WORD.match(text[start - 1 : start + 1]) and not _INSIDE_WORD.match(text[end - 1 : end + 1])
        ]
        if hits:
            ends = np.flatnonzero(codes(text) == ord("\n"))[1:]
            owners = views.text[np.searchsorted(ends, [start for _, start in hits])].tolist()
            for owner, (number, _) in zip(owners, hits, strict=True):
                column, term = self._owners[number]
                matches.setdefault((owner, column), term)
        return matches


class _Patterns:
    """RE2 patterns of all policies, found in one pass over each text."""

    def __init__(self, patterns: Iterable[tuple[int, str]]) -> None:
        self._owners = list(patterns)
        options = pattern_options()
        options.max_mem = _PATTERN_MEMORY
        self._set = re2.Set.SearchSet(options)
        for _, pattern in self._owners:
            self._set.Add(pattern)
        if self._owners:
            self._set.Compile()

    def find(self, views: Views) -> Matches:
        matches: Matches = {}
        if self._owners:
            match = self._set.Match
            for text, line in enumerate(views.folded):
                for number in match(line) or ():
                    column, pattern = self._owners[number]
                    matches.setdefault((text, column), pattern)
        return matches
