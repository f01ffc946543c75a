"""Ages of records. A producer may write any timestamp, and records of old formats have none (-1)."""

from __future__ import annotations

import time

EARLIEST = 1_262_304_000_000  # ms: 2010-01-01, before Kafka existed; seconds since 1970 are below it, too


def age(timestamp: int, now: float | None = None) -> float:
    """Seconds since a record was written; 0 if its timestamp is in the future or cannot be one.

    timestamp: in ms since 1970. now: in seconds since 1970; default: the clock.
    """
    if timestamp < EARLIEST:
        return 0.0
    return max(0.0, (time.time() if now is None else now) - timestamp / 1000)
