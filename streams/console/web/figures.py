"""The figures of the overview: counts by minute of a window of time, and of the window before it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Any

import msgspec
from sqlalchemy import Connection, and_, case, extract, func, select
from sqlalchemy import Integer as SqlInteger
from sqlalchemy import cast as sql_cast

from safeguard_streams.console.schema import (
    cleared_counts,
    dead_letters,
    dead_letters_handled,
    escalation_counts,
    escalations,
    positions,
    replay_work,
    review_items,
    verdict_counts,
    verdicts,
)
from safeguard_streams.contract.records import EVERY_POLICY, now

_LATEST = 300  # verdicts whose waiting time is measured


class Window(msgspec.Struct, frozen=True):
    """A length of time that the overview covers, in buckets of a chart."""

    name: str
    title: str
    length: timedelta
    bucket: timedelta


WINDOWS = {
    one.name: one
    for one in (
        Window("hour", "1 hour", timedelta(hours=1), timedelta(minutes=1)),
        Window("day", "24 hours", timedelta(days=1), timedelta(minutes=15)),
        Window("week", "7 days", timedelta(days=7), timedelta(hours=2)),
    )
}


class PolicyCounts(msgspec.Struct, frozen=True):
    """Verdicts under a policy by decision: in the window, and in the one before."""

    policy_id: str
    now: Mapping[str, int]
    before: Mapping[str, int]


class GateCounts(msgspec.Struct, frozen=True):
    """What a gate escalated, in the window and in the one before."""

    gate: str
    now: int
    before: int


class LaneLag(msgspec.Struct, frozen=True):
    """Seconds from the escalation to the verdict, of the latest verdicts of a lane."""

    lane: str
    median: float
    longest: float
    verdicts: int


class Overview(msgspec.Struct, frozen=True):
    """All figures of the page. series: for each bucket, its beginning and the counts of verdicts and escalations."""

    window: Window
    series: Sequence[tuple[datetime, int, int]]
    policies: Sequence[PolicyCounts]
    gates: Sequence[GateCounts]
    lags: Sequence[LaneLag]
    cleared: int
    cleared_before: int
    waiting: int
    oldest: datetime | None
    held: int
    dead_letters: int
    projected_at: datetime | None

    @property
    def escalated(self) -> int:
        """Escalations of live content in the window."""
        return sum(gate.now for gate in self.gates)

    @property
    def escalated_before(self) -> int:
        """The same in the window before."""
        return sum(gate.before for gate in self.gates)

    @property
    def verdicts(self) -> int:
        """Verdicts in the window."""
        return sum(sum(one.now.values()) for one in self.policies)

    @property
    def verdicts_before(self) -> int:
        """The same in the window before."""
        return sum(sum(one.before.values()) for one in self.policies)

    @property
    def undetermined(self) -> int:
        """Verdicts in the window that are undetermined."""
        return sum(one.now.get("undetermined", 0) for one in self.policies)


def overview(connection: Connection, window: Window) -> Overview:
    """The figures of a window that ends now."""
    until = now()
    since, before = until - window.length, until - 2 * window.length
    waiting, oldest, held = connection.execute(
        select(
            func.count(),
            func.min(review_items.c.since),
            func.coalesce(func.sum(case((review_items.c.cause == "held", 1), else_=0)), 0),
        ).where(review_items.c.state == "open")
    ).one()
    return Overview(
        window,
        _series(connection, since, until, window.bucket),
        _by_policy(connection, since, before),
        _by_gate(connection, since, before),
        _lags(connection),
        *_cleared(connection, since, before),
        waiting,
        oldest,
        int(held),
        _waiting_letters(connection),
        connection.execute(select(func.max(positions.c.projected_at))).scalar(),
    )


def _series(
    connection: Connection, since: datetime, until: datetime, bucket: timedelta
) -> list[tuple[datetime, int, int]]:
    size = int(bucket.total_seconds())
    first = int(since.timestamp()) // size * size
    verdicts_by = _bucketed(connection, verdict_counts, since, size)
    escalations_by = _bucketed(connection, escalation_counts, since, size)
    return [
        (datetime.fromtimestamp(begin, UTC), verdicts_by.get(begin, 0), escalations_by.get(begin, 0))
        for begin in range(first, int(until.timestamp()) + 1, size)
    ]


def _bucketed(connection: Connection, table: Any, since: datetime, size: int) -> dict[int, int]:
    """Counts by the beginning of their bucket, in seconds since 1970. Both databases divide whole numbers down."""
    seconds = sql_cast(extract("epoch", table.c.minute), SqlInteger)
    begin = (seconds - seconds % size).label("begin")
    rows = connection.execute(select(begin, func.sum(table.c.count)).where(table.c.minute >= since).group_by(begin))
    return {int(at): int(count) for at, count in rows}


def _by_policy(connection: Connection, since: datetime, before: datetime) -> list[PolicyCounts]:
    counts, at = verdict_counts.c, verdict_counts.c.minute
    rows = connection.execute(
        select(counts.policy_id, counts.decision, _within(at, since, counts.count), _until(at, since, counts.count))
        .where(at >= before)
        .group_by(counts.policy_id, counts.decision)
    ).all()
    found: dict[str, tuple[dict[str, int], dict[str, int]]] = defaultdict(lambda: ({}, {}))
    for policy_id, decision, newer, older in rows:
        found[policy_id][0][decision], found[policy_id][1][decision] = int(newer), int(older)
    return [PolicyCounts(policy_id, *pair) for policy_id, pair in sorted(found.items())]


def _by_gate(connection: Connection, since: datetime, before: datetime) -> list[GateCounts]:
    counts, at = escalation_counts.c, escalation_counts.c.minute
    rows = connection.execute(
        select(counts.gate, _within(at, since, counts.count), _until(at, since, counts.count))
        .where(at >= before, counts.lane == "live")
        .group_by(counts.gate)
    )
    return sorted((GateCounts(gate, int(newer), int(older)) for gate, newer, older in rows), key=lambda one: -one.now)


def _cleared(connection: Connection, since: datetime, before: datetime) -> tuple[int, int]:
    counts, at = cleared_counts.c, cleared_counts.c.minute
    newer, older = connection.execute(
        select(_within(at, since, counts.count), _until(at, since, counts.count)).where(
            at >= before, counts.policy_id == EVERY_POLICY
        )
    ).one()
    return int(newer or 0), int(older or 0)


def _within(at: Any, since: datetime, count: Any) -> Any:
    return func.coalesce(func.sum(case((at >= since, count), else_=0)), 0)


def _until(at: Any, since: datetime, count: Any) -> Any:
    return func.coalesce(func.sum(case((at < since, count), else_=0)), 0)


def _lags(connection: Connection) -> list[LaneLag]:
    named = ("content_id", "policy_id", "policy_version", "lane")
    latest = (
        select(*(verdicts.c[name] for name in named), verdicts.c.decided_at)
        .order_by(verdicts.c.decided_at.desc())
        .limit(_LATEST)
        .subquery()
    )
    rows = connection.execute(
        select(latest.c.lane, latest.c.decided_at, escalations.c.escalated_at).join(
            escalations,
            and_(*(escalations.c[name] == latest.c[name] for name in named)),
        )
    )
    waited: dict[str, list[float]] = defaultdict(list)
    for lane, decided_at, escalated_at in rows:
        waited[lane].append(max(0.0, (decided_at - escalated_at).total_seconds()))
    return [LaneLag(lane, median(all_), max(all_), len(all_)) for lane, all_ in sorted(waited.items())]


def _waiting_letters(connection: Connection) -> int:
    handled = and_(
        dead_letters_handled.c.letter == dead_letters.c.letter,
        dead_letters_handled.c.letter_at == dead_letters.c.letter_at,
    )
    return int(
        connection.execute(
            select(func.count())
            .select_from(dead_letters.outerjoin(dead_letters_handled, handled))
            .where(dead_letters_handled.c.letter.is_(None))
        ).scalar_one()
    )


def newest_position(connection: Connection) -> tuple[datetime | None, datetime | None]:
    """When the projector last wrote, and when work on a replay last got further: what pages show changed then."""
    written = connection.execute(select(func.max(positions.c.projected_at))).scalar()
    return written, connection.execute(select(func.max(replay_work.c.changed_at))).scalar()
