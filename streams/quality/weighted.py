"""Totals and shares of a stream, estimated from items that were drawn at known rates: the one estimator for all.

An item that was drawn with probability p has the weight 1/p (Horvitz and Thompson 1952): it stands for itself and the
others that were not drawn. Intervals are those of Fay and Feuer (1997) for weighted sums of counts, which hold for few
items, for none, and for weights that differ. A share combines two independent totals (MOVER, Zou and Donner 2008).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]
LOW, HIGH = 0.025, 0.975  # 95%


class Estimate(msgspec.Struct, frozen=True):
    """A figure with its 95% interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f}-{self.high:.3f})"


def total(weights: Sequence[float] | Floats, largest: float, *, finite: bool = False) -> Estimate:
    """The number of items of a kind, from the weights of those that were drawn.

    largest: the largest weight among all drawn items, of this kind or not: what one more item could have added; 0 if
        none was drawn.
    finite: whether the total is that of the items that passed, where an item of weight 1 is certain. Otherwise it is
        that of the process that they come from, where each item is one of chance.
    """
    drawn = np.asarray(weights, dtype=np.float64)
    certain = 1.0 if finite else 0.0  # part of a weight that is no chance
    value, variance = float(drawn.sum()), float((drawn * (drawn - certain)).sum())
    one_more, its_variance = max(0.0, largest - certain), max(0.0, largest * (largest - certain))
    low = _gamma(LOW, value, variance)
    high = _gamma(HIGH, value + one_more, variance + its_variance)
    return Estimate(value, max(low, len(drawn)) if finite else low, high)


def _gamma(level: float, mean: float, variance: float) -> float:
    """A quantile of the gamma distribution with this mean and variance."""
    if not mean or not variance:
        return mean
    return float(stats.gamma.ppf(level, mean * mean / variance, scale=variance / mean))


def share(part: Estimate, rest: Estimate) -> Estimate | None:
    """part / (part + rest), 0 to 1, of independent totals. None where both are 0."""
    if not part.value + rest.value:
        return None
    value = part.value / (part.value + rest.value)
    if not part.value or not rest.value:
        low = part.low / (part.low + rest.high) if part.low else 0.0
        high = part.high / (part.high + rest.low) if rest.low else 1.0
        return Estimate(value, low, high)
    odds = math.log(part.value / rest.value)
    low = odds - math.hypot(math.log(part.value / part.low), math.log(rest.high / rest.value))
    high = odds + math.hypot(math.log(part.high / part.value), math.log(rest.value / rest.low))
    return Estimate(value, _logistic(low), _logistic(high))


def _logistic(odds: float) -> float:
    return 1 / (1 + math.exp(-odds))
