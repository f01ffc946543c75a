"""What people see of which harm: how often today, and what they asked not to see."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, select

from safeguard_streams.console.database import insert
from safeguard_streams.console.schema import exposures, policy_releases, preferences
from safeguard_streams.console.web import policy_text
from safeguard_streams.console.web.policy_text import PolicyText
from safeguard_streams.contract.records import now


def harm_of(policy_id: str, text: PolicyText | None) -> str:
    """The harm that a policy is about: the first that its gate names, or else the policy's own id."""
    return text.harms[0] if text is not None and text.harms else policy_id


def count_exposure(connection: Connection, who: str, harm: str) -> None:
    """Count that somebody revealed a text today."""
    connection.execute(
        insert(connection.engine, exposures)
        .values(who=who, day=now().date(), harm=harm, count=1)
        .on_conflict_do_update(
            index_elements=[exposures.c.who, exposures.c.day, exposures.c.harm],
            set_={"count": exposures.c["count"] + 1},
        )
    )


def exposures_today(connection: Connection, who: str) -> Sequence[Any]:
    """Harms and how many texts somebody revealed today, most first."""
    return connection.execute(
        select(exposures.c.harm, exposures.c["count"])
        .where(exposures.c.who == who, exposures.c.day == now().date())
        .order_by(exposures.c["count"].desc(), exposures.c.harm)
    ).all()


def avoid(connection: Connection, who: str, harm: str) -> None:
    """Somebody asks not to see a harm for the rest of the day."""
    wanted = insert(connection.engine, preferences).values(who=who, harm=harm, day=now().date())
    connection.execute(wanted.on_conflict_do_nothing())


def avoided(connection: Connection, who: str) -> Sequence[str]:
    """The harms that somebody asked not to see today."""
    found = select(preferences.c.harm).where(preferences.c.who == who, preferences.c.day == now().date())
    return connection.execute(found.order_by(preferences.c.harm)).scalars().all()


def policies_of(connection: Connection, wanted: Sequence[str]) -> Sequence[str]:
    """The policies in force that are about one of these harms."""
    if not wanted:
        return ()
    in_force = select(policy_releases.c.policy_id, policy_releases.c.document).where(
        policy_releases.c.place == "in-force"
    )
    released = connection.execute(in_force).all()
    return [name for name, document in released if harm_of(name, policy_text.read(document)) in wanted]
