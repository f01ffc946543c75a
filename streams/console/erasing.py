"""Removes the words about an erased item: its text, and what may quote it. Decisions, scores and times stay.

`safeguard erase` does it at once, and the projector when it reads the erasure. Both give the same rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from sqlalchemy import Connection, Engine, Table, bindparam, delete, inspect, or_, select, update
from sqlalchemy.sql.elements import KeyedColumnElement

from safeguard_streams.console import native, schema
from safeguard_streams.console.database import clean, insert

_WORDS: tuple[tuple[Table, KeyedColumnElement[datetime], Mapping[str, None]], ...] = (
    (schema.items, schema.items.c.text_at, schema.ITEM_WORDS),
    (schema.verdicts, schema.verdicts.c.decided_at, schema.VERDICT_WORDS),
    (schema.replay_verdicts, schema.replay_verdicts.c.decided_at, schema.VERDICT_WORDS),
    (schema.escalations, schema.escalations.c.escalated_at, schema.ESCALATION_WORDS),
    (schema.actions, schema.actions.c.acted_at, schema.ACTION_WORDS),
    (schema.reports, schema.reports.c.reported_at, schema.REPORT_WORDS),
    (schema.appeal_statements, schema.appeal_statements.c.received_at, schema.APPEAL_WORDS),
)


def remove_words(connection: Connection, erasures: Mapping[str, datetime]) -> set[str]:
    """Remove the words about items that were written until they were erased. Returns the names of changed tables."""
    keys = [{"item": content_id, "until": erased_at} for content_id, erased_at in erasures.items()]
    changed: set[str] = set()
    for table, written, words in _WORDS if keys else ():
        about = (
            table.c.content_id == bindparam("item"),
            written <= bindparam("until"),
            or_(*(table.c[name].is_not(None) for name in words)),
        )
        if connection.execute(update(table).where(*about).values(**words), keys).rowcount:
            changed.add(table.name)
    old = schema.rationales.c
    gone = delete(schema.rationales).where(old.content_id == bindparam("item"), old.created_at <= bindparam("until"))
    if keys and connection.execute(gone, keys).rowcount:
        changed.add(schema.rationales.name)
    return changed


def overwrite(engine: Engine, tables: Iterable[str]) -> None:
    """Overwrite the words that erasures removed from these tables in the files, and note that it was done."""
    table = schema.erasures
    with engine.connect() as connection:
        waiting = connection.scalars(select(table.c.content_id).where(table.c.overwritten.is_(False))).all()
    if native.leave_no_trace(engine, tables):
        with engine.begin() as connection:
            note_overwritten(connection, waiting)


def note_overwritten(connection: Connection, content_ids: Iterable[str]) -> None:
    """Note that the files hold no words about these items."""
    table = schema.erasures
    if names := [{"item": name} for name in content_ids]:
        connection.execute(update(table).where(table.c.content_id == bindparam("item")).values(overwritten=True), names)


def left_over(connection: Connection) -> set[str]:
    """The tables whose files may hold words: those of an erasure whose process was killed before it overwrote them."""
    waits = select(schema.erasures.c.content_id).where(schema.erasures.c.overwritten.is_(False)).limit(1)
    return (
        {schema.rationales.name, *(table.name for table, *_ in _WORDS)}
        if connection.scalar(waits) is not None
        else set()
    )


def erase(engine: Engine, content_id: str, erased_at: datetime) -> bool:
    """Erase an item from the database and its files. False if the database has no tables yet."""
    if not inspect(engine).has_table(schema.erasures.name):
        return False
    name, table = clean(content_id), schema.erasures
    with engine.begin() as connection:
        new = insert(engine, table).values(content_id=name, erased_at=erased_at, overwritten=False)
        later = new.excluded.erased_at > table.c.erased_at
        values = {"erased_at": new.excluded.erased_at, "overwritten": False}
        connection.execute(new.on_conflict_do_update(index_elements=["content_id"], set_=values, where=later))
        changed = remove_words(connection, {name: erased_at})
    overwrite(engine, changed)
    return True
