"""content.reports: who reported an item, by kind, and what they say. The text comes with the escalation."""

from __future__ import annotations

from safeguard_streams.bus.interface import Record
from safeguard_streams.console import schema
from safeguard_streams.console.folding.context import Context
from safeguard_streams.console.rows import Rows
from safeguard_streams.contract.intake import read_report
from safeguard_streams.contract.records import content_sha256


def fold(record: Record, rows: Rows, context: Context) -> None:
    """One report."""
    read = read_report(record.value)
    report, event = read.report, read.received.event
    rows.put(
        schema.reports,
        {
            "content_id": event.content_id,
            "report_id": report.report_id,
            "reporter": report.reporter,
            "reported_at": report.reported_at,
            "reason": report.reason or None,
            "content_sha256": content_sha256(event.text),
            **(schema.REPORT_WORDS if context.erased(event.content_id, report.reported_at) else {}),
        },
    )
