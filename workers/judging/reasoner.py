"""Runs the model on one content item: windows, samples, a retry, and admission by tokens. Knows no records or lanes.

The call chain is judge > _judge_window > _judge_with_retry > _attempt > _admit > _generate.
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

ENCODE_IN_THREAD = 20_000  # characters; longer texts are tokenised on another thread
MAX_WINDOWS = 16  # of one content item; longer content is sampled in this many windows and marked as truncated
MIN_WINDOW_TOKENS = 64  # a policy must leave at least this much room for content
SAMPLING_TEMPERATURE = 1.0  # where a policy asks for several samples
PROVIDER = "self-hosted"
RANKS = 3  # live content, audits, replays and shadows
_HIGHER: dict[Effort, Effort] = {"low": "medium", "medium": "high", "high": "high"}


class InferenceBudget(msgspec.Struct, frozen=True):
    """How a worker spends the capacity of its inference backend.

    max_answer_tokens: the longest completion.
    cache_size: number of judgements that are kept for identical content.
    max_tokens_in_flight: bound on the tokens of all requests in progress; None for no bound.
    background_share: share of that bound, 0 to 1, that lower ranks may take while there is work of rank 0.
    effort_by_lag: by effort, a lag in seconds. Live content that has waited longer is judged at this effort at most.
    """

    max_answer_tokens: int = 4096
    cache_size: int = 10_000
    max_tokens_in_flight: int | None = None
    background_share: float = 0.25
    effort_by_lag: Mapping[Effort, float] = {}


class AttemptRequest(msgspec.Struct, frozen=True):
    """What one attempt needs. user: the user message in tokens. rank: 0 is admitted first."""

    instructions: Instructions
    effort: Effort
    user: Sequence[int]
    rank: int
    temperature: float = 0.0


class Reasoner:
    """Judges content through an inference backend. `malformed` counts rejected outputs by reason."""

    def __init__(self, backend: InferenceBackend, budget: InferenceBudget) -> None:
        self.backend = backend
        self.malformed: Counter[MalformedReason] = Counter()
        self._max_answer_tokens = budget.max_answer_tokens
        self._admission = _admission(budget)
        self._mean_answer_tokens = 100.0  # running mean

    async def judge(
        self, instructions: Instructions, effort: Effort, text: str, context: Sequence[Message] = (), rank: int = 0
    ) -> Judgement:
        """Judge a text, in several windows if it is long.

        The most severe window decides. Windows after one that violates every policy are not judged.
        """
        max_tokens = self._max_window_tokens(instructions, effort)
        if max_tokens < MIN_WINDOW_TOKENS:
            return undetermined(instructions, effort, "the policy leaves the model no room for content")
        head = prompt.quoted_context(context)
        windows = prompt.windows(await _encode(head), await _encode(text), max_tokens, MAX_WINDOWS)
        judgements: list[Judgement] = []
        for message in windows.messages:
            judgements.append(await self._judge_window(AttemptRequest(instructions, effort, message, rank)))
            if judgements[-1].violates_all:
                break
        return msgspec.structs.replace(worst(judgements), truncated=windows.truncated)

    def _max_window_tokens(self, instructions: Instructions, effort: Effort) -> int:
        """Room for a user message beside the policy and the answer."""
        # At the effort of the retry, whose prefix may be longer.
        policy = len(harmony.render_tokens(instructions.text, _HIGHER[effort], ()))
        answer = min(self._max_answer_tokens, self.backend.max_model_tokens // 4)
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
        second = await self._attempt(msgspec.structs.replace(request, effort=_HIGHER[request.effort]))
        return combine([first, second], second.findings)

    async def _attempt(self, request: AttemptRequest) -> Judgement:
        instructions, effort = request.instructions, request.effort
        prompt_tokens = len(harmony.render_tokens(instructions.text, effort, request.user))
        max_tokens = min(self.backend.max_model_tokens - prompt_tokens, self._max_answer_tokens)
        inference = InferenceRequest(instructions.text, effort, request.user, max_tokens, request.temperature)
        try:
            completion = await self._admit(inference, request.rank)
        except InferenceError:
            return undetermined(instructions, effort, "the model could not be asked")
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
        findings = {
            policy_id: Finding(effort, answer, score_of(completion, answer))
            for policy_id, answer in accepted.answers.items()
        }
        return Judgement(findings, (Attempt(accepted.analysis, accepted.final),), tokens)

    async def _admit(self, request: InferenceRequest, rank: int) -> Completion:
        """Wait until there is room for the request's own tokens. The policy's tokens are shared and do not count."""
        if self._admission is None:
            return await self._generate(request)
        weight = len(request.user) + round(self._mean_answer_tokens)
        await self._admission.acquire(rank, weight)
        try:
            completion = await self._generate(request)
        finally:
            self._admission.release(rank, weight)
        self._mean_answer_tokens += 0.02 * (len(completion.tokens) - self._mean_answer_tokens)
        return completion

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


async def _encode(text: str) -> list[int]:
    if len(text) > ENCODE_IN_THREAD:
        return await asyncio.to_thread(harmony.encode_text, text)
    return harmony.encode_text(text)
