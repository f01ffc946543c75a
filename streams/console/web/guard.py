"""The one way to an endpoint: who asks, how often, whether this person may, and whether the form is the console's."""

from __future__ import annotations

import inspect
import logging
import time
import traceback
from collections.abc import Awaitable, Callable
from typing import Any, Literal, NamedTuple
from urllib.parse import unquote

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from safeguard_streams.console.database import refuses_writes
from safeguard_streams.console.migrations import is_current
from safeguard_streams.console.web import rendering, sessions
from safeguard_streams.console.web.auth import SignInError
from safeguard_streams.console.web.roles import Permission
from safeguard_streams.errors import BusError, ConfigurationError, SafeguardError
from safeguard_streams.runtime import metrics

log = logging.getLogger(__name__)

Endpoint = Callable[[Request], Response | Awaitable[Response]]
_NOT_NOW = 503
_FIELDS, _BYTES = 200, 100_000  # of a form
_KAFKA_AWAY = "Kafka does not answer. What you sent may not have been written; send it once more."
_NO_WRITES = "The console's database takes no writes: it is read-only, or its disk is full. Ask your administrator."
_NO_ANSWER = "The console's database does not answer. Nothing is lost; try again in a minute."
_NO_TABLES = (
    "The console's database does not have the tables of this version of safeguard. A projector creates and upgrades "
    "them: safeguard console project"
)


class Page(NamedTuple):
    """One route. permission: what it takes; None for pages that anybody may see. An endpoint that is no coroutine runs
    in a thread. most: bytes of a form.
    """

    name: str
    method: Literal["GET", "POST"]
    path: str
    permission: Permission | None
    endpoint: Endpoint
    most: int = _BYTES


class NotFoundError(Exception):
    """There is no such thing. The message is safe to show."""


class RefusedError(Exception):
    """A request that makes no sense now. The message is safe to show."""


class BarredError(Exception):
    """A person may not do what the roles allow. The message is safe to show."""


_STATUS = {NotFoundError: 404, BarredError: 403, RefusedError: 409, ConfigurationError: 409, SignInError: 400}


def route(page: Page) -> Route:
    """The guarded route of a page."""

    async def guarded(request: Request) -> Response:
        request.scope["person"] = person = request.app.state.console.sign_in.person(request)
        refused = _refused_rate(request) or (_refused_person(request, page) if page.permission else None)
        if refused is not None:
            return refused
        form = FormData()
        if page.method == "POST":
            length = request.headers.get("content-length", "")
            if not length.isdecimal() or int(length) > page.most:
                return problem(request, 413, "This form is too long.")
            form = _encodable(await request.form(max_files=0, max_fields=_FIELDS, max_part_size=page.most))
            if not sessions.is_own_form(request, form.get("token")):
                return problem(request, 403, "This form is out of date. Load the page once more, and repeat.")
        request.state.form = form
        request.state.by = person.name if person else ""
        return await _answered(request, page.endpoint)

    async def measured(request: Request) -> Response:
        began = time.monotonic()
        response = await guarded(request)
        about = {"http.request.method": page.method, "http.route": page.path}
        metrics.ANSWERED.record(
            time.monotonic() - began, {**about, "http.response.status_code": str(response.status_code)}
        )
        return response

    return Route(page.path, measured, name=page.name, methods=[page.method])


def _encodable(form: FormData) -> FormData:
    """A form without lone surrogates, which a part gets by a charset of the sender's choice."""
    whole = [[str(text).encode(errors="replace").decode() for text in field] for field in form.multi_items()]
    return FormData([(name, value) for name, value in whole])


def _refused_rate(request: Request) -> Response | None:
    console, person = request.app.state.console, request.scope["person"]
    address = request.client.host if request.client else "unknown"
    rates, caller = (console.rates, person.name) if person is not None else (console.entrance_rates, address)
    if not rates.allow(caller):
        response = problem(request, 429, "Too many requests. Wait a minute.")
        response.headers["retry-after"] = "60"
        return response
    return None


def _refused_person(request: Request, page: Page) -> Response | None:
    person = request.scope["person"]
    if person is None:
        if page.method == "GET" and not rendering.is_partial(request):
            request.session["next"] = str(request.url.replace(scheme="", netloc=""))
            return RedirectResponse("/sign-in", status_code=303)
        return problem(request, 401, "You are signed out. Sign in, and repeat.")
    if page.permission is not None and not person.may(page.permission):
        needed = ", ".join(sorted(request.app.state.console.roles_for(page.permission)))
        return problem(request, 403, f"Your roles do not allow this. It takes one of: {needed}.")
    return None


async def _answered(request: Request, endpoint: Endpoint) -> Response:
    try:
        result: Any = (
            endpoint(request) if inspect.iscoroutinefunction(endpoint) else run_in_threadpool(endpoint, request)
        )
        response: Response = await result
    except (DBAPIError, PoolTimeoutError, BusError) as error:
        log.warning("request not served path=%s error=%s", request.url.path, type(error).__name__)
        if not isinstance(error, BusError):
            metrics.DATABASE_FAILURES.add(1, {"stage": "console"})
        return problem(request, _NOT_NOW, await run_in_threadpool(_away, request, error))
    except (SafeguardError, NotFoundError, BarredError, RefusedError, SignInError) as error:
        status = next((status for kind, status in _STATUS.items() if isinstance(error, kind)), 500)
        return problem(request, status, str(error))
    except Exception as error:  # a fault of the console; its message may quote content
        place = traceback.extract_tb(error.__traceback__)[-1]
        failed = (request.url.path, type(error).__name__, place.name, place.lineno)
        log.error("request failed path=%s error=%s at=%s:%s", *failed)  # noqa: TRY400 - as it quotes no message
        return problem(request, 500, "The console failed to answer this. Its log says where; tell your administrator.")
    return response


def _away(request: Request, error: Exception) -> str:
    """Why a request could not be served."""
    if isinstance(error, BusError):
        return _KAFKA_AWAY
    if refuses_writes(error):
        return _NO_WRITES
    try:
        with request.app.state.console.engine.connect() as connection:
            return _NO_ANSWER if is_current(connection) else _NO_TABLES
    except Exception:  # drivers raise many kinds, and each means the same
        return _NO_ANSWER


def problem(request: Request, status: int, text: str) -> Response:
    """A page that says what went wrong and what to do. A form that could not be served may be sent as it was."""
    form = getattr(request.state, "form", FormData())
    about = unquote(str(form.get("content_id", "")))
    again = [(name, str(value)) for name, value in form.multi_items()] if status == _NOT_NOW else []
    values = {"text": text, "status_code": status, "about": about, "again": again}
    return rendering.page(request, "problem.html", status=status, **values)


def back(request: Request, url: str, message: str | None = None) -> Response:
    """The answer to a form: see this page, which says the message once."""
    if message is not None:
        sessions.keep(request, "message", message)
    return RedirectResponse(url, status_code=303)
