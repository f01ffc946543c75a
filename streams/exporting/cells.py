"""Values as cells of CSV files that no spreadsheet takes for formulas."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import msgspec

from safeguard_streams.contract.records import aware

# What spreadsheets take for the beginning of a formula, wide characters included. Some of them leave out blanks and
# characters that nobody sees.
_FORMULA = re.compile(
    "[\t\r\n]|[\\s\\x00-\\x1f\\x7f-\\x9f\xad\u061c\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff]*[=+\\-@\uff1d\uff0b\uff0d\uff20]"
)


def guarded(text: str) -> str:
    """A text after an apostrophe, if a spreadsheet would take it for a formula."""
    return "'" + text if _FORMULA.match(text) else text


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
