"""The prefilter's decision: which policies want a content judged, and what is cleared. Knows nothing of Kafka."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from datetime import datetime

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
_64_BITS = 2**64 - 1


def _number(name: str) -> int:
    """64 bits of a hash."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")


def drawn(content: int, policy: int, share: float) -> bool:
    """Whether a content is in a policy's sample, given the numbers of their ids: the same answer each time."""
    mixed = (content ^ policy) * 0x9E3779B97F4A7C15 & _64_BITS
    mixed = (mixed ^ (mixed >> 32)) * 0xD6E8FEB86659FD93 & _64_BITS
    return mixed < share * 2**64


class _Gate:
    """A released policy's gate, made ready for many events."""

    def __init__(self, released: Released) -> None:
        policy = released.policy
        self.released = released
        self.policy_id = policy.id
        self.labels = policy.gate.labels
        self.threshold = policy.gate.threshold
        self.everything = policy.gate.everything
        self.sample = policy.gate.sample
        self.terms = tuple(" " + " ".join(tokens(term)) + " " for term in policy.gate.terms)
        self.number = _number(policy.id)
        self.restricted = bool(policy.applies_to.surfaces or policy.applies_to.languages)

    def concerns(self, event: ContentEvent) -> bool:
        """Whether this policy is to look at the event at all."""
        if event.policies and self.policy_id not in event.policies:
            return False
        return not self.restricted or self.released.policy.applies(event.surface, event.language)

    def score(self, scores: Scores) -> float:
        """Summed probability of the gate's labels, 0 to 1."""
        total = 0.0
        for label in self.labels:
            total += scores.get(label, 0.0)
        return total

    def result(self, gate: str, scores: Scores) -> PrefilterResult:
        """What verdicts say of this gate."""
        if not self.labels:
            return PrefilterResult(gate)
        label = max(self.labels, key=lambda harm: scores.get(harm, 0.0))
        return PrefilterResult(gate, label, round(self.score(scores), 4), self.threshold)

    def fires(self, event: ContentEvent, score: float, number: int) -> str | None:
        """The name of the gate that wants the event judged, if one does."""
        if self.everything:
            return "everything"
        if self.labels and score >= self.threshold:
            return "label"
        if self.terms:
            text = " " + " ".join(tokens(event.text)) + " "
            if any(term in text for term in self.terms):
                return "terms"
        return "sample" if self.sample and drawn(number, self.number, self.sample) else None


class Prefilter:
    """Turns content events into escalations and cleared verdicts, a batch at a time."""

    def __init__(self, classifier: Classifier, feed: PolicyFeed) -> None:
        self._classifier = classifier
        self._feed = feed
        self._policies = PolicySet({})
        self._gates: list[_Gate] = []
        self._version = ""

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
            spent = round((time.perf_counter() - started) * 1000 / len(events), 3)
            moment = now()
            for (record, event), score in zip(events, scores, strict=True):
                outputs += self._decide(record, event, score, moment, spent)
        return outputs

    def _adopt(self, policies: PolicySet) -> None:
        self._policies = policies
        self._version = policies.version
        self._gates = [_Gate(released) for released in policies.released.values()]

    def _known(self, event: ContentEvent) -> None:
        for name in event.policies:
            if name not in self._policies.released:
                raise RecordError("policies", f"no policy {name!r} is in force; see safeguard policy list")

    def _decide(
        self, record: Record, event: ContentEvent, scores: Scores, moment: datetime, spent: float
    ) -> list[Output]:
        number = _number(event.content_id)
        nearest: _Gate | None = None
        margin = -2.0
        wanted: list[tuple[_Gate, str]] = []
        for gate in self._gates:
            if not gate.concerns(event):
                continue
            score = gate.score(scores)
            fired = gate.fires(event, score, number)
            if fired:
                wanted.append((gate, fired))
            elif gate.labels and score - gate.threshold > margin:
                nearest, margin = gate, score - gate.threshold
        latency = {"queue": milliseconds_since(event.created_at, moment), STAGE: spent}
        trace = carried(record.headers) if record.headers else []
        if not wanted:
            result = nearest.result("label", scores) if nearest else None
            return [self._cleared(record, event, result, moment, latency, trace)]
        return [
            Output(
                topics.ESCALATIONS,
                record.key,
                encode(
                    Escalation(
                        event=event,
                        policy_id=gate.policy_id,
                        policy_version=gate.released.policy.version,
                        policy_revision=gate.released.revision,
                        prefilter=gate.result(fired, scores),
                        lane="live",
                        escalated_at=moment,
                        latency=latency,
                    )
                ),
                [_ESCALATION, *trace],
            )
            for gate, fired in wanted
        ]

    def _cleared(
        self,
        record: Record,
        event: ContentEvent,
        nearest: PrefilterResult | None,
        moment: datetime,
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
            decided_at=moment,
            prefilter=nearest,
            latency=latency,
        )
        return Output(topics.CLEARED, record.key, encode(verdict), [_VERDICT, *trace])
