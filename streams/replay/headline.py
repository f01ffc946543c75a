"""What the figures of a diff say together: whether more items flip than the model's own inconsistency explains.

The share of items that flip is compared with the noise floor. The interval of their difference decides what may be
claimed (Newcombe 1998, method 10: from the two Wilson intervals). Where it holds zero, nothing is claimed, and the
sample is named that would decide it if the shares stayed as they are.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from safeguard_streams.quality.proportions import Proportion, proportion
from safeguard_streams.replay.diff import Diff
from safeguard_streams.runtime.counts import counted

_MAX_FACTOR = 1000  # a sample that would have to be larger by more decides nothing in practice


class Difference(NamedTuple):
    """How much larger one share is than another, with its 95% interval."""

    value: float
    low: float
    high: float


def difference(share: Proportion, base: Proportion) -> Difference:
    """The difference of two measured shares."""
    a, b = share.value or 0.0, base.value or 0.0
    low = a - b - math.hypot(a - share.low, base.high - b)
    high = a - b + math.hypot(share.high - a, b - base.low)
    return Difference(a - b, low, high)


def headline(diff: Diff) -> str:
    """A few sentences that claim no more than the intervals allow."""
    if not diff.compared:
        return "There is nothing to compare yet."
    flips = proportion(diff.to_violates.count + diff.to_safe.count, diff.compared)
    if not flips.count:
        most = _percent(flips.high)
        of = counted(diff.compared, "compared item")
        return f"No decision changes: none of {of} flips (95% interval: at most {most})."
    of = counted(flips.of, "compared item flips", "compared items flip")
    flipped = f"{flips.count:,} of {of}: {_share(flips)}."
    if not diff.noise.of:
        return (
            f"{flipped} No noise floor was measured, so some of them may be the model's own inconsistency. "
            "Start a replay with --noise to measure it."
        )
    twice = counted(diff.noise.of, "item")
    measured = (
        f"{flipped} The version before contradicts itself on {diff.noise.count:,} of {twice} that it judged twice, "
        f"which would flip {_share(diff.noise)} of the compared items."
    )
    gap = difference(flips, diff.noise)
    if gap.low > 0:
        return f"More items flip than noise explains, by at least {_percent(gap.low)} of the compared items. {measured}"
    if gap.high < 0:
        return f"No more items flip than noise explains. {measured}"
    return f"Whether more items flip than noise explains is undecided. {measured} {_deciding(diff, gap)}"


def _deciding(diff: Diff, gap: Difference) -> str:
    """Which sample would decide: the interval of a sample k times as large is narrower by the square root of k."""
    half = gap.value - gap.low if gap.value > 0 else gap.high - gap.value
    factor = (half / gap.value) ** 2 if gap.value else math.inf
    if factor > _MAX_FACTOR:
        return "The two shares are too close for any practical sample to tell them apart."
    compared, twice = (_rounded_up(number * factor) for number in (diff.compared, diff.noise.of))
    return (
        f"At these shares, about {counted(compared, 'compared item')}, {twice:,} of them judged twice, would decide: "
        "raise --sample, --noise or the time that the replay covers."
    )


def _rounded_up(number: float) -> int:
    """A number that is at least this large, with two digits that count."""
    unit = 10.0 ** max(0, math.floor(math.log10(number)) - 1)
    return round(math.ceil(number / unit) * unit)


def _share(share: Proportion) -> str:
    return f"{_percent(share.value or 0.0)} (95% interval {_percent(share.low)} to {_percent(share.high)})"


def _percent(share: float) -> str:
    return f"{100 * share:.2f}%"
