"""Sessions: a signed cookie that says who somebody is, for a limited time, and a token against forged requests.

The cookie is signed, not encrypted: it holds a name and roles. Its age counts from the sign-in, whatever is requested
later, so that a role that was taken away ends within that time. A new signing key ends all sessions at once.
"""

from __future__ import annotations

import hmac
import json
import secrets
import time
from typing import Any

import msgspec
from starlette.requests import Request

from safeguard_streams.console.web.roles import Person

_PERSON, _SINCE, _TOKEN = "person", "since", "token"
_MOST = 2_850  # bytes of JSON: base64 makes 3,800 of them, and browsers drop a cookie of more than 4,096


def sign_in(request: Request, person: Person) -> None:
    """Begin a session. Nothing of an earlier session stays, its token included."""
    request.session.clear()
    request.session.update({_PERSON: msgspec.to_builtins(person), _SINCE: int(time.time())})


def sign_out(request: Request) -> None:
    """End the session in this browser."""
    request.session.clear()


def keep(request: Request, name: str, value: object, most: int = _MOST) -> bool:
    """Keep a value in the session, whole or not at all. Returns whether it is kept.

    most: bytes of JSON that the session may then have. What had this name before is gone in any case.
    """
    request.session.pop(name, None)
    kept = len(json.dumps({**request.session, name: value})) <= min(most, _MOST)
    if kept:
        request.session[name] = value
    return kept


def signed_in(request: Request, max_seconds: float) -> Person | None:
    """Who signed in at most so long ago; None if nobody did."""
    since: Any = request.session.get(_SINCE)
    if not isinstance(since, int) or not 0 <= time.time() - since <= max_seconds:
        return None
    try:
        return msgspec.convert(request.session.get(_PERSON), Person)
    except msgspec.ValidationError:  # a role that this version does not know
        return None


def form_token(request: Request) -> str:
    """The token that forms of this session carry."""
    token = request.session.get(_TOKEN)
    if not isinstance(token, str):
        token = request.session[_TOKEN] = secrets.token_urlsafe(24)
    return token


def is_own_form(request: Request, given: object) -> bool:
    """Whether a request carries this session's token, and no browser says that another site sent it."""
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    expected = request.session.get(_TOKEN)
    if not isinstance(expected, str) or not isinstance(given, str):
        return False
    return hmac.compare_digest(expected.encode(), given.encode(errors="replace"))  # texts must be ASCII for it
