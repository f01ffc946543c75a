"""The rows that a batch of records leads to, and how they are written.

Records fold into rows in memory, where the last of equal keys counts. `Rows.write` then applies them in one
transaction, in statements that give the same result whichever topics came first:

- Verdicts, escalations and changes never change: the first row of an id stays, and counts once.
- What a topic holds in full (a policy, a replay, what stands on an item) replaces the row.
- An item has columns from several topics. Each topic writes its own columns, or the earlier or later of two times.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Table,
    and_,
    bindparam,
    case,
    column,
    delete,
    func,
    or_,
    select,
    update,
)

from safeguard_streams.console import schema
from safeguard_streams.console.database import Insert, clean, insert

Row = dict[str, Any]
Key = tuple[Any, ...]
_LOOKED_UP = 1000  # keys in one query

_KEEP_FIRST = (
    schema.verdicts,
    schema.verdict_rules,
    schema.replay_verdicts,
    schema.escalations,
    schema.policy_changes,
)
_REPLACE = (
    schema.rationales,
    schema.policy_releases,
    schema.replays,
    schema.replay_progress,
    schema.dead_letters,
    schema.dead_letters_handled,
    schema.erasures,
    schema.appeals,
    schema.appeal_statements,
)
_COUNTED: Mapping[Table, tuple[Table, str]] = {
    schema.verdicts: (schema.verdict_counts, "decided_at"),
    schema.escalations: (schema.escalation_counts, "escalated_at"),
}
_OF_TEXT = (  # columns of an item that change with its text
    *("text", "language", "surface", "author_id", "context", "attributes", "created_at"),
    *("content_sha256", "event_partition", "event_offset"),
)
_KEYS = {table: tuple(str(one.name) for one in table.primary_key) for table in schema.PROJECTED}


class Rows:
    """The rows of one batch."""

    def __init__(self) -> None:
        self._rows: dict[Table, dict[Key, Row | None]] = {}
        self._actions: list[Row] = []
        self._texts: list[Row] = []
        self._seen: dict[str, tuple[datetime, datetime]] = {}
        self._standing: dict[str, Row] = {}
        self._queue: dict[str, dict[str, Row]] = {}  # by content id and policy
        self._counts: dict[Table, Counter[Key]] = {}

    def put(self, table: Table, row: Row) -> None:
        """Add a row. A later one with its key replaces it."""
        cleaned = _clean(row)
        self._rows.setdefault(table, {})[tuple(cleaned[name] for name in _KEYS[table])] = cleaned

    def drop(self, table: Table, *key: Any) -> None:
        """Delete the row with a key."""
        self._rows.setdefault(table, {})[tuple(map(clean, key))] = None

    def text(self, row: Row) -> None:
        """Add the text of an item, which replaces an earlier one only."""
        self._texts.append(_clean(row))

    def action(self, row: Row) -> None:
        """Add an action, which replaces the same one as its moderator wrote it."""
        self._actions.append(_clean(row))

    def seen(self, content_id: str, at: datetime) -> None:
        """An item had an escalation, a verdict or an action at a time."""
        name, moment = clean(content_id), schema.in_utc(at)
        first, last = self._seen.get(name, (moment, moment))
        self._seen[name] = min(first, moment), max(last, moment)

    def stands(self, content_id: str, effective: str, held: int, waiting: Iterable[Row]) -> None:
        """All that stands on an item now, and what of it waits for a moderator."""
        name = clean(content_id)
        self._standing[name] = {"content_id": name, "effective": effective, "held": held}
        queue = self._queue.setdefault(name, {})
        for row in queue.values():
            row["state"] = "decided"
        queue |= {row["policy_id"]: row for row in map(_clean, waiting)}

    def count(self, table: Table, key: Key) -> None:
        """Count one, under a minute and further columns."""
        self._counts.setdefault(table, Counter())[tuple(map(clean, key))] += 1

    def first_minute(self, partition: int) -> datetime | None:
        """The first minute that cleared items of a partition are counted under."""
        keys = self._counts.get(schema.cleared_counts, ())
        return min((minute for minute, *_, number in keys if number == partition), default=None)

    @property
    def erased(self) -> dict[str, datetime]:
        """The erasures among these rows, by content id."""
        return {row["content_id"]: row["erased_at"] for row in self._of(schema.erasures)}

    def write(self, connection: Connection) -> None:
        """Apply all rows in the transaction of a connection."""
        for table in _KEEP_FIRST:
            self._add(connection, table)
        for table in _REPLACE:
            self._replace(connection, table)
        _insert(connection, _actions(connection), self._actions)
        self._write_items(connection)
        for table, counts in self._counts.items():
            names = [*_KEYS[table], "count"]
            rows = [dict(zip(names, (*key, count), strict=True)) for key, count in counts.items()]
            _insert(connection, _counting(connection, table), rows)

    def _of(self, table: Table) -> list[Row]:
        return [row for row in self._rows.get(table, {}).values() if row is not None]

    def _add(self, connection: Connection, table: Table) -> None:
        """Insert the rows that are new, and count them."""
        rows = self._rows.get(table, {})
        known = _known(connection, table, rows) if table in _COUNTED else frozenset()
        new = [row for key, row in rows.items() if row is not None and key[0] not in known]
        _insert(connection, insert(connection.engine, table).on_conflict_do_nothing(), new)
        if table in _COUNTED:
            counts, moment = _COUNTED[table]
            for row in new:
                self.count(counts, (minute_of(row[moment]), *(row[name] for name in _KEYS[counts][1:])))

    def _replace(self, connection: Connection, table: Table) -> None:
        rows, keys = self._rows.get(table, {}), _KEYS[table]
        gone = [dict(zip(keys, key, strict=True)) for key, row in rows.items() if row is None]
        if gone:
            connection.execute(delete(table).where(*(table.c[name] == bindparam(name) for name in keys)), gone)
        _insert(connection, _replacing(connection, table), self._of(table))

    def _write_items(self, connection: Connection) -> None:
        _insert(connection, _newer_text(connection), self._texts)
        seen = [{"content_id": name, "first_seen": a, "last_activity": b} for name, (a, b) in self._seen.items()]
        _insert(connection, _seen(connection), seen)
        standing = _replacing(connection, schema.items, ("effective", "held"))
        _insert(connection, standing, list(self._standing.values()))
        queue = schema.review_items
        for names in _chunks(list(self._standing)):
            closed = update(queue).where(queue.c.content_id.in_(names), queue.c.state == "open")
            connection.execute(closed.values(state="decided"))
        waited = [row for rows in self._queue.values() for row in rows.values()]
        _insert(connection, _replacing(connection, queue, _queue_columns()), waited)


def _clean(row: Row) -> Row:
    """A row as both databases take it. JSON is cleaned when it is written."""
    return {name: _cleaned(value) for name, value in row.items()}


def _cleaned(value: Any) -> Any:
    if isinstance(value, datetime):
        return schema.in_utc(value)
    return clean(value) if isinstance(value, str) else value


def minute_of(moment: datetime) -> datetime:
    """The minute in UTC that counts go by."""
    return schema.in_utc(moment).replace(second=0, microsecond=0)


def _insert(connection: Connection, statement: Insert, rows: Sequence[Row]) -> None:
    """Insert rows, those of equal keys one after the other.

    PostgreSQL gets all of them as one JSON document, which is several times as fast there as a statement for each row.
    """
    if not rows:
        return
    if connection.dialect.name != "postgresql":
        connection.execute(statement, rows)
        return
    table = statement.table
    names = list(rows[0])
    typed = [column(name, table.c[name].type) for name in names]
    document = func.json_to_recordset(bindparam("rows", type_=schema.JSON))
    chosen = select(document.table_valued(*typed).render_derived(with_types=True))
    for distinct in _distinct(rows, [one.name for one in table.primary_key]):
        connection.execute(statement.from_select(names, chosen), {"rows": distinct})


def _distinct(rows: Sequence[Row], keys: Sequence[str]) -> Iterator[list[Row]]:
    """The rows in their order, in lists of distinct keys: one statement may change a row once."""
    lists: list[list[Row]] = []
    times = Counter[Key]()
    for row in rows:
        key = tuple(row[name] for name in keys)
        if times[key] == len(lists):
            lists.append([])
        lists[times[key]].append(row)
        times[key] += 1
    yield from lists


def _chunks(ids: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(ids), _LOOKED_UP):
        yield ids[start : start + _LOOKED_UP]


def _known(connection: Connection, table: Table, keys: Iterable[Key]) -> frozenset[Any]:
    """The ids among these that the table has already."""
    named, found = next(iter(table.primary_key)), set[Any]()
    for ids in _chunks([key[0] for key in keys]):
        found |= set(connection.scalars(select(named).where(named.in_(ids))))
    return frozenset(found)


def _replacing(connection: Connection, table: Table, columns: Iterable[str] = ()) -> Insert:
    """An insert that replaces these columns of a row that is there, or else all."""
    statement, keys = insert(connection.engine, table), _KEYS[table]
    names = list(columns) or [one.name for one in table.columns if one.name not in keys]
    return statement.on_conflict_do_update(
        index_elements=list(keys), set_={name: statement.excluded[name] for name in names}
    )


def _queue_columns() -> list[str]:
    """The columns of the queue that the projector writes: a claim stays."""
    own = {"claimed_by", "claim_expires_at", *_KEYS[schema.review_items]}
    return [one.name for one in schema.review_items.columns if one.name not in own]


def _counting(connection: Connection, table: Table) -> Insert:
    statement = insert(connection.engine, table)
    return statement.on_conflict_do_update(
        index_elements=list(_KEYS[table]), set_={"count": table.c.count + statement.excluded.count}
    )


def _actions(connection: Connection) -> Insert:
    """What a moderator wrote comes twice: as written, and with a sequence once the agent followed it, which stays."""
    table, statement = schema.actions, insert(connection.engine, schema.actions)
    return statement.on_conflict_do_update(
        index_elements=["action_id"],
        set_={one.name: statement.excluded[one.name] for one in table.columns if not one.primary_key},
        where=or_(table.c.sequence.is_(None), statement.excluded.sequence.is_not(None)),
    )


def _seen(connection: Connection) -> Insert:
    known, statement = schema.items.c, insert(connection.engine, schema.items)
    new = statement.excluded
    first = _chosen(known.first_seen, new.first_seen, new.first_seen < known.first_seen)
    last = _chosen(known.last_activity, new.last_activity, new.last_activity > known.last_activity)
    return statement.on_conflict_do_update(
        index_elements=["content_id"], set_={"first_seen": first, "last_activity": last}
    )


def _chosen(known: Column[Any], new: ColumnElement[Any], better: ColumnElement[bool]) -> ColumnElement[Any]:
    return case((or_(known.is_(None), better), new), else_=known)


def _newer_text(connection: Connection) -> Insert:
    """The text of the later event. Two partitions have no order: there, the time that the producer gives counts."""
    table, statement = schema.items, insert(connection.engine, schema.items)
    new = statement.excluded
    placed = and_(table.c.event_partition == new.event_partition, table.c.event_offset.is_not(None))
    same = or_(
        and_(placed, table.c.event_offset == new.event_offset),
        and_(table.c.event_offset.is_(None), table.c.content_sha256 == new.content_sha256),
    )
    newer = case(
        (table.c.text_at.is_(None), True),
        (placed, new.event_offset > table.c.event_offset),
        else_=new.created_at > table.c.created_at,
    )
    earlier = and_(same, new.text_at < table.c.text_at)
    values = {name: case((or_(same, newer), new[name]), else_=table.c[name]) for name in _OF_TEXT}
    for name in ("text_at", "text_expires_at"):
        values[name] = case((earlier, new[name]), (same, table.c[name]), (newer, new[name]), else_=table.c[name])
    return statement.on_conflict_do_update(index_elements=["content_id"], set_=values)
