"""Which of two gates is better on the same labels, and how many more labels would settle it."""

from __future__ import annotations

import math

import msgspec
import numpy as np

from safeguard_streams.prefilter.classifier import Floats
from safeguard_streams.quality.copies import Indices, originals, together
from safeguard_streams.quality.evaluation import Flags, ScoredSet
from safeguard_streams.quality.gate_curve import Ranked, resamples
from safeguard_streams.quality.weighted import Estimate

NOTHING = 0.001  # a difference of shares below this is none


class Choice(msgspec.Struct, frozen=True):
    """Two gates on the same rows.

    escalated: what share of content `name` escalates for the recall, less the share of `than`, with its 95% bootstrap
    interval. more_labels: after how many more labels like these the interval would exclude 0, and they would resolve
    the recall; 0 if so now, None if the gates differ by nothing. It assumes that the difference stays and its interval
    narrows with the labels' square root.
    """

    name: str
    than: str
    target_recall: float
    escalated: Estimate
    more_labels: int | None

    def __str__(self) -> str:
        e = self.escalated
        return (
            f"{self.name} v {self.than}: escalates {e.value:+.3f} for recall {self.target_recall:.2f} "
            f"(95% interval {e.low:+.3f} to {e.high:+.3f}): {self.verdict}"
        )

    @property
    def better(self) -> bool:
        """Whether `name` escalates less, beyond chance."""
        return self.more_labels == 0 and self.escalated.value < 0

    @property
    def verdict(self) -> str:
        """What the interval says, in words."""
        if self.more_labels is None:
            return "no difference, which more labels like these would not change"
        if self.more_labels == 0:
            return "better, beyond chance" if self.better else "worse, beyond chance"
        return f"undecided; about {_two_digits(self.more_labels):,} more labels like these would settle it"


def compare(one: ScoredSet, than: ScoredSet, target_recall: float, seed: int = 0) -> Choice:
    """Compare two gates' scores of the same rows, by the share of content that each escalates for this recall."""
    ranked = Ranked(one), Ranked(than)

    def difference(times: Floats) -> float:
        shares = [gate.escalated(times, [target_recall])[0] for gate in ranked]
        return float(shares[0] - shares[1])

    low, high = np.percentile([difference(times) for times in resamples(one, seed)], [2.5, 97.5]).tolist()
    value = difference(np.ones(len(one.scores)))
    estimate = Estimate(*(round(figure, 4) for figure in (value, low, high)))
    labels = len(one.scores)
    more = more_labels(value, low, high, labels)
    if more is not None:
        weights, violates = together(one.weights, one.groups), one.violates[originals(one.groups)]
        more = max(more, labels_to_resolve(target_recall, violates, weights))
    return Choice(one.name, than.name, target_recall, estimate, more)


def labels_to_resolve(recall: float, violates: Flags, weights: Floats) -> int:
    """How many labels, beyond these, resolve a recall; 0 if these do.

    They do not while one row stands for more items than may be missed: such a violating row, or one that was not drawn
    yet, decides alone about the threshold, and a bootstrap interval is too narrow.
    """
    factor = float(weights.max(initial=0.0)) / max((1 - recall) * float(weights[violates].sum()), 1e-9)
    return max(0, math.ceil(len(weights) * (factor - 1) - 1e-6))


def more_labels(value: float, low: float, high: float, labels: int) -> int | None:
    """How many labels, beyond these, narrow the interval until it excludes 0; None where there is no difference."""
    if abs(value) < NOTHING:
        return None
    towards_0 = value - low if value > 0 else high - value
    factor = (towards_0 / abs(value)) ** 2
    return max(0, math.ceil(labels * (factor - 1)))


def _two_digits(number: int) -> int:
    return int(float(f"{number:.1e}"))


def standard_error(recall: float, violates: Flags, weights: Floats, groups: Indices | None = None) -> float:
    """The standard error of a recall that is measured on these rows. Unequal weights and copies count as fewer rows.

    groups [rows]: those of copies, which tell no more than one of them.
    """
    each = weights[violates] if groups is None else together(weights[violates], groups[violates])
    return math.sqrt(recall * (1 - recall) / counting_as(each))


def aimed_recall(target: float, violates: Flags, weights: Floats, groups: Indices | None = None) -> float:
    """The recall on these rows to set a threshold for: a standard error above the target, at most 1."""
    return min(1.0, target + standard_error(target, violates, weights, groups))


def counting_as(weights: Floats) -> float:
    """The number of rows of equal weight that would tell as much as these (Kish 1965); 0 of none."""
    return float(weights.sum() ** 2 / (weights**2).sum()) if len(weights) else 0.0
