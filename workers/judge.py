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

STAGE = "reasoner"
POLICY_PATIENCE = 10.0  # seconds that a release may take to arrive after an escalation under it
LONG_TEXT = 20_000  # characters; longer texts are tokenised on another thread
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


def score_of(completion: Completion, answer: Answer) -> float | None:
    """The probability of violating, 0 to 1, from the label token's logarithms; None where the engine gave none."""
    at = answer.label_at
    if at is None or at >= len(completion.logprobs):
        return None
    said = completion.logprobs[at]
    one, zero = (math.exp(said[token]) if token in said else 0.0 for token in (ONE, ZERO))
    return round(one / (one + zero), 4) if one + zero > 0 else None


class Judge:
    """The reasoner's transform. `longest_answer` is in tokens."""

    def __init__(self, inference: Inference, feed: PolicyFeed, longest_answer: int) -> None:
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
            judgement = _Judgement("low", [], why="the policy is no longer in force")
            version = escalation.policy_version
        else:
            judgement = await self._ask(released.policy, escalation)
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
            tokens=Tokens(judgement.prompt_tokens, judgement.cached_tokens, judgement.completion_tokens),
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

    async def _ask(self, policy: Policy, escalation: Escalation) -> _Judgement:
        """Ask, and once more at a higher effort when the output is malformed or the engine failed the request."""
        user = prompt.user_message(escalation.event.text, escalation.event.context)
        judgement = _Judgement(policy.effort, [])
        for effort in (policy.effort, _HIGHER[policy.effort]):
            judgement.effort = effort
            if len(user) > LONG_TEXT:
                tokens = await asyncio.to_thread(prompt.render, policy.text, effort, user)
            else:
                tokens = prompt.render(policy.text, effort, user)
            room = self._inference.longest - len(tokens)
            if room < min(self._longest_answer, self._inference.longest // 4):
                judgement.why = "the content is longer than the model can read"
                return judgement
            try:
                completion = await self._inference.generate(tokens, min(room, self._longest_answer))
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
