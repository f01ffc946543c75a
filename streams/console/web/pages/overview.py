"""The first page: figures of the pipeline, live."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from safeguard_streams.console.web import figures, rendering
from safeguard_streams.console.web.console import Console
from safeguard_streams.console.web.guard import Page
from safeguard_streams.console.web.writing import asked

_POLL_SECONDS = 3.0
_POLLS = 200  # then the browser asks once more, and its session is checked
_PING_SECONDS = 20


def show(request: Request) -> Response:
    """Rates, verdicts by policy, lags, and what waits."""
    console: Console = request.app.state.console
    window = figures.WINDOWS.get(asked(request, "window"), figures.WINDOWS["day"])
    with console.engine.connect() as connection:
        found = figures.overview(connection, window)
    template = "overview_figures.html" if rendering.is_partial(request) else "overview.html"
    return rendering.page(request, template, figures=found, windows=figures.WINDOWS.values())


async def changes(request: Request) -> Response:
    """An event each time that the projector wrote since the last. It says nothing else; the page asks for figures."""
    console: Console = request.app.state.console

    def newest() -> object:
        with console.engine.connect() as connection:
            return figures.newest_position(connection)

    async def events() -> AsyncIterator[ServerSentEvent]:
        seen = None
        for _ in range(_POLLS):
            try:
                at = await run_in_threadpool(newest)
            except (
                DBAPIError,
                PoolTimeoutError,
            ):  # the page shows its last figures until the database is back
                at = seen
            if at != seen:
                yield ServerSentEvent(data=".", event="changed")
                seen = at
            await asyncio.sleep(_POLL_SECONDS)

    return EventSourceResponse(events(), ping=_PING_SECONDS)


PAGES = (
    Page("overview", "GET", "/", "look", show),
    Page("changes", "GET", "/changes", "look", changes),
)
