"""Inference servers elsewhere: one or several with the same model, behind OpenAI-compatible addresses.

Each question goes to the least loaded of the servers that are well. What is a server's fault (unreachable, overloaded)
costs the question nothing: it goes elsewhere, or waits until a server is well again. What may be the question's own
fault (an error in the server's code, no answer in time) is tried ATTEMPTS times, on different servers if there are any.
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
from safeguard_streams.workers.inference.interface import Completion, InferenceError, Question
from safeguard_streams.workers.inference.routes import Chat, Completions, NoTokenIds, Route
from safeguard_streams.workers.judging import prompt

log = logging.getLogger(__name__)

SLOTS = 64  # questions at once for each server
ATTEMPTS = 3
BACKOFF, LONGEST_BACKOFF = 0.5, 10.0  # seconds
PING = 5.0  # seconds that a server may take to accept a connection, or to say which models it has
PATIENCE = 60.0  # seconds in which a first server must answer when the worker starts
_OVERLOADED = {408, 425, 429, 502, 503, 504}
_NO_ANSWER = (KeyError, TypeError, IndexError, AttributeError, ValueError)


class _Away(Exception):
    """The server cannot be asked now. wait: seconds for which it asks to be left alone; begun: it had the question."""

    def __init__(self, why: str, *, wait: float = 0.0, begun: bool = False) -> None:
        super().__init__(why)
        self.wait = wait
        self.begun = begun


class _Failed(Exception):
    """The server failed this question."""


class _Server:
    """One base URL; wanted is the model it must serve, open the number of questions it has, well whether it can be asked."""

    def __init__(self, url: str, http: aiohttp.ClientSession, settings: Settings) -> None:
        self.url = url.rstrip("/")
        self.wanted = settings.model if "model" in settings.model_fields_set else None
        self.model = ""
        self.longest = settings.max_model_len
        self.open = 0
        self.healthy = asyncio.Event()
        self._away = asyncio.Event()
        self._http = http
        self._settings = settings
        self._route: Route | None = None
        self._left_alone_until = 0.0
        self._patience = aiohttp.ClientTimeout(total=PING)
        self._answer = aiohttp.ClientTimeout(total=settings.inference_timeout, sock_connect=PING)

    def mark_unavailable(self, why: _Away) -> None:
        if self.healthy.is_set():
            log.warning("%s is not asked for now: %s", self.url, why)
        self.healthy.clear()
        self._away.set()
        self._left_alone_until = time.monotonic() + why.wait

    async def watch(self) -> None:
        """Ask after it whenever it is away, for ever."""
        while True:
            await self._away.wait()
            pause = BACKOFF
            while not self.healthy.is_set():
                await asyncio.sleep(max(pause, self._left_alone_until - time.monotonic()))
                pause = min(LONGEST_BACKOFF, 2 * pause)
                try:
                    await self.ping()
                    log.info("%s is well", self.url)
                except (_Away, _Failed):
                    continue
                except SafeguardError as error:
                    log.warning("%s", error)

    async def ping(self) -> None:
        """Learn what it serves and how to ask it. Raises _Away, _Failed, or ConfigurationError with what to change."""
        body = await self._send("GET", "models", timeout=self._patience)
        try:
            models = {model["id"]: model for model in orjson.loads(body)["data"]}
        except _NO_ANSWER as error:
            raise ConfigurationError(
                f"{self.url} is no OpenAI-compatible server: /models says something else"
            ) from error
        wanted = self.wanted or (next(iter(models)) if len(models) == 1 else None)
        if wanted not in models:
            raise ConfigurationError(
                f"{self.url} serves {', '.join(sorted(models)) or 'no model'}: set SAFEGUARD_MODEL to what it serves"
            )
        self.model = str(wanted)
        self.longest = min(self._settings.max_model_len, models[wanted].get("max_model_len") or self.longest)
        if self._route is None:
            chat = self._settings.route == "chat" or models[wanted].get("owned_by") != "vllm"
            self._route = Chat() if chat and self._settings.route != "completions" else Completions()
        self._away.clear()
        self.healthy.set()

    async def ask(self, question: Question) -> Completion:
        """Raises _Away, _Failed, InferenceError or DependencyError."""
        assert self._route is not None, "only servers that answered are asked"
        self.open += 1
        try:
            try:
                return await self._ask(self._route, question)
            except InferenceError:
                without = self._route.without_logprobs()
                if without is None:
                    raise
                completion = await self._ask(without, question)  # raises again if it was not the log-probabilities
                log.warning("%s gives no log-probabilities: its verdicts will have no score", self.url)
                self._route = without
                return completion
        finally:
            self.open -= 1

    async def _ask(self, route: Route, question: Question) -> Completion:
        said = orjson.dumps(route.body(self.model, question))
        body = await self._send("POST", route.path, said, timeout=self._answer)
        try:
            return route.read(orjson.loads(body))
        except NoTokenIds as error:
            raise DependencyError(
                f"{self.url} gives no token ids: use vLLM 0.10.2 or newer, or set SAFEGUARD_ROUTE=chat"
            ) from error
        except _NO_ANSWER as error:
            raise _Failed("its answer has not the form of one") from error

    async def _send(
        self, method: str, path: str, data: bytes | None = None, *, timeout: aiohttp.ClientTimeout
    ) -> bytes:
        try:
            async with self._http.request(method, f"{self.url}/{path}", data=data, timeout=timeout) as response:
                body = await response.read()
                status, wait = response.status, response.headers.get("Retry-After", "")
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise _Away("it does not accept connections") from error
        except TimeoutError as error:
            raise _Failed("no answer in time") from error
        except aiohttp.ClientError as error:
            raise _Away("it closed the connection", begun=True) from error
        if status < 300:
            return body
        if status in _OVERLOADED:
            raise _Away(f"HTTP {status}", wait=float(wait) if wait.isdecimal() else 0.0)
        if status in {401, 403}:
            raise DependencyError(f"{self.url} refuses the key (HTTP {status}): set SAFEGUARD_API_KEY")
        if status in {404, 405}:
            raise DependencyError(f"{self.url}/{path} is not there: give base URLs, as in http://HOST:8000/v1")
        if status < 500:
            raise InferenceError(f"the server refuses the question: HTTP {status}")
        raise _Failed(f"HTTP {status}")


class RemoteEngine:
    """Start with `await RemoteEngine.start(settings)`."""

    capacity = None

    def __init__(self, servers: Sequence[_Server], http: aiohttp.ClientSession, slots: int) -> None:
        self.slots = slots
        self._servers = servers
        self._http = http
        for server in servers:
            if not server.healthy.is_set():
                server.mark_unavailable(_Away("it has not answered yet"))
        self._watches = [asyncio.create_task(server.watch()) for server in servers]

    @classmethod
    async def start(cls, settings: Settings) -> RemoteEngine:
        """Wait for a first server, and ask it a first question. Raises ConfigurationError or DependencyError with what to do."""
        prompt.check_vocabulary()
        key = settings.api_key
        http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),  # as many as there are contents in flight; kept open for the next
            headers={
                "Content-Type": "application/json",
                **({"Authorization": f"Bearer {key.get_secret_value()}"} if key else {}),
            },
            trust_env=True,
        )
        servers = [_Server(url.strip(), http, settings) for url in settings.servers.split(",") if url.strip()]
        try:
            await _first_answer(servers)
            engine = cls(servers, http, settings.max_in_flight or SLOTS * len(servers))
        except BaseException:
            await http.close()
            raise
        try:
            await engine.generate(Question("Answer with yes.", "low", prompt.encode("Well?"), most=16))
        except InferenceError as error:
            await engine.close()
            raise ConfigurationError(
                f"{settings.servers}: a first question was not answered ({error}); its log says more. A vLLM server must "
                "have a tokenizer; SAFEGUARD_ROUTE=chat asks in text"
            ) from error
        except BaseException:
            await engine.close()
            raise
        return engine

    @property
    def model(self) -> str:
        """As the servers call it; of a path its last part."""
        name = next(server.model for server in self._servers if server.model)
        return Path(name).name if name.startswith(("/", ".")) else name

    @property
    def longest(self) -> int:
        return min(server.longest for server in self._servers)

    @property
    def healthy(self) -> bool:
        return any(server.healthy.is_set() for server in self._servers)

    async def generate(self, question: Question) -> Completion:
        """Answer a question. Raises InferenceError when it was tried often enough, DependencyError as the servers are set up
        in a way that no question can be answered. While no server is well, it waits."""
        failures = 0
        last: _Server | None = None
        while True:
            server = await self._choose(last)
            try:
                return await server.ask(question)
            except _Away as away:
                server.mark_unavailable(away)
                failures += away.begun
                why: Exception = away
            except _Failed as failed:
                failures += 1
                why = failed
            if failures >= ATTEMPTS:
                raise InferenceError(f"{failures} tries failed, the last because: {why}")
            if server.healthy.is_set():
                await asyncio.sleep(BACKOFF * 2 ** (failures - 1))
            last = server

    async def _choose(self, last: _Server | None) -> _Server:
        """The least loaded of those that are well; the one that failed last only if there is no other."""
        while not (healthy := [server for server in self._servers if server.healthy.is_set()]):
            await run_until_first(*(server.healthy.wait() for server in self._servers))
        return min(healthy, key=lambda server: (server is last, server.open))

    async def close(self) -> None:
        for watch in self._watches:
            watch.cancel()
        await self._http.close()


async def _first_answer(servers: Sequence[_Server]) -> None:
    """Wait until one is well; the others may come later. Raises ConfigurationError when none answers within PATIENCE."""
    urls = ", ".join(server.url for server in servers)
    start, said = time.monotonic(), False
    while True:
        for answer in await asyncio.gather(*(server.ping() for server in servers), return_exceptions=True):
            if isinstance(answer, BaseException) and not isinstance(answer, (_Away, _Failed)):
                raise answer
        served = sorted({server.model for server in servers if server.healthy.is_set()})
        if len(served) > 1:
            raise ConfigurationError(
                f"{urls} serve different models, {' and '.join(served)}: set SAFEGUARD_MODEL to one"
            )
        if served:
            for server in servers:
                server.wanted = served[0]  # those that come later too
            return
        if time.monotonic() - start > PATIENCE:
            raise ConfigurationError(f"no inference server answers at {urls}: start one, or correct SAFEGUARD_SERVERS")
        if not said:
            log.info("waiting for an inference server at %s", urls)
            said = True
        await asyncio.sleep(BACKOFF)
