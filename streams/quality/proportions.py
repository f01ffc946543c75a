"""Proportions of counts with their intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

Z = 1.959964  # 95%


class Proportion(msgspec.Struct, frozen=True):
    """count out of `of`, as a share with its 95% interval, all 0 to 1. value is None where `of` is 0.

    value is the weighted share where items stand for different numbers of others.
    """

    count: int
    of: int
    value: float | None
    low: float
    high: float

    def scaled(self, part: int, whole: int) -> Proportion:
        """The same count as a share of a larger whole, of which only this part may count."""
        if self.value is None or not whole:
            return self
        value, low, high = (round(figure * part / whole, 4) for figure in (self.value, self.low, self.high))
        return msgspec.structs.replace(self, value=value, low=low, high=high)

    def __str__(self) -> str:
        return "-" if self.value is None else f"{self.value:.3f} ({self.low:.3f}-{self.high:.3f})"


def proportion(count: int, of: int) -> Proportion:
    """A proportion with Wilson's score interval (Wilson 1927), which also holds for small counts and near 0 and 1."""
    return _wilson(count, of, count / of if of else 0.0, float(of))


def weighted_proportion(counted: Sequence[bool], weights: Sequence[float]) -> Proportion:
    """A proportion of items that stand for more than themselves. Equal weights give `proportion`.

    The interval is Wilson's for the number of equal weights that would be as exact (Kish 1965).
    """
    whole = math.fsum(weights)
    value = math.fsum(w for w, counts in zip(weights, counted, strict=True) if counts) / whole if whole else 0.0
    exact_as = whole * whole / math.fsum(w * w for w in weights) if whole else 0.0
    return _wilson(sum(counted), len(weights), value, exact_as)


def _wilson(count: int, of: int, p: float, n: float) -> Proportion:
    if not of:
        return Proportion(count, of, None, 0.0, 1.0)
    middle = (p + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z * math.sqrt(max(0.0, p * (1 - p)) / n + Z * Z / (4 * n * n)) / (1 + Z * Z / n)
    return Proportion(count, of, round(p, 4), round(max(0.0, middle - half), 4), round(min(1.0, middle + half), 4))
