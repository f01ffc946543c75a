"""The web application: routes, and what surrounds each request."""

from __future__ import annotations

import secrets
from importlib.resources import files
from typing import Any

from sqlalchemy import Engine
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from safeguard_streams.console.migrations import is_current
from safeguard_streams.console.projector import Projector
from safeguard_streams.console.web import guard
from safeguard_streams.console.web.console import Console
from safeguard_streams.console.web.guard import Page
from safeguard_streams.console.web.pages import (
    appeals,
    audit,
    authors,
    decisions,
    entrance,
    go,
    item,
    overview,
    policies,
    policy_editor,
    policy_releases,
    quality,
    queue,
    replay_changes,
    replay_flips,
    replay_start,
    replays,
    search,
    wellbeing,
)
from safeguard_streams.console.web.security import OwnNames, Surroundings
from safeguard_streams.runtime import telemetry
from safeguard_streams.runtime.settings import Settings

PAGES: tuple[Page, ...] = (
    *entrance.PAGES,
    *overview.PAGES,
    *queue.PAGES,
    *item.PAGES,
    *decisions.PAGES,
    *appeals.PAGES,
    *authors.PAGES,
    *search.PAGES,
    *policies.PAGES,
    *policy_editor.PAGES,
    *policy_releases.PAGES,
    *replays.PAGES,
    *replay_start.PAGES,
    *replay_changes.PAGES,
    *replay_flips.PAGES,
    *quality.PAGES,
    *wellbeing.PAGES,
    *audit.PAGES,
    *go.PAGES,
)
_COOKIE = "safeguard_console"
_STATIC_SECONDS = 3600


def build(settings: Settings, engine: Engine, projector: Projector | None = None) -> Starlette:
    """The application. projector: the one in this process, whose state /health/ready names.

    Raises ConfigurationError where the settings of signing in contradict each other.
    """
    console = Console(settings, engine, {page.name: page for page in PAGES})
    https = settings.console_url.startswith("https://")
    key = settings.console_session_key
    middleware = [
        Middleware(Surroundings, https=https),
        Middleware(OwnNames, allowed_hosts=list(console.sign_in.hosts) or ["*"]),
        Middleware(
            SessionMiddleware,
            secret_key=key.get_secret_value() if key else secrets.token_urlsafe(48),
            session_cookie=f"__Host-{_COOKIE}" if https else _COOKIE,
            max_age=int(settings.console_session_hours * 3600),
            same_site="lax",  # the provider's redirect carries it; forms have a token besides
            https_only=https,
        ),
    ]
    static = _Static(directory=str(files("safeguard_streams.console.web") / "static"))
    routes = [
        *map(guard.route, PAGES),
        Mount("/static", static, name="static"),
        Route("/health/live", _live),
        Route("/health/started", _live),
        Route("/health/ready", _ready),
        Route("/metrics", _metrics),
    ]
    app = Starlette(routes=routes, middleware=middleware, exception_handlers={404: _not_found, 405: _not_found})
    app.state.console, app.state.projector = console, projector
    return app


class _Static(StaticFiles):
    """The files of this package, which browsers keep for a while."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def kept(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"].append((b"cache-control", f"public, max-age={_STATIC_SECONDS}".encode()))
            await send(message)

        await super().__call__(scope, receive, kept)


async def _not_found(request: Request, _: Exception) -> Response:
    request.scope.setdefault("person", request.app.state.console.sign_in.person(request))
    return guard.problem(request, 404, "There is no such page.")


async def _live(_: Request) -> Response:
    return JSONResponse({"alive": True, "started": True})


def _ready(request: Request) -> Response:
    """Ready once the database answers, and has the tables of this version. Pages need no projector."""
    console, projector = request.app.state.console, request.app.state.projector
    try:
        with console.engine.connect() as connection:
            ready = is_current(connection)
    except Exception:  # drivers raise many kinds, and each means the same
        ready = False
    state = {**console.settings.identity("console"), "ready": ready}
    if projector is not None:
        state["projector"] = projector.state()
    return JSONResponse(state, status_code=200 if ready else 503)


async def _metrics(_: Request) -> Response:
    return Response(telemetry.page(), media_type=telemetry.CONTENT_TYPE)
