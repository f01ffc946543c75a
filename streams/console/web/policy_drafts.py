"""Drafts of policies: what somebody writes in the editor, kept on the server until it is released or discarded.

A person has one draft of each policy. Nobody else reads it unless its author shares it, and nobody else changes it. A
page keeps its changes in their order: what arrives late replaces nothing. A page that was loaded before another one of
the same person kept something may not replace that.

A draft may quote content in its examples. It ends with the time that the texts of content have, counted from the last
change.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, delete, func, select, update

from safeguard_streams.console import native
from safeguard_streams.console.database import insert
from safeguard_streams.console.schema import policy_drafts as table
from safeguard_streams.console.web import rendering
from safeguard_streams.console.web.guard import RefusedError
from safeguard_streams.contract.records import now
from safeguard_streams.runtime.settings import Settings

MOST = 50  # drafts of one person
_PAGE = re.compile(r"[0-9a-f]{32}")
_DIGITS = 15  # of a number that a page counts with


class Place(NamedTuple):
    """Where a draft comes from. editor: names the page, number: counts its changes. saved: how often the draft had been
    kept when the page was loaded; 0 where there was none.
    """

    editor: str
    number: int
    saved: int


class Base(NamedTuple):
    """What a draft began from. git: names the files there; empty without a checkout. version, revision: in force then;
    None where none was.
    """

    git: str
    version: str | None
    revision: int | None


def place_of(editor: str, number: str, saved: str) -> Place:
    """What a form says. Raises RefusedError where that is no page of the editor."""
    counts = [int(one) if one.isascii() and one.isdecimal() and len(one) <= _DIGITS else -1 for one in (number, saved)]
    if not _PAGE.fullmatch(editor) or min(counts) < 0:
        raise RefusedError("This form is out of date. Open the editor once more.")
    return Place(editor, *counts)


def find(connection: Connection, who: str, policy_id: str) -> Row[Any] | None:
    """Somebody's draft of a policy."""
    return connection.execute(select(table).where(*_of(who, policy_id))).first()


def find_shared(connection: Connection, who: str, policy_id: str) -> Row[Any] | None:
    """The draft that somebody shares."""
    return connection.execute(select(table).where(*_of(who, policy_id), table.c.shared)).first()


def shared_by_others(connection: Connection, who: str, policy_id: str) -> Sequence[str]:
    """Who else shares a draft of a policy."""
    others = table.c.policy_id == policy_id, table.c.who != who, table.c.shared
    return connection.execute(select(table.c.who).where(*others).order_by(table.c.who).limit(MOST)).scalars().all()


def of_person(connection: Connection, who: str) -> Sequence[Any]:
    """Somebody's drafts without their texts, the last one first."""
    found = select(table.c.policy_id, table.c.saved_at, table.c.shared).where(table.c.who == who)
    return connection.execute(found.order_by(table.c.saved_at.desc(), table.c.policy_id)).all()


def keep(connection: Connection, who: str, policy_id: str, document: str, base: Base, place: Place) -> Row[Any]:
    """Keep a text as somebody's draft, and return it. A change that arrives after a later one of its page changes none.

    Raises RefusedError where another page of this person kept something since this one was loaded, or where they have
    too many drafts.
    """
    native.alone(connection, f"drafts of {who}")
    before = find(connection, who, policy_id)
    if before is None:
        count = select(func.count()).where(table.c.who == who)
        if connection.execute(count).scalar_one() >= MOST:
            raise RefusedError(f"You have {MOST} drafts, and more are not kept. Release or discard one of them first.")
    elif before.editor == place.editor:
        if place.number <= before.number:
            return before
    elif before.saved != place.saved:
        raise RefusedError(
            f"Another window of yours changed this draft at {rendering.moment(before.saved_at)} UTC, and what is "
            "written here is not kept. Open the editor once more in a new window: it shows that text."
        )
    at = now()
    values = {
        "document": document,
        "base": base.git,
        "version": base.version,
        "revision": base.revision,
        "saved": before.saved + 1 if before is not None else place.saved + 1,
        "editor": place.editor,
        "number": place.number,
        "saved_at": at,
    }
    new = insert(connection.engine, table).values(
        who=who, policy_id=policy_id, **values, shared=False, begun_at=before.begun_at if before is not None else at
    )
    connection.execute(new.on_conflict_do_update(index_elements=["who", "policy_id"], set_=values))
    kept = find(connection, who, policy_id)
    assert kept is not None  # this transaction wrote it
    return kept


def rebase(connection: Connection, who: str, policy_id: str, saved: int, base: Base) -> bool:
    """Take a draft for one that began from what there is now. False where it was changed meanwhile, or is gone."""
    values = {"base": base.git, "version": base.version, "revision": base.revision, "saved": table.c.saved + 1}
    same = update(table).where(*_of(who, policy_id), table.c.saved == saved).values(**values)
    return bool(connection.execute(same).rowcount)


def share(connection: Connection, who: str, policy_id: str, *, shared: bool) -> bool:
    """Let others read somebody's draft, or no more. False where there is none."""
    return bool(connection.execute(update(table).where(*_of(who, policy_id)).values(shared=shared)).rowcount)


def discard(connection: Connection, who: str, policy_id: str) -> bool:
    """Delete somebody's draft. False where there is none."""
    return bool(connection.execute(delete(table).where(*_of(who, policy_id))).rowcount)


def forget_released(connection: Connection, who: str, policy_id: str, document: str) -> None:
    """Delete somebody's draft if exactly its text came into force."""
    connection.execute(delete(table).where(*_of(who, policy_id), table.c.document == document))


def forget_old(connection: Connection, settings: Settings) -> None:
    """Delete the drafts that nobody changed for as long as texts of content stay."""
    until = now() - timedelta(days=settings.console_text_days)
    connection.execute(delete(table).where(table.c.saved_at <= until))


def _of(who: str, policy_id: str) -> tuple[Any, Any]:
    return table.c.who == who, table.c.policy_id == policy_id
