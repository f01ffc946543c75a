"""Inference servers: one or several that serve the same model at OpenAI-compatible addresses.

Each request goes to the least loaded healthy server. A server's own failure (unreachable, overloaded) does not count
against the request: it goes to another server, or waits until one is healthy again. A server that is set up wrongly is
away until it is corrected; only when all are does the worker end.

A failure that the request may have caused (an error in the server's code, a closed connection, a timeout) counts as an
attempt, of which a request has ATTEMPTS. It is then sent only to servers that have since answered another request, or a
test request. During an outage no server does; a request that makes servers fail does so at servers that work. While
other requests fail, too, as behind a gateway some of whose engines are broken, a request has OUTAGE_ATTEMPTS.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Sequence
from pathlib import Path

import aiohttp

from safeguard_streams.errors import ConfigurationError, DependencyError, SafeguardError
from safeguard_streams.runtime.server_urls import urls_of
from safeguard_streams.runtime.settings import Settings
from safeguard_streams.workers.inference import discovery, harmony
from safeguard_streams.workers.inference.dialects import dialect_of
from safeguard_streams.workers.inference.dialects.interface import Dialect
from safeguard_streams.workers.inference.discovery import Address, Discovery, Resolve
from safeguard_streams.workers.inference.interface import Completion, InferenceError, InferenceRequest
from safeguard_streams.workers.inference.limit import MOST
from safeguard_streams.workers.inference.places import Places
from safeguard_streams.workers.inference.server import BACKOFF, MAX_BACKOFF, Server
from safeguard_streams.workers.inference.transport import (
    Missing,
    Refused,
    RequestFailed,
    Unavailable,
    session_for,
)

log = logging.getLogger(__name__)

ATTEMPTS, OUTAGE_ATTEMPTS = 5, 20
STARTUP_TIMEOUT = 60.0  # seconds for the first server to answer when the worker starts


class ServersAwayError(ConfigurationError):
    """No server answered in time, and none is known to be set up wrongly."""


class _History:
    """What became of a request so far. first_failed_at, failed_at: when its first and its last attempt failed."""

    def __init__(self) -> None:
        self.tried: Counter[Server] = Counter()
        self.refused: set[Server] = set()
        self.failures = 0
        self.first_failed_at = self.failed_at = 0.0


class ServerBackend:
    """Start with `await ServerBackend.start(settings)`."""

    cache_tokens = None

    def __init__(self, settings: Settings, http: aiohttp.ClientSession, found: Discovery) -> None:
        self.concurrency = settings.max_in_flight or MOST
        self._settings = settings
        self._http = http
        self._discovery = found
        self._required_model: str | None = None
        self._max_model_tokens = settings.max_model_len
        self._places = Places((), settings.background_share)
        self._failing: deque[_History] = deque(maxlen=100)  # requests whose attempts failed last
        self._watches: dict[Server, asyncio.Task[None]] = {}
        self._running: asyncio.Task[None] | None = None

    @classmethod
    async def start(cls, settings: Settings, resolve: Resolve = discovery.resolve_by_system) -> ServerBackend:
        """Wait for the first server that answers a test request.

        Raises ConfigurationError or DependencyError with what to do; ServersAwayError if none answers in time.
        """
        harmony.check_vocabulary()
        found = Discovery(urls_of(settings.servers), resolve)
        backend = cls(settings, session_for(settings), found)
        try:
            await backend._wait_for_first()
        except BaseException:
            await backend.close()
            raise
        for server in backend._servers:
            backend._watches[server] = asyncio.create_task(server.watch())
        backend._running = asyncio.create_task(backend._run())
        await asyncio.sleep(0)  # it has begun, and closes the connections however it ends
        return backend

    @property
    def _servers(self) -> list[Server]:
        return self._places.servers

    @property
    def model(self) -> str:
        """The name that the servers use; for a path, its last part."""
        name = self._required_model or ""
        return Path(name).name if name.startswith(("/", ".")) else name

    @property
    def revision(self) -> str | None:
        """What the healthy servers tell about their weights; None where they differ."""
        told = {server.revision for server in self._servers if server.healthy}
        return told.pop() if len(told) == 1 else None

    @property
    def dialect(self) -> Dialect | None:
        """What the model speaks; None for gpt-oss."""
        return dialect_of(self.model, self._settings.dialect)

    @property
    def max_model_tokens(self) -> int:
        self._max_model_tokens = min((one.max_model_tokens for one in self._servers), default=self._max_model_tokens)
        return self._max_model_tokens

    @property
    def healthy(self) -> bool:
        return any(server.healthy for server in self._servers)

    @property
    def continues(self) -> bool:
        """Whether every server that answered goes on from written tokens: any of them may get the request."""
        return all(server.route.continues for server in self._servers if server.route)

    async def generate(self, request: InferenceRequest) -> Completion:
        """Run a request. Waits while no server is healthy.

        Raises InferenceError after too many failures, or when every healthy server refuses it, and DependencyError when
        every server's setup rejects all requests.
        """
        history = _History()
        while True:
            request.progress.waiting = True
            server = await self._places.take(request.rank, history.tried, request.near)
            request.progress.waiting = False
            history.tried[server] += 1
            started = time.monotonic()
            try:
                if not history.failures or await server.works(history.failed_at):
                    return await server.generate(request)
            except (Unavailable, RequestFailed, Refused, DependencyError) as problem:
                failed: Exception = problem
            else:
                continue
            finally:
                self._places.give_back(server, request.rank)
            if not await self._works_after(failed, server, history):
                request.progress.lost += time.monotonic() - started

    async def _works_after(self, failed: Exception, server: Server, history: _History) -> bool:
        """Note a failure. Returns whether the server works, as far as the failure tells.

        Raises the failure, or InferenceError, when the request has no further attempt.
        """
        if isinstance(failed, Refused):
            history.refused.add(server)
            if all(one in history.refused for one in self._servers if one.healthy):
                raise failed
        elif isinstance(failed, DependencyError):
            server.mark_rejected(failed)
            if all(one.rejected for one in self._servers or (server,)):
                raise failed
        elif isinstance(failed, Unavailable) and not isinstance(failed, Missing):
            server.mark_unavailable(failed)
        else:
            return await self._works_after_attempt(failed, server, history)
        return True

    async def _works_after_attempt(self, failed: Exception, server: Server, history: _History) -> bool:
        history.failures += 1
        history.failed_at = time.monotonic()
        history.first_failed_at = history.first_failed_at or history.failed_at
        self._failing.append(history)
        works = await server.works(history.failed_at)
        if history.failures >= (OUTAGE_ATTEMPTS if self._others_fail(history) else ATTEMPTS):
            raise InferenceError(f"{history.failures} attempts failed, the last one with: {failed}") from failed
        if works:
            await asyncio.sleep(min(MAX_BACKOFF, BACKOFF * 2 ** (history.failures - 1)))
        return works

    def _others_fail(self, history: _History) -> bool:
        """Whether other requests have failed since this one did first, which tells that it is not the cause."""
        return any(one is not history and one.failed_at >= history.first_failed_at for one in self._failing)

    async def close(self) -> None:
        if self._running is None:
            await self._http.close()
            return
        self._running.cancel()
        await asyncio.wait({self._running})

    # ------------------------------------------------------------------ which servers there are

    async def _wait_for_first(self) -> None:
        """Wait until one server is healthy; the others may come later.

        Raises the error of a server when all are set up wrongly, ServersAwayError when none is healthy within
        STARTUP_TIMEOUT, and ConfigurationError when they serve different models.
        """
        urls = ", ".join(urls_of(self._settings.servers))
        start, logged = time.monotonic(), False
        while True:
            await self._discovery.refresh()
            self._follow_addresses()
            problems = await _ping(self._servers)
            if self.healthy:
                self._agree_on_model(urls)
                for problem in problems:
                    log.warning("inference server is away: %s", problem)
                return
            late = time.monotonic() - start > STARTUP_TIMEOUT
            if problems and (late or len(problems) == len(self._servers)):
                raise problems[0]
            if late:
                reasons = ", ".join(dict.fromkeys(server.away for server in self._servers)) or "its name has no address"
                raise ServersAwayError(
                    f"no inference server answers at {urls} ({reasons}): start one, or correct SAFEGUARD_SERVERS"
                )
            if not logged:
                log.info("waiting for inference servers urls=%s", urls)
                logged = True
            await asyncio.sleep(BACKOFF)

    def _agree_on_model(self, urls: str) -> None:
        """Require the model of the healthy servers from those that come later, too."""
        models = sorted({server.model for server in self._servers if server.healthy})
        if len(models) > 1:
            raise ConfigurationError(
                f"{urls} serve different models, {' and '.join(models)}: set SAFEGUARD_MODEL to one"
            )
        self._required_model = models[0]
        for server in self._servers:
            server.required_model = models[0]

    async def _run(self) -> None:
        """Follow the names in the settings until closed, or until the event loop ends and cancels this."""
        try:
            with self._places.observed():
                while self._discovery.dynamic:
                    await asyncio.sleep(discovery.INTERVAL)
                    await self._discovery.refresh()
                    for server in self._follow_addresses():
                        self._watches[server] = asyncio.create_task(server.watch())
                await asyncio.Event().wait()
        finally:
            for watch in self._watches.values():
                watch.cancel()
            await self._http.close()

    def _follow_addresses(self) -> list[Server]:
        """Add the servers of new addresses, which are returned, and leave those whose address is gone.

        A server that is left finishes the requests that it has.
        """
        addresses = self._discovery.addresses
        known = {server.address: server for server in self._servers}
        added = [self._new_server(address) for address in addresses if address not in known]
        for address, server in known.items():
            if address not in addresses:
                log.info("inference server left url=%s", server.url)
                server.healthy = False
                if watch := self._watches.pop(server, None):
                    watch.cancel()
        for server in added:
            log.info("inference server found url=%s", server.url)
        self._places.servers = [server for server in (*known.values(), *added) if server.address in addresses]
        self._places.grant()  # a request may have waited for one that left
        return added

    def _new_server(self, address: Address) -> Server:
        server = Server(address, self._http, self._settings, self._places.grant)
        if self._required_model is not None:
            server.required_model = self._required_model
        return server


async def _ping(servers: Sequence[Server]) -> list[SafeguardError]:
    """Ping all servers at once. Returns the errors of those that are set up wrongly."""
    problems = []
    results = await asyncio.gather(*(server.ping() for server in servers), return_exceptions=True)
    for server, result in zip(servers, results, strict=True):
        if isinstance(result, SafeguardError):
            problems.append(result)
        elif isinstance(result, BaseException) and not isinstance(result, (Unavailable, RequestFailed)):
            raise result
        server.away = str(result or "")
    return problems
