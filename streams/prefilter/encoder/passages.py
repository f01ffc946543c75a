"""Long texts, in passages of what the encoder reads at once.

A gate takes what the passage adds that adds the most: harmless passages do not hide a violating one. Within a passage,
the words around a violation still dilute it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from safeguard_streams.contract.limits import ENCODED_PASSAGES
from safeguard_streams.prefilter.encoder.tokens import (
    BEGINNING,
    END,
    MAX_CHARACTERS,
    MAX_TOKENS,
    readable,
)

OVERLAP = 16  # tokens that neighbours share at least, in a text that is read in full
MAX_READ = ENCODED_PASSAGES * MAX_CHARACTERS  # characters of a text that are cut into pieces
_LENGTH = MAX_TOKENS - 2  # tokens of a passage, without its marks

Floats = NDArray[np.float64]


class Passages(NamedTuple):
    """pieces: the numbers of each passage's pieces; text [passages]: the number of its text, in ascending order."""

    pieces: list[list[int]]
    text: NDArray[np.intp]


class PassageVectors(NamedTuple):
    """vectors [passages, 512]; text [passages]: the number of a passage's text. Every text has a passage."""

    vectors: NDArray[np.float32]
    text: NDArray[np.intp]

    @classmethod
    def one_each(cls, vectors: NDArray[np.float32]) -> PassageVectors:
        """Those of texts of one passage each."""
        return cls(vectors, np.arange(len(vectors)))

    @property
    def first(self) -> NDArray[np.intp]:
        """The first passage of each text."""
        return np.flatnonzero(np.diff(self.text, prepend=-1))

    def highest(self, added: Floats) -> Floats:
        """The most that a passage of each text adds [texts], given what each passage adds [passages]."""
        return np.maximum.reduceat(added, self.first) if len(added) else added

    def of(self, texts: NDArray[np.bool_]) -> PassageVectors:
        """Those of some texts. texts: which ones [texts]."""
        chosen = texts[self.text]
        return PassageVectors(self.vectors[chosen], (np.cumsum(texts) - 1)[self.text[chosen]])


def cut(tokenizer: Any, texts: Sequence[str]) -> Passages:
    """The passages of texts, at most ENCODED_PASSAGES of each. Those of a longer text spread evenly."""
    pieces: list[list[int]] = []
    counts = []
    for ids in tokenizer.encode([readable(_sampled(text)) for text in texts]):
        last = max(0, len(ids) - _LENGTH)
        count = min(ENCODED_PASSAGES, 1 + math.ceil(last / (_LENGTH - OVERLAP)))
        counts.append(count)
        starts = [last * number // max(1, count - 1) for number in range(count)]
        pieces += [[BEGINNING, *ids[start : start + _LENGTH], END] for start in starts]
    return Passages(pieces, np.repeat(np.arange(len(texts)), counts))


def _sampled(text: str) -> str:
    """A text of at most MAX_READ characters, or samples of a longer one, from its beginning to its end."""
    if len(text) <= MAX_READ:
        return text
    last = len(text) - MAX_CHARACTERS
    starts = [last * number // (ENCODED_PASSAGES - 1) for number in range(ENCODED_PASSAGES)]
    return " ".join(text[start : start + MAX_CHARACTERS] for start in starts)
