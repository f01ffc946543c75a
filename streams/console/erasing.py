"""Removes the words about an erased item: its text, and what may quote it. Decisions, scores and times stay.

`safeguard erase` does it at once, and the projector when it reads the erasure. Both give the same rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import Connection, Engine, Table, bindparam, delete, inspect, update
from sqlalchemy.sql.elements import KeyedColumnElement

from safeguard_streams.console import native, schema
from safeguard_streams.console.database import clean, insert

_WORDS: tuple[tuple[Table, KeyedColumnElement[datetime], Mapping[str, None]], ...] = (
    (schema.items, schema.items.c.text_at, schema.ITEM_WORDS),
    (schema.verdicts, schema.verdicts.c.decided_at, schema.VERDICT_WORDS),
    (schema.replay_verdicts, schema.replay_verdicts.c.decided_at, schema.VERDICT_WORDS),
    (schema.escalations, schema.escalations.c.escalated_at, schema.ESCALATION_WORDS),
    (schema.actions, schema.actions.c.acted_at, schema.ACTION_WORDS),
)


def remove_words(connection: Connection, erasures: Mapping[str, datetime]) -> int:
    """Remove the words about items that were written until they were erased. Returns the number of rows changed."""
    keys = [{"item": content_id, "until": erased_at} for content_id, erased_at in erasures.items()]
    if not keys:
        return 0
    changed = 0
    for table, written, words in _WORDS:
        about = (table.c.content_id == bindparam("item"), written <= bindparam("until"))
        changed += connection.execute(update(table).where(*about).values(**words), keys).rowcount
    old = schema.rationales.c
    gone = delete(schema.rationales).where(old.content_id == bindparam("item"), old.created_at <= bindparam("until"))
    return changed + connection.execute(gone, keys).rowcount


def erase(engine: Engine, content_id: str, erased_at: datetime) -> bool:
    """Erase an item from the database and its files. False if the database has no tables yet."""
    if not inspect(engine).has_table(schema.erasures.name):
        return False
    name = clean(content_id)
    with engine.begin() as connection:
        statement = insert(engine, schema.erasures).values(content_id=name, erased_at=erased_at)
        connection.execute(
            statement.on_conflict_do_update(
                index_elements=["content_id"], set_={"erased_at": statement.excluded.erased_at}
            )
        )
        remove_words(connection, {name: erased_at})
    native.leave_no_trace(engine)
    return True
