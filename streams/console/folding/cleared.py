"""moderation.cleared: counts by minute, policy, surface and language. There is no row for each item."""

from __future__ import annotations

from datetime import datetime

import msgspec

from safeguard_streams.bus.interface import Record
from safeguard_streams.console import schema
from safeguard_streams.console.folding.context import Context
from safeguard_streams.console.rows import Rows, minute_of
from safeguard_streams.contract.records import decode


class _Cleared(msgspec.Struct, frozen=True):
    """What counts of a cleared verdict. Language is a field that newer versions of the prefilter may add."""

    policy_id: str
    decided_at: datetime
    surface: str | None = None
    language: str | None = None


def fold(record: Record, rows: Rows, _context: Context) -> None:
    """Count one cleared item."""
    cleared = decode(record.value, _Cleared)
    place = (cleared.policy_id, cleared.surface or "", cleared.language or "", record.partition)
    rows.count(schema.cleared_counts, (minute_of(cleared.decided_at), *place))
