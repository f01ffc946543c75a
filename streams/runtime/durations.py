"""Durations as people write them: 30s, 15m, 12h, 7d."""

from __future__ import annotations

import re
from datetime import timedelta

_SPAN = re.compile(r"(\d+)([smhd])\Z")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def span(text: str) -> timedelta | None:
    """The duration, or None when the text is not one."""
    match = _SPAN.match(text)
    return timedelta(**{_UNITS[match[2]]: int(match[1])}) if match else None
