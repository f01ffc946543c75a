"""Judging: an escalation in, a verdict and its rationale out. Knows nothing of Kafka."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Sequence

import msgspec

from policies.document import Effort, Policy
from streams import topics
from streams.bus import Output, Record
from streams.policy_feed import PolicyFeed
from streams.records import (
    Attempt,
    ContentEvent,
    Decision,
    Escalation,
    Rationale,
    Tokens,
    Verdict,
    carried,
    content_sha256,
    decode,
    encode,
    milliseconds_since,
    now,
    schema_header,
    verdict_id,
)
from workers import prompt
from workers.inference import Completion, Inference, InferenceError
from workers.parse import ONE, ZERO, Answer, Malformed, parse
from workers.reuse import Reuse

STAGE = "reasoner"
POLICY_PATIENCE = 10.0  # seconds that a release may take to arrive after an escalation under it
LONG_TEXT = 20_000  # characters; longer texts are tokenised on another thread
MOST_WINDOWS = 16  # of one content; what is longer still is judged in so many samples of it, and marked truncated
FEWEST_TOKENS = 64  # of content that a window must have room for
_HIGHER: dict[Effort, Effort] = {"low": "medium", "medium": "high", "high": "high"}
_VERDICT, _RATIONALE = schema_header(Verdict), schema_header(Rationale)


class _Judgement(msgspec.Struct):
    """What the attempts came to; why says in a sentence what kept a content from being judged."""

    effort: Effort
    attempts: list[Attempt]
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    answer: Answer | None = None
    score: float | None = None
    why: str = ""
    truncated: bool = False

    def take(self, part: _Judgement) -> None:
        """Add the judgement of one more window: the worst decides, and of equal ones that with the highest score."""
        first = not self.attempts and not self.why
        before, after = _badness(self), _badness(part)
        if first or after > before:
            self.effort, self.answer, self.score, self.why = part.effort, part.answer, part.score, part.why
        self.attempts += part.attempts
        self.prompt_tokens += part.prompt_tokens
        self.cached_tokens += part.cached_tokens
        self.completion_tokens += part.completion_tokens


def _badness(judgement: _Judgement) -> tuple[int, float]:
    """Violating above undetermined above safe; then by score."""
    if judgement.answer is None:
        return 1, 0.0
    return (2 if judgement.answer.violates else 0), judgement.score or 0.0


def score_of(completion: Completion, answer: Answer) -> float | None:
    """The probability of violating, 0 to 1, from the label token's logarithms; None where the engine gave none."""
    at = answer.label_at
    if at is None or at >= len(completion.logprobs):
        return None
    said = completion.logprobs[at]
    one, zero = (math.exp(said[token]) if token in said else 0.0 for token in (ONE, ZERO))
    return round(one / (one + zero), 4) if one + zero > 0 else None


class Judge:
    """The reasoner's transform. `longest_answer` is in tokens; `kept` is how many judgements are kept for equal content."""

    def __init__(self, inference: Inference, feed: PolicyFeed, longest_answer: int, kept: int = 10_000) -> None:
        self._reuse: Reuse[_Judgement] = Reuse(kept, lambda judgement: judgement.answer is not None)
        self._inference = inference
        self._feed = feed
        self._longest_answer = longest_answer

    async def warm_up(self) -> None:
        """Put each policy's text into the prefix cache: contents that arrive together would each compute it."""
        for released in self._feed.policies.released.values():
            with contextlib.suppress(InferenceError):
                await self._inference.generate(prompt.render(released.policy.text, released.policy.effort, ""), 1)

    async def __call__(self, records: Sequence[Record]) -> list[Output]:
        return [output for record in records for output in await self.judge(record)]

    async def judge(self, record: Record) -> list[Output]:
        """A verdict and its rationale for one escalation; an undetermined one where no judgement can be had."""
        escalation = decode(record.value, Escalation)
        started, clock = now(), time.perf_counter()
        released = await self._feed.wait_for(escalation.policy_id, escalation.policy_revision, POLICY_PATIENCE)
        if released is None:
            judgement, cached = _Judgement("low", [], why="the policy is no longer in force"), False
            version = escalation.policy_version
        else:
            judgement, cached = await self._ask(released.policy, escalation)
            version = released.policy.version
        event = escalation.event
        digest = content_sha256(event.text)
        asked = released.policy.effort if released else "low"
        identity = verdict_id(
            event.content_id,
            digest,
            escalation.policy_id,
            version,
            self._inference.model,
            asked,
            escalation.lane,
            escalation.replay_id or "",
        )
        answer = judgement.answer
        decision: Decision = "undetermined" if answer is None else "violates" if answer.violates else "safe"
        verdict = Verdict(
            verdict_id=identity,
            content_id=event.content_id,
            content_sha256=digest,
            policy_id=escalation.policy_id,
            policy_version=version,
            decision=decision,
            stage="reasoner",
            lane=escalation.lane,
            model=self._inference.model,
            decided_at=now(),
            rule_ids=answer.rule_ids if answer else (),
            score=judgement.score,
            confidence=answer.confidence if answer else None,
            reason=answer.reason if answer else judgement.why,
            reasoning_effort=judgement.effort,
            prefilter=escalation.prefilter,
            truncated=judgement.truncated,
            cached=cached,
            tokens=Tokens()
            if cached
            else Tokens(judgement.prompt_tokens, judgement.cached_tokens, judgement.completion_tokens),
            latency={
                **escalation.latency,
                "escalation": milliseconds_since(escalation.escalated_at, started),
                STAGE: round((time.perf_counter() - clock) * 1000, 1),
            },
            replay_id=escalation.replay_id,
        )
        trace = carried(record.headers)
        topic = topics.REPLAYS if escalation.lane == "replay" else topics.VERDICTS
        outputs = [Output(topic, record.key, encode(verdict), [_VERDICT, *trace])]
        if judgement.attempts:
            rationale = Rationale(
                verdict_id=identity,
                content_id=event.content_id,
                policy_id=escalation.policy_id,
                policy_version=version,
                model=self._inference.model,
                attempts=tuple(judgement.attempts),
                created_at=verdict.decided_at,
            )
            outputs.append(Output(topics.RATIONALES, identity.encode(), encode(rationale), [_RATIONALE, *trace]))
        return outputs

    async def _ask(self, policy: Policy, escalation: Escalation) -> tuple[_Judgement, bool]:
        """The judgement, and whether it is that of an equal content. A replay is compared with what was judged before, and
        is judged anew.
        """
        event = escalation.event
        key = (policy.version, policy.effort, escalation.replay_id, prompt.user_message(event.text, event.context))
        return await self._reuse.ask(key, lambda: self._judge_windows(policy, event))

    async def _judge_windows(self, policy: Policy, event: ContentEvent) -> _Judgement:
        """Judge the content, in several windows if it is long: one that violates decides, else one that is undetermined."""
        head, content = prompt.before_content(event.context), event.text
        if len(head) + len(content) > LONG_TEXT:
            tokens = await asyncio.to_thread(lambda: (prompt.encode(head), prompt.encode(content)))
        else:
            tokens = (prompt.encode(head), prompt.encode(content))
        answer_room = min(self._longest_answer, self._inference.longest // 4)
        empty = len(prompt.render_tokens(policy.text, _HIGHER[policy.effort], ()))
        room = self._inference.longest - answer_room - empty
        if room < FEWEST_TOKENS:
            return _Judgement(policy.effort, [], why="the policy leaves the model no room for content")
        parts, truncated = prompt.windows(*tokens, room, MOST_WINDOWS)
        whole = _Judgement(policy.effort, [], truncated=truncated)
        for part in parts:
            whole.take(await self._judge_part(policy, part))
            if whole.answer is not None and whole.answer.violates:
                break
        return whole

    async def _judge_part(self, policy: Policy, user: Sequence[int]) -> _Judgement:
        """Ask, and once more at a higher effort when the output is malformed or the engine failed the request."""
        judgement = _Judgement(policy.effort, [])
        for effort in (policy.effort, _HIGHER[policy.effort]):
            judgement.effort = effort
            tokens = prompt.render_tokens(policy.text, effort, user)
            most = min(self._inference.longest - len(tokens), self._longest_answer)
            try:
                completion = await self._inference.generate(tokens, most)
            except InferenceError:
                judgement.why = "the model could not be asked"
                continue
            judgement.prompt_tokens += completion.prompt_tokens
            judgement.cached_tokens += completion.cached_tokens
            judgement.completion_tokens += len(completion.tokens)
            try:
                answer = parse(completion.tokens, policy)
            except Malformed as malformed:
                judgement.attempts.append(Attempt(malformed.analysis, malformed.final, malformed.reason))
                judgement.why = "the model gave no answer in the form asked for"
                continue
            judgement.attempts.append(Attempt(answer.analysis, answer.final))
            judgement.answer = answer
            judgement.score = score_of(completion, answer)
            return judgement
        return judgement
