"""Times as people write them: spans such as 30s, 15m, 12h, 7d, and moments."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from safeguard_streams.errors import ConfigurationError

_SPAN = re.compile(r"([0-9]{1,15})([smhd])\Z")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def span(text: str) -> timedelta | None:
    """The duration, or None when the text is not one, or is one that no calendar holds."""
    match = _SPAN.match(text)
    try:
        return timedelta(**{_UNITS[match[2]]: int(match[1])}) if match else None
    except OverflowError:
        return None


def moment(text: str, option: str, now: datetime | None = None) -> datetime:
    """A time in RFC 3339, taken as UTC without an offset, or a time span before now such as 7d.

    A span that goes back beyond 1970 means everything: 1970. Raises ConfigurationError that names the option.
    """
    epoch, now = datetime.fromtimestamp(0, UTC), now or datetime.now(UTC)
    if _SPAN.match(text):
        ago = span(text)
        return epoch if ago is None or ago > now - epoch else now - ago
    try:
        at = datetime.fromisoformat(text)
        return max(epoch, (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC))
    except (ValueError, OverflowError):
        raise ConfigurationError(
            f"{option}: write a time such as 2026-01-31T12:00:00Z, or a time span before now: 7d, 12h, 30m"
        ) from None
