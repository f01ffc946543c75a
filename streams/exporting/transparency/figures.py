"""The figures of a year's transparency report. None stands for what is not recorded."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from statistics import median

import msgspec

from safeguard_streams.exporting.transparency.automated import RecallEstimate
from safeguard_streams.exporting.transparency.source import Coverage
from safeguard_streams.quality.proportions import Proportion

APPEAL_OUTCOMES = ("upheld", "overturned", "moot", "refused")
MEANS = ("automated", "people")
ACCOUNT_ACTIONS = ("limit", "suspend")


class Notices(msgspec.Struct, frozen=True):
    """Notices of one kind of reporter in a year. items: different items. median_*: hours; None where there is none."""

    received: int
    items: int
    outcomes: dict[str, int]
    decided_by: dict[str, int]
    median_hours_to_decision: float | None
    median_hours_to_restriction: float | None


class Measures(msgspec.Struct, frozen=True):
    """Restrictions that were put on items in a year, by what decided them and by policy and kind."""

    total: int
    by_means: dict[str, int]
    by_policy: dict[str, dict[str, int]]
    by_month: list[dict[str, int]]


class Means(msgspec.Struct, frozen=True):
    """The automated means under one policy. Shares have 95% intervals by Wilson's method.

    verdicts: by decision. restrictions: automated ones. overruled: of the violating verdicts on items that people
    decided about, those whose item they allowed. reversed: the same for automated restrictions alone.
    appeals_overturned: of the authors' appeals against automated restrictions that people decided, those in which they
    overturned the restriction. verdicts, recall and appeals_overturned are None where that is not recorded.
    """

    verdicts: dict[str, int] | None
    restrictions: int
    overruled: Proportion
    reversed: Proportion
    appeals_overturned: Proportion | None
    recall: RecallEstimate | None


class Appeals(msgspec.Struct, frozen=True):
    """Appeals of one kind of appellant in a year.

    ended and outcomes: of the year in which they ended. open: those of the year without an end in the export.
    overturned: share of those that a person decided. median_*: hours, of these; None where there is none.
    """

    received: int
    ended: int
    open: int
    outcomes: dict[str, int]
    overturned: Proportion
    median_hours_to_outcome: float | None
    median_hours_from_action_to_outcome: float | None


class Statements(msgspec.Struct, frozen=True):
    """Statements of reasons that were issued in a year, and those that were withdrawn in it.

    by_category: numbers by category of the EU's templates, own_initiative and after_notice. by_ground: law or terms.
    accounts: those about accounts, by what restricts them.
    """

    issued: int
    withdrawn: int
    by_category: dict[str, dict[str, int]]
    by_ground: dict[str, int]
    accounts: dict[str, int]


class Figures(msgspec.Struct, frozen=True):
    """All figures of a year.

    records: what the export holds, by kind. orders: reports by authorities. notices: by kind of reporter.
    own_initiative: on items that nobody had reported; after_notices: on the others. means: by policy. appeals: by kind
    of appellant.
    """

    year: int
    counted_at: datetime
    records: dict[str, Coverage | None]
    orders: Notices | None
    notices: dict[str, Notices] | None
    measures: Measures | None
    own_initiative: Measures | None
    after_notices: Measures | None
    means: dict[str, Means] | None
    all_means: Means | None
    appeals: dict[str, Appeals] | None
    statements: Statements | None


def median_hours(times: Sequence[tuple[datetime, datetime]]) -> float | None:
    """The median of time spans, in hours with two digits. None is below 0, whatever the clocks said."""
    spans = [max(0.0, (end - begin).total_seconds() / 3600) for begin, end in times]
    return round(median(spans), 2) if spans else None


def means_of(automated: bool) -> str:
    """What decided: one of MEANS."""
    return MEANS[0] if automated else MEANS[1]
