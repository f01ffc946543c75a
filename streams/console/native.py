"""What each database does by its own means: full-text search, an append-only table, and leaving no trace of words.

- Full text: FTS5 on SQLite, kept by triggers; a generated column of `tsvector` with an index on PostgreSQL.
- The audit log: triggers refuse UPDATE and DELETE.
- `leave_no_trace`: deleted rows stay in files until something writes over them. SQLite zeroes them (secure_delete), but
  not in its full-text index and its write-ahead log; PostgreSQL keeps them until the table is rewritten. PostgreSQL
  also copies frequent values into its planner's statistics. It keeps none of the columns that an erasure empties.
"""

from __future__ import annotations

import contextlib
import logging
import re
import time
from collections.abc import Iterable, Sequence

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Table,
    column,
    delete,
    func,
    literal_column,
    select,
    table,
    true,
)

log = logging.getLogger(__name__)

_LOCK_SECONDS = 30  # that a table may be in use, before its rewriting fails and is tried again
_CHECKPOINTS, _PAUSE_SECONDS = 20, 0.25
_NO_STATISTICS = {
    "items": ("text", "words", "context", "attributes", "author_id"),
    "verdicts": ("reason", "gate_label", "author_id"),
    "replay_verdicts": ("reason", "gate_label", "author_id"),
    "escalations": ("label",),
    "actions": ("why", "reason", "author_id"),
    "rationales": ("attempts",),
    "reports": ("reason",),
    "appeal_statements": ("reason", "new_context"),
    "strikes": ("author_id", "content_id", "verdict_id", "action_id", "why"),
    "author_decisions": ("author_id", "why"),
    "author_actions": ("author_id", "content_id", "verdict_id", "why"),
    "author_standings": ("author_id", "decided_why"),
    "forgotten_authors": ("author_id",),
    "golden_items": ("text",),
    "policy_drafts": ("document",),
}

POSTGRESQL = (
    # The first 100,000 characters of a text are searched: PostgreSQL takes a megabyte of words with their places. They
    # are a column, because a search looks at them again in many rows.
    """ALTER TABLE items ADD COLUMN words tsvector
    GENERATED ALWAYS AS (to_tsvector('simple', left(coalesce(text, ''), 100000))) STORED""",
    "CREATE INDEX ix_items_words ON items USING gin (words)",
    """CREATE FUNCTION audit_log_is_append_only() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'audit_log is append-only'; END $$""",
    """CREATE TRIGGER audit_log_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION audit_log_is_append_only()""",
)
SQLITE = (
    """CREATE VIRTUAL TABLE items_words USING fts5(
    text, content='items', content_rowid='rowid', tokenize='unicode61 remove_diacritics 2')""",
    """CREATE TRIGGER items_words_added AFTER INSERT ON items WHEN new.text IS NOT NULL BEGIN
    INSERT INTO items_words(rowid, text) VALUES (new.rowid, substr(new.text, 1, 100000)); END""",
    """CREATE TRIGGER items_words_removed AFTER DELETE ON items WHEN old.text IS NOT NULL BEGIN
    INSERT INTO items_words(items_words, rowid, text)
    VALUES ('delete', old.rowid, substr(old.text, 1, 100000)); END""",
    """CREATE TRIGGER items_words_ended AFTER UPDATE OF text ON items
    WHEN old.text IS NOT NULL AND old.text IS NOT new.text BEGIN
    INSERT INTO items_words(items_words, rowid, text)
    VALUES ('delete', old.rowid, substr(old.text, 1, 100000)); END""",
    """CREATE TRIGGER items_words_written AFTER UPDATE OF text ON items
    WHEN new.text IS NOT NULL AND old.text IS NOT new.text BEGIN
    INSERT INTO items_words(rowid, text) VALUES (new.rowid, substr(new.text, 1, 100000)); END""",
    """CREATE TRIGGER audit_log_not_updated BEFORE UPDATE ON audit_log BEGIN
    SELECT RAISE(ABORT, 'audit_log is append-only'); END""",
    """CREATE TRIGGER audit_log_not_deleted BEFORE DELETE ON audit_log BEGIN
    SELECT RAISE(ABORT, 'audit_log is append-only'); END""",
)


def create(connection: Connection) -> None:
    """Create what the tables lack. Part of the first migration."""
    for statement in POSTGRESQL if connection.dialect.name == "postgresql" else SQLITE:
        connection.exec_driver_sql(statement)
    for table_name in ("items", "verdicts", "replay_verdicts", "escalations", "actions", "rationales", "reports"):
        keep_no_statistics(connection, table_name)


def keep_no_statistics(connection: Connection, table_name: str) -> None:
    """Let PostgreSQL copy no words of a table into its planner's statistics. SQLite keeps none of values."""
    if connection.dialect.name == "postgresql":
        columns = ", ".join(f"ALTER COLUMN {column} SET STATISTICS 0" for column in _NO_STATISTICS[table_name])
        connection.exec_driver_sql(f"ALTER TABLE {table_name} {columns}")


def matches(dialect: str, words: str) -> ColumnElement[bool]:
    """A condition on `items`: the text holds all these words; those in double quotes, one after the other."""
    if not words.strip():
        return true()
    if dialect == "postgresql":
        asked = func.websearch_to_tsquery(literal_column("'simple'"), words)
        return literal_column("items.words").op("@@", is_comparison=True)(asked)
    index = table("items_words", column("rowid"), column("items_words"))
    found = select(index.c.rowid).where(index.c.items_words.op("MATCH", is_comparison=True)(_fts5(words)))
    return literal_column("items.rowid").in_(found)


def _fts5(words: str) -> str:
    """Words as phrases of FTS5, in which nothing is an operator."""
    phrases = re.findall(r'"([^"]*)"|([^\s"]+)', words.replace("\0", " "))
    return " ".join(f'"{quoted or word}"' for quoted, word in phrases)


def empty(connection: Connection, tables: Sequence[Table]) -> None:
    """Delete all rows of these tables."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"TRUNCATE {', '.join(one.name for one in tables)}")
        return
    for one in tables:
        connection.execute(delete(one))


def leave_no_trace(engine: Engine, tables: Iterable[str]) -> bool:
    """Overwrite what was removed from these tables, in all files of the database but PostgreSQL's write-ahead log.

    PostgreSQL rewrites the tables, which nobody reads meanwhile. It recycles the segments of its log by itself. False
    if SQLite's log could not be emptied, because somebody reads the database: repeat it later.
    """
    if engine.dialect.name == "postgresql":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql(f"SET lock_timeout = '{_LOCK_SECONDS}s'")
            for name in sorted(tables):
                connection.exec_driver_sql(f"VACUUM FULL {name}")
            connection.exec_driver_sql("RESET lock_timeout")
        return True
    with contextlib.closing(engine.raw_connection()) as raw:  # outside of any transaction
        raw.cursor().execute("INSERT INTO items_words(items_words) VALUES ('optimize')")
        for _ in range(_CHECKPOINTS):
            busy, *_ = raw.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if not busy:
                return True
            time.sleep(_PAUSE_SECONDS)
    log.warning("the write-ahead log still holds what was erased, because a page reads the database")
    return False


def alone(connection: Connection, name: str) -> None:
    """Wait for every other transaction that asked for this name. On SQLite, only one writes at a time."""
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(name, 0))))


def commit_late(connection: Connection) -> None:
    """Let PostgreSQL answer the commit of this transaction before it is on disk.

    This is safe for a projection. A crash of the server may lose the last transactions, but whole ones, in their order,
    positions included: the projector then reads these records once more. SQLite does the same by synchronous = NORMAL.
    """
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SET LOCAL synchronous_commit = off")


def merge_words(connection: Connection) -> None:
    """Do a small part of what drops removed words from the full-text index. PostgreSQL's vacuum does it by itself."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("INSERT INTO items_words(items_words, rank) VALUES ('merge', 500)")
