"""Agreement of people with each other and with the model, beyond what chance alone gives, with bootstrap intervals.

- Two raters: Cohen's kappa (Cohen 1960).
- Any number of raters, who need not rate the same items: Krippendorff's alpha for nominal data (Krippendorff 2011).

Both are 1 where all agree, 0 where they agree as chance does, and below 0 where they agree less. The 95% interval comes
from resamples of items, never of single ratings: ratings of one item depend on each other. Where all ratings are of one
category, or too few items have two ratings, there is no figure: chance alone would explain it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from safeguard_streams.quality.proportions import proportion

Floats = NDArray[np.float64]
Pair = tuple[str, str]
Disagreement = tuple[Floats, Floats]  # the share of unequal ratings, and that which chance gives

ENOUGH = 10  # items that two raters have in common
RESAMPLES = 2000
_SEED = 0
_NOTHING = 1e-12


class Agreement(msgspec.Struct, frozen=True):
    """A figure with its 95% interval. value is None where the items are not enough for one.

    items: that have two ratings or more. same: share of pairs of ratings that are equal; None without a pair.
    """

    items: int
    same: float | None = None
    value: float | None = None
    low: float | None = None
    high: float | None = None


def kappa(items: Iterable[Sequence[Pair]], enough: int = ENOUGH) -> Agreement:
    """Cohen's kappa of two raters. items: for each item, its pairs of the first and the second rater's category.

    An item has several pairs where several people stand for the first rater; its pairs are resampled together. There is
    no figure where one of the raters has used one category alone: whatever the other says, kappa is 0.
    """
    rated = [pairs for pairs in items if pairs]
    names = _numbers(name for pairs in rated for pair in pairs for name in pair)
    tables = np.zeros((len(rated), len(names), len(names)))
    for table, pairs in zip(tables, rated, strict=True):
        for first, second in pairs:
            table[names[first], names[second]] += 1
    used = [np.count_nonzero(tables.sum(axis=(0, side))) for side in (1, 2)]
    return _estimated(tables, _of_kappa, enough if min(used) > 1 else len(rated) + 1)


def alpha(items: Iterable[Sequence[str]], enough: int = ENOUGH) -> Agreement:
    """Krippendorff's alpha for nominal data. items: for each item, the categories that its raters gave it.

    Items with fewer than two ratings say nothing about agreement, and are left out.
    """
    rated = [Counter(ratings) for ratings in items if len(ratings) > 1]
    names = _numbers(name for ratings in rated for name in ratings)
    counts = np.zeros((len(rated), len(names)))
    for row, ratings in zip(counts, rated, strict=True):
        for name, count in ratings.items():
            row[names[name]] = count
    # Each item adds its ordered pairs of ratings, over the number of its other ratings: the coincidence matrix.
    pairs = counts[:, :, None] * counts[:, None, :] - np.eye(len(names)) * counts[:, :, None]
    return _estimated(pairs / (counts.sum(axis=1)[:, None, None] - 1), _of_alpha, enough)


def _numbers(names: Iterable[Hashable]) -> Mapping[Hashable, int]:
    return {name: number for number, name in enumerate(dict.fromkeys(names))}


def _of_kappa(tables: Floats) -> Disagreement:
    """From tables [..., first rater, second rater]."""
    total = tables.sum(axis=(-2, -1))
    by_chance = (tables.sum(axis=-1) * tables.sum(axis=-2)).sum(axis=-1)
    return 1 - np.trace(tables, axis1=-2, axis2=-1) / total, 1 - by_chance / (total * total)


def _of_alpha(tables: Floats) -> Disagreement:
    """From coincidence matrices."""
    of_category = tables.sum(axis=-1)
    total = of_category.sum(axis=-1)
    by_chance = (of_category * (of_category - 1)).sum(axis=-1)
    return 1 - np.trace(tables, axis1=-2, axis2=-1) / total, 1 - by_chance / (total * (total - 1))


def _estimated(tables: Floats, disagreement: Callable[[Floats], Disagreement], enough: int) -> Agreement:
    """The figure of the sum of these tables, one for each item, with the percentiles of its resamples.

    Items whose tables are equal are drawn together: resampling takes as long for a million items as for a few. Where
    all agree, so do all resamples: the lower end is then that of Wilson's interval for the share that agrees.
    """
    items, categories = tables.shape[:2]
    whole = tables.sum(axis=0)
    same = float(np.trace(whole) / whole.sum()) if items else None
    if items < enough or categories < 2:
        return Agreement(items, same)
    kinds, counts = np.unique(tables.reshape(items, -1), axis=0, return_counts=True)
    draws = np.random.default_rng(_SEED).multinomial(items, counts / items, size=RESAMPLES)
    observed, expected = disagreement((draws @ kinds).reshape(RESAMPLES, categories, categories))
    varied = expected > _NOTHING  # a resample may draw one category alone
    if varied.mean() < 0.5:
        return Agreement(items, same)
    value_observed, value_expected = disagreement(whole)
    low, high = np.percentile(1 - observed[varied] / expected[varied], (2.5, 97.5))
    if same == 1:
        low = max(-1.0, 1 - (1 - proportion(items, items).low) / value_expected)
    return Agreement(items, same, float(1 - value_observed / value_expected), float(low), float(high))
