"""Engines for the console's database, on PostgreSQL by psycopg 3 or on SQLite in WAL mode.

    sqlite:////var/lib/safeguard/console.db       one machine, one process that writes
    postgresql://USER:PASSWORD@HOST/NAME          production; credentials also come from ~/.pgpass and PG* variables

Nothing else knows which of the two it is, except `native`, which holds what each does by its own means.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import URL, Engine, Table, create_engine, event, make_url
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError

from safeguard_streams.errors import ConfigurationError
from safeguard_streams.runtime.settings import Settings

REPLACEMENT = "\ufffd"  # stands for NUL, which PostgreSQL refuses
_EXAMPLES = "as in sqlite:////var/lib/safeguard/console.db or postgresql://USER@HOST/NAME"
_PRAGMAS = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = NORMAL",  # a crash of the machine may cost the last transactions, positions included
    "PRAGMA secure_delete = ON",  # what is deleted is overwritten
    "PRAGMA busy_timeout = 10000",
)
# A query of a page reads few rows. Where PostgreSQL expects many, it starts workers and compiles the plan, which takes
# longer than the query.
_POSTGRESQL = ("timezone=UTC", "max_parallel_workers_per_gather=0", "jit=off")
# SQLSTATE classes of errors that the data causes: data exceptions, integrity, limits of the program.
_OF_DATA = ("22", "23", "54")

_SQLITE = b"SQLite format 3\0"  # how its files begin
_NO_WRITES = ("25006", "53100")  # SQLSTATEs of a read-only transaction and of a full disk

Insert = postgresql.Insert | sqlite.Insert


def connect(settings: Settings) -> Engine:
    """The engine of the database that the settings name. Raises ConfigurationError where they name none."""
    if settings.console_database is None:
        raise ConfigurationError(f"set SAFEGUARD_CONSOLE_DATABASE to the console's database, {_EXAMPLES}")
    return engine_of(settings.console_database.get_secret_value())


def engine_of(address: str) -> Engine:
    """An engine for the URL of a database. Raises ConfigurationError for any other kind of database."""
    try:
        url = make_url(address)
    except ArgumentError:
        raise ConfigurationError(f"SAFEGUARD_CONSOLE_DATABASE: is no URL of a database; write it {_EXAMPLES}") from None
    backend = url.get_backend_name()
    if backend == "sqlite":
        return _sqlite(url)
    if backend in {"postgresql", "postgres"}:
        return create_engine(
            url.set(drivername="postgresql+psycopg"),
            json_serializer=to_json,
            json_deserializer=orjson.loads,
            hide_parameters=True,  # an error's message quotes no content
            pool_pre_ping=True,
            connect_args={"connect_timeout": 5, "options": " ".join(f"-c {one}" for one in _POSTGRESQL)},
        )
    raise ConfigurationError(
        f"SAFEGUARD_CONSOLE_DATABASE: {backend} is no database that the console uses; name one {_EXAMPLES}"
    )


def _sqlite(url: URL) -> Engine:
    if not url.database or url.database == ":memory:":
        raise ConfigurationError(f"SAFEGUARD_CONSOLE_DATABASE: name the file of the database, {_EXAMPLES}")
    _create_private(Path(url.database))
    engine = create_engine(url, json_serializer=to_json, json_deserializer=orjson.loads, hide_parameters=True)

    # The driver would begin transactions late and commit before DDL; here, SQLAlchemy begins them.
    @event.listens_for(engine, "connect")
    def opened(connection: Any, _: Any) -> None:
        connection.isolation_level = None
        for pragma in _PRAGMAS:
            connection.execute(pragma)

    @event.listens_for(engine, "begin")
    def begun(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN")

    return engine


def _create_private(file: Path) -> None:
    """Create the file for this user alone: it holds content."""
    if not file.parent.is_dir():
        raise ConfigurationError(f"SAFEGUARD_CONSOLE_DATABASE: there is no folder {file.parent}; create it first")
    try:
        os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))
        with file.open("rb") as opened:
            begins = opened.read(len(_SQLITE))
    except OSError as error:
        raise ConfigurationError(f"SAFEGUARD_CONSOLE_DATABASE: {file}: {error.strerror}") from None
    if begins not in (b"", _SQLITE):
        raise ConfigurationError(f"SAFEGUARD_CONSOLE_DATABASE: {file} is no SQLite database; name another file")


def insert(engine: Engine, table: Table) -> Insert:
    """An insert that knows ON CONFLICT, in the dialect of the database."""
    return postgresql.insert(table) if engine.dialect.name == "postgresql" else sqlite.insert(table)


def to_json(value: object) -> str:
    """JSON as the database stores it: NUL characters replaced, and numbers beyond floats as null."""
    json = orjson.dumps(value)
    return (orjson.dumps(clean(value)) if b"\\u0000" in json else json).decode()


def clean(value: Any) -> Any:
    """A value with NUL characters replaced, in all texts that it holds."""
    if isinstance(value, str):
        return value.replace("\0", REPLACEMENT) if "\0" in value else value
    if isinstance(value, dict):
        return {clean(name): clean(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [clean(inner) for inner in value]
    return value


def refuses_writes(error: Exception) -> bool:
    """Whether a database answers and takes no writes: it is read-only, or its disk is full."""
    original = getattr(error, "orig", None)
    if (state := getattr(original, "sqlstate", None)) is not None:
        return state in _NO_WRITES
    return getattr(original, "sqlite_errorname", "").startswith(("SQLITE_READONLY", "SQLITE_FULL"))


def is_of_data(error: Exception) -> bool:
    """Whether the data caused an error, so that a retry fails again; otherwise the database is away or busy."""
    if not isinstance(error, DBAPIError):
        return isinstance(error, OverflowError | UnicodeError)
    if error.connection_invalidated:
        return False
    state = getattr(error.orig, "sqlstate", None)  # psycopg's errors have one
    if state is not None:
        return str(state).startswith(_OF_DATA)
    return type(error.orig).__name__ in {"DataError", "IntegrityError", "InterfaceError", "ProgrammingError"}
