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
from typing import Any, NamedTuple

from sqlalchemy import Column, Connection, Table, bindparam, delete, update

from safeguard_streams.bus.interface import Record
from safeguard_streams.console import schema, statements
from safeguard_streams.console.database import clean
from safeguard_streams.console.placed import RecordPlace, next_place, places_of
from safeguard_streams.console.statements import KEYS, Key, Row
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import in_utc

_LOOKED_UP = 1000  # keys in one statement
_ITEM_PLACE = (schema.items.c.standing_partition, schema.items.c.standing_partitions)
_AUTHOR_PLACE = (schema.author_standings.c.partition, schema.author_standings.c.partitions)
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


class Stands(NamedTuple):
    """What a record says about an item. partitions: that the record's topic had; None for a tombstone. waiting: rows of
    the queue.
    """

    partitions: int | None = None
    effective: str = "allow"
    held: int = 0
    waiting: Sequence[Row] = ()
    appeals: Sequence[Row] = ()


class _OfPartition(NamedTuple):
    """What the records of one partition say about an item: the last one, and rows of all.

    partitions: of the topic, as the last of them that is no tombstone says. queue: by policy. appeals: by id.
    """

    last: Stands
    partitions: int | None
    queue: dict[str, Row]
    appeals: dict[str, Row]


class _AuthorStands(NamedTuple):
    """What the records of one partition say about an author. row: None where nothing stands."""

    partitions: int | None
    row: Row | None


class Rows:
    """The rows of one batch. partitions: how many each topic has now, as far as is known; records add to it."""

    def __init__(self, partitions: dict[str, int] | None = None) -> None:
        self._partitions = {} if partitions is None else partitions
        self._has_nul = True  # the record that is read, as far as is known
        self._rows: dict[Table, dict[Key, Row | None]] = {}
        self._actions: list[Row] = []
        self._strikes: list[Row] = []
        self._texts: list[Row] = []
        # By key and partition, the partition that was read last at the end.
        self._standing: dict[str, dict[int, _OfPartition]] = {}
        self._authors: dict[str, dict[int, _AuthorStands]] = {}
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

    def stands(self, content_id: str, partition: int, said: Stands) -> None:
        """All that stands on an item now, and what of it waits for a moderator, as a record in a partition says."""
        places = self._standing.setdefault(clean(content_id), {})
        before = places.pop(partition, _OfPartition(said, None, {}, {}))
        for row in before.queue.values():
            row["state"] = "decided"
        waiting = (self._clean(schema.review_items, row) for row in said.waiting)
        appeals = (self._clean(schema.appeals, row) for row in said.appeals)
        places[partition] = _OfPartition(
            said,
            before.partitions if said.partitions is None else said.partitions,
            before.queue | {row["policy_id"]: row for row in waiting},
            before.appeals | {row["appeal_id"]: row for row in appeals},
        )

    def author_stands(self, author_id: str, partition: int, row: Row | None) -> None:
        """All that stands on an author now, as a record in a partition says. None: nothing does."""
        places = self._authors.setdefault(clean(author_id), {})
        before = places.pop(partition, None)
        if row is None:
            places[partition] = _AuthorStands(before and before.partitions, None)
        else:
            placed = self._clean(schema.author_standings, {**row, "partition": partition})
            places[partition] = _AuthorStands(row["partitions"], placed)

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
        return [name for name, places in self._authors.items() if any(one.row is None for one in places.values())]

    def write(self, connection: Connection) -> None:
        """Apply all rows in the transaction of a connection."""
        for table in _KEEP_FIRST:
            self._add(connection, table)
        for table in _REPLACE:
            self._replace(connection, table)
        statements.write(connection, statements.followed_actions(connection), self._actions)
        statements.write(connection, statements.followed_strikes(connection), self._strikes)
        self._write_items(connection)
        self._write_authors(connection)
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
        items, queue = schema.items, schema.review_items
        says = {name: {at: one.partitions for at, one in said.items()} for name, said in self._standing.items()}
        placed = self._placed(connection, topics.STANDING, items.c.content_id, _ITEM_PLACE, says)
        chosen = {name: self._standing[name][place.partition] for name, place in placed.items()}
        rows = [
            {
                "content_id": name,
                "effective": one.last.effective,
                "held": one.last.held,
                "standing_partition": placed[name].partition,
                "standing_partitions": placed[name].partitions,
            }
            for name, one in chosen.items()
        ]
        replaced = ("effective", "held", "standing_partition", "standing_partitions")
        statements.write(connection, statements.replacing(connection, items, replaced), rows)
        for names in _chunks(list(chosen)):
            closed = update(queue).where(queue.c.content_id.in_(names), queue.c.state == "open")
            connection.execute(closed.values(state="decided"))
        waited = [row for one in chosen.values() for row in one.queue.values()]
        statements.write(connection, statements.replacing(connection, queue, _QUEUE), waited)
        appeals = [row for one in chosen.values() for row in one.appeals.values()]
        statements.write(connection, statements.replacing(connection, schema.appeals), appeals)
        reported = {content_id for content_id, _ in self._rows.get(schema.reports, ())}
        for names in _chunks([*chosen, *sorted(reported - chosen.keys())]):
            connection.execute(statements.priorities(names))

    def _write_authors(self, connection: Connection) -> None:
        table = schema.author_standings
        says = {name: {at: one.partitions for at, one in places.items()} for name, places in self._authors.items()}
        placed = self._placed(connection, topics.AUTHOR_STANDING, table.c.author_id, _AUTHOR_PLACE, says)
        chosen = {name: self._authors[name][place.partition].row for name, place in placed.items()}
        for names in _chunks([name for name, row in chosen.items() if row is None]):
            connection.execute(delete(table).where(table.c.author_id.in_(names)))
        rows = [row for row in chosen.values() if row is not None]
        statements.write(connection, statements.replacing(connection, table), rows)

    def _placed(
        self,
        connection: Connection,
        topic: str,
        key: Column[str],
        columns: tuple[Column[int], Column[int]],
        says: Mapping[str, Mapping[int, int | None]],
    ) -> dict[str, RecordPlace]:
        """The rows that change, by key, with the places of the records that change them. says: what the records of each
        partition say about a key, as `next_place` takes it.
        """
        most = self._most(topic, says.values())
        places: dict[str, RecordPlace] = {}
        for names in _chunks(list(says)):
            known = places_of(connection, key, columns, names)
            for name in names:
                place = next_place(known.get(name), says[name], most)
                if place is not None:
                    places[name] = place
        return places

    def _most(self, topic: str, says: Iterable[Mapping[int, int | None]]) -> int | None:
        """How many partitions a topic has now, if that is known. Records name new ones before the client sees them."""
        if (known := self._partitions.get(topic)) is not None:
            named = (count or 0 for counts in says for count in counts.values())
            self._partitions[topic] = known = max(known, *named, 0)
        return known


def _chunks(ids: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(ids), _LOOKED_UP):
        yield ids[start : start + _LOOKED_UP]


def minute_of(moment: datetime) -> datetime:
    """The minute in UTC that counts go by."""
    return in_utc(moment).replace(second=0, microsecond=0)
