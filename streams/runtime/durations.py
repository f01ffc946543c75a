"""Spans of time as people write them: 30s, 15m, 12h, 7d."""

from __future__ import annotations

import re
from datetime import timedelta

_SPAN = re.compile(r"(\d+)([smhd])\Z")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def span(text: str) -> timedelta | None:
    """The span, or None where the text is none."""
    found = _SPAN.match(text)
    return timedelta(**{_UNITS[found[2]]: int(found[1])}) if found else None
