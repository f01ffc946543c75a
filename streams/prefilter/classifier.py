"""The fastText classifier, with any distilled classifiers beside it: probabilities for windows of texts.

fastText's answer is a softmax over the mean of its input rows. Up to the softmax it is linear in the words, as is a
distilled classifier. The contribution of each piece of text is therefore computed once and kept in a table. Scoring a
batch is a gather from the table, a running sum, and differences of that sum.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from copy import copy
from pathlib import Path
from typing import Any, NamedTuple

import ahocorasick_rs
import fasttext
import numpy as np
from numpy.typing import NDArray

from safeguard_streams.errors import ConfigurationError
from safeguard_streams.policies.distilled import DistilledClassifier
from safeguard_streams.prefilter.normalise import Views, read, words

SHIPPED = Path(__file__).parent / "model" / "prefilter.bin"
NONE = "none"
WINDOW, STRIDE = 15, 11  # in pieces of a line, which are separated by spaces
SECTION = (120, 90)  # the same for distilled classifiers, which are trained on whole texts
_PREFIX = "__label__"  # of the classes' names in a fastText model
# Fixed point: sums of integers are equal whatever batch a text is in. The running sum may wrap around. Its differences
# are still right while the sum of one span fits 32 bits, hence the bound on a piece's contribution.
_ONE = 2.0**13
_MAX_CONTRIBUTION = (2**31 - 1) // (SECTION[0] + 1)
# Unknown words of these lengths, in characters, are split into parts that are known words, if there are any.
_MIN_SPLIT, _MAX_SPLIT, _MAX_PART = 8, 60, 20
_CODE = re.compile(r"(?:\d+[^\W\d]+){4}")  # letters and digits in turn: hashes and encoded data, not words
_MIN_MEAN_PART = 2.5  # characters; a word whose parts are shorter on average stays whole
_UNKNOWN_COST, _UNKNOWN_LETTER_COST = 12.0, 2.0  # cost of an unknown part, and of each of its letters
_MAX_PIECES = 200_000  # in the table; it is cleared when it holds more

Floats = NDArray[np.float64]
Scores = dict[str, float]


class Windows(NamedTuple):
    """Scores of the windows and sections of a batch's lines.

    probabilities [windows, classes]; text [windows]: the number of the text that a window belongs to.
    distilled_logits [sections, distilled classifiers]: each classifier's logit without the terms of the harms.
    section_text [sections]: the number of the text that a section belongs to.
    """

    probabilities: Floats
    text: NDArray[np.intp]
    distilled_logits: Floats
    section_text: NDArray[np.intp]


class Classifier:
    """A fastText model with the class `none` and a class for each harm, trained by `safeguard prefilter train`.

    Raises ConfigurationError when the file does not hold such a model.
    """

    def __init__(self, path: Path = SHIPPED) -> None:
        if not path.is_file():
            raise ConfigurationError(f"{path}: no such fastText model; train one: safeguard prefilter train --help")
        try:
            self._model: Any = fasttext.load_model(str(path))
        except ValueError as error:
            raise ConfigurationError(f"{path}: not a fastText model: {error}") from error
        arguments = self._model.f.getArgs()
        if arguments.model.name != "supervised" or arguments.loss.name != "softmax" or arguments.wordNgrams != 1:
            raise ConfigurationError(f"{path}: not a softmax classifier of single words; use safeguard prefilter train")
        self.classes: list[str] = [name.removeprefix(_PREFIX) for name in self._model.get_labels()]
        if NONE not in self.classes:
            raise ConfigurationError(f"{path}: has no class {NONE!r}; train it with safeguard prefilter train")
        self.name = f"fasttext-{hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"
        self._output = np.array(self._model.f.getOutputMatrix(), dtype=np.float64)
        vocabulary, counts = self._model.get_words(include_freq=True)
        # The cost of a known word is minus the log of its frequency in training.
        self._costs: dict[str, float] = dict(
            zip(vocabulary, (np.log(counts.sum()) - np.log(counts)).tolist(), strict=True)
        )
        short = [word for word in vocabulary if len(word) <= _MAX_PART]
        self._known = ahocorasick_rs.AhoCorasick(short)
        self._known_costs = [self._costs[word] for word in short]
        self._set_distilled(())

    @property
    def harms(self) -> list[str]:
        """All classes but none."""
        return sorted(name for name in self.classes if name != NONE)

    def with_distilled(self, distilled: Sequence[DistilledClassifier]) -> Classifier:
        """A classifier that also scores these. Returns itself, with its filled table, if it scores the same already."""
        if list(distilled) == self._distilled:
            return self
        other = copy(self)
        other._set_distilled(distilled)  # noqa: SLF001  (of the same class)
        return other

    def _set_distilled(self, distilled: Sequence[DistilledClassifier]) -> None:
        self._distilled = list(distilled)
        width = self._contribution([]).size
        self._rows = _Rows(lambda piece: np.rint(self._contribution(self.words(piece)) * _ONE), width)
        self._line_end = np.rint(self._contribution(["</s>"]) * _ONE)
        self._line_end[len(self.classes) + 1 :] = 0  # distilled classifiers know no end of line

    def words(self, piece: str) -> list[str]:
        """Words of a piece. A long unknown word is split into the words that it seems to be made of."""
        result: list[str] = []
        for word in words(piece):
            if len(word) < _MIN_SPLIT or word in self._costs or len(word) > _MAX_SPLIT or _CODE.search(word):
                result.append(word)
            else:
                result += self._split(word)
        return result

    def _split(self, word: str) -> list[str]:
        """The most likely sequence of words, where a word's probability is its frequency in training."""
        known: list[list[tuple[int, float]]] = [[] for _ in range(len(word) + 1)]  # by end: start and cost
        for number, start, end in self._known.find_matches_as_indexes(word, overlapping=True):
            known[end].append((start, self._known_costs[number]))
        # For each end: the lowest cost, that cost less the letters before it, and where its last part starts.
        lowest, relative, starts = [0.0], [0.0], [0]
        for end in range(1, len(word) + 1):
            near = relative[-_MAX_PART:]
            least = min(near)
            best, start = least + _UNKNOWN_COST + _UNKNOWN_LETTER_COST * end, end - len(near) + near.index(least)
            for known_start, cost in known[end]:
                best, start = min((best, start), (lowest[known_start] + cost, known_start))
            lowest.append(best)
            relative.append(best - _UNKNOWN_LETTER_COST * end)
            starts.append(start)
        parts: list[str] = []
        end = len(word)
        while end:
            start = starts[end]
            parts.append(word[start:end])
            end = start
        return parts[::-1] if len(word) >= _MIN_MEAN_PART * len(parts) else [word]

    def _contribution(self, of: Sequence[str]) -> Floats:
        """What words add to the sums of a window or section.

        [classes, then the count of fastText's input rows, then distilled classifiers, then the count of their features]
        """
        classes, distilled = len(self.classes), len(self._distilled)
        sums = np.zeros(classes + 2 + distilled)
        for word in of:
            inputs = len(self._model.get_subwords(word)[1])
            sums[:classes] += self._output @ self._model.get_word_vector(word).astype(np.float64) * inputs
            sums[classes] += inputs
            for column, classifier in enumerate(self._distilled, classes + 1):
                sums[column] += classifier.sum(word)
            sums[-1] += DistilledClassifier.features(word) if distilled else 0
        return sums

    def windows(self, views: Views) -> Windows:
        """Class probabilities of each window, and logits of the distilled classifiers of each section, of each view."""
        numbers = self._rows.numbers(views.lines)
        sums = np.zeros((len(numbers) + 1, self._line_end.size), dtype=np.int32)
        np.cumsum(self._rows.table.take(numbers, axis=0), axis=0, dtype=np.int32, out=sums[1:])
        ends = np.flatnonzero(numbers == 0)
        spans = _spans(sums, ends, WINDOW, STRIDE)
        totals = (spans.sums + self._line_end) / _ONE
        classes = len(self.classes)
        probabilities = _softmax(totals[:, :classes] / np.maximum(totals[:, classes : classes + 1], 1))
        if not self._distilled:
            return Windows(probabilities, views.text[spans.line], np.zeros((0, 0)), np.zeros(0, dtype=np.intp))
        sections = _spans(sums[:, classes + 1 :], ends, *SECTION)
        logits = sections.sums[:, :-1] / _ONE / np.sqrt(np.maximum(sections.sums[:, -1:] / _ONE, 1))
        logits = logits + [classifier.bias for classifier in self._distilled]
        return Windows(probabilities, views.text[spans.line], logits, views.text[sections.line])

    def score(self, texts: Sequence[str]) -> list[Scores]:
        """For each text, the probability of each class in the window where `none` is least probable."""
        windows = self.windows(read(texts))
        order = np.lexsort((windows.probabilities[:, self.classes.index(NONE)], windows.text))
        worst = order[np.searchsorted(windows.text[order], np.arange(len(texts)))]
        return [dict(zip(self.classes, row, strict=True)) for row in windows.probabilities[worst].tolist()]


def _softmax(logits: Floats) -> Floats:
    """Probabilities [rows, classes]; overwrites the logits."""
    logits -= logits.max(axis=1, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=1, keepdims=True)
    return logits


class _Spans(NamedTuple):
    """line [spans]: the number of the line that a span belongs to; sums [spans, columns]."""

    line: NDArray[np.intp]
    sums: NDArray[np.int32]


def _spans(sums: NDArray[np.int32], ends: NDArray[np.intp], length: int, stride: int) -> _Spans:
    """Cut lines into overlapping spans of `length` pieces, and sum the pieces of each span.

    sums: running sums over the pieces of all lines, from 0; ends: the numbers of the pieces that end a line.
    """
    starts = np.append(0, ends[:-1] + 1)
    counts = np.maximum(1, -(-(ends - starts - (length - stride)) // stride))
    line = np.repeat(np.arange(len(ends)), counts)
    first = starts[line] + stride * (np.arange(len(line)) - (np.cumsum(counts) - counts)[line])
    last = np.minimum(first + length, ends[line])
    return _Spans(line, sums[last] - sums[first])


class _Rows(dict[str, int]):
    """Row numbers of pieces in `table`, which holds their contributions. Row 0 ends a line."""

    def __init__(self, contribution: Callable[[str], Floats], width: int) -> None:
        super().__init__()
        self._contribution = contribution
        self.table = np.zeros((4096, width), dtype=np.int32)
        self["\n"] = 0

    def __missing__(self, piece: str) -> int:
        number = len(self)
        if number == len(self.table):
            self.table = np.concatenate([self.table, np.zeros_like(self.table)])
        self.table[number] = np.clip(self._contribution(piece), -_MAX_CONTRIBUTION, _MAX_CONTRIBUTION)
        self[piece] = number
        return number

    def numbers(self, lines: Sequence[str]) -> NDArray[np.int32]:
        """Row numbers of the pieces of all lines, with a 0 after each line."""
        if len(self) > _MAX_PIECES:
            self.clear()
            self["\n"] = 0
        pieces = " \n ".join([*lines, ""]).split(" ")[:-1]
        return np.fromiter(map(self.__getitem__, pieces), dtype=np.int32, count=len(pieces))
