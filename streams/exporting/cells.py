"""Values as cells of CSV files that no spreadsheet takes for formulas."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from safeguard_streams.contract.records import aware

# What spreadsheets take for the beginning of a formula; some of them read wide characters, too.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def guarded(text: str) -> str:
    """A text after an apostrophe, if a spreadsheet would take it for a formula."""
    return "'" + text if text.startswith(_FORMULA) else text


def cell(value: object) -> str:
    """A field of a record: empty for null, times in UTC with microseconds, and everything else but texts as JSON."""
    if value is None:
        return ""
    if isinstance(value, str):
        return guarded(value)
    if isinstance(value, datetime):
        return written(value)
    return msgspec.json.encode(value).decode()


def written(moment: datetime) -> str:
    """A time in UTC with microseconds, as 2026-01-31T12:00:00.000000Z."""
    at = aware(moment)
    try:
        at = at.astimezone(UTC)
    except OverflowError:  # at either end of the calendar
        return at.isoformat(timespec="microseconds")
    return at.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
