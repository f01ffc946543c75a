"""Judges one content item: windows, samples and second attempts. Knows no records or lanes.

The call chain is judge > _judge_window > _judge_with_retry > Attempts.attempt > ask.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from safeguard_streams.bus.admission import PriorityAdmission
from safeguard_streams.contract.records import Message
from safeguard_streams.policies.vocabulary import Effort
from safeguard_streams.workers.inference import harmony
from safeguard_streams.workers.inference.interface import InferenceBackend
from safeguard_streams.workers.judging import prompt
from safeguard_streams.workers.judging.asking import Allowance
from safeguard_streams.workers.judging.attempt import AttemptRequest, Attempts
from safeguard_streams.workers.judging.instructions import Instructions
from safeguard_streams.workers.judging.judgement import Judgement, combine, undetermined, vote, worst

MAX_WINDOWS = 16  # of one content item; longer content is sampled in this many windows and marked as truncated
MIN_WINDOW_TOKENS = 128  # a policy must leave at least this much room for content and the headings of a context
SAMPLING_TEMPERATURE = 1.0  # where a policy asks for several samples
RANKS = 3  # live content, audits, replays and shadows
HIGHER: dict[Effort, Effort] = {"low": "medium", "medium": "high", "high": "high"}


class InferenceBudget(msgspec.Struct, frozen=True):
    """How a worker spends the capacity of its inference backend.

    max_answer_tokens: the longest completion.
    cache_size: number of judgements that are kept for identical content.
    content_seconds: time in which requests for one content item may be in progress. Waiting for admission and outages
        of the backend do not count.
    content_tokens: what the model may write about one content item, in tokens for each sample.
    max_tokens_in_flight: bound on the tokens of all requests in progress; None for no bound.
    background_share: share of that bound, 0 to 1, that lower ranks may take while there is work of rank 0.
    live: whether this worker judges live content; else nothing is kept free for rank 0.
    effort_by_lag: by effort, a lag in seconds. Live content that has waited longer is judged at this effort at most.
    """

    max_answer_tokens: int = 4096
    cache_size: int = 10_000
    content_seconds: float = 300.0
    content_tokens: int = 32_768
    max_tokens_in_flight: int | None = None
    background_share: float = 0.25
    live: bool = True
    effort_by_lag: Mapping[Effort, float] = {}


class Reasoner:
    """Judges content through an inference backend. `outputs` counts what the model wrote."""

    def __init__(self, backend: InferenceBackend, budget: InferenceBudget) -> None:
        self.backend = backend
        self._budget = budget
        self._attempts = Attempts(backend, budget.max_answer_tokens, _admission(budget))
        self.outputs = self._attempts.outputs

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
        policy = len(harmony.render_tokens(instructions.text, HIGHER[effort], ()))
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
        judgement = await self._attempts.attempt(request)
        for retry in self._retries(request, judgement):
            if judgement.decided:
                break
            if problem := request.allowance.problem:
                return combine([judgement], undetermined(request.instructions, request.effort, problem).findings)
            again = await self._attempts.attempt(retry)
            judgement = combine([judgement, again], again.findings)
        return judgement

    def _retries(self, request: AttemptRequest, first: Judgement) -> Iterator[AttemptRequest]:
        """What to ask when the first attempt gave no answer.

        A server that renders the prompt itself cannot keep the reasoning. It is asked for a constrained answer first.
        Some servers then leave the reasoning out, and get the request once more without the constraint.
        """
        again = msgspec.structs.replace(request, effort=HIGHER[request.effort])
        if first.attempts and not self.backend.continues:
            yield msgspec.structs.replace(again, second_try="constrained")
        yield msgspec.structs.replace(again, second_try="again")


def _admission(budget: InferenceBudget) -> PriorityAdmission | None:
    total = budget.max_tokens_in_flight
    if not total:
        return None
    reserve = total // 4 if budget.live else 0
    return PriorityAdmission(total, RANKS, reserve, int(total * budget.background_share))
