"""Inference servers: one or several that serve the same model at OpenAI-compatible addresses.

Each request goes to the least loaded healthy server. A server's own failure (unreachable, overloaded) does not count
against the request: it goes to another server, or waits until one is healthy again. A server that is set up wrongly is
away until it is corrected; only when all are does the worker end. A failure that the request may have caused (an error
in the server's code, a timeout) counts as an attempt. A request has ATTEMPTS attempts, on different servers if there
are any.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import aiohttp
import msgspec
import orjson

from safeguard_streams.errors import ConfigurationError, DependencyError, SafeguardError
from safeguard_streams.runtime.process import run_until_first
from safeguard_streams.runtime.settings import Settings
from safeguard_streams.workers.inference import harmony
from safeguard_streams.workers.inference.interface import Completion, InferenceError, InferenceRequest
from safeguard_streams.workers.inference.routes import MALFORMED, Chat, Completions, NoTokenIds, Route

log = logging.getLogger(__name__)

CONCURRENCY = 64  # requests at once for each server
ATTEMPTS = 3
BACKOFF, MAX_BACKOFF = 0.5, 10.0  # seconds
PING_TIMEOUT = 5.0  # seconds for a server to accept a connection, or to list its models
STARTUP_TIMEOUT = 60.0  # seconds for the first server to answer when the worker starts
MAX_RETRY_AFTER = 60.0  # seconds; a server that asks for more is pinged earlier
MAX_RESPONSE = 64 * 2**20  # bytes
SCORES_PAUSE = 600.0  # seconds until a server that refused log-probabilities is asked for them again
# 402: the account has no credit, which is no fault of the request.
_OVERLOADED = {402, 408, 425, 429, 502, 503, 504}
_REFUSED_PARAMETER = {400, 422}
# How servers that are known to work name themselves: vLLM, and by the chat route Ollama, LM Studio, llama.cpp, SGLang.
MODELS_SHOWN = 10  # in a message
_VLLM, _KNOWN = "vllm", {"vllm", "library", "organization_owner", "llamacpp", "sglang"}


_EXPLAINED = {402: ": the account has no credit", 429: ": too many requests"}
MAX_EXPLANATION = 300  # characters of a server's own words about a refusal


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


class _Refused(InferenceError):
    """The server refused this request. logprobs: because it asks for log-probabilities.

    explanation: the server's own words, which may quote the request; for a request without anybody's content only.
    """

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"the server rejected the request: HTTP {status}")
        self.explanation = body[: 16 * MAX_EXPLANATION].decode("utf-8", "replace")
        unexplained = not body.strip(b" \r\n\t{}")
        self.logprobs = status in _REFUSED_PARAMETER and (unexplained or b"logprob" in body.lower())


class _Server:
    """One base URL. pending: requests that the server has not answered yet."""

    def __init__(self, url: str, http: aiohttp.ClientSession, settings: Settings) -> None:
        self.url = url.rstrip("/")
        self.required_model = settings.model if "model" in settings.model_fields_set else None
        self.model = ""
        self.max_model_tokens = settings.max_model_len
        self.reports_context = False
        self.away = ""  # why the last ping failed
        self.pending = 0
        self.healthy = asyncio.Event()
        self.rejected: DependencyError | None = None
        self._failures = 0  # in a row
        self._unavailable = asyncio.Event()
        self._http = http
        self._settings = settings
        self.route: Route | None = None
        self._scores_at = 0.0
        self._retry_at = 0.0
        self._ping_timeout = aiohttp.ClientTimeout(total=PING_TIMEOUT)
        self._request_timeout = aiohttp.ClientTimeout(total=settings.inference_timeout, sock_connect=PING_TIMEOUT)

    def mark_unavailable(self, why: _Unavailable) -> None:
        if self.healthy.is_set():
            log.warning("inference server became unavailable url=%s reason=%s", self.url, why)
        self.healthy.clear()
        self._unavailable.set()
        pause = min(MAX_BACKOFF, BACKOFF * 2 ** min(self._failures, 10))
        self._failures += 1
        self._retry_at = time.monotonic() + max(pause, why.retry_after)

    def mark_rejected(self, why: DependencyError) -> None:
        """The server's setup rejects every request; it stays away until it answers one."""
        self.mark_unavailable(_Unavailable(str(why)))
        self.rejected = why

    async def watch(self) -> None:
        """Ping the server while it is unavailable. Runs until cancelled."""
        while True:
            await self._unavailable.wait()
            pause, problem = BACKOFF, ""
            while not self.healthy.is_set():
                await asyncio.sleep(max(pause, self._retry_at - time.monotonic()))
                pause = min(MAX_BACKOFF, 2 * pause)
                try:
                    await self.ping()
                    log.info("inference server became healthy url=%s", self.url)
                except (_Unavailable, _RequestFailed):
                    continue
                except SafeguardError as error:
                    if str(error) != problem:
                        log.warning("%s", error)
                    problem = str(error)

    async def ping(self) -> None:
        """Learn which model the server has and which route to use.

        Raises _Unavailable, _RequestFailed, or ConfigurationError with what to change.
        """
        body = await self._send("GET", "models", timeout=self._ping_timeout)
        try:
            models = {str(model["id"]): dict(model) for model in orjson.loads(body)["data"]}
        except MALFORMED as error:
            raise ConfigurationError(
                f"{self.url} is not an OpenAI-compatible server: its /models response is malformed"
            ) from error
        model = self.required_model or (next(iter(models)) if len(models) == 1 else None)
        if model not in models:
            raise ConfigurationError(
                f"{self.url} serves {', '.join(sorted(models, key=_nearest)[:MODELS_SHOWN]) or 'no model'}: set "
                "SAFEGUARD_MODEL to what it serves"
            )
        self.route = self.route or self._route_to(models[model].get("owned_by"))
        self.model = model
        limit = models[model].get("max_model_len")
        if type(limit) is int and limit > 0:
            self.max_model_tokens = min(self._settings.max_model_len, limit)
            self.reports_context = True
        self._unavailable.clear()
        self.healthy.set()

    def _route_to(self, owner: object) -> Route:
        """The route in the settings, or that of a server known by how it names itself."""
        if self._settings.route is None and owner not in _KNOWN:
            raise ConfigurationError(
                f"{self.url} is no kind of server that is known to keep content apart from the prompt's markup: set "
                "SAFEGUARD_ROUTE=chat to use it, or SAFEGUARD_ROUTE=completions if it is a vLLM server"
            )
        return Completions() if (self._settings.route or owner) in {"completions", _VLLM} else Chat()

    async def generate(self, request: InferenceRequest) -> Completion:
        """Raises _Unavailable, _RequestFailed, InferenceError or DependencyError."""
        assert self.route is not None, "only servers that answered a ping get requests"
        self.pending += 1
        try:
            completion = await self._with_or_without_logprobs(self.route, request)
        finally:
            self.pending -= 1
        self.rejected, self._failures = None, 0
        return msgspec.structs.replace(completion, source=self.url)

    async def _with_or_without_logprobs(self, route: Route, request: InferenceRequest) -> Completion:
        """Ask with log-probabilities, unless the server refused them within the last SCORES_PAUSE seconds."""
        unscored = route.without_logprobs()
        if unscored is not None and time.monotonic() < self._scores_at:
            return await self._post(unscored, request)
        try:
            return await self._post(route, request)
        except _Refused as refused:
            if unscored is None or not refused.logprobs:
                raise
            completion = await self._post(unscored, request)  # raises again if log-probabilities were not the cause
            log.warning("inference server rejected log-probabilities, verdicts will have no score url=%s", self.url)
            self._scores_at = time.monotonic() + SCORES_PAUSE
            return completion

    async def _post(self, route: Route, request: InferenceRequest) -> Completion:
        data = orjson.dumps(route.body(self.model, request))
        body = await self._send("POST", route.path, data, timeout=self._request_timeout)
        try:
            completion = route.read(orjson.loads(body))
        except NoTokenIds as error:
            raise DependencyError(
                f"{self.url} returns no token ids: use vLLM 0.10.2 or newer, or set SAFEGUARD_ROUTE=chat"
            ) from error
        except MALFORMED as error:
            raise _RequestFailed("the response is malformed") from error
        if 0 < completion.prompt_tokens < route.min_share_read * len(request.prompt):
            raise _RequestFailed(
                f"the server read {completion.prompt_tokens} of {len(request.prompt)} tokens of the prompt; raise its "
                "context length"
            )
        return completion

    async def _send(
        self, method: str, path: str, data: bytes | None = None, *, timeout: aiohttp.ClientTimeout
    ) -> bytes:
        try:
            async with self._http.request(method, f"{self.url}/{path}", data=data, timeout=timeout) as response:
                body = await _bounded(response)
                status, retry_after = response.status, response.headers.get("Retry-After", "")
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise _Unavailable(_connection_problem(error)) from error
        except TimeoutError as error:
            raise _RequestFailed("timeout") from error
        except aiohttp.ClientError as error:
            raise _Unavailable("it closed the connection", started=True) from error
        if status < 300:
            return body
        if status in _OVERLOADED:
            raise _Unavailable(f"HTTP {status}{_EXPLAINED.get(status, '')}", retry_after=_seconds(retry_after))
        if status in {401, 403}:
            raise DependencyError(f"{self.url} rejected the API key (HTTP {status}): set SAFEGUARD_API_KEY")
        if status in {404, 405}:
            raise DependencyError(f"{self.url}/{path} does not exist: give base URLs, as in http://HOST:8000/v1")
        if status < 500:
            raise _Refused(status, body)
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
        servers = [_Server(url, http, settings) for url in urls_of(settings)]
        try:
            await _wait_for_first(servers)
            backend = cls(servers, http, settings.max_in_flight or CONCURRENCY * len(servers))
        except BaseException:
            await http.close()
            raise
        try:
            await backend.generate(
                InferenceRequest("Answer with yes.", "low", harmony.encode_text("Well?"), max_tokens=16, scored=True)
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

    @property
    def continues(self) -> bool:
        """Whether every server that answered goes on from written tokens: any of them may get the request."""
        return all(server.route.continues for server in self._servers if server.route)

    async def generate(self, request: InferenceRequest) -> Completion:
        """Run a request. Waits while no server is healthy.

        Raises InferenceError after ATTEMPTS failures or when every healthy server refuses it, and DependencyError when
        every server's setup rejects all requests.
        """
        failures = 0
        tried: Counter[_Server] = Counter()
        refused: set[_Server] = set()
        while True:
            server = await self._choose(tried, request.near)
            tried[server] += 1
            try:
                return await server.generate(request)
            except _Refused as refusal:
                refused.add(server)
                if all(one in refused for one in self._servers if one.healthy.is_set()):
                    raise InferenceError(str(refusal)) from refusal
                continue
            except DependencyError as rejection:
                server.mark_rejected(rejection)
                if all(one.rejected for one in self._servers):
                    raise
                continue
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

    async def _choose(self, tried: Mapping[_Server, int], near: str = "") -> _Server:
        """Of the healthy servers that this request was sent to least often, the one at `near`, or the least loaded."""
        while not (healthy := [server for server in self._servers if server.healthy.is_set()]):
            await run_until_first(*(server.healthy.wait() for server in self._servers))
        return min(healthy, key=lambda server: (tried.get(server, 0), server.url != near, server.pending))

    async def close(self) -> None:
        for watch in self._watches:
            watch.cancel()
        await self._http.close()


class DirectServer:
    """One server that is asked without retries and without waiting: what fails says why at once.

    context: maximum length of prompt and answer in tokens, as the server reports it, or else None.
    """

    def __init__(self, server: _Server, api_key: str) -> None:
        self._server = server
        self._api_key = api_key
        self.model = server.model
        self.context = server.max_model_tokens if server.reports_context else None

    @property
    def route(self) -> str:
        """The path of the route in use."""
        assert self._server.route is not None, "it answered a ping"
        return self._server.route.path

    async def generate(self, request: InferenceRequest) -> Completion:
        """Run a request that holds nobody's content: a refusal quotes the server's words.

        Raises InferenceError or DependencyError.
        """
        try:
            return await self._server.generate(request)
        except _Refused as refused:
            said = " ".join(refused.explanation.split())
            shown = said.replace(self._api_key, "***") if self._api_key else said
            raise InferenceError(f"{refused}: {shown[:MAX_EXPLANATION]}") from None
        except (_Unavailable, _RequestFailed) as failed:
            raise InferenceError(str(failed)) from failed


@contextlib.asynccontextmanager
async def direct(settings: Settings, url: str) -> AsyncIterator[DirectServer]:
    """Reach one server once. Raises ConfigurationError or DependencyError with what to do."""
    harmony.check_vocabulary()
    async with _http_session(settings) as http:
        server = _Server(url.strip(), http, settings)
        if problems := await _ping([server]):
            raise problems[0]
        if server.away:
            raise ConfigurationError(
                f"no inference server answers at {server.url} ({server.away}): start it, or correct SAFEGUARD_SERVERS"
            )
        yield DirectServer(server, settings.api_key.get_secret_value() if settings.api_key else "")


def urls_of(settings: Settings) -> list[str]:
    """The base URLs of the inference servers."""
    return [url.strip() for url in settings.servers.split(",") if url.strip()]


def _nearest(model: str) -> tuple[bool, bool, str]:
    """Sorts the names of models by how near they are to gpt-oss-safeguard."""
    return "gpt-oss-safeguard" not in model, "gpt-oss" not in model, model


def _connection_problem(error: aiohttp.ClientError) -> str:
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "its host name is unknown"
    if isinstance(error, aiohttp.ClientSSLError):
        return "its certificate is not trusted, or it speaks no TLS"
    return "it does not accept connections"


async def _bounded(response: aiohttp.ClientResponse) -> bytes:
    """The body of a response. Raises _RequestFailed when it has more than MAX_RESPONSE bytes."""
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MAX_RESPONSE:
            raise _RequestFailed("the response is too long")
    return bytes(body)


def _seconds(retry_after: str) -> float:
    """What a Retry-After header asks for, at most MAX_RETRY_AFTER; 0 for a date and for anything else."""
    return min(MAX_RETRY_AFTER, float(retry_after)) if retry_after.isascii() and retry_after.isdecimal() else 0.0


def _http_session(settings: Settings) -> aiohttp.ClientSession:
    headers = {"Content-Type": "application/json"}
    if settings.api_key:
        headers["Authorization"] = f"Bearer {settings.api_key.get_secret_value()}"
    # One connection for each request in flight, kept open for the next.
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), headers=headers, trust_env=True)


async def _wait_for_first(servers: Sequence[_Server]) -> None:
    """Wait until one server is healthy; the others may come later.

    Raises the error of a server when all are set up wrongly, and ConfigurationError when none is healthy within
    STARTUP_TIMEOUT, or when they serve different models.
    """
    urls = ", ".join(server.url for server in servers)
    start, logged = time.monotonic(), False
    while True:
        problems = await _ping(servers)
        if any(server.healthy.is_set() for server in servers):
            _agree_on_model(servers, urls)
            for problem in problems:
                log.warning("inference server is away: %s", problem)
            return
        late = time.monotonic() - start > STARTUP_TIMEOUT
        if problems and (late or len(problems) == len(servers)):
            raise problems[0]
        if late:
            reasons = ", ".join(dict.fromkeys(server.away for server in servers if server.away))
            raise ConfigurationError(
                f"no inference server answers at {urls} ({reasons}): start one, or correct SAFEGUARD_SERVERS"
            )
        if not logged:
            log.info("waiting for inference servers urls=%s", urls)
            logged = True
        await asyncio.sleep(BACKOFF)


async def _ping(servers: Sequence[_Server]) -> list[SafeguardError]:
    """Ping all servers at once. Returns the errors of those that are set up wrongly."""
    problems = []
    results = await asyncio.gather(*(server.ping() for server in servers), return_exceptions=True)
    for server, result in zip(servers, results, strict=True):
        if isinstance(result, SafeguardError):
            problems.append(result)
        elif isinstance(result, (_Unavailable, _RequestFailed)):
            server.away = str(result)
        elif isinstance(result, BaseException):
            raise result
    return problems


def _agree_on_model(servers: Sequence[_Server], urls: str) -> None:
    """Require the model of the healthy servers from those that come later, too."""
    models = sorted({server.model for server in servers if server.healthy.is_set()})
    if len(models) > 1:
        raise ConfigurationError(f"{urls} serve different models, {' and '.join(models)}: set SAFEGUARD_MODEL to one")
    for server in servers:
        server.required_model = models[0]
