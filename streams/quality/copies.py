"""Texts that are copies of each other but for little, as senders of one message vary it.

A measurement by cross-validation keeps all copies of a text on one side, or else it measures what a classifier has
seen. Copies say no more about other texts than one of them does, so a bootstrap draws them together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedKFold

from safeguard_streams.prefilter.sketch import sketches

Indices = NDArray[np.intp]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

# Bits of the texts' sketches. Digits, links, mentions and case change none, a word of a longer text a few. Of pairs of
# different texts, at most 2 in a million differ in no more. A wider distance joins long texts that are no copies.
DISTANCE = 6
MANY = 50_000  # sketches; among more, chance neighbours would join different texts, so only equal sketches do
_AT_ONCE = 2**22  # pairs that are compared at a time


def copies(texts: Sequence[str]) -> Indices:
    """For each text, the number of the group of its copies. Groups are numbered in the order of their first texts.

    Texts without visible characters are copies of each other.
    """
    bits = [sketch.bits for sketch in sketches(texts)]
    visible = np.array([one is not None for one in bits], dtype=bool)
    seen = np.array([one for one in bits if one is not None], dtype=np.uint64)
    different, of_text = np.unique(seen, return_inverse=True)
    groups = np.full(len(texts), -1)
    groups[visible] = (_joined(different) if len(different) <= MANY else np.arange(len(different)))[of_text]
    return in_order(groups)


def _joined(bits: NDArray[np.uint64]) -> Indices:
    """The group of each sketch, by its first one: neighbours of neighbours belong together.

    A campaign may have very many neighbours, so no pairs are held: each sketch joins a group once.
    """
    groups = np.full(len(bits), -1)
    for first in range(len(bits)):
        if groups[first] >= 0:
            continue
        groups[first] = first
        reached = np.array([first])
        while len(reached):
            rest = np.flatnonzero(groups < 0)
            near = np.zeros(len(rest), dtype=bool)
            step = max(1, _AT_ONCE // max(1, len(rest)))
            for at in range(0, len(reached), step):
                differing = np.bitwise_count(bits[reached[at : at + step], None] ^ bits[rest])
                near |= (differing <= DISTANCE).any(axis=0)
            reached = rest[near]
            groups[reached] = first
    return groups


def in_order(groups: Indices) -> Indices:
    """The same groups, numbered in the order of their first members."""
    _, first, group = np.unique(groups, return_index=True, return_inverse=True)
    return np.asarray(np.argsort(np.argsort(first))[group])


def originals(groups: Indices) -> Indices:
    """The first member of each group, in their order."""
    return np.sort(np.unique(groups, return_index=True)[1])


def folds(violates: Flags, groups: Indices, number: int, seed: int) -> Iterator[tuple[Indices, Indices]]:
    """The rows that train and the rows that test, in each of some folds. All copies are on one side.

    A group counts as violating where its first row violates. Of each kind there must be as many groups as folds.
    """
    of_row, first = in_order(groups), originals(groups)
    split = StratifiedKFold(number, shuffle=True, random_state=seed).split(first, violates[first])
    for _, test in split:
        left_out = np.isin(of_row, test)
        yield np.flatnonzero(~left_out), np.flatnonzero(left_out)


def resamples(groups: Indices, number: int, seed: int) -> Iterator[Floats]:
    """How often each row [rows] is in each bootstrap resample, which draws copies together."""
    of_row = in_order(groups)
    draw, count = np.random.default_rng(seed), int(of_row.max(initial=-1)) + 1
    for _ in range(number):
        yield np.bincount(draw.integers(0, count, count), minlength=count).astype(float)[of_row]


def together(weights: Floats, groups: Indices) -> Floats:
    """The weight of each group."""
    return np.bincount(in_order(groups), weights).astype(np.float64)
