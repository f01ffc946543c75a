"""content.escalations and its lanes: why a gate let an item on to the model, and the text of the item."""

from __future__ import annotations

import msgspec

from safeguard_streams.bus.interface import Record
from safeguard_streams.console import schema
from safeguard_streams.console.folding.context import Context
from safeguard_streams.console.rows import Rows
from safeguard_streams.contract.records import Escalation, content_sha256, decode, place_of, verdict_id


def fold(record: Record, rows: Rows, context: Context) -> None:
    """One item under one policy."""
    escalation = decode(record.value, Escalation)
    event, gate, escalated_at = escalation.event, escalation.prefilter, escalation.escalated_at
    erased = context.erased(event.content_id, escalated_at)
    digest = content_sha256(event.text)
    place = escalation.origin or escalated_at.isoformat()
    rows.put(
        schema.escalations,
        {
            "escalation_id": verdict_id(
                event.content_id,
                place,
                escalation.policy_id,
                escalation.policy_version,
                escalation.lane,
                escalation.replay_id or "",
            ),
            "content_id": event.content_id,
            "policy_id": escalation.policy_id,
            "policy_version": escalation.policy_version,
            "policy_revision": escalation.policy_revision,
            "lane": escalation.lane,
            "gate": gate.gate,
            "label": gate.label,
            "score": gate.score,
            "threshold": gate.threshold,
            "rate": gate.rate,
            "stratum": gate.stratum,
            "escalated_at": escalated_at,
            "replay_id": escalation.replay_id,
            "origin": escalation.origin,
            "content_sha256": digest,
            **(schema.ESCALATION_WORDS if erased else {}),
        },
    )
    partition, offset = place_of(escalation.origin) or (None, None)
    text = {
        "content_id": event.content_id,
        "text": event.text,
        "language": event.language,
        "surface": event.surface,
        "author_id": event.author_id,
        "context": msgspec.to_builtins(event.context) or None,
        "attributes": event.attributes or None,
        "created_at": event.created_at,
        "content_sha256": digest,
        "event_partition": partition,
        "event_offset": offset,
        "text_at": escalated_at,
        "text_expires_at": context.expires(escalated_at),
    }
    rows.text(text | schema.ITEM_WORDS if erased else text)
