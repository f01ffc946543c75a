"""What people see of which harm: how often today and at most, what they asked not to see, and how texts appear to them.

A day ends at midnight, UTC. An item that somebody reveals twice on a day is one exposure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, time, timedelta
from typing import Any

import msgspec
from sqlalchemy import Connection, delete, exists, func, select

from safeguard_streams.console.database import insert
from safeguard_streams.console.schema import (
    audit_log,
    displays,
    exposure_limits,
    exposures,
    policy_releases,
    preferences,
)
from safeguard_streams.console.web import policy_text, rendering
from safeguard_streams.console.web.guard import RefusedError
from safeguard_streams.console.web.policy_text import PolicyText
from safeguard_streams.contract.records import now

EVERY_HARM = "*"  # has the limit of each harm that has none of its own
LONGEST_HARM = 200  # characters that somebody may ask about
_WEEK = 7  # days, today included


class Exposure(msgspec.Struct, frozen=True):
    """How many items of a harm somebody revealed today, and the limit; None where there is none."""

    harm: str
    count: int
    most: int | None

    @property
    def is_full(self) -> bool:
        """Whether this person is to see no more of it today."""
        return self.most is not None and self.count >= self.most

    def __str__(self) -> str:
        return f"{self.count}" if self.most is None else f"{self.count} of {self.most}"


class Display(msgspec.Struct, frozen=True):
    """How somebody wants to see texts. unveiled: harms of which texts are shown at once."""

    grey: bool = True
    small: bool = True
    unveiled: Sequence[str] = ()


def harm_of(policy_id: str, text: PolicyText | None) -> str:
    """The harm that a policy is about: the first that its gate names, or else the policy's own id."""
    return text.harms[0] if text is not None and text.harms else policy_id


def of_policies(connection: Connection) -> Mapping[str, str]:
    """The harm of each policy in force."""
    in_force = select(policy_releases.c.policy_id, policy_releases.c.document).where(
        policy_releases.c.place == "in-force"
    )
    released = connection.execute(in_force.order_by(policy_releases.c.policy_id)).all()
    return {name: harm_of(name, policy_text.read(document)) for name, document in released}


def expose(connection: Connection, who: str, harm: str, content_id: str) -> None:
    """Count that somebody reveals an item today. Call it before the audit log gets the entry.

    Raises RefusedError where that would be more than the limit; roll the transaction back then.
    """
    if was_revealed(connection, who, content_id):
        return
    counted = (
        insert(connection.engine, exposures)
        .values(who=who, day=now().date(), harm=harm, count=1)
        .on_conflict_do_update(
            index_elements=[exposures.c.who, exposures.c.day, exposures.c.harm],
            set_={"count": exposures.c["count"] + 1},
        )
        .returning(exposures.c["count"])
    )
    before = Exposure(harm, connection.execute(counted).scalar_one() - 1, _limit(limits(connection), harm))
    if before.is_full:
        raise RefusedError(full(before))


def was_revealed(connection: Connection, who: str, content_id: str) -> bool:
    """Whether somebody revealed an item today."""
    today = datetime.combine(now().date(), time(), UTC)
    entry = audit_log.c.object == content_id, audit_log.c.who == who, audit_log.c.action == "reveal"
    return bool(connection.execute(select(exists().where(*entry, audit_log.c.at >= today))).scalar())


def full(exposure: Exposure) -> str:
    """What somebody reads who has seen enough of a harm today."""
    return (
        f"You have revealed {exposure.count} items about {rendering.line(exposure.harm)} today, and the daily limit is "
        f"{exposure.most}. You get no more of them until midnight, UTC. Take a break, or claim other items."
    )


def today(connection: Connection, who: str) -> Sequence[Exposure]:
    """What somebody revealed today by harm, most first."""
    counted = connection.execute(
        select(exposures.c.harm, exposures.c["count"])
        .where(exposures.c.who == who, exposures.c.day == now().date())
        .order_by(exposures.c["count"].desc(), exposures.c.harm)
    ).all()
    known = limits(connection)
    return [Exposure(harm, count, _limit(known, harm)) for harm, count in counted]


def of_today(connection: Connection, who: str, harm: str) -> Exposure:
    """How much of one harm somebody revealed today."""
    none = Exposure(harm, 0, _limit(limits(connection), harm))
    return next((one for one in today(connection, who) if one.harm == harm), none)


def of_week(connection: Connection) -> Sequence[Any]:
    """Each person's exposures by harm, of today and of seven days with it."""
    day, count = now().date(), exposures.c["count"]
    return connection.execute(
        select(
            exposures.c.who,
            exposures.c.harm,
            func.sum(count).filter(exposures.c.day == day).label("today"),
            func.sum(count).label("week"),
        )
        .where(exposures.c.day > day - timedelta(days=_WEEK))
        .group_by(exposures.c.who, exposures.c.harm)
        .order_by(exposures.c.who, exposures.c.harm)
    ).all()


def limits(connection: Connection) -> Mapping[str, int]:
    """The daily limits by harm."""
    rows = connection.execute(select(exposure_limits.c.harm, exposure_limits.c.most))
    return {harm: most for harm, most in rows}  # noqa: C416 - rows are no pairs to mypy


def limit(connection: Connection, harm: str, most: int | None, by: str) -> None:
    """Set the daily limit of a harm, for everybody; None removes it."""
    if most is None:
        connection.execute(delete(exposure_limits).where(exposure_limits.c.harm == harm))
        return
    values = {"most": most, "set_by": by, "set_at": now()}
    made = insert(connection.engine, exposure_limits).values(harm=harm, **values)
    connection.execute(made.on_conflict_do_update(index_elements=[exposure_limits.c.harm], set_=values))


def _limit(known: Mapping[str, int], harm: str) -> int | None:
    return known.get(harm, known.get(EVERY_HARM))


def avoid(connection: Connection, who: str, harm: str) -> None:
    """Somebody asks not to see a harm for the rest of the day."""
    wanted = insert(connection.engine, preferences).values(who=who, harm=harm, day=now().date())
    connection.execute(wanted.on_conflict_do_nothing())


def avoided(connection: Connection, who: str) -> Sequence[str]:
    """The harms that somebody asked not to see today."""
    found = select(preferences.c.harm).where(preferences.c.who == who, preferences.c.day == now().date())
    return connection.execute(found.order_by(preferences.c.harm)).scalars().all()


def full_today(connection: Connection, who: str) -> Mapping[str, Exposure]:
    """The policies in force of whose harm somebody has seen enough today."""
    known = limits(connection)
    if not known:
        return {}
    seen = {one.harm: one.count for one in today(connection, who)}
    policies = of_policies(connection).items()
    exposed = {name: Exposure(harm, seen.get(harm, 0), _limit(known, harm)) for name, harm in policies}
    return {name: one for name, one in exposed.items() if one.is_full}


def left_to_others(connection: Connection, who: str) -> Sequence[str]:
    """The policies of which somebody gets no items today: they asked for none, or have seen enough."""
    away = avoided(connection, who)
    asked = {name for name, harm in of_policies(connection).items() if harm in away} if away else set[str]()
    return sorted(asked | full_today(connection, who).keys())


def display(connection: Connection, who: str) -> Display:
    """How somebody wants to see texts."""
    found = connection.execute(select(displays).where(displays.c.who == who)).first()
    return Display() if found is None else Display(found.grey, found.small, tuple(found.unveiled))


def set_display(connection: Connection, who: str, wanted: Display) -> None:
    """Remember how somebody wants to see texts."""
    values = {**msgspec.structs.asdict(wanted), "unveiled": list(wanted.unveiled)}
    made = insert(connection.engine, displays).values(who=who, **values)
    connection.execute(made.on_conflict_do_update(index_elements=[displays.c.who], set_=values))
