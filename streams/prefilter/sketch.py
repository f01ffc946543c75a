"""Sketches of texts: 64 bits, of which few differ where texts differ by little.

A sketch is a SimHash (Charikar 2002): each distinct run of three characters of the folded text votes on each bit by its
hash. It needs no words, so it serves any script. Case, look-alike letters, spaced-out letters, digits, links and
mentions make no difference, because these are what senders of the same text vary first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from safeguard_streams.contract.limits import SKETCHED
from safeguard_streams.prefilter.normalise import codes, read

# Measured on pairs of texts from 29 public sets, in many languages. Of texts from 20 characters on with a word, a sign,
# a number or a mention changed or added, 3% differ in more bits. Of different texts of one set, 0.6% differ in no more
# up to 300 characters, and 3% of longer ones. A rate asks for many similar texts, so single errors decide nothing.
DISTANCE = 14
_RUN = 3  # characters
_DIGITS = (ord("0"), ord("9"))
_ODD = np.uint64(0x9E3779B97F4A7C15)
_AT_ONCE = 32_768  # characters, of lines that are sketched together: 64 bytes for each


class Sketch(NamedTuple):
    """A text's sketch, or None where it has no visible characters, and how many it has, as it is folded."""

    bits: int | None
    characters: int


def is_similar(one: int, other: int) -> bool:
    """Whether two sketches are those of texts that differ by little."""
    return (one ^ other).bit_count() <= DISTANCE


def sketches(texts: Sequence[str]) -> list[Sketch]:
    """The sketches of texts. Of a long text, its beginning and its end count, so the cost of each has a bound."""
    lines = [" ".join(line.split()) for line in read([_shortened(text) for text in texts]).lines[: len(texts)]]
    visible = [line for line in lines if line]
    bits = iter([one for part in _parts(visible) for one in _bits(part)])
    return [Sketch(next(bits), len(line) - line.count(" ")) if line else Sketch(None, 0) for line in lines]


def _shortened(text: str) -> str:
    return text if len(text) <= 2 * SKETCHED else text[:SKETCHED] + text[-SKETCHED:]


def _parts(lines: Sequence[str]) -> Iterator[Sequence[str]]:
    """Lines that are sketched at a time: as many as memory and caches like."""
    start, size = 0, 0
    for number, line in enumerate(lines):
        size += len(line)
        if size > _AT_ONCE:
            yield lines[start : number + 1]
            start, size = number + 1, 0
    if start < len(lines):
        yield lines[start:]


def _bits(lines: Sequence[str]) -> list[int]:
    """The sketches of lines that are not empty, as numbers."""
    padded = [f" {line} " for line in lines]
    points = codes("".join(padded)).astype(np.uint64)
    points[(points >= _DIGITS[0]) & (points <= _DIGITS[1])] = _DIGITS[0]
    numbers = np.repeat(np.arange(len(padded), dtype=np.uint64), [len(line) for line in padded])
    inside = numbers[: 1 - _RUN] == numbers[_RUN - 1 :]  # runs of characters of one line
    hashes, numbers = _hashed(points)[inside], numbers[: 1 - _RUN][inside]
    _, first = np.unique(hashes + numbers * _ODD, return_index=True)  # each run votes once for each line
    first.sort()
    hashes, numbers = hashes[first], numbers[first]
    ballots = np.unpackbits(hashes.astype("<u8").view(np.uint8).reshape(-1, 8), axis=1)
    starts = np.searchsorted(numbers, np.arange(len(padded), dtype=np.uint64))
    votes = np.add.reduceat(ballots, starts, axis=0, dtype=np.int32)
    counts = np.diff(np.append(starts, len(numbers)))
    packed = np.packbits(votes * 2 > counts[:, None], axis=1)
    found: list[int] = packed.view(">u8").ravel().tolist()
    return found


def _hashed(points: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A hash of each run of characters, the same in every process."""
    count = len(points) - _RUN + 1
    hashes = np.zeros(count, dtype=np.uint64)
    for number in range(_RUN):
        hashes = hashes * _ODD + points[number : number + count] + np.uint64(1)
    for shift, factor in ((31, 0x7FB5D329728EA185), (27, 0x81DADEF4BC2DD44D)):
        hashes = (hashes ^ (hashes >> np.uint64(shift))) * np.uint64(factor)
    hashes ^= hashes >> np.uint64(33)
    return hashes
