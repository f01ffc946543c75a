"""Signing in and out, and going to whatever an id or a URL names."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from safeguard_streams.console.web import rendering, sessions
from safeguard_streams.console.web.auth import SIGNED_IN
from safeguard_streams.console.web.guard import Page

_LONGEST_NEXT = 2000  # characters of a URL to return to; a cookie holds 4,096 bytes


def sign_in(request: Request) -> Response:
    """A page with one link, which leads to the provider."""
    if request.scope["person"] is not None:
        return RedirectResponse("/", status_code=303)
    return rendering.page(request, "sign_in.html")


async def to_provider(request: Request) -> Response:
    """Off to the provider, which sends the browser back to `signed_in`. No other site's link ends a session by this."""
    if request.scope["person"] is not None:
        return RedirectResponse("/", status_code=303)
    wanted = request.session.get("next")
    response: Response = await request.app.state.console.sign_in.begin(request)
    if isinstance(wanted, str) and len(wanted) <= _LONGEST_NEXT:
        request.session["next"] = wanted
    return response


async def signed_in(request: Request) -> Response:
    """Back from the provider: to the page that was asked for."""
    wanted = request.session.get("next")
    await request.app.state.console.sign_in.complete(request)
    if not isinstance(wanted, str) or not wanted.startswith("/") or wanted.startswith(("//", "/\\")):
        wanted = "/"
    return RedirectResponse(wanted, status_code=303)


def sign_out(request: Request) -> Response:
    """End the session in this browser."""
    sessions.sign_out(request)
    return RedirectResponse("/sign-in", status_code=303)


PAGES = (
    Page("sign_in", "GET", "/sign-in", None, sign_in),
    Page("to_provider", "GET", "/sign-in/provider", None, to_provider),
    Page("signed_in", "GET", SIGNED_IN, None, signed_in),
    Page("sign_out", "POST", "/sign-out", None, sign_out),
)
