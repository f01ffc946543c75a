"""The projection's side of the database: records become rows, and positions move with them in one transaction.

A position moves from the offset that this process knows, or not at all: where another process has moved it, `Moved` is
raised and nothing of the batch is written. Every record therefore counts once, whatever is killed, and however many
processes project.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime

import msgspec
from sqlalchemy import Connection, Engine, Update, delete, select, update
from sqlalchemy.exc import DBAPIError

from safeguard_streams.bus.interface import Partition, Record
from safeguard_streams.console import erasing, native, schema
from safeguard_streams.console.database import Insert, insert, is_of_data
from safeguard_streams.console.folding import FOLDS
from safeguard_streams.console.folding.context import Context, Forgotten
from safeguard_streams.console.folding.dead_letters import moment_of
from safeguard_streams.console.migrations import upgrade
from safeguard_streams.console.rows import Rows
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import now
from safeguard_streams.errors import RecordError, SafeguardError

log = logging.getLogger(__name__)

PRUNED = 500  # texts removed in one transaction, so that it stays short


class Moved(SafeguardError):
    """Another process has moved a position: it projects, too."""


class Stored(msgspec.Struct, frozen=True):
    """How far a partition is projected, and the id that its topic had."""

    offset: int
    topic_id: str | None


class Store:
    """The projection in one database. Its methods block, and are called from one thread at a time."""

    def __init__(self, engine: Engine, *, prefix: str = "", text_days: float = 30.0) -> None:
        self.engine = engine
        self.positions: dict[Partition, Stored] = {}  # topics without the deployment's prefix
        self.skipped: Counter[str] = Counter()  # records of each topic that were none, since this process began
        self.topic_ids: dict[str, str] = {}
        self.partitions: dict[str, int] = {}  # how many each topic has, as far as is known, without the prefix
        self._prefix = prefix
        self._context = Context({}, text_days)
        self._recounted: set[Partition] = set()
        self._overwrite: set[str] = set()  # tables from which an erasure removed words

    def open(self) -> None:
        """Bring the schema up to date, and read what is stored."""
        upgrade(self.engine)
        table = schema.positions
        with self.engine.connect() as connection:
            rows = connection.execute(select(table.c.topic, table.c.partition, table.c.offset, table.c.topic_id))
            self.positions = {Partition(name, number): Stored(offset, uid) for name, number, offset, uid in rows}
            self._overwrite = erasing.left_over(connection)
        self._read_erasures()

    def _read_erasures(self) -> None:
        """Read what was erased and forgotten, as it is stored: folding has changed what this process knows of it."""
        erased = schema.erasures
        with self.engine.connect() as connection:
            known = connection.execute(select(erased.c.content_id, erased.c.erased_at))
            self._context.erasures = {row.content_id: row.erased_at for row in known}
            authors = connection.execute(select(schema.forgotten_authors))
            self._context.forgotten = {row.author_id: Forgotten(row.forgotten_at, row.sequence) for row in authors}

    def clear(self) -> None:
        """Delete all that is projected. What the pages wrote stays, and so do erasures until the topic is read."""
        with self.engine.begin() as connection:
            native.empty(connection, [table for table in schema.PROJECTED if table is not schema.erasures])
        self.positions = {}
        self._context.forgotten = {}

    def recount(self, partition: Partition) -> None:
        """The log of a partition is read from its first record once more. What was counted of it is counted again."""
        self._recounted.add(partition)

    def place(self, record: Record) -> Partition:
        """Where a record stands, without the deployment's prefix."""
        return Partition(record.topic.removeprefix(self._prefix), record.partition)

    def apply(self, records: Sequence[Record]) -> None:
        """Project records, those of each partition in their order. Raises Moved, or DBAPIError where the database is
        away: nothing was written then, or all of it.

        A record that the database refuses is skipped, as are records that are none of their topic.
        """
        try:
            self._commit(records)
        except Exception as error:
            if not is_of_data(error):
                raise
            self._read_erasures()
            if len(records) > 1:
                middle = len(records) // 2
                self.apply(records[:middle])
                self.apply(records[middle:])
            else:
                self._skip(records[0], error)

    def _commit(self, records: Sequence[Record]) -> None:
        rows, refused = Rows(self.partitions), dict[int, RecordError]()
        for number, record in sorted(enumerate(records), key=lambda one: not one[1].topic.endswith(topics.ERASURES)):
            rows.reading(record)
            try:
                FOLDS[self.place(record).topic](record, rows, self._context)
            except RecordError as error:
                refused[number] = error
        skipped = Counter(self.place(records[number]) for number in refused)
        with self.engine.begin() as connection:
            native.commit_late(connection)
            moved = self._move(connection, records, skipped)
            self._forget_counts(connection, rows, moved)
            forgotten = erasing.forget_earlier(connection, rows.forgotten)
            rows.write(connection)
            erasing.forget_actions(connection, rows.forgotten)
            forgotten |= erasing.note_ended(connection, rows.ended)
            removed = erasing.remove_words(connection, rows.erased)
            if not removed:
                erasing.note_overwritten(connection, rows.erased)
        self._moved(moved, skipped)
        self._overwrite |= removed | forgotten
        for number, problem in refused.items():
            self._log_skipped(records[number], str(problem))

    def _skip(self, record: Record, error: Exception) -> None:
        skipped = Counter({self.place(record): 1})
        with self.engine.begin() as connection:
            moved = self._move(connection, [record], skipped)
        self._moved(moved, skipped)
        kind = type(error.orig if isinstance(error, DBAPIError) else error).__name__
        self._log_skipped(record, f"the database refuses it ({kind})")

    def _log_skipped(self, record: Record, error: str) -> None:
        place = self.place(record)
        message = "record skipped topic=%s partition=%d offset=%d error=%s"
        log.warning(message, place.topic, place.partition, record.offset, error)

    def _move(
        self, connection: Connection, records: Iterable[Record], skipped: Counter[Partition]
    ) -> dict[Partition, Stored]:
        """Move the positions behind these records. They are locked until the transaction ends."""
        last = {self.place(record): record for record in records}
        moved = {place: Stored(one.offset + 1, self.topic_ids.get(one.topic)) for place, one in last.items()}
        table = schema.positions
        for place in sorted(last):
            values = {
                "offset": moved[place].offset,
                "topic_id": moved[place].topic_id,
                "record_at": moment_of(last[place].timestamp),
                "projected_at": now(),
            }
            known = self.positions.get(place)
            here = (table.c.topic == place.topic, table.c.partition == place.partition)
            if known is None:
                new = {"topic": place.topic, "partition": place.partition, "skipped": skipped[place], **values}
                change: Insert | Update = insert(self.engine, table).values(new).on_conflict_do_nothing()
            else:
                change = update(table).where(*here, table.c.offset == known.offset)
                change = change.values(skipped=table.c.skipped + skipped[place], **values)
            if connection.execute(change.returning(table.c.offset)).first() is None:
                raise Moved(f"another process projects {place} into this database")
        return moved

    def _forget_counts(self, connection: Connection, rows: Rows, moved: dict[Partition, Stored]) -> None:
        """Delete what was counted of a log that is read once more, from its first record on."""
        table = schema.cleared_counts
        for place in self._recounted & moved.keys():
            if (first := rows.first_minute(place.partition)) is not None and place.topic == topics.CLEARED:
                connection.execute(delete(table).where(table.c.partition == place.partition, table.c.minute >= first))

    def _moved(self, moved: dict[Partition, Stored], skipped: Counter[Partition]) -> None:
        self.positions |= moved
        self._recounted -= moved.keys()
        for place, count in skipped.items():
            self.skipped[place.topic] += count

    @property
    def has_traces(self) -> bool:
        """Whether an erasure removed words that `tidy` has still to overwrite in the files."""
        return bool(self._overwrite)

    def tidy(self, moment: datetime) -> bool:
        """Remove some texts whose time is over, and overwrite what an erasure removed. Whether more texts wait."""
        if self._overwrite:
            erasing.overwrite(self.engine, self._overwrite)
            self._overwrite.clear()
        items = schema.items
        over = select(items.c.content_id).where(items.c.text.is_not(None), items.c.text_expires_at <= moment)
        with self.engine.begin() as connection:
            chosen = connection.scalars(over.limit(PRUNED)).all()
            if chosen:
                words = {name: None for name in schema.ITEM_WORDS if name != "author_id"}
                connection.execute(update(items).where(items.c.content_id.in_(chosen)).values(**words))
                native.merge_words(connection)
        return len(chosen) == PRUNED
