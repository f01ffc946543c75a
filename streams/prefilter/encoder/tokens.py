"""Texts as the encoder reads them: the numbers of their pieces, in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from safeguard_streams.prefilter.normalise import Views

MAX_TOKENS = 128  # of a text, with the marks of its beginning and its end
MAX_CHARACTERS = 16 * MAX_TOKENS  # no piece is longer than 16 characters, and no more of a text is cut into pieces
BATCH_TOKENS = 1024  # the activations of a batch fit the processor's cache
BEGINNING, END = 1, 2  # numbers of these marks
LEFT, RIGHT = 2, 2  # tokens that the widest window has on each side

Ints = NDArray[np.int64]


class Batch(NamedTuple):
    """Some texts, with their tokens one after the other.

    pieces [tokens]: their numbers; window [tokens, 5]: positions of the tokens around each one, or the number of tokens
    where its text has none; text [tokens]: the text of each token; lengths [texts]: tokens of each text.
    """

    pieces: Ints
    window: Ints
    text: Ints
    lengths: Ints


def undisguised(views: Views, texts: Sequence[int]) -> list[str]:
    """The line that the encoder reads of each text, by number: the view without disguise, if there is one.

    A view without disguise comes after the line of its text.
    """
    if not texts:
        return []
    last = {text: line for line, text in enumerate(views.text.tolist())}
    return [views.lines[last[text]] for text in texts]


def pieces(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """The numbers of the pieces of each text's beginning, between the marks of beginning and end."""
    beginnings = [readable(text[:MAX_CHARACTERS]) for text in texts]
    return [[BEGINNING, *ids[: MAX_TOKENS - 2], END] for ids in tokenizer.encode(beginnings)]


def readable(text: str) -> str:
    """The text without lone surrogates, which the tokenizer refuses."""
    return text.encode("utf-8", "replace").decode()


def batches(texts: Sequence[Sequence[int]]) -> Iterator[Batch]:
    """Cut texts into batches of at most BATCH_TOKENS, in order."""
    group: list[Sequence[int]] = []
    size = 0
    for ids in texts:
        if group and size + len(ids) > BATCH_TOKENS:
            yield _batch(group)
            group, size = [], 0
        group.append(ids)
        size += len(ids)
    if group:
        yield _batch(group)


def _batch(texts: Sequence[Sequence[int]]) -> Batch:
    lengths = np.array([len(ids) for ids in texts], dtype=np.int64)
    numbers = np.concatenate([np.array(ids, dtype=np.int64) for ids in texts])
    text = np.repeat(np.arange(len(texts)), lengths)
    ends = np.cumsum(lengths)
    around = np.arange(len(numbers))[:, None] + np.arange(-LEFT, RIGHT + 1)
    inside = (around >= (ends - lengths)[text][:, None]) & (around < ends[text][:, None])
    return Batch(numbers, np.where(inside, around, len(numbers)), text, lengths)
