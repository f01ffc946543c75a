"""The audit log: who saw and did what. Rows are only added."""

from __future__ import annotations

from urllib.parse import urlencode

from sqlalchemy import Connection, Select, select
from starlette.requests import Request
from starlette.responses import Response

from safeguard_streams.console.schema import audit_log
from safeguard_streams.console.web import blind, rendering
from safeguard_streams.console.web.console import Console
from safeguard_streams.console.web.guard import Page
from safeguard_streams.console.web.pages.search import Rows, streamed
from safeguard_streams.console.web.writing import asked, logged

_ROWS = 100
ACTIONS = (
    *(
        "answer flip",
        "author",
        "avoid",
        "begin test",
        "cancel replay",
        "claim",
        "claim flip",
        "commit policy",
        "compare replay",
    ),
    *(
        "decide",
        "decide author",
        "discard draft",
        "end sharing",
        "end-shadow",
        "estimate replay",
        "export",
        "give back",
        "limit",
        "pause replay",
        "promote",
    ),
    *(
        "promote replay",
        "rationale",
        "rebase draft",
        "release",
        "resume replay",
        "reveal",
        "revert replay",
        "rollback",
        "search",
    ),
    *("shadow", "share draft", "start replay", "test policy", "try policy", "undo", "undo author"),
)


def show(request: Request) -> Response:
    """The newest entries, by person, action and object."""
    console: Console = request.app.state.console
    wanted = _wanted(request)
    query = _query(wanted).limit(_ROWS + 1)
    if (before := asked(request, "before")).isdecimal():
        query = query.where(audit_log.c.id < int(before[:18]))
    with console.engine.connect() as connection:
        rows = connection.execute(query).all()
        ids = [one.object for one in rows]
        unseen = blind.among(connection, request.scope["person"], ids, console.settings.console_blind_share)
    given = {name: value for name, value in wanted.items() if value}
    more = "/audit?" + urlencode({**given, "before": rows[_ROWS - 1].id}) if len(rows) > _ROWS else None
    return rendering.page(
        request,
        "audit.html",
        rows=rows[:_ROWS],
        wanted=wanted,
        unseen=unseen,
        actions=ACTIONS,
        following=more,
        export="/audit.csv?" + urlencode(given),
    )


def export(request: Request) -> Response:
    """The same, whole, as CSV. That somebody took it stands in the log."""
    wanted = _wanted(request)
    logged(request, "export", "audit log", {"fields": sorted(name for name, value in wanted.items() if value)})
    console, person, names = request.app.state.console, request.scope["person"], [one.name for one in audit_log.c]

    def shown(connection: Connection, rows: Rows) -> Rows:
        ids = [one.object for one in rows]
        unseen = blind.among(connection, person, ids, console.settings.console_blind_share)
        return [(*row[:-1], {}) if row.object in unseen else row for row in rows]  # the details come last

    return streamed(console, _query(wanted), names, "audit-log.csv", shown)


def _wanted(request: Request) -> dict[str, str]:
    return {name: asked(request, name).strip() for name in ("who", "action", "object")}


def _query(wanted: dict[str, str]) -> Select[tuple[object, ...]]:
    conditions = [audit_log.c[name] == value for name, value in wanted.items() if value]
    return select(audit_log).where(*conditions).order_by(audit_log.c.id.desc())


PAGES = (
    Page("audit", "GET", "/audit", "audit", show),
    Page("audit_export", "GET", "/audit.csv", "audit", export),
)
