"""One attempt at judging a window, with up to three requests to the model.

1. All of the answer, written freely.
2. Only if its final message is rejected: the final message alone, after the same reasoning, in the one form that the
   policies allow. That takes some 30 tokens instead of all the reasoning.
3. The decision token alone, for the score: vLLM would compute log-probabilities for every token of an answer. A backend
   that returned them with the answer is not asked.

A server that renders the prompt itself cannot go on from an answer. It gets one request, with log-probabilities.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Literal

import msgspec

from safeguard_streams.bus.admission import PriorityAdmission
from safeguard_streams.contract.records import AnswerBy, Attempt, Tokens
from safeguard_streams.policies.vocabulary import Effort
from safeguard_streams.runtime import metrics
from safeguard_streams.workers.inference import harmony
from safeguard_streams.workers.inference.interface import (
    Completion,
    InferenceBackend,
    InferenceError,
    InferenceRequest,
)
from safeguard_streams.workers.judging import form
from safeguard_streams.workers.judging.asking import Allowance, UnansweredError, ask, ask_for_score
from safeguard_streams.workers.judging.instructions import Instructions
from safeguard_streams.workers.judging.judgement import (
    Finding,
    Judgement,
    combine,
    decision_score,
    score_of,
    total_tokens,
    undetermined,
)
from safeguard_streams.workers.judging.parse import Accepted, Malformed, MalformedReason, Variant, analysis_of, parse

SecondTry = Literal["constrained", "again"]


class AttemptRequest(msgspec.Struct, frozen=True):
    """What one attempt needs.

    user: the user message in tokens. rank: 0 is admitted first.
    second_try: how to ask after an output was rejected. A constrained attempt is for servers that cannot go on from the
        reasoning of the first one: they get a JSON schema for the answer.
    """

    instructions: Instructions
    effort: Effort
    user: Sequence[int]
    rank: int
    allowance: Allowance
    temperature: float = 0.0
    second_try: SecondTry | None = None


class OutputCounts(msgspec.Struct):
    """Counts of a model's outputs.

    malformed, variants: rejected outputs by reason, and accepted ones by variant.
    second_tries, second_try_tokens: how often the model was asked because of a rejected output, and what it then wrote.
    """

    model: str
    malformed: Counter[MalformedReason] = msgspec.field(default_factory=Counter)
    variants: Counter[Variant] = msgspec.field(default_factory=Counter)
    second_tries: Counter[SecondTry] = msgspec.field(default_factory=Counter)
    second_try_tokens: int = 0

    def count_second_try(self, kind: SecondTry, tried: Judgement) -> None:
        accepted = "true" if tried.decided else "false"
        self.second_tries[kind] += 1
        self.second_try_tokens += tried.tokens.completion
        metrics.SECOND_TRIES.add(1, {"kind": kind, "accepted": accepted})
        metrics.SECOND_TRY_TOKENS.add(tried.tokens.completion, {"kind": kind})

    def count_malformed(self, reason: MalformedReason) -> None:
        self.malformed[reason] += 1
        metrics.MALFORMED.add(1, {"reason": reason, "gen_ai.request.model": self.model})

    def count_variant(self, variant: Variant) -> None:
        self.variants[variant] += 1
        metrics.VARIANTS.add(1, {"kind": variant})


class _Scores(msgspec.Struct, frozen=True):
    """The scores of an answer by policy id, and what they cost."""

    by_policy: Mapping[str, float | None]
    tokens: Sequence[Tokens] = ()


class Attempts:
    """Makes attempts through an inference backend. `outputs` counts what comes of them."""

    def __init__(
        self, backend: InferenceBackend, max_answer_tokens: int, admission: PriorityAdmission | None = None
    ) -> None:
        self.backend = backend
        self.outputs = OutputCounts(backend.model)
        self._max_answer_tokens = max_answer_tokens
        self._admission = admission
        self._mean_answer_tokens = 100.0  # running mean

    async def attempt(self, request: AttemptRequest) -> Judgement:
        instructions, effort = request.instructions, request.effort
        prompt_tokens = len(harmony.render_tokens(instructions.text, effort, request.user))
        inference = InferenceRequest(
            instructions.text,
            effort,
            request.user,
            min(self.backend.max_model_tokens - prompt_tokens, self._max_answer_tokens),
            request.temperature,
            rank=request.rank,
            constraint=form.constraint(instructions.policies) if request.second_try == "constrained" else None,
            scored=not self.backend.continues,
        )
        async with self._admitted(request):
            try:
                completion = await ask(self.backend, inference, request.allowance)
            except UnansweredError as problem:
                return undetermined(instructions, effort, str(problem))
            self._mean_answer_tokens += 0.02 * (len(completion.tokens) - self._mean_answer_tokens)
            near = msgspec.structs.replace(inference, near=completion.source)
            first = await self._read(completion, request, near, "constrained" if inference.constraint else "first")
            if request.second_try:
                self.outputs.count_second_try(request.second_try, first)
            analysis = analysis_of(completion.tokens) if self.backend.continues and not first.decided else None
            if not analysis or request.allowance.problem:
                return first
            second = await self._constrained(analysis, request, near)
            self.outputs.count_second_try("constrained", second)
            return combine([first, second], second.findings if second.decided else first.findings)

    async def _constrained(
        self, analysis: Sequence[int], request: AttemptRequest, inference: InferenceRequest
    ) -> Judgement:
        """The final message alone, after reasoning that is kept, in the only form that the policies allow."""
        held = _held(inference, analysis, request.instructions)
        room = self.backend.max_model_tokens - len(held.prompt)
        asked = msgspec.structs.replace(held, max_tokens=min(room, held.max_tokens))
        try:
            completion = await ask(self.backend, asked, request.allowance)
        except UnansweredError as problem:
            return undetermined(request.instructions, request.effort, str(problem))
        return await self._read(completion, request, asked, "constrained")

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
            self.outputs.count_malformed(malformed.reason)
            failed = undetermined(instructions, effort, "the model gave no answer in the required format")
            attempt = Attempt(malformed.analysis, malformed.final, malformed.reason)
            return msgspec.structs.replace(failed, attempts=(attempt,), tokens=tokens)
        for variant in accepted.variants:
            self.outputs.count_variant(variant)
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
        scored = await asyncio.gather(*(ask_for_score(self.backend, one, request.allowance) for one in before))
        return _Scores(
            dict(
                zip(decided, (decision_score(one.logprobs[0]) if one.logprobs else None for one in scored), strict=True)
            ),
            [Tokens(one.prompt_tokens, one.cached_tokens, len(one.tokens)) for one in scored],
        )

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


async def compile_form(backend: InferenceBackend, instructions: Instructions) -> None:
    """Let the backend compile the grammar of answers, which takes seconds the first time."""
    if backend.continues:
        held = _held(InferenceRequest(instructions.text, instructions.effort, (), 1), (), instructions)
        with contextlib.suppress(InferenceError):
            await backend.generate(msgspec.structs.replace(held, max_tokens=1))


def _held(request: InferenceRequest, analysis: Sequence[int], instructions: Instructions) -> InferenceRequest:
    """A request for the final message after an analysis, held to the form of its policies."""
    policies = instructions.policies
    return msgspec.structs.replace(
        request,
        max_tokens=form.MAX_TOKENS * len(policies),
        written=[*analysis, *harmony.opened_final(), *harmony.encode_text(form.opening(policies))],
        constraint=form.constraint(policies),
        scored=True,  # the first token is the decision
    )
