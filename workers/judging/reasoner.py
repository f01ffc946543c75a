"""Runs the model on one content item: windows, samples, a retry, and admission by tokens. Knows no records or lanes.

The call chain is judge > _judge_window > _judge_with_retry > _attempt > _admit > _in_time > _generate.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

from safeguard_streams.bus import tracing
from safeguard_streams.bus.admission import PriorityAdmission
from safeguard_streams.contract.records import Attempt, Message, Tokens
from safeguard_streams.policies.vocabulary import Effort
from safeguard_streams.runtime import metrics
from safeguard_streams.workers.inference import harmony
from safeguard_streams.workers.inference.interface import (
    Completion,
    InferenceBackend,
    InferenceError,
    InferenceRequest,
)
from safeguard_streams.workers.judging import prompt
from safeguard_streams.workers.judging.instructions import Instructions
from safeguard_streams.workers.judging.judgement import Finding, Judgement, combine, score_of, undetermined, vote, worst
from safeguard_streams.workers.judging.parse import Malformed, MalformedReason, parse

MAX_WINDOWS = 16  # of one content item; longer content is sampled in this many windows and marked as truncated
MIN_WINDOW_TOKENS = 128  # a policy must leave at least this much room for content and the headings of a context
SAMPLING_TEMPERATURE = 1.0  # where a policy asks for several samples
PROVIDER = "self-hosted"
RANKS = 3  # live content, audits, replays and shadows
TICK = 1.0  # seconds between two looks at the backend's health and the clock while a request is in progress
OVER_TIME = "judging took longer than allowed"
OVER_TOKENS = "the model wrote more than allowed"
_HIGHER: dict[Effort, Effort] = {"low": "medium", "medium": "high", "high": "high"}


class InferenceBudget(msgspec.Struct, frozen=True):
    """How a worker spends the capacity of its inference backend.

    max_answer_tokens: the longest completion.
    cache_size: number of judgements that are kept for identical content.
    content_seconds: time in which requests for one content item may be in progress. Waiting for admission and outages
        of the backend do not count.
    content_tokens: what the model may write about one content item, in tokens for each sample.
    max_tokens_in_flight: bound on the tokens of all requests in progress; None for no bound.
    background_share: share of that bound, 0 to 1, that lower ranks may take while there is work of rank 0.
    effort_by_lag: by effort, a lag in seconds. Live content that has waited longer is judged at this effort at most.
    """

    max_answer_tokens: int = 4096
    cache_size: int = 10_000
    content_seconds: float = 300.0
    content_tokens: int = 32_768
    max_tokens_in_flight: int | None = None
    background_share: float = 0.25
    effort_by_lag: Mapping[Effort, float] = {}


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


class AttemptRequest(msgspec.Struct, frozen=True):
    """What one attempt needs. user: the user message in tokens. rank: 0 is admitted first."""

    instructions: Instructions
    effort: Effort
    user: Sequence[int]
    rank: int
    allowance: Allowance
    temperature: float = 0.0


class Reasoner:
    """Judges content through an inference backend. `malformed` counts rejected outputs by reason."""

    def __init__(self, backend: InferenceBackend, budget: InferenceBudget) -> None:
        self.backend = backend
        self.malformed: Counter[MalformedReason] = Counter()
        self._budget = budget
        self._admission = _admission(budget)
        self._mean_answer_tokens = 100.0  # running mean

    async def judge(
        self, instructions: Instructions, effort: Effort, text: str, context: Sequence[Message] = (), rank: int = 0
    ) -> Judgement:
        """Judge a text, in several windows if it is long.

        The most severe window decides. Windows after one that violates every policy are not judged. Windows that are
        left when the content item's allowance is spent count as undetermined.
        """
        max_tokens = self._max_window_tokens(instructions, effort)
        if max_tokens < MIN_WINDOW_TOKENS:
            return undetermined(instructions, effort, "the policy leaves the model no room for content")
        windows = await prompt.windows_of(text, context, max_tokens, MAX_WINDOWS)
        allowance = self._allowance(instructions)
        judgements: list[Judgement] = []
        for message in windows.messages:
            if allowance.problem:
                judgements.append(undetermined(instructions, effort, allowance.problem))
                break
            judgements.append(await self._judge_window(AttemptRequest(instructions, effort, message, rank, allowance)))
            if judgements[-1].violates_all:
                break
        # The last judgement is the first that the allowance cut short.
        truncated = windows.truncated or bool(allowance.problem and not judgements[-1].decided)
        return msgspec.structs.replace(worst(judgements), truncated=truncated)

    def _allowance(self, instructions: Instructions) -> Allowance:
        tokens = max(self._budget.content_tokens, self._budget.max_answer_tokens)
        return Allowance(self._budget.content_seconds, tokens * instructions.samples)

    def _max_window_tokens(self, instructions: Instructions, effort: Effort) -> int:
        """Room for a user message beside the policy and the answer."""
        # At the effort of the retry, whose prefix may be longer.
        policy = len(harmony.render_tokens(instructions.text, _HIGHER[effort], ()))
        answer = min(self._budget.max_answer_tokens, self.backend.max_model_tokens // 4)
        return self.backend.max_model_tokens - answer - policy

    async def _judge_window(self, request: AttemptRequest) -> Judgement:
        """One judgement, or the majority of as many samples as the policies ask for."""
        instructions = request.instructions
        if instructions.samples == 1:
            return await self._judge_with_retry(request)
        sampled = msgspec.structs.replace(request, temperature=SAMPLING_TEMPERATURE)
        samples = await asyncio.gather(*(self._judge_with_retry(sampled) for _ in range(instructions.samples)))
        return vote(samples, {policy.id: policy.judging.agreement for policy in instructions.policies})

    async def _judge_with_retry(self, request: AttemptRequest) -> Judgement:
        """Retry once, at a higher effort, when the output is malformed or the backend failed the request."""
        first = await self._attempt(request)
        if first.decided:
            return first
        if problem := request.allowance.problem:
            return combine([first], undetermined(request.instructions, request.effort, problem).findings)
        second = await self._attempt(msgspec.structs.replace(request, effort=_HIGHER[request.effort]))
        return combine([first, second], second.findings)

    async def _attempt(self, request: AttemptRequest) -> Judgement:
        instructions, effort, allowance = request.instructions, request.effort, request.allowance
        prompt_tokens = len(harmony.render_tokens(instructions.text, effort, request.user))
        granted = allowance.grant(min(self.backend.max_model_tokens - prompt_tokens, self._budget.max_answer_tokens))
        if not granted:
            return undetermined(instructions, effort, OVER_TOKENS)
        inference = InferenceRequest(
            instructions.text, effort, request.user, granted, request.temperature, rank=request.rank
        )
        try:
            completion = await self._admit(inference, request.rank, allowance)
        except InferenceError:
            allowance.tokens += granted
            return undetermined(instructions, effort, "the model could not be asked")
        except _OverTimeError:
            return undetermined(instructions, effort, OVER_TIME)
        allowance.tokens += granted - min(granted, len(completion.tokens))
        return self._read(completion, instructions, effort)

    def _read(self, completion: Completion, instructions: Instructions, effort: Effort) -> Judgement:
        tokens = Tokens(completion.prompt_tokens, completion.cached_tokens, len(completion.tokens))
        try:
            accepted = parse(completion.tokens, instructions.policies)
        except Malformed as malformed:
            self.malformed[malformed.reason] += 1
            metrics.MALFORMED.add(1, {"reason": malformed.reason})
            failed = undetermined(instructions, effort, "the model gave no answer in the required format")
            attempt = Attempt(malformed.analysis, malformed.final, malformed.reason)
            return msgspec.structs.replace(failed, attempts=(attempt,), tokens=tokens)
        attempt = Attempt(accepted.analysis, accepted.final)
        findings = {
            policy_id: Finding(effort, answer, score_of(completion, answer), attempt=attempt)
            for policy_id, answer in accepted.answers.items()
        }
        return Judgement(findings, (attempt,), tokens)

    async def _admit(self, request: InferenceRequest, rank: int, allowance: Allowance) -> Completion:
        """Wait until there is room for the request's own tokens. The policy's tokens are shared and do not count."""
        if self._admission is None:
            return await self._in_time(request, allowance)
        weight = len(request.user) + round(self._mean_answer_tokens)
        await self._admission.acquire(rank, weight)
        try:
            completion = await self._in_time(request, allowance)
        finally:
            self._admission.release(rank, weight)
        self._mean_answer_tokens += 0.02 * (len(completion.tokens) - self._mean_answer_tokens)
        return completion

    async def _in_time(self, request: InferenceRequest, allowance: Allowance) -> Completion:
        """Run the request, and end it when the content item's time is over.

        Time in which the backend is not healthy does not count: an outage is no fault of the content. Nor does time in
        which the request waits for a server, or was at one that turned out not to work.
        """
        progress = request.progress
        generating = asyncio.create_task(self._generate(request))
        try:
            while not generating.done():
                if allowance.seconds <= 0:
                    raise _OverTimeError
                started = time.perf_counter()
                await asyncio.wait((generating,), timeout=min(TICK, allowance.seconds))
                counts = self.backend.healthy and not progress.waiting
                allowance.spend_time(started, time.perf_counter(), counts=counts)
                allowance.seconds, progress.lost = allowance.seconds + progress.lost, 0.0
            return generating.result()
        finally:
            generating.cancel()
            await asyncio.gather(generating, return_exceptions=True)

    async def _generate(self, request: InferenceRequest) -> Completion:
        """Run the request, with a span in the content item's trace and the metrics of generative AI."""
        attributes = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": PROVIDER,
            "gen_ai.request.model": self.backend.model,
        }
        started, failure = time.perf_counter(), {}
        try:
            with tracing.asking(f"chat {self.backend.model}", attributes) as span:
                completion = await self.backend.generate(request)
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
        metrics.CACHED_TOKENS.add(completion.cached_tokens, {"gen_ai.request.model": self.backend.model})
        return completion


def _admission(budget: InferenceBudget) -> PriorityAdmission | None:
    total = budget.max_tokens_in_flight
    if not total:
        return None
    return PriorityAdmission(total, RANKS, total // 4, int(total * budget.background_share))
