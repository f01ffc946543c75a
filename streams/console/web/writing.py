"""How pages read what they were sent, and write: one short transaction, and an entry of the audit log with it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from sqlalchemy import Connection, Engine
from starlette.requests import Request

from safeguard_streams.console import schema
from safeguard_streams.contract.records import now

if TYPE_CHECKING:
    from safeguard_streams.console.web.console import Console


@contextlib.contextmanager
def transaction(engine: Engine) -> Iterator[Connection]:
    """A transaction that may write. On SQLite its first statement takes the write lock: a transaction that reads first
    could not write after another one did.
    """
    with engine.begin() as connection:
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("UPDATE review_items SET claimed_by = claimed_by WHERE 0")
        yield connection


def log_access(
    connection: Connection, request: Request, action: str, about: str, details: Mapping[str, Any] | None = None
) -> None:
    """Write who did what into the audit log. details: never content."""
    person = request.scope["person"]
    connection.execute(
        schema.audit_log.insert().values(
            at=now(),
            who=person.name,
            role=",".join(person.roles),
            action=action,
            object=stored(about),
            details=dict(details or {}),
        )
    )


def logged(request: Request, action: str, about: str, details: Mapping[str, Any] | None = None) -> None:
    """The same in a transaction of its own."""
    console: Console = request.app.state.console
    with transaction(console.engine) as connection:
        log_access(connection, request, action, about, details)


def asked(request: Request, name: str) -> str:
    """A field of the form that was sent, or of the URL's query, as the database holds texts: PostgreSQL refuses NUL."""
    fields = request.state.form if request.method == "POST" else request.query_params
    return stored(str(fields.get(name, "")))


def asked_item(request: Request) -> str:
    """The item that a form names. Forms quote ids: browsers change line breaks in what they send."""
    return stored(unquote(asked(request, "content_id")))


def stored(text: str) -> str:
    """A text as the database holds it."""
    return text.replace("\0", "\ufffd")
