"""moderation.appeals: what appellants say. What became of an appeal is told by moderation.standing."""

from __future__ import annotations

from safeguard_streams.bus.interface import Record
from safeguard_streams.console import schema
from safeguard_streams.console.folding.context import Context
from safeguard_streams.console.folding.dead_letters import moment_of
from safeguard_streams.console.rows import Rows
from safeguard_streams.console.statements import Row
from safeguard_streams.contract.appeals import read_appeal
from safeguard_streams.contract.records import AppealStanding, Standing
from safeguard_streams.enforcement.appeals import deciders


def fold(record: Record, rows: Rows, context: Context) -> None:
    """The words of one appeal. An appeal that is sent again has its newest words."""
    appeal, received = read_appeal(record.value), moment_of(record.timestamp)
    row = {
        "content_id": appeal.content_id,
        "appeal_id": appeal.identity,
        "reason": appeal.reason,
        "new_context": appeal.new_context,
        "language": appeal.language,
        "received_at": received,
    }
    rows.put(
        schema.appeal_statements, row | (schema.APPEAL_WORDS if context.erased(appeal.content_id, received) else {})
    )


def row_of(standing: Standing, appeal: AppealStanding) -> Row:
    """The row of an appeal, as what stands on its item has it."""
    return {
        "content_id": standing.content_id,
        "appeal_id": appeal.appeal_id,
        "appellant": appeal.appellant,
        "state": appeal.state,
        "opened_at": appeal.opened_at,
        "due_at": appeal.due_at,
        "action": appeal.action,
        "closed_at": appeal.closed_at,
        "by": appeal.by,
        "outcome_id": appeal.outcome_id,
        "not_by": sorted(deciders(standing)),
    }
