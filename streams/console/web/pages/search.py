"""Search over verdicts: filters in the URL, pages by key, and all that is found as CSV or Parquet."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import msgspec
from sqlalchemy import JSON, ColumnElement, Connection, Float, Select, and_, exists, func, select
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from safeguard_streams.console import native
from safeguard_streams.console.schema import Moment, items, verdict_rules, verdicts
from safeguard_streams.console.web import blind, rendering
from safeguard_streams.console.web.console import Console
from safeguard_streams.console.web.guard import Page, RefusedError
from safeguard_streams.console.web.keyset import Keyset
from safeguard_streams.console.web.writing import asked, logged
from safeguard_streams.exporting.cells import guarded

ROWS = 50
_PAGES = Keyset(verdicts.c.decided_at, verdicts.c.verdict_id)
_RARE = 5000  # texts that a rare word is in
_BATCH = 1000  # rows that an export reads at a time
_EXACT = ("policy", "decision", "surface", "language", "author", "id", "effective")
_COLUMNS = {
    "policy": verdicts.c.policy_id,
    "decision": verdicts.c.decision,
    "surface": verdicts.c.surface,
    "language": items.c.language,
    "author": items.c.author_id,
    "id": verdicts.c.content_id,
    "effective": items.c.effective,
}
EXPORTED = (
    verdicts.c.verdict_id,
    verdicts.c.content_id,
    verdicts.c.policy_id,
    verdicts.c.policy_version,
    verdicts.c.decision,
    verdicts.c.rule_ids,
    verdicts.c.score,
    verdicts.c.confidence,
    verdicts.c.reason,
    verdicts.c.lane,
    verdicts.c.gate,
    verdicts.c.decided_at,
    verdicts.c.surface,
    items.c.language,
    items.c.author_id,
    items.c.effective,
)
_ROW_GROUP = 10_000  # rows of a Parquet file that are held in memory
Rows = Sequence[Any]
Shown = Callable[[Connection, Rows], Rows]


class Search(msgspec.Struct, frozen=True):
    """What somebody looks for: the fields of the form, as texts."""

    id: str = ""
    author: str = ""
    words: str = ""
    policy: str = ""
    rule: str = ""
    decision: str = ""
    effective: str = ""
    surface: str = ""
    language: str = ""
    since: str = ""
    until: str = ""

    @classmethod
    def of(cls, request: Request) -> Search:
        """The fields that a URL holds."""
        return cls(**{name: asked(request, name).strip() for name in cls.__struct_fields__})

    @property
    def given(self) -> dict[str, str]:
        """The fields that are not empty."""
        return {name: value for name, value in msgspec.structs.asdict(self).items() if value}

    def query(self, connection: Connection, *columns: Any) -> Select[Any]:
        """Verdicts that match, newest first."""
        conditions = [_COLUMNS[name] == value for name, value in self.given.items() if name in _EXACT]
        if self.rule:
            cites = and_(verdict_rules.c.verdict_id == verdicts.c.verdict_id, verdict_rules.c.rule_id == self.rule)
            conditions.append(exists().where(cites))
        if self.words.strip('" '):
            conditions.append(_with_words(connection, self.words))
        if self.since:
            conditions.append(verdicts.c.decided_at >= _moment(self.since))
        if self.until:
            conditions.append(verdicts.c.decided_at < _end(self.until))
        joined = verdicts.outerjoin(items, items.c.content_id == verdicts.c.content_id)
        return select(*columns).select_from(joined).where(*conditions).order_by(*_PAGES.order)


def _with_words(connection: Connection, words: str) -> ColumnElement[bool]:
    """A condition for verdicts on items whose text has these words.

    Databases guess how many texts have a word, and search all verdicts for a rare one. This looks first: rare words
    are looked up by the ids of their items, and common ones by walking the verdicts from the newest.
    """
    matching = native.matches(connection.dialect.name, words)
    some = select(items.c.content_id).where(matching).limit(_RARE + 1)
    with connection.begin_nested():
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        found = connection.execute(select(func.count()).select_from(some.subquery())).scalar_one()
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("SET LOCAL enable_seqscan = on")
    if found > _RARE:
        return matching
    ids = some.cte("found").prefix_with("MATERIALIZED", dialect="postgresql")
    return verdicts.c.content_id.in_(select(ids.c.content_id))


def _moment(text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise RefusedError("Write a time as 2026-11-26 or 2026-11-26T14:30, in UTC.") from None
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at


def _end(text: str) -> datetime:
    """The end of the day or the minute that a text names."""
    length = timedelta(days=1) if "T" not in text and ":" not in text else timedelta(minutes=1)
    begin = _moment(text)
    return begin + min(length, datetime.max.replace(tzinfo=UTC) - begin)


def show(request: Request) -> Response:
    """The form, and one page of what it finds."""
    console: Console = request.app.state.console
    wanted = Search.of(request)
    after = asked(request, "after")
    with console.engine.connect() as connection:
        rows = _page(connection, wanted.query(connection, *EXPORTED), after, _seen_by(request))
    if wanted.given and not after:
        logged(request, "search", "verdicts", {"fields": sorted(wanted.given)})
    last = rows[ROWS - 1] if len(rows) > ROWS else None
    following = None
    if last is not None:
        place = _PAGES.place(last.decided_at, last.verdict_id)
        following = "/search?" + urlencode({**wanted.given, "after": place})
    return rendering.page(
        request,
        "search.html",
        wanted=wanted,
        rows=rows[:ROWS],
        following=following,
        later=bool(after),
        fields=urlencode(wanted.given),
    )


def _page(connection: Connection, query: Select[Any], after: str, seen: Shown) -> list[Any]:
    """The verdicts of a page and the first behind it, without what a person is to decide about first.

    No filter may tell whether such an item has a verdict, and no place between two rows: the page is always filled.
    """
    shown: list[Any] = []
    while True:
        rows = connection.execute(query.where(_PAGES.after(after)).limit(ROWS + 1)).all()
        shown += seen(connection, rows)
        if len(rows) <= ROWS or len(shown) > ROWS:
            return shown[: ROWS + 1]
        after = _PAGES.place(rows[-1].decided_at, rows[-1].verdict_id)


def export(request: Request) -> Response:
    """All that a search finds as CSV, read and sent in parts."""
    names = [column.name for column in EXPORTED]
    return streamed(request.app.state.console, _exported(request), names, "verdicts.csv", _seen_by(request))


def _seen_by(request: Request) -> Shown:
    """Leaves out what a person is to decide about before they see its verdict."""
    console, person = request.app.state.console, request.scope["person"]

    def seen(connection: Connection, rows: Rows) -> Rows:
        ids = [row.content_id for row in rows]
        unseen = blind.among(connection, person, ids, console.settings.console_blind_share)
        return [row for row in rows if row.content_id not in unseen]

    return seen


def export_parquet(request: Request) -> Response:
    """All that a search finds as Parquet, read and sent in row groups."""
    from safeguard_streams.exporting.streams import parquet

    console: Console = request.app.state.console
    query, seen = _exported(request), _seen_by(request)

    def groups() -> Iterator[list[dict[str, Any]]]:
        with console.engine.connect() as connection:
            rows = connection.execution_options(stream_results=True, yield_per=_ROW_GROUP).execute(query)
            for part in rows.partitions():
                yield [dict(row._mapping) for row in seen(connection, part)]  # noqa: SLF001  (public, despite its name)

    return _download(parquet(_schema(), groups()), "application/vnd.apache.parquet", "verdicts.parquet")


def _exported(request: Request) -> Select[Any]:
    """The query of an export, which the audit log has from now on."""
    console: Console = request.app.state.console
    wanted = Search.of(request)
    with console.engine.connect() as connection:
        query = wanted.query(connection, *EXPORTED)
    logged(request, "export", "verdicts", {"fields": sorted(wanted.given)})
    return query


def _schema() -> Any:
    """The Arrow schema of an export."""
    import pyarrow as pa

    from safeguard_streams.exporting.columns import TIME

    types: dict[type[Any], Any] = {Float: pa.float64(), Moment: TIME, JSON: pa.list_(pa.string())}
    return pa.schema([(column.name, types.get(type(column.type), pa.string())) for column in EXPORTED])


def streamed(console: Console, query: Select[Any], names: list[str], file: str, shown: Shown) -> StreamingResponse:
    """The rows of a query as a CSV file for download. shown: what the person may see of them."""

    def parts() -> Iterator[str]:
        yield _csv([names])
        with console.engine.connect() as connection:
            rows = connection.execution_options(stream_results=True, yield_per=_BATCH).execute(query)
            for part in rows.partitions():
                yield _csv([list(map(_cell, row)) for row in shown(connection, part)])

    return _download(parts(), "text/csv", file)


def _download(parts: Iterator[str] | Iterator[bytes], media_type: str, file: str) -> StreamingResponse:
    headers = {"content-disposition": f'attachment; filename="{file}"'}
    return StreamingResponse(parts, media_type=media_type, headers=headers)


def _csv(rows: list[list[str]]) -> str:
    written = io.StringIO()
    csv.writer(written).writerows(rows)
    return written.getvalue()


def _cell(value: object) -> str:
    """A value as a cell that no spreadsheet takes for a formula."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, list):
        return _cell(" ".join(map(str, value)))
    if isinstance(value, dict):
        return msgspec.json.encode(value).decode()
    return guarded(value) if isinstance(value, str) else str(value)


PAGES = (
    Page("search", "GET", "/search", "items", show),
    Page("export", "GET", "/search.csv", "export", export),
    Page("export_parquet", "GET", "/search.parquet", "export", export_parquet),
)
