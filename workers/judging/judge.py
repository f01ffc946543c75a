"""Judging: an escalation in, a verdict and its rationale out. Knows nothing of Kafka."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence

from safeguard_streams.bus.interface import Output, Record
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import (
    REPLAYED,
    SHADOW,
    Decision,
    Escalation,
    Lane,
    Rationale,
    Tokens,
    Verdict,
    carried,
    content_sha256,
    decode,
    encode,
    milliseconds_since,
    now,
    policy_key,
    schema_header,
    verdict_id,
)
from safeguard_streams.policies.document import Policy
from safeguard_streams.policies.vocabulary import EFFORTS, Effort
from safeguard_streams.releases.feed import PolicyFeed, Released
from safeguard_streams.runtime import metrics
from safeguard_streams.workers.inference.interface import Inference, InferenceError, Question
from safeguard_streams.workers.judging import instructions, prompt
from safeguard_streams.workers.judging.cache import Reuse
from safeguard_streams.workers.judging.instructions import Instructions
from safeguard_streams.workers.judging.judgement import Finding, Judgement
from safeguard_streams.workers.judging.reasoner import InferenceBudget, Reasoner

STAGE = "reasoner"
POLICY_PATIENCE = 10.0  # seconds that a release may take to arrive after an escalation under it
# Live content comes first, then what was drawn for audit, then shadows and replays.
RANKS: Mapping[Lane, int] = {"live": 0, "audit": 1, "shadow": 2, "replay": 2}
_VERDICT, _RATIONALE = schema_header(Verdict), schema_header(Rationale)


class Judge:
    """The reasoner's transform."""

    def __init__(self, inference: Inference, feed: PolicyFeed, economy: InferenceBudget) -> None:
        self.reasoner = Reasoner(inference, economy)
        self._reuse: Reuse[Judgement] = Reuse(economy.kept, lambda judgement: judgement.decided)
        self._model = inference.model
        self._feed = feed
        self._effort_by_lag = economy.effort_by_lag

    async def warm_up(self) -> None:
        """Put each policy's text into the prefix cache: contents that arrive together would each compute it."""
        for policy in self._in_force():
            wanted = instructions.of(policy, self._in_force())
            with contextlib.suppress(InferenceError):
                await self.reasoner.inference.generate(Question(wanted.text, wanted.effort, (), most=1))

    async def __call__(self, records: Sequence[Record]) -> list[Output]:
        return [output for record in records for output in await self.judge(record)]

    def _in_force(self, instead: Policy | None = None) -> list[Policy]:
        """The policies in force, with this one in the place of its version in force."""
        policies = {name: released.policy for name, released in self._feed.policies.released.items()}
        return list((policies | {instead.id: instead} if instead else policies).values())

    async def _released(self, escalation: Escalation) -> Released | None:
        """The version to judge by: of live content and audits that in force at the escalation or a newer one; of a shadow
        likewise; of a replay the very version that it names.
        """
        place, revision = "", escalation.policy_revision
        if escalation.lane == "shadow":
            place = SHADOW
        in_force = self._feed.policies.released.get(escalation.policy_id)
        if escalation.lane == "replay" and (in_force is None or in_force.policy.version != escalation.policy_version):
            place, revision = REPLAYED + escalation.policy_version, 0
        return await self._feed.wait_for(policy_key(escalation.policy_id, place), revision, POLICY_PATIENCE)

    async def judge(self, record: Record) -> list[Output]:
        """A verdict and its rationale for one escalation; an undetermined one where no judgement can be had."""
        escalation = decode(record.value, Escalation)
        started, clock = now(), time.perf_counter()
        event, lane = escalation.event, escalation.lane
        released = await self._released(escalation)
        asked: Effort = "low"
        version, together, score_map = escalation.policy_version, None, None
        if released is None:
            finding, judgement, cached = Finding("low", why="the policy is no longer in force"), Judgement(()), False
        else:
            policy = released.policy
            version, asked, score_map = policy.version, policy.effort, policy.judging.score_map
            wanted = instructions.of(policy, self._in_force(instead=policy))
            together = wanted.version if len(wanted.policies) > 1 else None
            effort = self._effort(wanted.effort, lane, record.timestamp)
            judgement, cached = await self._ask(wanted, effort, escalation)
            finding = judgement.findings[[p.id for p in wanted.policies].index(policy.id)]
        digest = content_sha256(event.text)
        identity = verdict_id(
            event.content_id,
            digest,
            escalation.policy_id,
            version,
            self._model,
            asked,  # the policy's own effort, so that the same escalation always has the same verdict_id
            lane,
            escalation.replay_id or "",
        )
        answer, score = finding.answer, finding.score
        mapped = score_map if score is not None else None
        decision: Decision = "undetermined" if answer is None else "violates" if answer.violates else "safe"
        verdict = Verdict(
            verdict_id=identity,
            content_id=event.content_id,
            content_sha256=digest,
            policy_id=escalation.policy_id,
            policy_version=version,
            decision=decision,
            stage="reasoner",
            lane=lane,
            model=self._model,
            decided_at=now(),
            rule_ids=answer.rule_ids if answer else (),
            score=mapped.apply(score) if mapped and score is not None else score,
            score_map=mapped.name if mapped else None,
            confidence=answer.confidence if answer else None,
            reason=answer.reason if answer else finding.why,
            reasoning_effort=finding.effort,
            bundle=together,
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
            surface=event.surface,
        )
        _count(verdict)
        trace = carried(record.headers)
        # What is for comparison only goes where no enforcement reads.
        topic = topics.REPLAYS if lane in ("replay", "shadow") else topics.VERDICTS
        outputs = [Output(topic, record.key, encode(verdict), [_VERDICT, *trace])]
        if judgement.attempts:
            rationale = Rationale(
                verdict_id=identity,
                content_id=event.content_id,
                policy_id=escalation.policy_id,
                policy_version=version,
                model=self._model,
                attempts=judgement.attempts,
                created_at=verdict.decided_at,
            )
            outputs.append(Output(topics.RATIONALES, identity.encode(), encode(rationale), [_RATIONALE, *trace]))
        return outputs

    def _effort(self, effort: Effort, lane: Lane, timestamp: int) -> Effort:
        """The effort for a content; less for live content that has waited long, as the operator wants it."""
        if lane != "live":
            return effort
        lag = time.time() - timestamp / 1000
        steps = [step for step, seconds in self._effort_by_lag.items() if lag > seconds]
        return min([effort, *steps], key=EFFORTS.index)

    async def _ask(self, wanted: Instructions, effort: Effort, escalation: Escalation) -> tuple[Judgement, bool]:
        """The judgement, and whether it is that of an equal content. Replays and shadows are compared with what was judged
        before, and are judged anew.
        """
        event = escalation.event
        anew = (escalation.lane == "shadow", escalation.replay_id)
        key = (wanted.key, effort, anew, prompt.user_message(event.text, event.context))
        rank = RANKS[escalation.lane]
        return await self._reuse.ask(key, lambda: self.reasoner.judge(wanted, effort, event.text, event.context, rank))


def _count(verdict: Verdict) -> None:
    """A verdict, for those who watch."""
    policy, kind = {"policy": verdict.policy_id}, {"decision": verdict.decision, "lane": verdict.lane}
    metrics.VERDICTS.add(1, {**policy, **kind})
    for rule in verdict.rule_ids:
        metrics.RULES.add(1, {**policy, "rule": rule, **kind})
    if verdict.cached:
        metrics.REUSED.add(1, policy)
    if verdict.decision == "violates" and verdict.lane in ("live", "audit"):
        rate = verdict.prefilter.rate if verdict.prefilter else None
        found_by = "audit" if verdict.lane == "audit" or rate else "gate"
        metrics.VIOLATIONS.add(1 / rate if rate else 1, {**policy, "found_by": found_by})
