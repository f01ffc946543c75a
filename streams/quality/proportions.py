"""Proportions of counts with their intervals."""

from __future__ import annotations

import math

import msgspec

Z = 1.959964  # 95%


class Proportion(msgspec.Struct, frozen=True):
    """count out of `of`, as a share with its 95% interval, all 0 to 1. value is None where `of` is 0."""

    count: int
    of: int
    value: float | None
    low: float
    high: float

    def __str__(self) -> str:
        return "-" if self.value is None else f"{self.value:.3f} ({self.low:.3f}-{self.high:.3f})"


def proportion(count: int, of: int) -> Proportion:
    """A proportion with Wilson's score interval (Wilson 1927), which also holds for small counts and near 0 and 1."""
    if not of:
        return Proportion(count, of, None, 0.0, 1.0)
    p = count / of
    middle = (p + Z * Z / (2 * of)) / (1 + Z * Z / of)
    half = Z * math.sqrt(p * (1 - p) / of + Z * Z / (4 * of * of)) / (1 + Z * Z / of)
    return Proportion(count, of, round(p, 4), round(max(0.0, middle - half), 4), round(min(1.0, middle + half), 4))
