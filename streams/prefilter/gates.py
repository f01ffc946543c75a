"""The gates of all policies in force, made ready once per release and asked for a whole batch at a time."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import ahocorasick_rs
import numpy as np
import re2
from numpy.typing import NDArray

from safeguard_streams.policies.document import Policy, pattern_options
from safeguard_streams.prefilter.classifier import NONE, Classifier, Floats
from safeguard_streams.prefilter.normalise import Views, codes, read

_NEVER = 2.0  # a threshold that no probability reaches
_PATTERN_MEMORY = (
    256 * 2**20
)  # bytes; RE2 holds the automaton of all patterns in it, and begins it anew when it is full
_SPACES = re.compile(" {2,}")
# Two characters that belong to one word, unless their script is written without spaces: then a term ends anywhere.
_SPACELESS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff"
_INSIDE_WORD = re.compile(rf"[^\W_{_SPACELESS}][^\W_{_SPACELESS}]")


class Scored(NamedTuple):
    """scores [texts, policies]: the summed probability of the gate's labels in the text's worst window, or the distilled
    label's probability, 0 to 1; 0 without either. labels [texts, policies]: number of the gate's likeliest label.
    over [texts, policies]: the threshold is reached. terms: (text, policy) to the term or pattern that was found.
    """

    scores: Floats
    labels: NDArray[np.intp]
    over: NDArray[np.bool_]
    terms: dict[tuple[int, int], str]


class Gates:
    """Columns are the policies, in the order given."""

    def __init__(self, policies: Sequence[Policy], classifier: Classifier) -> None:
        gates = [policy.gate for policy in policies]
        self._distilled = [(column, p.distilled) for column, p in enumerate(policies) if p.distilled is not None]
        self.classifier = classifier.beside([label for _, label in self._distilled])
        harms = [d.harms or tuple(classifier.harms) if (d := p.distilled) else p.gate.harms for p in policies]
        self._chosen = np.array(
            [[label in chosen for chosen in harms] for label in classifier.labels], dtype=np.float64
        )
        self.scored = np.array([bool(chosen) for chosen in harms], dtype=bool)
        self.thresholds = np.where(self.scored, [gate.threshold for gate in gates], _NEVER)
        self._members = [
            [i for i, label in enumerate(classifier.labels) if label in chosen and label != NONE] for chosen in harms
        ]
        self._none = classifier.labels.index(NONE)
        self._terms = _Terms((column, term) for column, gate in enumerate(gates) for term in gate.terms)
        self._patterns = _Patterns((column, p) for column, gate in enumerate(gates) for p in gate.patterns)

    def ask(self, texts: Sequence[str]) -> Scored:
        """What the gates say of each text."""
        views = read(texts)
        found = self.classifier.windows(views)
        scores = np.zeros((len(texts), len(self.thresholds)))
        np.maximum.at(scores, found.text, found.probabilities @ self._chosen)
        best = np.zeros((len(texts), len(self.classifier.labels)))
        np.maximum.at(best, found.text, found.probabilities)
        likeliest = np.zeros(scores.shape, dtype=np.intp)
        for column, members in enumerate(self._members):
            if members:
                likeliest[:, column] = np.array(members)[best[:, members].argmax(axis=1)]
        if self._distilled:
            own = np.full((len(texts), len(self._distilled)), -np.inf)
            np.maximum.at(own, found.section_text, found.own)
            none = np.ones(len(texts))
            np.minimum.at(none, found.text, found.probabilities[:, self._none])
            for number, (column, distilled) in enumerate(self._distilled):
                scores[:, column] = distilled.probability(scores[:, column], 1 - none, own[:, number])
        return Scored(
            scores, likeliest, scores >= self.thresholds, self._patterns.find(views) | self._terms.find(views)
        )


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

    def find(self, views: Views) -> dict[tuple[int, int], str]:
        found: dict[tuple[int, int], str] = {}
        if self._automaton is None:
            return found
        text = "\n" + "\n".join(views.lines) + "\n"
        if "  " in text:
            text = _SPACES.sub(" ", text)
        matches = [
            (number, start)
            for number, start, end in self._automaton.find_matches_as_indexes(text, overlapping=True)
            if not _INSIDE_WORD.match(text[start - 1 : start + 1]) and not _INSIDE_WORD.match(text[end - 1 : end + 1])
        ]
        if matches:
            ends = np.flatnonzero(codes(text) == ord("\n"))[1:]
            lines = views.text[np.searchsorted(ends, [start for _, start in matches])].tolist()
            for line, (number, _) in zip(lines, matches, strict=True):
                column, term = self._owners[number]
                found.setdefault((line, column), term)
        return found


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

    def find(self, views: Views) -> dict[tuple[int, int], str]:
        found: dict[tuple[int, int], str] = {}
        if self._owners:
            match = self._set.Match
            for text, line in enumerate(views.folded):
                for number in match(line) or ():
                    column, pattern = self._owners[number]
                    found.setdefault((text, column), pattern)
        return found
