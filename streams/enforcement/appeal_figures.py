"""Figures about appeals: how many wait, how many were overturned, and how long decisions take."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import get_args

import msgspec

from safeguard_streams.enforcement.appeal_outcomes import ListedAppeal, Outcome
from safeguard_streams.quality.proportions import Proportion, proportion

_HOUR = 3600.0


class Summary(msgspec.Struct, frozen=True):
    """Counts of appeals. reversed: those that were overturned, of all that a person decided. hours: median time from
    appeal to decision.
    """

    open: int
    overdue: int
    decided: int
    moot: int
    refused: int
    reversed: Proportion
    hours: float | None


def summed(found: Sequence[ListedAppeal]) -> Summary:
    """The summary of some appeals."""
    states = [one.state for one in found]
    decided = [one for one in found if one.state in get_args(Outcome)]
    times = [max(0.0, (one.closed_at - one.opened_at).total_seconds()) for one in decided if one.closed_at]
    return Summary(
        states.count("open"),
        sum(one.overdue for one in found),
        len(decided),
        states.count("moot"),
        states.count("refused"),
        proportion(states.count("overturned"), len(decided)),
        round(statistics.median(times) / _HOUR, 2) if times else None,
    )
