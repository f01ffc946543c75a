"""One HTTP request to an inference server, and what its failure means.

A failure is the server's (`Unavailable`), the request's (`Refused`), or of either (`RequestFailed`). A test request
then shows whether the server works.
"""

from __future__ import annotations

import email.utils
from collections.abc import Mapping
from datetime import UTC, datetime

import aiohttp

from safeguard_streams.errors import DependencyError
from safeguard_streams.runtime import metrics
from safeguard_streams.runtime.settings import Settings
from safeguard_streams.workers.inference.discovery import Address
from safeguard_streams.workers.inference.interface import InferenceError

CONNECT_TIMEOUT = 5.0  # seconds for a server to accept a connection
KEEP_ALIVE = 4.0  # seconds that an idle connection is kept, less than the 5 after which vLLM's server closes it
MAX_RETRY_AFTER = 60.0  # seconds; a server that asks for more is asked earlier
MAX_RESPONSE = 64 * 2**20  # bytes
# 402: the account has no credit, which is no fault of the request.
_OVERLOADED = {402, 408, 425, 429, 503}
_FULL = {429, 503}  # the server has too many requests
_MISSING = {404, 405}
_REFUSED_PARAMETER = {400, 422}
_EXPLAINED = {402: ": the account has no credit", 429: ": too many requests"}
MAX_EXPLANATION = 300  # characters of a server's own words about a refusal


class Unavailable(Exception):
    """The server cannot take requests now.

    retry_after: seconds that it asked to wait. busy: it has too many requests.
    """

    def __init__(self, why: str, *, retry_after: float = 0.0, busy: bool = False) -> None:
        super().__init__(why)
        self.retry_after = retry_after
        self.busy = busy


class Missing(Unavailable):
    """The address does not exist: it is wrong, or a router in front of the server has not found the model yet."""


class RequestFailed(Exception):
    """The server failed this request."""


class TimedOut(RequestFailed):
    """The server did not answer in time."""


class Refused(InferenceError):
    """The server refused this request.

    explanation: the server's own words, which may quote the request; for a request without anybody's content only.
    logprobs: it was refused because it asks for log-probabilities.
    """

    explanation = ""
    logprobs = False


class RefusedByStatus(Refused):
    """The server refused this request with a status."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"the server rejected the request: HTTP {status}")
        self.explanation = body[: 16 * MAX_EXPLANATION].decode("utf-8", "replace")
        unexplained = not body.strip(b" \r\n\t{}")
        self.logprobs = status in _REFUSED_PARAMETER and (unexplained or b"logprob" in body.lower())


def session_for(settings: Settings) -> aiohttp.ClientSession:
    """A session with the API key and the headers of the settings, except those that depend on a request."""
    headers = {"Content-Type": "application/json"}
    if settings.api_key:
        headers["Authorization"] = f"Bearer {settings.api_key.get_secret_value()}"
    # One connection for each request in flight, kept open for the next.
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE)
    return aiohttp.ClientSession(connector=connector, headers=headers, trust_env=True)


def seconds_to_wait(retry_after: str) -> float:
    """What a Retry-After header asks for, in seconds or as a date, at most MAX_RETRY_AFTER; 0 for anything else."""
    if retry_after.isascii() and retry_after.isdecimal():
        return min(MAX_RETRY_AFTER, float(retry_after))
    try:
        until = email.utils.parsedate_to_datetime(retry_after)
        left = (until.replace(tzinfo=until.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    except (ValueError, OverflowError):
        return 0.0
    return max(0.0, min(MAX_RETRY_AFTER, left))


class Transport:
    """Sends requests to one server."""

    def __init__(self, address: Address, http: aiohttp.ClientSession) -> None:
        self._address = address
        self._http = http

    async def send(
        self,
        method: str,
        path: str,
        data: bytes | None = None,
        *,
        timeout: float,
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        """The body of a response with a status of success.

        Raises Unavailable, RequestFailed, Refused, or DependencyError for a key that the server does not accept.
        """
        url = f"{self._address.url}/{path}"
        limits = aiohttp.ClientTimeout(total=timeout, sock_connect=CONNECT_TIMEOUT)
        given = {**(headers or {}), **({"Host": self._address.host} if self._address.host else {})}
        try:
            async with self._http.request(
                method, url, data=data, timeout=limits, headers=given, server_hostname=self._address.tls_name
            ) as response:
                body = await _bounded(response)
                status, retry_after = response.status, response.headers.get("Retry-After", "")
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise Unavailable(_connection_problem(error)) from error
        except TimeoutError as error:
            raise TimedOut("timeout") from error
        except aiohttp.ClientError as error:
            raise RequestFailed("it closed the connection") from error
        if status >= 300:
            raise self._failure(status, body, path, retry_after)
        return body

    def _failure(self, status: int, body: bytes, path: str, retry_after: str) -> Exception:
        if status in _FULL:
            metrics.SERVER_REFUSED.add(1, {**self._address.labels, "http.response.status_code": str(status)})
        if status in _OVERLOADED:
            why = f"HTTP {status}{_EXPLAINED.get(status, '')}"
            return Unavailable(why, retry_after=seconds_to_wait(retry_after), busy=status in _FULL)
        if status in _MISSING:
            return Missing(
                f"{self._address.url}/{path} does not exist (HTTP {status}): give base URLs, as in http://HOST:8000/v1"
            )
        if status in {401, 403}:
            return DependencyError(f"{self._address.url} rejected the API key (HTTP {status}): set SAFEGUARD_API_KEY")
        if status < 500:
            return RefusedByStatus(status, body)
        return RequestFailed(f"HTTP {status}")


def _connection_problem(error: aiohttp.ClientError) -> str:
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "its host name is unknown"
    if isinstance(error, aiohttp.ClientSSLError):
        return "its certificate is not trusted, or it speaks no TLS"
    return "it does not accept connections"


async def _bounded(response: aiohttp.ClientResponse) -> bytes:
    """The body of a response. Raises RequestFailed when it has more than MAX_RESPONSE bytes."""
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MAX_RESPONSE:
            raise RequestFailed("the response is too long")
    return bytes(body)
