"""One inference server: the model that it has, the route to it, whether it works, and requests to it.

A server is healthy from when it answers a test request. A server that cannot take requests is away: it is sent test
requests, further and further apart, until it answers one.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import time
from collections.abc import Callable
from typing import Any

import aiohttp
import msgspec
import orjson

from safeguard_streams.errors import ConfigurationError, DependencyError, SafeguardError
from safeguard_streams.runtime.settings import Settings
from safeguard_streams.workers.inference import harmony, revision
from safeguard_streams.workers.inference.dialects import dialect_of
from safeguard_streams.workers.inference.dialects.interface import Dialect
from safeguard_streams.workers.inference.discovery import Address
from safeguard_streams.workers.inference.interface import Completion, InferenceRequest
from safeguard_streams.workers.inference.labels import Labels
from safeguard_streams.workers.inference.limit import Limit
from safeguard_streams.workers.inference.routes import MALFORMED, Chat, Completions, NoTokenIds, Route
from safeguard_streams.workers.inference.transport import (
    Missing,
    Refused,
    RequestFailed,
    TimedOut,
    Transport,
    Unavailable,
)

log = logging.getLogger(__name__)

BACKOFF, MAX_BACKOFF = 0.5, 10.0  # seconds
MODELS_TIMEOUT = 5.0  # seconds for a server to list its models
TEST_TIMEOUT = 30.0  # seconds for the answer to a test request
SCORES_PAUSE = 600.0  # seconds until a server that refused log-probabilities is asked for them again
MODELS_SHOWN = 10  # in a message
RANK = "{rank}"  # in a header of the settings, stands for the request's rank
# How servers name themselves that are known to keep content apart from markup on the chat route: Ollama, LM Studio,
# llama.cpp, SGLang.
_KNOWN_BY_CHAT = {"library", "organization_owner", "llamacpp", "sglang"}
_VLLM = "vllm"


class Cut(Refused):
    """The server cut the prompt: its answer is about other content."""


@functools.cache
def test_request() -> InferenceRequest:
    """A request without anybody's content."""
    return InferenceRequest("Answer with yes.", "low", harmony.encode_text("Well?"), max_tokens=16, scored=True)


class Server:
    """One base URL. on_change: called after a change of `healthy`.

    pending: places that are taken. away: why it is not healthy. answered_at: when it last answered a request.
    """

    def __init__(
        self,
        address: Address,
        http: aiohttp.ClientSession,
        settings: Settings,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.address = address
        self.url = address.url
        self.required_model = settings.model if "model" in settings.model_fields_set else None
        self.model = ""
        self.revision: str | None = None
        self.max_model_tokens = settings.max_model_len
        self.reports_context = False
        self.route: Route | None = None
        self.limit = Limit(settings.max_in_flight)
        self.pending = 0
        self.healthy = False
        self.away = "it has not answered yet"
        self.rejected: DependencyError | None = None
        self.answered_at = -math.inf
        self._settings = settings
        self._test_timeout = min(TEST_TIMEOUT, settings.inference_timeout)
        self._transport = Transport(address, http)
        self._on_change = on_change
        self._unavailable = asyncio.Event()
        self._unavailable.set()
        self._failures = 0  # in a row
        self._retry_at = 0.0
        self._scores_at = 0.0
        self._owner: object = None
        self._left_out: int | None = None  # tokens of a prompt that the server's own template leaves out
        self._verifying = asyncio.Lock()

    @property
    def dialect(self) -> Dialect | None:
        """What its model speaks; None for gpt-oss."""
        return dialect_of(self.model, self._settings.dialect)

    @property
    def has_place(self) -> bool:
        return self.healthy and self.pending < self.limit.value

    # ------------------------------------------------------------------ health

    def mark_unavailable(self, why: Exception) -> None:
        now = time.monotonic()
        if isinstance(why, Unavailable):
            self._retry_at = max(self._retry_at, now + why.retry_after)
            if why.busy:
                self.limit.refused()
        if self.healthy:
            log.warning("inference server became unavailable url=%s reason=%s", self.url, why)
        elif now < self._retry_at:
            return  # of several requests that fail at once, one counts
        self.healthy, self.away = False, str(why)
        self._unavailable.set()
        pause = min(MAX_BACKOFF, BACKOFF * 2 ** min(self._failures, 10))
        self._failures += 1
        self._retry_at = max(self._retry_at, now + pause)
        self._on_change()

    def mark_rejected(self, why: DependencyError) -> None:
        """The server's setup rejects every request; it stays away until it answers one."""
        self.mark_unavailable(why)
        self.rejected = why

    async def watch(self) -> None:
        """Ping the server while it is away. Runs until cancelled."""
        while True:
            await self._unavailable.wait()
            problem = ""
            while not self.healthy:
                await asyncio.sleep(self._retry_at - time.monotonic())
                try:
                    await self.ping()
                    log.info("inference server became healthy url=%s", self.url)
                except (Unavailable, RequestFailed) as error:
                    self.mark_unavailable(error)
                except SafeguardError as error:
                    self.mark_unavailable(error)
                    if str(error) != problem:
                        log.warning("%s", error)
                    problem = str(error)

    async def ping(self) -> None:
        """Learn which model the server has, and send it a test request, which also finds the route.

        Raises Unavailable, RequestFailed, or ConfigurationError with what to change.
        """
        await self.learn()
        await self._test()
        self._unavailable.clear()
        self.healthy, self.away, self.rejected, self._failures = True, "", None, 0
        self._on_change()

    async def works(self, since: float) -> bool:
        """Whether it has answered a request since then, or answers a test request now. Several callers share one."""
        async with self._verifying:
            if self.answered_at > since:
                return True
            if not self.healthy:
                return False
            try:
                await self._test()
            except (Unavailable, RequestFailed, SafeguardError) as error:
                self.mark_unavailable(error)
                return False
            return True

    async def learn(self) -> None:
        """Learn which model the server has. Raises as `ping` does."""
        body = await self._transport.send("GET", "models", timeout=MODELS_TIMEOUT)
        try:
            models: dict[str, dict[str, Any]] = {model["id"]: dict(model) for model in orjson.loads(body)["data"]}
            names = sorted(models, key=_nearest)  # raises for one that is no text
        except MALFORMED as error:
            raise ConfigurationError(
                f"{self.url} is not an OpenAI-compatible server: its /models response is malformed"
            ) from error
        if not models:
            raise Unavailable("it serves no model yet")
        model = self.required_model or (next(iter(models)) if len(models) == 1 else None)
        if model not in models:
            raise ConfigurationError(
                f"{self.url} serves {', '.join(names[:MODELS_SHOWN])}: set SAFEGUARD_MODEL to what it serves"
            )
        self.model, self._owner = model, models[model].get("owned_by")
        self.revision = revision.of_listing(models[model])
        limit = models[model].get("max_model_len")
        if type(limit) is int and limit > 0:
            self.max_model_tokens = min(self._settings.max_model_len, limit)
            self.reports_context = True

    async def _test(self) -> None:
        """Send a test request. Raises Unavailable, RequestFailed, or ConfigurationError."""
        route = self.route
        try:
            if route is None:
                self.route = await self._working_route()
            else:
                await self._ask(route, _test_request(route), self._test_timeout)
        except Refused as refused:
            raise ConfigurationError(
                f"{self.url}: the test request failed ({refused}); see the server's log. A vLLM server must have a "
                "tokenizer; SAFEGUARD_ROUTE=chat sends text"
            ) from refused

    async def _working_route(self) -> Route:
        """The route of the model's dialect or in the settings, or that which works.

        The last is token ids, or chat where the server keeps content apart.
        """
        if self.dialect is not None:
            return await self._labels(self.dialect)
        if self._settings.route is not None:
            route: Route = Chat() if self._settings.route == "chat" else Completions()
            await self._ask(route, test_request(), self._test_timeout)
            return route
        try:
            await self._ask(Completions(), test_request(), self._test_timeout)
        except TimedOut:
            raise
        except (Missing, Refused, RequestFailed, DependencyError) as without_ids:
            if self._owner == _VLLM or (isinstance(without_ids, RequestFailed) and self._owner not in _KNOWN_BY_CHAT):
                raise
            if self._owner not in _KNOWN_BY_CHAT:
                raise ConfigurationError(
                    f"{self.url} takes no prompts as token ids, and is no kind of server that is known to keep content "
                    "apart from the prompt's markup: set SAFEGUARD_ROUTE=chat to use it"
                ) from without_ids
            await self._ask(Chat(), test_request(), self._test_timeout)
            return Chat()
        return Completions()

    async def _labels(self, dialect: Dialect) -> Route:
        route = Labels(dialect)
        completion = await self._ask(route, route.test_request, self._test_timeout)
        if problem := route.problem(completion):
            raise ConfigurationError(
                f"{self.url}: {self.model} cannot judge ({problem}): correct SAFEGUARD_DIALECT, or use a server such "
                "as vLLM"
            )
        return route

    async def find_route(self) -> None:
        """Find the route by a test request. If all fail, take the one that the server's name suggests.

        Raises ConfigurationError or DependencyError as `ping` does.
        """
        if self._settings.route is not None:
            self.route = Chat() if self._settings.route == "chat" else Completions()
            return
        try:
            self.route = await self._working_route()
        except (Unavailable, RequestFailed, Refused):
            self.route = Chat() if self._owner in _KNOWN_BY_CHAT else Completions()

    # ------------------------------------------------------------------ requests

    async def generate(self, request: InferenceRequest) -> Completion:
        """Raises Unavailable, RequestFailed, InferenceError or DependencyError."""
        assert self.route is not None, "only servers that answered a ping get requests"
        full = self.pending >= self.limit.value
        try:
            completion = await self._ask(self.route, request, self._settings.inference_timeout)
        except TimedOut:
            self.limit.refused()
            raise
        self.rejected, self._failures = None, 0
        self.limit.answered(len(completion.tokens), time.monotonic(), full=full)
        return msgspec.structs.replace(completion, source=self.url)

    async def _ask(self, route: Route, request: InferenceRequest, timeout: float) -> Completion:
        """Ask with log-probabilities, unless the server refused them within the last SCORES_PAUSE seconds."""
        unscored = route.without_logprobs()
        if unscored is not None and time.monotonic() < self._scores_at:
            return await self._post(unscored, request, timeout)
        try:
            return await self._post(route, request, timeout)
        except Refused as refused:
            if unscored is None or not refused.logprobs:
                raise
            completion = await self._post(unscored, request, timeout)  # raises again if there was another cause
            log.warning("inference server rejected log-probabilities, verdicts will have no score url=%s", self.url)
            self._scores_at = time.monotonic() + SCORES_PAUSE
            return completion

    async def _post(self, route: Route, request: InferenceRequest, timeout: float) -> Completion:
        data = orjson.dumps(route.body(self.model, request))
        headers = {
            name: value.get_secret_value().replace(RANK, str(request.rank))
            for name, value in self._settings.server_headers.items()
        }
        body = await self._transport.send("POST", route.path, data, timeout=timeout, headers=headers)
        try:
            completion = route.read(orjson.loads(body))
        except NoTokenIds as error:
            raise DependencyError(
                f"{self.url} returns no token ids: use vLLM 0.10.2 or newer, or set SAFEGUARD_ROUTE=chat"
            ) from error
        except MALFORMED as error:
            raise RequestFailed("the response is malformed") from error
        self._require_whole(route, request, completion.prompt_tokens)
        self.answered_at = time.monotonic()
        return completion

    def _require_whole(self, route: Route, request: InferenceRequest, read: int) -> None:
        """Raises Cut when the server read fewer tokens of the prompt than it was sent."""
        if not read:
            return  # it reports none
        sent = len(request.prompt)
        if isinstance(route, Labels):
            if request is route.test_request:
                self._left_out = sent - read
        elif request is test_request() and "gpt-oss" in self.model.lower():
            self._left_out = max(0, sent - read)  # both count with the same vocabulary
        if read < route.least_read(sent, self._left_out):
            raise Cut(f"the server read {read} of {sent} tokens of the prompt; raise its context length")


def _test_request(route: Route) -> InferenceRequest:
    return route.test_request if isinstance(route, Labels) else test_request()


def _nearest(model: str) -> tuple[bool, bool, str]:
    """Sorts the names of models by how near they are to gpt-oss-safeguard."""
    return "gpt-oss-safeguard" not in model, "gpt-oss" not in model, model
