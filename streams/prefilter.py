"""The prefilter's decision: which policies want a content judged, and what is cleared. Knows nothing of Kafka."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence

from policies.document import Gate, Policy
from streams import topics
from streams.bus import Output, Record
from streams.classifier import Classifier, Scores
from streams.dead_letters import dead_letter
from streams.errors import RecordError
from streams.normalise import tokens
from streams.policy_feed import PolicyFeed, PolicySet, Released
from streams.records import (
    EVERY_POLICY,
    ContentEvent,
    Escalation,
    PrefilterResult,
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

STAGE = "prefilter"
_ESCALATION = schema_header(Escalation)
_VERDICT = schema_header(Verdict)


def drawn(content_id: str, policy_id: str, share: float) -> bool:
    """Whether a content is in a sample: the same answer each time it is asked."""
    digest = hashlib.blake2b(f"{policy_id}\0{content_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64


class Prefilter:
    """Turns content events into escalations and cleared verdicts, a batch at a time."""

    def __init__(self, classifier: Classifier, feed: PolicyFeed) -> None:
        self._classifier = classifier
        self._feed = feed
        self._policies = PolicySet({})
        self._terms: dict[str, frozenset[str]] = {}

    async def __call__(self, records: Sequence[Record]) -> list[Output]:
        return self.judge(records)

    def judge(self, records: Sequence[Record]) -> list[Output]:
        """Outputs for these records, in their order: each event is escalated under some policies or cleared under all."""
        started = time.perf_counter()
        if self._policies is not self._feed.policies:
            self._adopt(self._feed.policies)
        outputs: list[Output] = []
        events: list[tuple[Record, ContentEvent]] = []
        for record in records:
            try:
                event = decode(record.value, ContentEvent)
                self._known(event)
            except RecordError as error:
                outputs.append(dead_letter(record, error, stage=STAGE, attempts=1))
            else:
                events.append((record, event))
        if events:
            scores = self._classifier.score([event.text for _, event in events])
            spent = (time.perf_counter() - started) * 1000 / len(events)
            for (record, event), score in zip(events, scores, strict=True):
                outputs += self._decide(record, event, score, spent)
        return outputs

    def _adopt(self, policies: PolicySet) -> None:
        self._policies = policies
        self._version = policies.version
        self._gates = {r.policy.id: (r, r.policy.gate) for r in policies.released.values()}
        self._terms = {
            name: frozenset(" " + " ".join(tokens(term)) + " " for term in gate.terms)
            for name, (_, gate) in self._gates.items()
        }

    def _known(self, event: ContentEvent) -> None:
        for name in event.policies:
            if name not in self._policies.released:
                raise RecordError("policies", f"no policy {name!r} is in force; see safeguard policy list")

    def _decide(self, record: Record, event: ContentEvent, scores: Scores, spent: float) -> list[Output]:
        nearest: PrefilterResult | None = None
        margin = -1.0
        wanted: list[tuple[Released, PrefilterResult]] = []
        for name, (released, gate) in self._gates.items():
            if event.policies and name not in event.policies:
                continue
            policy = released.policy
            if not policy.applies(event.surface, event.language):
                continue
            fired, result = self._gate(policy, gate, event, scores)
            if fired:
                wanted.append((released, result))
            elif result.score is not None and result.score - gate.threshold > margin:
                nearest, margin = result, result.score - gate.threshold
        moment = now()
        latency = {"queue": milliseconds_since(event.created_at, moment), STAGE: round(spent, 3)}
        trace = carried(record.headers) if record.headers else []
        if not wanted:
            return [self._cleared(record, event, nearest, latency, trace)]
        return [
            Output(
                topics.ESCALATIONS,
                record.key,
                encode(
                    Escalation(
                        event=event,
                        policy_id=released.policy.id,
                        policy_version=released.policy.version,
                        policy_revision=released.revision,
                        prefilter=result,
                        lane="live",
                        escalated_at=moment,
                        latency=latency,
                    )
                ),
                [_ESCALATION, *trace],
            )
            for released, result in wanted
        ]

    def _gate(self, policy: Policy, gate: Gate, event: ContentEvent, scores: Scores) -> tuple[bool, PrefilterResult]:
        if gate.everything:
            return True, PrefilterResult("everything")
        score = round(sum(scores.get(label, 0.0) for label in gate.labels), 4)
        label: str | None = max(gate.labels, key=lambda harm: scores.get(harm, 0.0)) if gate.labels else None
        result = PrefilterResult("label", label, score, gate.threshold)
        if gate.labels and score >= gate.threshold:
            return True, result
        if gate.terms:
            text = " " + " ".join(tokens(event.text)) + " "
            if any(term in text for term in self._terms[policy.id]):
                return True, PrefilterResult("terms")
        if gate.sample and drawn(event.content_id, policy.id, gate.sample):
            return True, PrefilterResult("sample", label, score, gate.threshold)
        return False, result

    def _cleared(
        self,
        record: Record,
        event: ContentEvent,
        nearest: PrefilterResult | None,
        latency: dict[str, float],
        trace: list[tuple[str, bytes]],
    ) -> Output:
        digest = content_sha256(event.text)
        verdict = Verdict(
            verdict_id=verdict_id(event.content_id, digest, EVERY_POLICY, self._version, self._classifier.name, "live"),
            content_id=event.content_id,
            content_sha256=digest,
            policy_id=EVERY_POLICY,
            policy_version=self._version,
            decision="safe",
            stage="prefilter",
            lane="live",
            model=self._classifier.name,
            decided_at=now(),
            prefilter=nearest,
            latency=latency,
        )
        return Output(topics.CLEARED, record.key, encode(verdict), [_VERDICT, *trace])
