"""moderation.strikes, moderation.author-actions and moderation.author-standing: what authors did, and what follows.

Records about an author are in one partition of moderation.strikes, in the order in which the ledger follows them. A
strike is therefore as its last record says. What a person ended all knowledge of is left out, whichever of the topics
is read first.
"""

from __future__ import annotations

import msgspec

from safeguard_streams.authors.transform import checked
from safeguard_streams.bus.interface import Record
from safeguard_streams.console import schema
from safeguard_streams.console.folding.context import Context, key_of
from safeguard_streams.console.folding.dead_letters import moment_of
from safeguard_streams.console.rows import Rows
from safeguard_streams.contract.intake import decode_sent
from safeguard_streams.contract.records import AuthorAction, AuthorStanding, Strike, decode

_OF_ACTION = tuple(str(one.name) for one in schema.author_actions.columns)
_KEPT = ("strike_id", "state", "at", "expires_at", "policy_id", "rule_ids", "severity", "rule", "weight")


def fold(record: Record, rows: Rows, context: Context) -> None:
    """One record about an author: a strike, a person's decision, or the end of all that is known."""
    entry = checked(decode_sent(record.value, Strike))
    if entry.state in ("given", "taken-back", "forgiven"):
        ended = {} if entry.state == "given" else {"ended_at": entry.at, "by": entry.by, "why": entry.why or None}
        row = {
            "strike_id": entry.strike_id,
            "author_id": entry.author_id,
            "state": entry.state,
            "at": entry.at,
            "expires_at": entry.expires_at,
            "content_id": entry.content_id,
            "verdict_id": entry.verdict_id,
            "action_id": entry.action_id,
            "policy_id": entry.policy_id,
            "rule_ids": entry.rule_ids,
            "severity": entry.severity,
            "rule": entry.rule,
            "weight": entry.weight,
            **dict.fromkeys(("ended_at", "by", "why")),
            **ended,
        }
        if entry.content_id is not None and context.erased(entry.content_id, entry.at):
            row |= schema.STRIKE_WORDS
        rows.strike(row)
    elif entry.state in ("decided", "undecided"):
        rows.put(
            schema.author_decisions,
            {
                "decision_id": entry.strike_id,
                "author_id": entry.author_id,
                "state": entry.state,
                "action": entry.action if entry.state == "decided" else None,
                "at": entry.at,
                "by": entry.by,
                "why": entry.why or None,
            },
        )
    elif entry.state == "forgotten":
        rows.forget(entry.author_id, *context.forget(entry.author_id, entry.at, record.offset))


def fold_action(record: Record, rows: Rows, context: Context) -> None:
    """One action about an author."""
    action = decode(record.value, AuthorAction)
    if context.is_forgotten(action):
        return
    row = {name: getattr(action, name) for name in _OF_ACTION}
    row |= {"why": action.why or None, "statement": action.statement and action.statement.text}
    if action.content_id is not None and context.erased(action.content_id, action.acted_at):
        row |= schema.AUTHOR_ACTION_WORDS
    rows.put(schema.author_actions, row)


def fold_standing(record: Record, rows: Rows, _context: Context) -> None:
    """All that stands on one author; a tombstone where nothing does. Strikes are kept without their items."""
    if record.value is None:
        rows.author_stands(key_of(record.key), record.partition, None)
        return
    standing = decode(record.value, AuthorStanding)
    decision = standing.decision
    strikes = [msgspec.to_builtins({name: getattr(one, name) for name in _KEPT}) for one in standing.strikes]
    rows.author_stands(
        standing.author_id,
        record.partition,
        {
            "author_id": standing.author_id,
            "action": standing.action,
            "rule": standing.rule,
            "weight": standing.weight,
            "since": standing.since or moment_of(record.timestamp),
            "strikes": strikes,
            "decision": decision and decision.action,
            "decision_id": decision and decision.decision_id,
            "decided_at": decision and decision.at,
            "decided_by": decision and decision.by,
            "decided_why": (decision and decision.why) or None,
            "followed": standing.decided,
            "partitions": standing.partitions,
        },
    )
