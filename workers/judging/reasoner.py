"""Runs the model on one content item: windows, samples, second tries, and admission by tokens. Knows no records or lanes.

The call chain is judge > _judge_window > _judge_with_retry > _attempt > _ask > _in_time > _generate. An attempt makes
up to three requests. The first one has all of the answer. If its final message is rejected, the second one keeps the
reasoning and holds the final message to the required format. The last one is for the score: it generates the decision
token alone, because vLLM would compute log-probabilities for every token of the answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Literal

import msgspec

from safeguard_streams.bus import tracing
from safeguard_streams.bus.admission import PriorityAdmission
from safeguard_streams.contract.records import AnswerBy, Attempt, Message, Tokens
from safeguard_streams.policies.vocabulary import Effort
from safeguard_streams.runtime import metrics
from safeguard_streams.workers.inference import harmony
from safeguard_streams.workers.inference.interface import (
    Completion,
    InferenceBackend,
    InferenceError,
    InferenceRequest,
)
from safeguard_streams.workers.judging import form, prompt
from safeguard_streams.workers.judging.instructions import Instructions
from safeguard_streams.workers.judging.judgement import (
    Finding,
    Judgement,
    combine,
    decision_score,
    score_of,
    total_tokens,
    undetermined,
    vote,
    worst,
)
from safeguard_streams.workers.judging.parse import Accepted, Malformed, MalformedReason, Variant, analysis_of, parse

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


SecondTry = Literal["constrained", "again"]


class _OverTimeError(Exception):
    """The requests for one content item took longer than allowed."""


class _UnansweredError(Exception):
    """A request has no completion; the message says why, for the verdict."""


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
    """What one attempt needs.

    user: the user message in tokens. rank: 0 is admitted first. constrained: see `_retries`.
    """

    instructions: Instructions
    effort: Effort
    user: Sequence[int]
    rank: int
    allowance: Allowance
    temperature: float = 0.0
    constrained: bool = False


class _Scores(msgspec.Struct, frozen=True):
    """The scores of an answer by policy id, and what they cost."""

    by_policy: Mapping[str, float | None]
    tokens: Sequence[Tokens] = ()


class Reasoner:
    """Judges content through an inference backend.

    malformed, variants: counts of rejected outputs by reason, and of accepted ones by variant.
    second_tries, second_try_tokens: how often the model was asked because of a rejected output, and what it then wrote.
    """

    def __init__(self, backend: InferenceBackend, budget: InferenceBudget) -> None:
        self.backend = backend
        self.malformed: Counter[MalformedReason] = Counter()
        self.variants: Counter[Variant] = Counter()
        self.second_tries: Counter[SecondTry] = Counter()
        self.second_try_tokens = 0
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
        """Ask again, at a higher effort, when an attempt gives no answer."""
        judgement = await self._attempt(request)
        for retry in self._retries(request, judgement):
            if judgement.decided:
                break
            if problem := request.allowance.problem:
                return combine([judgement], undetermined(request.instructions, request.effort, problem).findings)
            again = await self._attempt(retry)
            self._count("constrained" if retry.constrained else "again", again)
            judgement = combine([judgement, again], again.findings)
        return judgement

    def _retries(self, request: AttemptRequest, first: Judgement) -> Iterator[AttemptRequest]:
        """What to ask when the first attempt gave no answer.

        A server that renders the prompt itself cannot keep the reasoning. It is asked for a constrained answer first.
        Some servers then leave the reasoning out, and get the request once more without the constraint.
        """
        again = msgspec.structs.replace(request, effort=_HIGHER[request.effort])
        if first.attempts and not self.backend.continues:
            yield msgspec.structs.replace(again, constrained=True)
        yield again

    async def _attempt(self, request: AttemptRequest) -> Judgement:
        instructions, effort = request.instructions, request.effort
        prompt_tokens = len(harmony.render_tokens(instructions.text, effort, request.user))
        inference = InferenceRequest(
            instructions.text,
            effort,
            request.user,
            min(self.backend.max_model_tokens - prompt_tokens, self._budget.max_answer_tokens),
            request.temperature,
            constraint=form.constraint(instructions.policies) if request.constrained else None,
            scored=not self.backend.continues,
        )
        async with self._admitted(request):
            try:
                completion = await self._ask(inference, request.allowance)
            except _UnansweredError as problem:
                return undetermined(instructions, effort, str(problem))
            self._mean_answer_tokens += 0.02 * (len(completion.tokens) - self._mean_answer_tokens)
            near = msgspec.structs.replace(inference, near=completion.source)
            first = await self._read(completion, request, near, "constrained" if request.constrained else "first")
            analysis = analysis_of(completion.tokens) if self.backend.continues and not first.decided else None
            if not analysis or request.allowance.problem:
                return first
            second = await self._constrained(analysis, request, near)
            self._count("constrained", second)
            return combine([first, second], second.findings if second.decided else first.findings)

    async def _constrained(
        self, analysis: Sequence[int], request: AttemptRequest, inference: InferenceRequest
    ) -> Judgement:
        """The final message alone, after reasoning that is kept, in the only form that the policies allow."""
        policies = request.instructions.policies
        written = [*analysis, *harmony.opened_final(), *harmony.encode_text(form.opening(policies))]
        room = self.backend.max_model_tokens - len(inference.prompt) - len(written)
        asked = msgspec.structs.replace(
            inference,
            max_tokens=min(room, form.MAX_TOKENS * len(policies)),
            written=written,
            constraint=form.constraint(policies),
            scored=True,  # the first token is the decision
        )
        try:
            completion = await self._ask(asked, request.allowance)
        except _UnansweredError as problem:
            return undetermined(request.instructions, request.effort, str(problem))
        return await self._read(completion, request, asked, "constrained")

    async def _ask(self, request: InferenceRequest, allowance: Allowance) -> Completion:
        """Run a request within the allowance. Raises _UnansweredError."""
        granted = allowance.grant(max(0, request.max_tokens))
        if not granted:
            raise _UnansweredError(OVER_TOKENS)
        try:
            completion = await self._in_time(msgspec.structs.replace(request, max_tokens=granted), allowance)
        except InferenceError:
            allowance.tokens += granted
            raise _UnansweredError("the model could not be asked") from None
        except _OverTimeError:
            raise _UnansweredError(OVER_TIME) from None
        allowance.tokens += granted - min(granted, len(completion.tokens))
        return completion

    async def _read(
        self, completion: Completion, request: AttemptRequest, asked: InferenceRequest, by: AnswerBy
    ) -> Judgement:
        """The judgement that a completion states."""
        instructions, effort, written = request.instructions, request.effort, asked.written
        tokens = Tokens(completion.prompt_tokens, completion.cached_tokens, len(completion.tokens))
        whole = msgspec.structs.replace(
            completion,
            tokens=[*written, *completion.tokens],
            logprobs=[*({} for _ in written), *completion.logprobs] if completion.logprobs else (),
        )
        content = harmony.decode_tokens(request.user) if by == "first" else ""
        try:
            accepted = parse(whole.tokens, instructions.policies, content)
        except Malformed as malformed:
            self.malformed[malformed.reason] += 1
            metrics.MALFORMED.add(1, {"reason": malformed.reason})
            failed = undetermined(instructions, effort, "the model gave no answer in the required format")
            attempt = Attempt(malformed.analysis, malformed.final, malformed.reason)
            return msgspec.structs.replace(failed, attempts=(attempt,), tokens=tokens)
        for variant in accepted.variants:
            self.variants[variant] += 1
            metrics.VARIANTS.add(1, {"kind": variant})
        attempt = Attempt(accepted.analysis, accepted.final)
        scores = await self._scores(whole, accepted, request, asked)
        findings = {
            policy_id: Finding(effort, answer, scores.by_policy.get(policy_id), attempt=attempt, by=by)
            for policy_id, answer in accepted.answers.items()
        }
        return Judgement(findings, (attempt,), total_tokens([tokens, *scores.tokens]))

    async def _scores(
        self, completion: Completion, accepted: Accepted, request: AttemptRequest, asked: InferenceRequest
    ) -> _Scores:
        """The scores of an accepted output, which are None where the backend has no log-probabilities.

        completion: with the tokens that the output began with.
        """
        answers = accepted.answers
        if completion.logprobs or not self.backend.continues:
            return _Scores({policy_id: score_of(completion, answer) for policy_id, answer in answers.items()})
        decided = {name: answer.decision_at for name, answer in answers.items() if answer.decision_at is not None}
        before = [
            msgspec.structs.replace(asked, written=completion.tokens[:at], max_tokens=1, constraint=None, scored=True)
            for at in decided.values()
        ]
        scored = await asyncio.gather(*(self._score(one, request.allowance) for one in before))
        return _Scores(
            dict(
                zip(decided, (decision_score(one.logprobs[0]) if one.logprobs else None for one in scored), strict=True)
            ),
            [Tokens(one.prompt_tokens, one.cached_tokens, len(one.tokens)) for one in scored],
        )

    async def _score(self, request: InferenceRequest, allowance: Allowance) -> Completion:
        """The decision token's completion; an empty one where the request failed, which takes nothing from the answer."""
        try:
            return await self._in_time(request, allowance)
        except (InferenceError, _OverTimeError):
            return Completion((), 0, 0)

    def _count(self, kind: SecondTry, tried: Judgement) -> None:
        accepted = "true" if tried.decided else "false"
        self.second_tries[kind] += 1
        self.second_try_tokens += tried.tokens.completion
        metrics.SECOND_TRIES.add(1, {"kind": kind, "accepted": accepted})
        metrics.SECOND_TRY_TOKENS.add(tried.tokens.completion, {"kind": kind})

    @contextlib.asynccontextmanager
    async def _admitted(self, request: AttemptRequest) -> AsyncIterator[None]:
        """Wait until there is room for the attempt's own tokens. The policy's tokens are shared and do not count."""
        if self._admission is None:
            yield
            return
        weight = len(request.user) + round(self._mean_answer_tokens)
        await self._admission.acquire(request.rank, weight)
        try:
            yield
        finally:
            self._admission.release(request.rank, weight)

    async def _in_time(self, request: InferenceRequest, allowance: Allowance) -> Completion:
        """Run the request, and end it when the content item's time is over.

        Time in which the backend is not healthy does not count: an outage is no fault of the content.
        """
        generating = asyncio.create_task(self._generate(request))
        try:
            while not generating.done():
                if allowance.seconds <= 0:
                    raise _OverTimeError
                started = time.perf_counter()
                await asyncio.wait((generating,), timeout=min(TICK, allowance.seconds))
                allowance.spend_time(started, time.perf_counter(), counts=self.backend.healthy)
            return generating.result()
        finally:
            generating.cancel()
            await asyncio.gather(generating, return_exceptions=True)

    async def _generate(self, request: InferenceRequest) -> Completion:
        """Run the request, with a span in the content item's trace and the metrics of generative AI."""
        operation = "text_completion" if request.written else "chat"
        attributes = {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": PROVIDER,
            "gen_ai.request.model": self.backend.model,
        }
        started, failure = time.perf_counter(), {}
        try:
            with tracing.asking(f"{operation} {self.backend.model}", attributes) as span:
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
