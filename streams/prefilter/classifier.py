"""The fastText classifier, and labels that were distilled for single policies: probabilities for windows of texts.

A softmax over the mean of fastText's input rows is linear in the words up to its end, and so is a distilled label. So
the share of each piece of text is computed once and kept; a batch of texts is a gather, a running sum, and
differences of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from copy import copy
from pathlib import Path
from typing import Any, NamedTuple

import fasttext
import numpy as np
from numpy.typing import NDArray

from safeguard_streams.errors import ConfigurationError
from safeguard_streams.policies.distilled import DistilledClassifier
from safeguard_streams.prefilter.normalise import Views, read, words

SHIPPED = Path(__file__).parent / "model" / "prefilter.bin"
NONE = "none"
WINDOW, STRIDE = 15, 11  # pieces of a line between spaces
SECTION = (120, 90)  # the same for distilled labels, which are trained on whole texts
_LABEL = "__label__"
# Fixed point: sums of integers are equal in whatever batch a text comes. The running sum may wrap around; differences
# of it are right all the same, as long as those of one span fit 32 bits, hence the bound on a piece's share.
_ONE = 2.0**13
_MOST = (2**31 - 1) // (SECTION[0] + 1)
# Unknown words that are taken apart: their length in characters; what an unknown part costs, at least and a letter more;
# the letters that parts must have on average.
_RUN_TOGETHER, _LONGEST_RUN, _LONGEST_PART = 8, 60, 20
_UNKNOWN, _UNKNOWN_LETTER = 12.0, 2.0
_FEWEST_LETTERS = 2.5
_MOST_KEPT = 200_000  # pieces; at more, the table is begun anew

Floats = NDArray[np.float64]
Scores = dict[str, float]


class Windows(NamedTuple):
    """What was found in the texts, by windows of their lines.

    probabilities [windows, labels], and text [windows], the number of the text that a window belongs to.
    own [sections, distilled labels], each label's logit but for the harms it builds on; section_text [sections].
    """

    probabilities: Floats
    text: NDArray[np.intp]
    own: Floats
    section_text: NDArray[np.intp]


class Classifier:
    """A model of labels none and harms, trained by `safeguard prefilter train`, and any distilled labels beside it.

    Raises ConfigurationError when the file is none that it can use.
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
        self.labels = [label.removeprefix(_LABEL) for label in self._model.get_labels()]
        if NONE not in self.labels:
            raise ConfigurationError(f"{path}: has no label {NONE!r}; train it with safeguard prefilter train")
        self.name = f"fasttext-{hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"
        self._output = np.array(self._model.f.getOutputMatrix(), dtype=np.float64)
        known, counts = self._model.get_words(include_freq=True)
        # Cost of each known word: minus the log of its share in training.
        self._known = dict(zip(known, (np.log(counts.sum()) - np.log(counts)).tolist(), strict=True))
        self._begin(())

    @property
    def harms(self) -> list[str]:
        """All labels but none."""
        return sorted(label for label in self.labels if label != NONE)

    def beside(self, distilled: Sequence[DistilledClassifier]) -> Classifier:
        """The same classifier, scoring these labels, too; itself, with what it has in its table, if it does already."""
        if list(distilled) == self._distilled:
            return self
        other = copy(self)
        other._begin(distilled)  # noqa: SLF001  (it is of this class)
        return other

    def _begin(self, distilled: Sequence[DistilledClassifier]) -> None:
        self._distilled = list(distilled)
        self._rows = _Rows(lambda piece: np.rint(self._share(self.words(piece)) * _ONE), self._share([]).size)
        self._end = np.rint(self._share(["</s>"]) * _ONE)
        self._end[len(self.labels) + 1 :] = 0  # distilled labels know no end of line

    def words(self, piece: str) -> list[str]:
        """Words of a piece; a long one that the model does not know is read as the words it seems to be made of."""
        found: list[str] = []
        for word in words(piece):
            if len(word) < _RUN_TOGETHER or word in self._known or len(word) > _LONGEST_RUN:
                found.append(word)
            else:
                found += self._apart(word)
        return found

    def _apart(self, word: str) -> list[str]:
        """The likeliest sequence of words, the probability of a word being its frequency in training."""
        best: list[tuple[float, int]] = [(0.0, 0)]
        for end in range(1, len(word) + 1):
            best.append(
                min(
                    (best[start][0] + self._cost(word[start:end]), start)
                    for start in range(max(0, end - _LONGEST_PART), end)
                )
            )
        parts: list[str] = []
        end = len(word)
        while end:
            parts.append(word[best[end][1] : end])
            end = best[end][1]
        # Scraps of letters are no words: what falls into them was no run of words.
        return parts[::-1] if len(word) >= _FEWEST_LETTERS * len(parts) else [word]

    def _cost(self, part: str) -> float:
        known: float | None = self._known.get(part)
        return _UNKNOWN + _UNKNOWN_LETTER * len(part) if known is None else known

    def _share(self, of: Sequence[str]) -> Floats:
        """What words add to: each label's sum, the count of fastText's input rows; each distilled label's sum, the
        count of its features.
        """
        labels, width = len(self.labels), len(self._distilled)
        share = np.zeros(labels + 2 + width)
        for word in of:
            inputs = len(self._model.get_subwords(word)[1])
            share[:labels] += self._output @ self._model.get_word_vector(word).astype(np.float64) * inputs
            share[labels] += inputs
            for column, distilled in enumerate(self._distilled, labels + 1):
                share[column] += distilled.sum(word)
            share[-1] += DistilledClassifier.features(word) if width else 0
        return share

    def windows(self, views: Views) -> Windows:
        """Probabilities in each window, and the logits of distilled labels in each section, of each view."""
        numbers = self._rows.numbers(views.lines)
        sums = np.zeros((len(numbers) + 1, self._end.size), dtype=np.int32)
        np.cumsum(self._rows.table.take(numbers, axis=0), axis=0, dtype=np.int32, out=sums[1:])
        ends = np.flatnonzero(numbers == 0)
        line, inside = _spans(sums, ends, WINDOW, STRIDE)
        inside = (inside + self._end) / _ONE
        labels = len(self.labels)
        logits = inside[:, :labels] / np.maximum(inside[:, labels : labels + 1], 1)
        logits -= logits.max(axis=1, keepdims=True)
        np.exp(logits, out=logits)
        logits /= logits.sum(axis=1, keepdims=True)
        if not self._distilled:
            return Windows(logits, views.text[line], np.zeros((0, 0)), np.zeros(0, dtype=np.intp))
        section, inside = _spans(sums[:, labels + 1 :], ends, *SECTION)
        own = inside[:, :-1] / _ONE / np.sqrt(np.maximum(inside[:, -1:] / _ONE, 1))
        return Windows(logits, views.text[line], own + [d.bias for d in self._distilled], views.text[section])

    def score(self, texts: Sequence[str]) -> list[Scores]:
        """For each text the probabilities by label, none included, of the window with the least of none."""
        found = self.windows(read(texts))
        order = np.lexsort((found.probabilities[:, self.labels.index(NONE)], found.text))
        worst = order[np.searchsorted(found.text[order], np.arange(len(texts)))]
        return [dict(zip(self.labels, row, strict=True)) for row in found.probabilities[worst].tolist()]


def _spans(
    sums: NDArray[np.int32], ends: NDArray[np.intp], length: int, stride: int
) -> tuple[NDArray[np.intp], NDArray[np.int32]]:
    """Lines cut into overlapping spans of so many pieces: the line of each span [spans], and its sums [spans, columns].

    sums are running sums over the pieces of all lines, from 0; ends are the numbers of the pieces that end a line.
    """
    starts = np.append(0, ends[:-1] + 1)
    counts = np.maximum(1, -(-(ends - starts - (length - stride)) // stride))
    line = np.repeat(np.arange(len(ends)), counts)
    first = starts[line] + stride * (np.arange(len(line)) - (np.cumsum(counts) - counts)[line])
    last = np.minimum(first + length, ends[line])
    return line, sums[last] - sums[first]


class _Rows(dict[str, int]):
    """Row numbers of pieces, a piece being what stands between two spaces; 0 ends a line. Shares are in `table`."""

    def __init__(self, share: Callable[[str], Floats], width: int) -> None:
        super().__init__()
        self._share = share
        self.table = np.zeros((4096, width), dtype=np.int32)
        self["\n"] = 0

    def __missing__(self, piece: str) -> int:
        number = len(self)
        if number == len(self.table):
            self.table = np.concatenate([self.table, np.zeros_like(self.table)])
        self.table[number] = np.clip(self._share(piece), -_MOST, _MOST)
        self[piece] = number
        return number

    def numbers(self, lines: Sequence[str]) -> NDArray[np.int32]:
        """Row numbers of the pieces of all lines, 0 after each line."""
        if len(self) > _MOST_KEPT:
            self.clear()
            self["\n"] = 0
        pieces = " \n ".join([*lines, ""]).split(" ")[:-1]
        return np.fromiter(map(self.__getitem__, pieces), dtype=np.int32, count=len(pieces))
