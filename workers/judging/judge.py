"""The reasoner's transform: an escalation comes in, a verdict and its rationale go out. Knows nothing about Kafka."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

import msgspec

from safeguard_streams.bus.interface import Output, Record
from safeguard_streams.bus.timestamps import age
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import (
    REPLAYED,
    SHADOW,
    Canary,
    Escalation,
    Lane,
    Rationale,
    Tokens,
    Verdict,
    VerdictLane,
    account_age,
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
from safeguard_streams.policies.vocabulary import EFFORTS, Effort, Severity
from safeguard_streams.releases.feed import PolicyFeed
from safeguard_streams.runtime import metrics
from safeguard_streams.workers.inference.interface import InferenceBackend
from safeguard_streams.workers.judging import prompt
from safeguard_streams.workers.judging.cache import CachedJudgement, JudgementCache
from safeguard_streams.workers.judging.instructions import Instructions, instructions_for
from safeguard_streams.workers.judging.judgement import Finding, Judgement
from safeguard_streams.workers.judging.rationale import build_rationale
from safeguard_streams.workers.judging.reasoner import InferenceBudget, Reasoner
from safeguard_streams.workers.judging.stages import Judging, Stages

STAGE = "reasoner"
# Live content comes first, then audits, then shadows and replays.
RANKS: Mapping[Lane, int] = {"live": 0, "audit": 1, "shadow": 2, "replay": 2}
_VERDICT, _RATIONALE = schema_header(Verdict), schema_header(Rationale)

# Whether an item was erased, by its content id and the time of its event in ms since 1970.
Erased = Callable[[str, int], bool]


class EscalationResult(msgspec.Struct, frozen=True):
    """The judgement of one escalation under its own policy.

    policy: the version that judged it; None if there was nothing to judge, or nothing to judge it by.
    bundle: the version of the bundle, where several policies were judged in one call. erased: the item was erased.
    """

    policy: Policy | None
    finding: Finding
    judgement: Judgement
    cached: bool = False
    bundle: str | None = None
    erased: bool = False


class Timing(msgspec.Struct, frozen=True):
    """When work on a record began: as a date, and in seconds of a monotonic clock."""

    started_at: datetime
    clock: float

    @classmethod
    def start(cls) -> Timing:
        return cls(now(), time.perf_counter())


class JudgedBy(msgspec.Struct, frozen=True):
    """Which model judges, and as which canary, if it is one."""

    model: str
    revision: str | None = None
    canary: Canary | None = None


class Judge:
    """Judges escalations, each under its policy's released version. Items that `erased` names never reach the model.

    arrange: what judges, around the reasoner; the reasoner alone if it is not given. A canary judges live content for
    comparison only. Where there is nothing to judge, it has no verdict.
    """

    def __init__(
        self,
        backend: InferenceBackend,
        feed: PolicyFeed,
        budget: InferenceBudget,
        erased: Erased = lambda _content_id, _timestamp: False,
        arrange: Callable[[Reasoner], Judging] | None = None,
        canary: Canary | None = None,
    ) -> None:
        self.reasoner = Reasoner(backend, budget)
        self.arrange(arrange or (lambda reasoner: reasoner))
        self._erased = erased
        self._cache = JudgementCache(budget.cache_size)
        self._backend = backend
        self._canary = canary
        self._feed = feed
        self._effort_by_lag = budget.effort_by_lag

    def arrange(self, arrange: Callable[[Reasoner], Judging]) -> None:
        """Let this judge whatever comes next, as a first judge that was away at the start."""
        self._judging = arrange(self.reasoner)
        # Audits measure what the stages before miss, and a first judge is one of them.
        self._auditing = self._judging.second if isinstance(self._judging, Stages) else self._judging

    async def __call__(self, records: Sequence[Record]) -> list[Output]:
        return [output for record in records for output in await self.judge(record)]

    async def judge(self, record: Record) -> list[Output]:
        """A verdict and its rationale for one escalation. The verdict is undetermined if there is no judgement."""
        timing = Timing.start()
        escalation = decode(record.value, Escalation)
        result = await self._result(escalation, record.timestamp)
        if self._canary is not None and result.policy is None:
            return []
        by = JudgedBy(self._backend.model, self._backend.revision, self._canary)
        verdict = build_verdict(escalation, result, by, timing, _place(record))
        _count(verdict)
        trace = carried(record.headers)
        # Verdicts for comparison go where enforcement does not read.
        topic = topics.VERDICTS if verdict.lane in ("live", "audit") else topics.REPLAYS
        outputs = [Output(topic, record.key, encode(verdict), [_VERDICT, *trace])]
        if result.judgement.attempts:
            rationale = build_rationale(verdict, result.judgement)
            outputs.append(
                Output(topics.RATIONALES, verdict.verdict_id.encode(), encode(rationale), [_RATIONALE, *trace])
            )
        return outputs

    async def _result(self, escalation: Escalation, timestamp: int) -> EscalationResult:
        """Judge an escalation, unless its policy has ended or its item is erased, before or meanwhile."""
        policy = await self._resolve(escalation)
        if self._is_erased(escalation, timestamp):
            return _unjudged("the item was erased", erased=True)
        if policy is None:
            return _unjudged("the policy is no longer in force")
        result = await self._run(policy, escalation, timestamp)
        if self._is_erased(escalation, timestamp):
            self._cache.forget(escalation.event.content_id)
            return _unjudged("the item was erased", erased=True)
        return result

    def _is_erased(self, escalation: Escalation, timestamp: int) -> bool:
        """timestamp: of the escalation, in ms since 1970. A replay's is newer than the event's, a wrong date may be."""
        return self._erased(escalation.event.content_id, min(timestamp, _in_ms(escalation.event.created_at)))

    def forget(self, content_id: str) -> None:
        """Drop what the model wrote about an item that was erased."""
        self._cache.forget(content_id)

    async def _resolve(self, escalation: Escalation) -> Policy | None:
        """The version that judges: None if the policy has ended. Waits for a release that has not arrived yet.

        Live content and audits are judged by the version in force at the escalation, or a newer one. Shadows are judged
        by the shadow of that time, or a newer one. A replay is judged by exactly the version that it names.
        """
        place, revision = "", escalation.policy_revision
        if escalation.lane == "shadow":
            place = SHADOW
        in_force = self._feed.policies.released.get(escalation.policy_id)
        if escalation.lane == "replay" and (in_force is None or in_force.policy.version != escalation.policy_version):
            place, revision = REPLAYED + escalation.policy_version, 0
        released = await self._feed.wait_for(policy_key(escalation.policy_id, place), revision)
        return released.policy if released else None

    def _policies_in_force(self) -> list[Policy]:
        return [released.policy for released in self._feed.policies.released.values()]

    async def _run(self, policy: Policy, escalation: Escalation, timestamp: int) -> EscalationResult:
        """Judge an escalation under a policy and its bundle. timestamp: of the record, in ms since 1970."""
        others = [other for other in self._policies_in_force() if other.id != policy.id]
        instructions = instructions_for(policy, [policy, *others])
        effort = self._effort(instructions.effort, escalation.lane, timestamp)
        cached = await self._ask(instructions, effort, escalation)
        judgement = cached.judgement
        return EscalationResult(
            policy, judgement.findings[policy.id], judgement, cached.cached, instructions.bundle_version
        )

    def _effort(self, effort: Effort, lane: Lane, timestamp: int) -> Effort:
        """The effort to judge at: lower than the policies' own for live content that has waited long."""
        if lane != "live":
            return effort
        lag = age(timestamp)
        steps = [step for step, seconds in self._effort_by_lag.items() if lag > seconds]
        return min([effort, *steps], key=EFFORTS.index)

    async def _ask(self, instructions: Instructions, effort: Effort, escalation: Escalation) -> CachedJudgement:
        """Judge the content, or reuse the judgement of an identical item.

        Replays and shadows are compared with earlier judgements, so they share none with live content.
        """
        event = escalation.event
        judging = self._auditing if escalation.lane == "audit" else self._judging
        comparison = (escalation.lane == "shadow", escalation.replay_id, judging is self._auditing)
        # The revision, because a server may come back with other weights.
        by = (instructions.key, effort, self._backend.revision)
        key = (by, comparison, prompt.key(event.text, event.context))
        rank = RANKS[escalation.lane]
        return await self._cache.get_or_judge(
            key, event.content_id, lambda: judging.judge(instructions, effort, event.text, event.context, rank)
        )


def _unjudged(problem: str, *, erased: bool = False) -> EscalationResult:
    return EscalationResult(None, Finding("low", problem=problem), Judgement({}), erased=erased)


def _place(record: Record) -> str:
    return f"{record.topic} {record.partition}@{record.offset}"


def _in_ms(date: datetime) -> int:
    """Milliseconds since 1970. A date without an offset is taken as UTC."""
    return round((date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() * 1000)


def build_verdict(
    escalation: Escalation, result: EscalationResult, by: JudgedBy, timing: Timing, place: str
) -> Verdict:
    """The verdict of one escalation, which stands at `place`.

    Its id depends on the event's place, or else the escalation's, beside the content, the policy, the model's name and
    the lane. An escalation that is read again has the same id, and an item that is sent again has another. The model's
    revision is no part of it: weights may change between a judgement and its repetition, which is still one verdict.
    """
    event, finding, answer = escalation.event, result.finding, result.finding.answer
    version = result.policy.version if result.policy else escalation.policy_version
    digest = content_sha256(event.text)
    # A first judge's scores have a scale of their own, which the map was not fitted to.
    mapped = result.policy is not None and finding.score is not None and finding.model is None
    score_map = result.policy.judging.score_map if result.policy and mapped else None
    lane: VerdictLane = "canary" if by.canary else escalation.lane
    return Verdict(
        verdict_id=verdict_id(
            event.content_id,
            digest,
            escalation.policy_id,
            version,
            by.model,
            lane,
            by.canary.name if by.canary else escalation.replay_id or _cause(escalation),
            escalation.origin or place,
        ),
        content_id=event.content_id,
        content_sha256=digest,
        policy_id=escalation.policy_id,
        policy_version=version,
        decision=finding.decision,
        stage="reasoner",
        lane=lane,
        model=finding.model or by.model,
        decided_at=now(),
        rule_ids=answer.rule_ids if answer else (),
        score=score_map.apply(finding.score) if score_map and finding.score is not None else finding.score,
        score_map=score_map.name if score_map else None,
        confidence=answer.confidence if answer else None,
        reason=answer.reason if answer else finding.problem,
        reasoning_effort=finding.effort,
        answer=finding.by,
        bundle=result.bundle,
        model_revision=by.revision if finding.model is None else None,
        malformed=0 if result.cached else sum(one.refused is not None for one in result.judgement.attempts),
        canary=by.canary,
        prefilter=escalation.prefilter,
        truncated=result.judgement.truncated,
        cached=result.cached,
        tokens=Tokens() if result.cached else result.judgement.tokens,
        latency={
            **escalation.latency,
            "escalation": milliseconds_since(escalation.escalated_at, timing.started_at),
            STAGE: round((time.perf_counter() - timing.clock) * 1000, 1),
        },
        replay_id=escalation.replay_id,
        surface=event.surface,
        origin=escalation.origin,
        repaired=escalation.repaired,
        judged_under=escalation.judged_under,
        author_id=None if result.erased else event.author_id or None,
        language=event.language,
        created_at=event.created_at,
        severity=_severity(result),
        appeal_id=escalation.appeal_id,
        account_age=None if result.erased else account_age(event, escalation.escalated_at),
    )


def _cause(escalation: Escalation) -> str:
    """What sets the judgement of a reported or appealed text apart from one that the gates asked for."""
    return escalation.appeal_id or ("report" if escalation.prefilter.gate == "report" else "")


def _severity(result: EscalationResult) -> Severity | None:
    """The severity of a violation, by the policy's version that judged it."""
    if result.policy is None or result.finding.decision != "violates":
        return None
    return result.policy.severity_of_violation(result.finding.answer.rule_ids if result.finding.answer else ())


def _count(verdict: Verdict) -> None:
    policy, kind = {"policy": verdict.policy_id}, {"decision": verdict.decision, "lane": verdict.lane}
    metrics.VERDICTS.add(1, {**policy, **kind, "severity": verdict.severity or "none"})
    for rule in verdict.rule_ids:
        metrics.RULES.add(1, {**policy, "rule": rule, **kind})
    if verdict.cached:
        metrics.REUSED.add(1, policy)
    if verdict.decision == "violates" and verdict.lane in ("live", "audit"):
        rate = verdict.prefilter.rate if verdict.prefilter else None
        items = 1 / rate if rate else 1.0
        reported = verdict.prefilter is not None and verdict.prefilter.gate == "report"
        found_by = {**policy, "found_by": "report" if reported else "audit" if rate else "gate"}
        metrics.VIOLATIONS.add(items, found_by)
        metrics.VIOLATIONS_VARIANCE.add(items * (items - 1), policy)
