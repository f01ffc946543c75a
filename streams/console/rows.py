"""The rows that a batch of records leads to, and how they are written.

Records fold into rows in memory, where the last of equal keys counts. `Rows.write` then applies them in one
transaction, in statements that give the same result whichever topics came first:

- Verdicts, escalations and changes never change: the first row of an id stays, and counts once.
- What a topic holds in full (a policy, a replay, what stands on an item) replaces the row.
- An item has columns from several topics. Each topic writes its own columns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Table, bindparam, delete, update

from safeguard_streams.bus.interface import Record
from safeguard_streams.console import schema, statements
from safeguard_streams.console.database import clean
from safeguard_streams.console.statements import KEYS, Key, Row
from safeguard_streams.contract.records import in_utc

_LOOKED_UP = 1000  # keys in one statement
_NUL = rb"\u0000"
_MOMENTS = {
    table: [one.name for one in table.columns if isinstance(one.type, schema.Moment)] for table in schema.PROJECTED
}

_KEEP_FIRST = (
    schema.verdicts,
    schema.verdict_rules,
    schema.replay_verdicts,
    schema.escalations,
    schema.policy_changes,
    schema.reports,
    schema.author_decisions,
    schema.author_actions,
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
    schema.author_standings,
    schema.forgotten_authors,
)
_COUNTED: Mapping[Table, tuple[Table, str]] = {
    schema.verdicts: (schema.verdict_counts, "decided_at"),
    schema.escalations: (schema.escalation_counts, "escalated_at"),
}
# The columns of the queue that the projector writes: a claim stays.
_QUEUE = [
    one.name
    for one in schema.review_items.columns
    if one.name not in {"claimed_by", "claim_expires_at", *KEYS[schema.review_items]}
]


class Rows:
    """The rows of one batch."""

    def __init__(self) -> None:
        self._has_nul = True  # the record that is read, as far as is known
        self._rows: dict[Table, dict[Key, Row | None]] = {}
        self._actions: list[Row] = []
        self._strikes: list[Row] = []
        self._texts: list[Row] = []
        self._standing: dict[str, Row] = {}
        self._queue: dict[str, dict[str, Row]] = {}  # by content id and policy
        self._counts: dict[Table, Counter[Key]] = {}

    def reading(self, record: Record) -> None:
        """The rows that are added next come from this record. JSON has no other way to write NUL than as an escape."""
        self._has_nul = _NUL in (record.value or b"") or b"\0" in (record.key or b"")

    def put(self, table: Table, row: Row) -> None:
        """Add a row. A later one with its key replaces it."""
        cleaned = self._clean(table, row)
        self._rows.setdefault(table, {})[tuple(cleaned[name] for name in KEYS[table])] = cleaned

    def drop(self, table: Table, *key: Any) -> None:
        """Delete the row with a key."""
        self._rows.setdefault(table, {})[tuple(map(clean, key))] = None

    def text(self, row: Row) -> None:
        """Add the text of an item, which replaces an earlier one only."""
        self._texts.append(self._clean(schema.items, row))

    def action(self, row: Row) -> None:
        """Add an action, which replaces the same one as its moderator wrote it."""
        self._actions.append(self._clean(schema.actions, row))

    def strike(self, row: Row) -> None:
        """Add what a record says about a strike. One that was forgiven stays so."""
        self._strikes.append(self._clean(schema.strikes, row))

    def forget(self, author_id: str, at: datetime, sequence: int) -> None:
        """Leave out what was read about an author so far; what is in the database is deleted.

        sequence: the place of the record on moderation.strikes.
        """
        name = clean(author_id)
        self._strikes = [row for row in self._strikes if row["author_id"] != name]
        decisions = self._rows.get(schema.author_decisions, {})
        for key in [key for key, row in decisions.items() if row is not None and row["author_id"] == name]:
            del decisions[key]
        values = {"forgotten_at": at, "sequence": sequence, "overwritten": False}
        self.put(schema.forgotten_authors, {"author_id": name, **values})

    def stands(self, content_id: str, effective: str, held: int, waiting: Iterable[Row]) -> None:
        """All that stands on an item now, and what of it waits for a moderator."""
        name = clean(content_id)
        self._standing[name] = {"content_id": name, "effective": effective, "held": held}
        queue = self._queue.setdefault(name, {})
        for row in queue.values():
            row["state"] = "decided"
        rows = (self._clean(schema.review_items, row) for row in waiting)
        queue |= {row["policy_id"]: row for row in rows}

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

    @property
    def forgotten(self) -> list[Row]:
        """The authors that were forgotten, among these rows."""
        return self._of(schema.forgotten_authors)

    @property
    def ended(self) -> list[str]:
        """The authors on whom nothing stands any more, by these rows."""
        standings = self._rows.get(schema.author_standings, {})
        return [str(name) for (name,), row in standings.items() if row is None]

    def write(self, connection: Connection) -> None:
        """Apply all rows in the transaction of a connection."""
        for table in _KEEP_FIRST:
            self._add(connection, table)
        for table in _REPLACE:
            self._replace(connection, table)
        statements.write(connection, statements.followed_actions(connection), self._actions)
        statements.write(connection, statements.followed_strikes(connection), self._strikes)
        self._write_items(connection)
        for table, counts in self._counts.items():
            names = [*KEYS[table], "count"]
            rows = [dict(zip(names, (*key, count), strict=True)) for key, count in counts.items()]
            statements.write(connection, statements.counting(connection, table), rows)

    def _clean(self, table: Table, row: Row) -> Row:
        """A row as both databases take it. JSON is cleaned when it is written."""
        for name in _MOMENTS[table]:
            if (moment := row.get(name)) is not None:
                row[name] = in_utc(moment)
        if self._has_nul:
            row.update({name: clean(value) for name, value in row.items() if isinstance(value, str)})
        return row

    def _of(self, table: Table) -> list[Row]:
        return [row for row in self._rows.get(table, {}).values() if row is not None]

    def _add(self, connection: Connection, table: Table) -> None:
        """Insert the rows that are new, and count them."""
        rows = self._of(table)
        new = statements.add(connection, table, rows)
        if table in _COUNTED:
            counts, moment = _COUNTED[table]
            named, others = KEYS[table][0], KEYS[counts][1:]
            self._counts.setdefault(counts, Counter()).update(
                (minute_of(row[moment]), *(row[name] for name in others)) for row in rows if row[named] in new
            )

    def _replace(self, connection: Connection, table: Table) -> None:
        rows, keys = self._rows.get(table, {}), KEYS[table]
        gone = [dict(zip(keys, key, strict=True)) for key, row in rows.items() if row is None]
        if gone:
            connection.execute(delete(table).where(*(table.c[name] == bindparam(name) for name in keys)), gone)
        statements.write(connection, statements.replacing(connection, table), self._of(table))

    def _write_items(self, connection: Connection) -> None:
        statements.write(connection, statements.newer_texts(connection), self._texts)
        standing = statements.replacing(connection, schema.items, ("effective", "held"))
        statements.write(connection, standing, list(self._standing.values()))
        queue = schema.review_items
        for names in _chunks(list(self._standing)):
            closed = update(queue).where(queue.c.content_id.in_(names), queue.c.state == "open")
            connection.execute(closed.values(state="decided"))
        waited = [row for rows in self._queue.values() for row in rows.values()]
        statements.write(connection, statements.replacing(connection, queue, _QUEUE), waited)
        reported = {content_id for content_id, _ in self._rows.get(schema.reports, ())}
        for names in _chunks([*self._queue, *sorted(reported - self._queue.keys())]):
            connection.execute(statements.priorities(names))


def _chunks(ids: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(ids), _LOOKED_UP):
        yield ids[start : start + _LOOKED_UP]


def minute_of(moment: datetime) -> datetime:
    """The minute in UTC that counts go by."""
    return in_utc(moment).replace(second=0, microsecond=0)
