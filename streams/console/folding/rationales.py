"""moderation.rationales: what the model wrote, for auditors only. A tombstone erases one."""

from __future__ import annotations

import msgspec

from safeguard_streams.bus.interface import Record
from safeguard_streams.console import schema
from safeguard_streams.console.folding.context import Context, key_of
from safeguard_streams.console.rows import Rows
from safeguard_streams.contract.records import Rationale, decode


def fold(record: Record, rows: Rows, context: Context) -> None:
    """One rationale, or the end of one."""
    if record.value is None:
        rows.drop(schema.rationales, key_of(record.key))
        return
    rationale = decode(record.value, Rationale)
    if context.erased(rationale.content_id, rationale.created_at):
        rows.drop(schema.rationales, rationale.verdict_id)
        return
    rows.put(
        schema.rationales,
        {
            "verdict_id": rationale.verdict_id,
            "content_id": rationale.content_id,
            "policy_id": rationale.policy_id,
            "policy_version": rationale.policy_version,
            "model": rationale.model,
            "attempts": msgspec.to_builtins(rationale.attempts),
            "omitted": rationale.omitted,
            "cut": rationale.cut,
            "created_at": rationale.created_at,
        },
    )
