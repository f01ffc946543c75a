"""A content under a brief: asked in windows, in samples, once more if need be. Knows no records and no lanes but by rank."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

from safeguard_streams.bus import tracing
from safeguard_streams.bus.admission import PriorityAdmission
from safeguard_streams.contract.records import Attempt, Message
from safeguard_streams.policies.vocabulary import Effort
from safeguard_streams.runtime import metrics
from safeguard_streams.workers.inference.interface import Completion, Inference, InferenceError, Question
from safeguard_streams.workers.judging import prompt
from safeguard_streams.workers.judging.instructions import Instructions
from safeguard_streams.workers.judging.judgement import Finding, Judgement, score_of, total, vote, worst
from safeguard_streams.workers.judging.parse import Malformed, Reason, parse

LONG_TEXT = 20_000  # characters; longer texts are tokenised on another thread
MOST_WINDOWS = 16  # of one content; what is longer still is judged in so many samples of it, and marked truncated
FEWEST_TOKENS = 64  # of content that a window must have room for
SAMPLING = 1.0  # temperature of several judgements of one content
PROVIDER = "self-hosted"
RANKS = 3  # live content, audits, replays
_HIGHER: dict[Effort, Effort] = {"low": "medium", "medium": "high", "high": "high"}


class InferenceBudget(msgspec.Struct, frozen=True):
    """How a worker spends its engine.

    longest_answer: tokens.
    kept: judgements that are kept for equal content.
    in_flight: tokens of all questions at once; None: no bound.
    background: the share of these that lower ranks take while there is work of rank 0.
    effort_by_lag: live content that has waited longer than so many seconds is judged at this effort at most.
    """

    longest_answer: int = 4096
    kept: int = 10_000
    in_flight: int | None = None
    background: float = 0.25
    effort_by_lag: Mapping[Effort, float] = {}


class Reasoner:
    """Judges content through an engine. `malformed` counts outputs that were not accepted, by reason."""

    def __init__(self, inference: Inference, economy: InferenceBudget) -> None:
        self.inference = inference
        self.malformed: Counter[Reason] = Counter()
        self._longest_answer = economy.longest_answer
        room = economy.in_flight
        self._room = PriorityAdmission(room, RANKS, room // 4, int(room * economy.background)) if room else None
        self._usual_answer = 100.0  # tokens, a running mean

    async def judge(
        self, instructions: Instructions, effort: Effort, text: str, context: Sequence[Message] = (), rank: int = 0
    ) -> Judgement:
        """Judge the text, in several windows if it is long: one that violates decides, else one that is undetermined."""
        head, content = prompt.before_content(context), text
        if len(head) + len(content) > LONG_TEXT:
            tokens = await asyncio.to_thread(lambda: (prompt.encode(head), prompt.encode(content)))
        else:
            tokens = (prompt.encode(head), prompt.encode(content))
        answer_room = min(self._longest_answer, self.inference.longest // 4)
        empty = len(prompt.render_tokens(instructions.text, _HIGHER[effort], ()))
        room = self.inference.longest - answer_room - empty
        if room < FEWEST_TOKENS:
            return _nothing(instructions, effort, "the policy leaves the model no room for content")
        parts, truncated = prompt.windows(*tokens, room, MOST_WINDOWS)
        windows: list[Judgement] = []
        for part in parts:
            windows.append(await self._window(instructions, effort, part, rank))
            if windows[-1].violates_all:
                break
        return msgspec.structs.replace(worst(windows), truncated=truncated)

    async def _window(self, instructions: Instructions, effort: Effort, user: Sequence[int], rank: int) -> Judgement:
        """One judgement, or as many samples as a policy asks for and what most of them say."""
        if instructions.samples == 1:
            return await self._once(instructions, effort, user, rank, 0.0)
        samples = [self._once(instructions, effort, user, rank, SAMPLING) for _ in range(instructions.samples)]
        return vote(await asyncio.gather(*samples), [policy.judging.agreement for policy in instructions.policies])

    async def _once(
        self, instructions: Instructions, effort: Effort, user: Sequence[int], rank: int, temperature: float
    ) -> Judgement:
        """Ask, and once more at a higher effort when the output is malformed or the engine failed the question."""
        tries: list[Judgement] = []
        for tried in (effort, _HIGHER[effort]):
            tries.append(await self._try(instructions, tried, user, rank, temperature))
            if tries[-1].decided:
                break
        return total(tries, tries[-1].findings)

    async def _try(
        self, instructions: Instructions, effort: Effort, user: Sequence[int], rank: int, temperature: float
    ) -> Judgement:
        used = len(prompt.render_tokens(instructions.text, effort, user))
        most = min(self.inference.longest - used, self._longest_answer)
        try:
            completion = await self._admitted(Question(instructions.text, effort, user, most, temperature), rank)
        except InferenceError:
            return _nothing(instructions, effort, "the model could not be asked")
        cost = (completion.prompt_tokens, completion.cached_tokens, len(completion.tokens))
        try:
            accepted = parse(completion.tokens, instructions.policies)
        except Malformed as malformed:
            self.malformed[malformed.reason] += 1
            metrics.MALFORMED.add(1, {"reason": malformed.reason})
            attempt = Attempt(malformed.analysis, malformed.final, malformed.reason)
            findings = _nothing(instructions, effort, "the model gave no answer in the form asked for").findings
            return Judgement(findings, (attempt,), *cost)
        findings = tuple(Finding(effort, answer, score_of(completion, answer)) for answer in accepted.answers)
        return Judgement(findings, (Attempt(accepted.analysis, accepted.final),), *cost)

    async def _admitted(self, question: Question, rank: int) -> Completion:
        """Ask when there is room for the question's own tokens: those of its policy are shared with all others."""
        if self._room is None:
            return await self._measured(question)
        weight = len(question.user) + round(self._usual_answer)
        await self._room.acquire(rank, weight)
        try:
            completion = await self._measured(question)
        finally:
            self._room.release(rank, weight)
        self._usual_answer += 0.02 * (len(completion.tokens) - self._usual_answer)
        return completion

    async def _measured(self, question: Question) -> Completion:
        """Ask, for those who watch: how long it took, how many tokens, and its span in the trace of the content."""
        attributes = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": PROVIDER,
            "gen_ai.request.model": self.inference.model,
        }
        started, failed = time.perf_counter(), {}
        try:
            with tracing.asking(f"chat {self.inference.model}", attributes) as span:
                completion = await self.inference.generate(question)
                span.set_attributes(
                    {
                        "gen_ai.request.max_tokens": question.most,
                        "gen_ai.request.temperature": question.temperature,
                        "gen_ai.usage.input_tokens": completion.prompt_tokens,
                        "gen_ai.usage.output_tokens": len(completion.tokens),
                        "safeguard.usage.cached_tokens": completion.cached_tokens,
                        "safeguard.reasoning_effort": question.effort,
                    }
                )
        except Exception as error:
            failed = {"error.type": type(error).__name__}
            raise
        finally:
            metrics.ASKED.record(time.perf_counter() - started, {**attributes, **failed})
        metrics.TOKEN_USAGE.record(completion.prompt_tokens, {**attributes, "gen_ai.token.type": "input"})
        metrics.TOKEN_USAGE.record(len(completion.tokens), {**attributes, "gen_ai.token.type": "output"})
        metrics.CACHED_TOKENS.add(completion.cached_tokens, {"gen_ai.request.model": self.inference.model})
        return completion


def _nothing(instructions: Instructions, effort: Effort, why: str) -> Judgement:
    return Judgement((Finding(effort, why=why),) * len(instructions.policies))
