"""moderation.standing: what is in effect on an item, and what of it waits for a moderator.

The agent writes one record with all that stands on an item. A moderator's decision is part of it, so that it closes
what waits, and a decision that was taken back re-opens it, in the order in which the agent followed them.
"""

from __future__ import annotations

from safeguard_streams.bus.interface import Record
from safeguard_streams.console.folding import appeals
from safeguard_streams.console.folding.context import Context, key_of
from safeguard_streams.console.rows import Rows, Stands
from safeguard_streams.console.statements import Row, share_of_severity
from safeguard_streams.contract.records import Standing, decode
from safeguard_streams.enforcement.reviews import Waiting, waiting_on
from safeguard_streams.enforcement.rules import severity
from safeguard_streams.enforcement.standing import as_in_effect


def fold(record: Record, rows: Rows, _context: Context) -> None:
    """All that stands on one item; a tombstone where nothing does."""
    if record.value is None:
        rows.stands(key_of(record.key), record.partition, Stands())
        return
    standing = as_in_effect(decode(record.value, Standing))
    held = 0 if standing.in_force is not None else sum(policy.held is not None for policy in standing.policies)
    waiting = [_row(one) for one in waiting_on(standing)]
    appealed = [appeals.row_of(standing, one) for one in standing.appeals]
    said = Stands(standing.partitions, standing.effective, held, waiting, appealed)
    rows.stands(standing.content_id, record.partition, said)


def _row(waiting: Waiting) -> Row:
    return {
        "content_id": waiting.content_id,
        "policy_id": waiting.policy_id,
        "cause": waiting.cause,
        "state": "open",
        "action": waiting.action,
        "effective": waiting.in_effect,
        "rule": waiting.rule,
        "severity": waiting.severity,
        "priority": severity(waiting.action) + share_of_severity(waiting.severity),
        "since": waiting.since,
        "edited": waiting.edited,
        "content_sha256": waiting.content_sha256,
        "origin": waiting.origin,
    }
