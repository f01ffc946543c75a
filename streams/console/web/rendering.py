"""Templates, and how values appear in them. Every value is escaped; texts from outside are made visible first."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse

from safeguard_streams.console.web import sessions
from safeguard_streams.contract.records import aware, in_utc, now

SHOWN = 20_000  # characters of a text on a page, unless somebody asks for all
_KEPT = "\n\t"
_INVISIBLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_JOINERS = "\u200c\u200d"  # scripts and emoji need them


def visible(text: object) -> str:
    """A text in which what a browser hides, or obeys, is a visible sign: control characters, marks of direction."""
    return "".join(_sign(one) if unicodedata.category(one) in _INVISIBLE else one for one in str(text))


@cache
def _sign(one: str) -> str:
    if one in _KEPT or one in _JOINERS:
        return one
    return f"\u27e8U+{ord(one):04X}\u27e9"


def line(text: object, most: int = 160) -> str:
    """The beginning of a text on one line."""
    shown = visible(str(text)[: most + 1]).replace("\n", " ").replace("\t", " ")
    return shown[:most] + "…" if len(shown) > most else shown


def moment(at: datetime | None) -> str:
    """A time in UTC, to the second."""
    return "" if at is None else in_utc(at).strftime("%Y-%m-%d %H:%M:%S")


def ago(at: datetime | None) -> str:
    """How long ago a time is, in its largest unit."""
    return "" if at is None else lasting((now() - aware(at)).total_seconds())


def lasting(seconds: float | None) -> str:
    """A duration in its largest unit."""
    if seconds is None:
        return ""
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{max(0, int(seconds))} s"


def percent(share: float | None) -> str:
    """A share in percent, with the digits that it is worth."""
    if share is None:
        return ""
    return f"{share:.0%}" if share >= 0.1 or share == 0 else f"{share:.1%}"


def environment() -> Environment:
    """The templates of this package. An unknown name is an error, never an empty text."""
    made = Environment(
        loader=PackageLoader("safeguard_streams.console.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        visible=visible, line=line, moment=moment, ago=ago, lasting=lasting, percent=percent, number="{:,}".format
    )
    return made


def is_partial(request: Request) -> bool:
    """Whether an open page asks for one of its parts, which no other page can replace."""
    return "hx-request" in request.headers


def page(request: Request, template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
    """A page from a template, which knows who asks, and what this person may do."""
    console = request.app.state.console
    person = request.scope.get("person")
    # A page in another window that renews one of its parts takes no message from the next whole page.
    once = request.session.get if is_partial(request) else request.session.pop
    projector = request.app.state.projector
    known: Mapping[str, Any] = {
        "reading": projector is not None and projector.is_catching_up,
        "person": person,
        "may": lambda name: person is not None and console.allows(person, name),
        "sign_in_about": console.sign_in.about,
        "local": console.local,
        "token": sessions.form_token(request),
        "path": request.url.path,
        "message": once("message", None),
        "undo": once("undo", None),
        "undo_author": once("undo_author", None),
        "now": now(),
    }
    return HTMLResponse(console.templates.get_template(template).render(**known, **values), status_code=status)
