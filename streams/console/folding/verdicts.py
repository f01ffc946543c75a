"""moderation.verdicts and moderation.replays: one row for each verdict, and one for each rule that it cites."""

from __future__ import annotations

from sqlalchemy import Table

from safeguard_streams.bus.interface import Record
from safeguard_streams.console import schema
from safeguard_streams.console.folding.context import Context
from safeguard_streams.console.rows import Rows
from safeguard_streams.console.statements import Row
from safeguard_streams.contract.records import PrefilterResult, Tokens, Verdict, decode

_NO_GATE = PrefilterResult("")
_NO_TOKENS = Tokens()


def fold(record: Record, rows: Rows, context: Context) -> None:
    """A verdict that counts."""
    verdict = decode(record.value, Verdict)
    _put(schema.verdicts, verdict, rows, context)
    for rule in verdict.rule_ids:
        rows.put(
            schema.verdict_rules,
            {
                "verdict_id": verdict.verdict_id,
                "rule_id": rule,
                "policy_id": verdict.policy_id,
                "decision": verdict.decision,
                "decided_at": verdict.decided_at,
            },
        )


def fold_replay(record: Record, rows: Rows, context: Context) -> None:
    """A verdict for comparison only."""
    _put(schema.replay_verdicts, decode(record.value, Verdict), rows, context)


def _put(table: Table, verdict: Verdict, rows: Rows, context: Context) -> None:
    row = _row(verdict)
    if context.erased(verdict.content_id, verdict.decided_at):
        row |= schema.VERDICT_WORDS
    rows.put(table, row)


def _row(verdict: Verdict) -> Row:
    gate, tokens = verdict.prefilter or _NO_GATE, verdict.tokens or _NO_TOKENS
    return {
        "verdict_id": verdict.verdict_id,
        "content_id": verdict.content_id,
        "policy_id": verdict.policy_id,
        "policy_version": verdict.policy_version,
        "decision": verdict.decision,
        "lane": verdict.lane,
        "stage": verdict.stage,
        "model": verdict.model,
        "model_revision": verdict.model_revision,
        "decided_at": verdict.decided_at,
        "rule_ids": verdict.rule_ids,
        "score": verdict.score,
        "score_map": verdict.score_map,
        "confidence": verdict.confidence,
        "reason": verdict.reason,
        "reasoning_effort": verdict.reasoning_effort,
        "answer": verdict.answer,
        "gate": gate.gate or None,
        "gate_label": gate.label,
        "gate_score": gate.score,
        "gate_threshold": gate.threshold,
        "gate_rate": gate.rate,
        "truncated": verdict.truncated,
        "cached": verdict.cached,
        "prompt_tokens": tokens.prompt,
        "completion_tokens": tokens.completion,
        "latency": verdict.latency,
        "malformed": verdict.malformed,
        "replay_id": verdict.replay_id,
        "supersedes": verdict.supersedes,
        "bundle": verdict.bundle,
        "canary": verdict.canary and verdict.canary.name,
        "surface": verdict.surface,
        "content_sha256": verdict.content_sha256,
        "origin": verdict.origin,
        "author_id": verdict.author_id,
        "severity": verdict.severity,
    }
