"""Removes the words about an erased item: its text, and what may quote it. Decisions, scores and times stay. Removes
all about an author whom a person let be forgotten.

`safeguard erase` does it at once, and the projector when it reads the erasure. Both give the same rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from sqlalchemy import Connection, Engine, Table, and_, bindparam, delete, exists, inspect, or_, select, update
from sqlalchemy.sql.elements import KeyedColumnElement

from safeguard_streams.console import native, schema
from safeguard_streams.console.database import clean, insert
from safeguard_streams.console.statements import Row

_WORDS: tuple[tuple[Table, KeyedColumnElement[datetime], Mapping[str, None]], ...] = (
    (schema.items, schema.items.c.text_at, schema.ITEM_WORDS),
    (schema.verdicts, schema.verdicts.c.decided_at, schema.VERDICT_WORDS),
    (schema.replay_verdicts, schema.replay_verdicts.c.decided_at, schema.VERDICT_WORDS),
    (schema.escalations, schema.escalations.c.escalated_at, schema.ESCALATION_WORDS),
    (schema.actions, schema.actions.c.acted_at, schema.ACTION_WORDS),
    (schema.reports, schema.reports.c.reported_at, schema.REPORT_WORDS),
    (schema.appeal_statements, schema.appeal_statements.c.received_at, schema.APPEAL_WORDS),
    (schema.strikes, schema.strikes.c.at, schema.STRIKE_WORDS),
    (schema.author_actions, schema.author_actions.c.acted_at, schema.AUTHOR_ACTION_WORDS),
)
_OF_AUTHORS = (schema.strikes, schema.author_decisions, schema.author_actions, schema.author_standings)


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


def forget_earlier(connection: Connection, forgotten: Sequence[Row]) -> set[str]:
    """Delete strikes of authors and decisions about them, as the database has them from earlier records. Returns the
    names of tables whose files then hold them.

    forgotten: rows of forgotten_authors.
    """
    names = [{"author": row["author_id"]} for row in forgotten]
    for table in (schema.strikes, schema.author_decisions) if names else ():
        connection.execute(delete(table).where(table.c.author_id == bindparam("author")), names)
    return {table.name for table in _OF_AUTHORS} if names else set()


def forget_actions(connection: Connection, forgotten: Sequence[Row]) -> None:
    """Delete the actions about authors that were written until they were forgotten, and the one that follows that."""
    one = schema.author_actions.c
    own = and_(one.action == "none", one.sequence == bindparam("place"))
    gone = one.author_id == bindparam("author"), or_(one.acted_at <= bindparam("until"), own)
    if forgotten:
        named = [
            {"author": row["author_id"], "until": row["forgotten_at"], "place": row["sequence"]} for row in forgotten
        ]
        connection.execute(delete(schema.author_actions).where(*gone), named)


def note_ended(connection: Connection, author_ids: Sequence[str]) -> set[str]:
    """What stood on authors was deleted. Returns the names of tables whose files hold forgotten ones among them: the
    ledger ends what stands after a person let an author be forgotten, and the files may be overwritten by then.
    """
    authors = schema.forgotten_authors
    names = [{"author": name} for name in author_ids]
    noted = update(authors).where(authors.c.author_id == bindparam("author")).values(overwritten=False)
    return {schema.author_standings.name} if names and connection.execute(noted, names).rowcount else set()


def overwrite(engine: Engine, tables: Iterable[str]) -> None:
    """Overwrite the words that erasures removed from these tables in the files, and note that it was done."""
    table, authors = schema.erasures, schema.forgotten_authors
    with engine.connect() as connection:
        waiting = connection.scalars(select(table.c.content_id).where(table.c.overwritten.is_(False))).all()
        forgotten = connection.scalars(select(authors.c.author_id).where(authors.c.overwritten.is_(False))).all()
    if native.leave_no_trace(engine, tables):
        with engine.begin() as connection:
            note_overwritten(connection, waiting)
            if names := [{"author": name} for name in forgotten]:
                noted = update(authors).where(authors.c.author_id == bindparam("author")).values(overwritten=True)
                connection.execute(noted, names)


def note_overwritten(connection: Connection, content_ids: Iterable[str]) -> None:
    """Note that the files hold no words about these items."""
    table = schema.erasures
    if names := [{"item": name} for name in content_ids]:
        connection.execute(update(table).where(table.c.content_id == bindparam("item")).values(overwritten=True), names)


def left_over(connection: Connection) -> set[str]:
    """The tables whose files may hold words: those of an erasure whose process was killed before it overwrote them."""
    found: set[str] = set()
    for noted, tables in (
        (schema.erasures, (schema.rationales, *(table for table, *_ in _WORDS))),
        (schema.forgotten_authors, _OF_AUTHORS),
    ):
        if connection.scalar(select(exists().where(noted.c.overwritten.is_(False)))):
            found |= {table.name for table in tables}
    return found


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
