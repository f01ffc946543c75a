"""moderation.actions: what enforcement did and why, and what moderators decided."""

from __future__ import annotations

from safeguard_streams.bus.dead_letters import was_requeued
from safeguard_streams.bus.interface import Record
from safeguard_streams.console import schema
from safeguard_streams.console.folding.context import Context
from safeguard_streams.console.rows import Rows
from safeguard_streams.contract.records import Action, decode


def fold(record: Record, rows: Rows, context: Context) -> None:
    """One action. A requeued record repeats one that is known."""
    action = decode(record.value, Action)
    if was_requeued(record):
        return
    row = {
        "action_id": action.action_id,
        "content_id": action.content_id,
        "action": action.action,
        "acted_at": action.acted_at,
        "by": action.by,
        "why": action.why,
        "state": action.state,
        "effective": action.effective,
        "previous": action.previous,
        "verdict_id": action.verdict_id,
        "policy_id": action.policy_id,
        "policy_version": action.policy_version,
        "decision": action.decision,
        "rule_ids": action.rule_ids,
        "reason": action.reason,
        "rule": action.rule,
        "reverses": action.reverses,
        "releases": action.releases,
        "withdraws": action.withdraws,
        "alert": action.alert,
        "dry_run": action.dry_run,
        "any_text": action.any_text,
        "sequence": action.sequence,
        "content_sha256": action.content_sha256,
        "origin": action.origin,
        "author_id": action.author_id,
        "severity": action.severity,
        "statement": action.statement and action.statement.text,
        "ends_statement": action.ends_statement,
    }
    if context.erased(action.content_id, action.acted_at):
        row |= schema.ACTION_WORDS
    rows.action(row)
