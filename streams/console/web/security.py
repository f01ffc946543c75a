"""What surrounds every response: headers, the log of requests, limits of rates."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict

from starlette.datastructures import MutableHeaders
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger(__name__)

# No inline script or style, nothing from another host, in no frame. Charts set the size of their canvas by script,
# which the policy allows.
_CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
_HEADERS = {
    "content-security-policy": _CONTENT_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
_YEAR = 31_536_000  # seconds
_MACHINES = ("/health/", "/metrics")  # asked every few seconds, by machines
_CALLERS = 10_000  # whose rates are kept


class Surroundings:
    """Adds the headers to every response, and logs each request by its path alone.

    The query is left out, because it may hold ids and search words, and so is a path that no route has.
    """

    def __init__(self, app: ASGIApp, *, https: bool) -> None:
        self._app = app
        self._headers = dict(_HEADERS)
        if https:
            self._headers["strict-transport-security"] = f"max-age={_YEAR}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(_MACHINES):
            await self._app(scope, receive, send)
            return
        begun, status = time.monotonic(), 500

        async def with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers.setdefault(name, value)
                if "cache-control" not in headers:
                    headers["cache-control"] = "no-store"
            await send(message)

        try:
            await self._app(scope, receive, with_headers)
        finally:
            path = scope["path"] if "endpoint" in scope else "(unknown)"
            person = getattr(scope.get("person"), "name", "-")
            took = (time.monotonic() - begun) * 1000
            served = (scope["method"], path, status, took, person)
            log.info("request served method=%s path=%s status=%d ms=%.0f by=%r", *served)


class OwnNames(TrustedHostMiddleware):
    """Serves pages under the console's names only. Probes and scrapers call a process by its address."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(_MACHINES):
            await self.app(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


class Rates:
    """Allows each caller so many requests a minute, with a burst of as many. Of callers without end, keeps the last."""

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._callers: OrderedDict[str, tuple[float, float]] = OrderedDict()  # when last, and what was left then

    def allow(self, caller: str) -> bool:
        """Whether a caller's next request is within the rate. One that is not counts no further."""
        now = time.monotonic()
        last, left = self._callers.pop(caller, (now, float(self._per_minute)))
        left = min(self._per_minute, left + (now - last) * self._per_minute / 60)
        allowed = left >= 1
        self._callers[caller] = now, left - allowed
        if len(self._callers) > _CALLERS:
            self._callers.popitem(last=False)
        return allowed
