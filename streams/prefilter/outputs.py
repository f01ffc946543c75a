"""The records that the prefilter writes for one content event: escalations, or a cleared verdict."""

from __future__ import annotations

from datetime import datetime
from typing import cast

import msgspec

from safeguard_streams.bus.interface import Output, Record
from safeguard_streams.contract import topics
from safeguard_streams.contract.intake import Received
from safeguard_streams.contract.records import (
    EVERY_POLICY,
    ContentEvent,
    Escalation,
    Headers,
    Lane,
    PrefilterResult,
    Verdict,
    carried,
    content_sha256,
    encode,
    milliseconds_since,
    origin_of,
    schema_header,
    verdict_id,
)
from safeguard_streams.releases.feed import Released

_ESCALATION = (schema_header(Escalation),)
_VERDICT = (schema_header(Verdict),)


class Decided(msgspec.Struct, frozen=True, gc=False):
    """An event at the time of its decision, with what its outputs have in common.

    latency: milliseconds by stage; trace: the headers of the event's trace; origin: its place on content.events.
    key: of all outputs, whatever the producer's key: the content_id. judged_under: the policies of its escalations,
    those of shadows left out.
    """

    received: Received
    at: datetime
    latency: dict[str, float]
    trace: list[tuple[str, bytes]]
    origin: str
    key: bytes
    judged_under: tuple[str, ...]

    @classmethod
    def of(
        cls, record: Record, received: Received, at: datetime, spent: float, judged_under: tuple[str, ...]
    ) -> Decided:
        """spent: milliseconds that the decision took."""
        event = received.event
        return cls(
            received,
            at,
            {"queue": milliseconds_since(event.created_at, at), "prefilter": spent},
            carried(record.headers) if record.headers else [],
            origin_of(record.partition, record.offset),
            event.content_id.encode(),
            judged_under,
        )


def _with_trace(schema: Headers, decided: Decided) -> Headers:
    """The headers of an output. Outputs without a trace share one tuple."""
    return [*schema, *decided.trace] if decided.trace else schema


def as_sent(received: Received) -> ContentEvent:
    """The event for a record that passes it on: encoded, it is the very bytes that were received."""
    return cast("ContentEvent", msgspec.Raw(received.json))


def escalated(decided: Decided, released: Released, result: PrefilterResult, lane: Lane) -> Output:
    """The escalation of an event under one policy, which names the others that judge it."""
    own, under = released.policy.id, decided.judged_under
    escalation = Escalation(
        event=as_sent(decided.received),
        policy_id=own,
        policy_version=released.policy.version,
        policy_revision=released.revision,
        prefilter=result,
        lane=lane,
        escalated_at=decided.at,
        latency=decided.latency,
        origin=decided.origin,
        repaired=decided.received.repaired,
        judged_under=() if under == (own,) else tuple([other for other in under if other != own]),
    )
    return Output(topics.LANES[lane], decided.key, encode(escalation), _with_trace(_ESCALATION, decided))


def cleared(decided: Decided, policies_version: str, model: str, nearest: PrefilterResult | None) -> Output:
    """The verdict that clears an event under every policy. `nearest` is the result of the gate that came nearest."""
    event, origin = decided.received.event, decided.origin
    digest = content_sha256(event.text)
    verdict = Verdict(
        verdict_id=verdict_id(event.content_id, digest, EVERY_POLICY, policies_version, model, "live", origin),
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
        origin=origin,
        repaired=decided.received.repaired,
        judged_under=decided.judged_under or None,
        author_id=event.author_id or None,
    )
    return Output(topics.CLEARED, decided.key, encode(verdict), _with_trace(_VERDICT, decided))
