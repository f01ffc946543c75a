"""Single requests to the model: within a content item's allowance, with spans and metrics."""

from __future__ import annotations

import asyncio
import time

import msgspec

from safeguard_streams.bus import tracing
from safeguard_streams.runtime import metrics
from safeguard_streams.workers.inference.interface import (
    Completion,
    InferenceBackend,
    InferenceError,
    InferenceRequest,
)

PROVIDER = "self-hosted"
TICK = 1.0  # seconds between two looks at the backend's health and the clock while a request is in progress
OVER_TIME = "judging took longer than allowed"
OVER_TOKENS = "the model wrote more than allowed"


class UnansweredError(Exception):
    """A request has no completion; the message says why, for the verdict."""


class _OverTimeError(Exception):
    """The requests for one content item took longer than allowed."""


class Allowance(msgspec.Struct):
    """What is left to one content item: seconds with requests in progress, and tokens for the model to write."""

    seconds: float
    tokens: int
    counted: float = 0.0  # up to this time of the clock, so that requests at once count once

    @property
    def problem(self) -> str:
        """Why no further request may be made; empty while something is left."""
        if self.seconds <= 0:
            return OVER_TIME
        return OVER_TOKENS if self.tokens <= 0 else ""

    def spend_time(self, start: float, end: float, *, counts: bool) -> None:
        """Take the time from `start` to `end`, as far as no other request has."""
        if counts:
            self.seconds -= max(0.0, end - max(start, self.counted))
        self.counted = max(self.counted, end)

    def grant(self, wanted: int) -> int:
        """Take tokens for one request, at most what is left."""
        granted = min(wanted, self.tokens)
        self.tokens -= granted
        return granted


async def ask(backend: InferenceBackend, request: InferenceRequest, allowance: Allowance) -> Completion:
    """Run a request within the allowance. Raises UnansweredError."""
    granted = allowance.grant(max(0, request.max_tokens))
    if not granted:
        raise UnansweredError(OVER_TOKENS)
    try:
        completion = await _in_time(backend, msgspec.structs.replace(request, max_tokens=granted), allowance)
    except InferenceError:
        allowance.tokens += granted
        raise UnansweredError("the model could not be asked") from None
    except _OverTimeError:
        raise UnansweredError(OVER_TIME) from None
    allowance.tokens += granted - min(granted, len(completion.tokens))
    return completion


async def ask_for_score(backend: InferenceBackend, request: InferenceRequest, allowance: Allowance) -> Completion:
    """Run a request for one token, which the allowance always has.

    Where it fails, the completion is empty: the answer that it belongs to stands without a score.
    """
    try:
        return await _in_time(backend, request, allowance)
    except (InferenceError, _OverTimeError):
        return Completion((), 0, 0)


async def _in_time(backend: InferenceBackend, request: InferenceRequest, allowance: Allowance) -> Completion:
    """Run the request, and end it when the content item's time is over.

    Time in which the backend is not healthy does not count: an outage is no fault of the content. Nor does time in
    which the request waits for a server, or was at one that turned out not to work, or in which this process stood
    still: a look that comes late finds answers that are there and not yet read.
    """
    generating = asyncio.create_task(_generate(backend, request))
    try:
        while not generating.done():
            if allowance.seconds <= 0:
                raise _OverTimeError
            started, until = time.perf_counter(), min(TICK, allowance.seconds)
            await asyncio.wait((generating,), timeout=until)
            counts = backend.healthy and not request.progress.waiting
            allowance.spend_time(started, min(time.perf_counter(), started + 2 * until), counts=counts)
            allowance.seconds, request.progress.lost = allowance.seconds + request.progress.lost, 0.0
        return generating.result()
    finally:
        generating.cancel()
        await asyncio.gather(generating, return_exceptions=True)


async def _generate(backend: InferenceBackend, request: InferenceRequest) -> Completion:
    """Run the request, with a span in the content item's trace and the metrics of generative AI."""
    operation = "text_completion" if request.written else "chat"
    attributes = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.request.model": backend.model,
    }
    started, failure = time.perf_counter(), {}
    try:
        with tracing.asking(f"{operation} {backend.model}", attributes) as span:
            completion = await backend.generate(request)
            span.set_attributes(
                {
                    "gen_ai.request.max_tokens": request.max_tokens,
                    "gen_ai.request.temperature": request.temperature,
                    "gen_ai.usage.input_tokens": completion.prompt_tokens,
                    "gen_ai.usage.output_tokens": len(completion.tokens),
                    "safeguard.usage.cached_tokens": completion.cached_tokens,
                    "safeguard.reasoning_effort": request.effort,
                }
            )
    except Exception as error:
        failure = {"error.type": type(error).__name__}
        raise
    finally:
        metrics.ASKED.record(time.perf_counter() - started, {**attributes, **failure})
    metrics.TOKEN_USAGE.record(completion.prompt_tokens, {**attributes, "gen_ai.token.type": "input"})
    metrics.TOKEN_USAGE.record(len(completion.tokens), {**attributes, "gen_ai.token.type": "output"})
    metrics.CACHED_TOKENS.add(completion.cached_tokens, {"gen_ai.request.model": backend.model})
    return completion
