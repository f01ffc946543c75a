"""The records that the prefilter writes for one content event: escalations, or a cleared verdict."""

from __future__ import annotations

from datetime import datetime

import msgspec

from safeguard_streams.bus.interface import Output, Record
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import (
    EVERY_POLICY,
    ContentEvent,
    Escalation,
    Lane,
    PrefilterResult,
    Verdict,
    content_sha256,
    encode,
    schema_header,
    verdict_id,
)
from safeguard_streams.releases.feed import Released

_ESCALATION = schema_header(Escalation)
_VERDICT = schema_header(Verdict)


class Decided(msgspec.Struct, frozen=True):
    """An event at the time of its decision, with what its outputs have in common.

    latency: milliseconds by stage; trace: the headers of the event's trace.
    """

    record: Record
    event: ContentEvent
    at: datetime
    latency: dict[str, float]
    trace: list[tuple[str, bytes]]


def escalated(decided: Decided, released: Released, result: PrefilterResult, lane: Lane) -> Output:
    """The escalation of an event under one policy."""
    escalation = Escalation(
        event=decided.event,
        policy_id=released.policy.id,
        policy_version=released.policy.version,
        policy_revision=released.revision,
        prefilter=result,
        lane=lane,
        escalated_at=decided.at,
        latency=decided.latency,
    )
    return Output(topics.LANES[lane], decided.record.key, encode(escalation), [_ESCALATION, *decided.trace])


def cleared(decided: Decided, policies_version: str, model: str, nearest: PrefilterResult | None) -> Output:
    """The verdict that clears an event under every policy. `nearest` is the result of the gate that came nearest."""
    event = decided.event
    digest = content_sha256(event.text)
    verdict = Verdict(
        verdict_id=verdict_id(event.content_id, digest, EVERY_POLICY, policies_version, model, "live"),
        content_id=event.content_id,
        content_sha256=digest,
        policy_id=EVERY_POLICY,
        policy_version=policies_version,
        decision="safe",
        stage="prefilter",
        lane="live",
        model=model,
        decided_at=decided.at,
        prefilter=nearest,
        latency=decided.latency,
    )
    return Output(topics.CLEARED, decided.record.key, encode(verdict), [_VERDICT, *decided.trace])
