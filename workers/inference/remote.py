"""Inference servers: one or several that serve the same model at OpenAI-compatible addresses.

Each request goes to the least loaded healthy server. A server's own failure (unreachable, overloaded) does not count
against the request: it goes to another server, or waits until one is healthy again. A failure that the request may
have caused (an error in the server's code, a timeout) counts as an attempt. A request has ATTEMPTS attempts, on
different servers if there are any.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from pathlib import Path

import aiohttp
import orjson

from safeguard_streams.errors import ConfigurationError, DependencyError, SafeguardError
from safeguard_streams.runtime.process import run_until_first
from safeguard_streams.runtime.settings import Settings
from safeguard_streams.workers.inference import harmony
from safeguard_streams.workers.inference.interface import Completion, InferenceError, InferenceRequest
from safeguard_streams.workers.inference.routes import Chat, Completions, NoTokenIds, Route

log = logging.getLogger(__name__)

CONCURRENCY = 64  # requests at once for each server
ATTEMPTS = 3
BACKOFF, MAX_BACKOFF = 0.5, 10.0  # seconds
PING_TIMEOUT = 5.0  # seconds for a server to accept a connection, or to list its models
STARTUP_TIMEOUT = 60.0  # seconds for the first server to answer when the worker starts
_OVERLOADED = {408, 425, 429, 502, 503, 504}
_MALFORMED = (KeyError, TypeError, IndexError, AttributeError, ValueError)


class _Unavailable(Exception):
    """The server cannot take requests now.

    retry_after: seconds that the server asked to wait. started: the server had received the request.
    """

    def __init__(self, why: str, *, retry_after: float = 0.0, started: bool = False) -> None:
        super().__init__(why)
        self.retry_after = retry_after
        self.started = started


class _RequestFailed(Exception):
    """The server failed this request."""


class _Server:
    """One base URL. pending: requests that the server has not answered yet."""

    def __init__(self, url: str, http: aiohttp.ClientSession, settings: Settings) -> None:
        self.url = url.rstrip("/")
        self.required_model = settings.model if "model" in settings.model_fields_set else None
        self.model = ""
        self.max_model_tokens = settings.max_model_len
        self.pending = 0
        self.healthy = asyncio.Event()
        self._unavailable = asyncio.Event()
        self._http = http
        self._settings = settings
        self._route: Route | None = None
        self._retry_at = 0.0
        self._ping_timeout = aiohttp.ClientTimeout(total=PING_TIMEOUT)
        self._request_timeout = aiohttp.ClientTimeout(total=settings.inference_timeout, sock_connect=PING_TIMEOUT)

    def mark_unavailable(self, why: _Unavailable) -> None:
        if self.healthy.is_set():
            log.warning("inference server became unavailable url=%s reason=%s", self.url, why)
        self.healthy.clear()
        self._unavailable.set()
        self._retry_at = time.monotonic() + why.retry_after

    async def watch(self) -> None:
        """Ping the server while it is unavailable. Runs until cancelled."""
        while True:
            await self._unavailable.wait()
            pause = BACKOFF
            while not self.healthy.is_set():
                await asyncio.sleep(max(pause, self._retry_at - time.monotonic()))
                pause = min(MAX_BACKOFF, 2 * pause)
                try:
                    await self.ping()
                    log.info("inference server became healthy url=%s", self.url)
                except (_Unavailable, _RequestFailed):
                    continue
                except SafeguardError as error:
                    log.warning("%s", error)

    async def ping(self) -> None:
        """Learn which model the server has and which route to use.

        Raises _Unavailable, _RequestFailed, or ConfigurationError with what to change.
        """
        body = await self._send("GET", "models", timeout=self._ping_timeout)
        try:
            models = {model["id"]: model for model in orjson.loads(body)["data"]}
        except _MALFORMED as error:
            raise ConfigurationError(
                f"{self.url} is not an OpenAI-compatible server: its /models response is malformed"
            ) from error
        model = self.required_model or (next(iter(models)) if len(models) == 1 else None)
        if model not in models:
            raise ConfigurationError(
                f"{self.url} serves {', '.join(sorted(models)) or 'no model'}: set SAFEGUARD_MODEL to what it serves"
            )
        self.model = str(model)
        limit = models[model].get("max_model_len") or self.max_model_tokens
        self.max_model_tokens = min(self._settings.max_model_len, limit)
        if self._route is None:
            chat = self._settings.route == "chat" or models[model].get("owned_by") != "vllm"
            self._route = Chat() if chat and self._settings.route != "completions" else Completions()
        self._unavailable.clear()
        self.healthy.set()

    async def generate(self, request: InferenceRequest) -> Completion:
        """Raises _Unavailable, _RequestFailed, InferenceError or DependencyError."""
        assert self._route is not None, "only servers that answered a ping get requests"
        self.pending += 1
        try:
            return await self._with_or_without_logprobs(self._route, request)
        finally:
            self.pending -= 1

    async def _with_or_without_logprobs(self, route: Route, request: InferenceRequest) -> Completion:
        try:
            return await self._post(route, request)
        except InferenceError:
            unscored = route.without_logprobs()
            if unscored is None:
                raise
            completion = await self._post(unscored, request)  # raises again if log-probabilities were not the cause
            log.warning("inference server rejected log-probabilities, verdicts will have no score url=%s", self.url)
            self._route = unscored
            return completion

    async def _post(self, route: Route, request: InferenceRequest) -> Completion:
        data = orjson.dumps(route.body(self.model, request))
        body = await self._send("POST", route.path, data, timeout=self._request_timeout)
        try:
            return route.read(orjson.loads(body))
        except NoTokenIds as error:
            raise DependencyError(
                f"{self.url} returns no token ids: use vLLM 0.10.2 or newer, or set SAFEGUARD_ROUTE=chat"
            ) from error
        except _MALFORMED as error:
            raise _RequestFailed("the response is malformed") from error

    async def _send(
        self, method: str, path: str, data: bytes | None = None, *, timeout: aiohttp.ClientTimeout
    ) -> bytes:
        try:
            async with self._http.request(method, f"{self.url}/{path}", data=data, timeout=timeout) as response:
                body = await response.read()
                status, retry_after = response.status, response.headers.get("Retry-After", "")
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise _Unavailable("it does not accept connections") from error
        except TimeoutError as error:
            raise _RequestFailed("timeout") from error
        except aiohttp.ClientError as error:
            raise _Unavailable("it closed the connection", started=True) from error
        if status < 300:
            return body
        if status in _OVERLOADED:
            raise _Unavailable(f"HTTP {status}", retry_after=float(retry_after) if retry_after.isdecimal() else 0.0)
        if status in {401, 403}:
            raise DependencyError(f"{self.url} rejected the API key (HTTP {status}): set SAFEGUARD_API_KEY")
        if status in {404, 405}:
            raise DependencyError(f"{self.url}/{path} does not exist: give base URLs, as in http://HOST:8000/v1")
        if status < 500:
            raise InferenceError(f"the server rejected the request: HTTP {status}")
        raise _RequestFailed(f"HTTP {status}")


class ServerBackend:
    """Start with `await ServerBackend.start(settings)`."""

    cache_tokens = None

    def __init__(self, servers: Sequence[_Server], http: aiohttp.ClientSession, concurrency: int) -> None:
        self.concurrency = concurrency
        self._servers = servers
        self._http = http
        for server in servers:
            if not server.healthy.is_set():
                server.mark_unavailable(_Unavailable("it has not answered yet"))
        self._watches = [asyncio.create_task(server.watch()) for server in servers]

    @classmethod
    async def start(cls, settings: Settings) -> ServerBackend:
        """Wait for the first server and send it a test request.

        Raises ConfigurationError or DependencyError with what to do.
        """
        harmony.check_vocabulary()
        http = _http_session(settings)
        servers = [_Server(url.strip(), http, settings) for url in settings.servers.split(",") if url.strip()]
        try:
            await _wait_for_first(servers)
            backend = cls(servers, http, settings.max_in_flight or CONCURRENCY * len(servers))
        except BaseException:
            await http.close()
            raise
        try:
            await backend.generate(
                InferenceRequest("Answer with yes.", "low", harmony.encode_text("Well?"), max_tokens=16)
            )
        except InferenceError as error:
            await backend.close()
            raise ConfigurationError(
                f"{settings.servers}: the test request failed ({error}); see the server's log. A vLLM server must "
                "have a tokenizer; SAFEGUARD_ROUTE=chat sends text"
            ) from error
        except BaseException:
            await backend.close()
            raise
        return backend

    @property
    def model(self) -> str:
        """The name that the servers use; for a path, its last part."""
        name = next(server.model for server in self._servers if server.model)
        return Path(name).name if name.startswith(("/", ".")) else name

    @property
    def max_model_tokens(self) -> int:
        return min(server.max_model_tokens for server in self._servers)

    @property
    def healthy(self) -> bool:
        return any(server.healthy.is_set() for server in self._servers)

    async def generate(self, request: InferenceRequest) -> Completion:
        """Run a request. Waits while no server is healthy.

        Raises InferenceError after ATTEMPTS failures, and DependencyError when a server's setup rejects every request.
        """
        failures = 0
        last: _Server | None = None
        while True:
            server = await self._choose(last)
            try:
                return await server.generate(request)
            except _Unavailable as unavailable:
                server.mark_unavailable(unavailable)
                failures += unavailable.started
                why: Exception = unavailable
            except _RequestFailed as failed:
                failures += 1
                why = failed
            if failures >= ATTEMPTS:
                raise InferenceError(f"{failures} attempts failed, the last one with: {why}")
            if server.healthy.is_set():
                await asyncio.sleep(BACKOFF * 2 ** (failures - 1))
            last = server

    async def _choose(self, last: _Server | None) -> _Server:
        """The least loaded healthy server. The server that failed last is chosen only if it is the only one."""
        while not (healthy := [server for server in self._servers if server.healthy.is_set()]):
            await run_until_first(*(server.healthy.wait() for server in self._servers))
        return min(healthy, key=lambda server: (server is last, server.pending))

    async def close(self) -> None:
        for watch in self._watches:
            watch.cancel()
        await self._http.close()


def _http_session(settings: Settings) -> aiohttp.ClientSession:
    headers = {"Content-Type": "application/json"}
    if settings.api_key:
        headers["Authorization"] = f"Bearer {settings.api_key.get_secret_value()}"
    # One connection for each request in flight, kept open for the next.
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), headers=headers, trust_env=True)


async def _wait_for_first(servers: Sequence[_Server]) -> None:
    """Wait until one server is healthy; the others may come later.

    Raises ConfigurationError when none answers within STARTUP_TIMEOUT, or when they serve different models.
    """
    urls = ", ".join(server.url for server in servers)
    start, logged = time.monotonic(), False
    while True:
        for result in await asyncio.gather(*(server.ping() for server in servers), return_exceptions=True):
            if isinstance(result, BaseException) and not isinstance(result, (_Unavailable, _RequestFailed)):
                raise result
        models = sorted({server.model for server in servers if server.healthy.is_set()})
        if len(models) > 1:
            raise ConfigurationError(
                f"{urls} serve different models, {' and '.join(models)}: set SAFEGUARD_MODEL to one"
            )
        if models:
            for server in servers:
                server.required_model = models[0]  # for servers that come later, too
            return
        if time.monotonic() - start > STARTUP_TIMEOUT:
            raise ConfigurationError(f"no inference server answers at {urls}: start one, or correct SAFEGUARD_SERVERS")
        if not logged:
            log.info("waiting for inference servers urls=%s", urls)
            logged = True
        await asyncio.sleep(BACKOFF)
