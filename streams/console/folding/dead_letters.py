"""moderation.dead-letters and what operators did with them. The bytes of the originals stay on the topic."""

from __future__ import annotations

from datetime import UTC, datetime

from safeguard_streams.bus.interface import Record
from safeguard_streams.console import schema
from safeguard_streams.console.folding.context import Context
from safeguard_streams.console.rows import Rows
from safeguard_streams.contract.records import DeadLetter, HandledLetter, decode, origin_of

_LATEST = 253_402_300_799_999  # ms since 1970, at the end of the calendar


def fold(record: Record, rows: Rows, _context: Context) -> None:
    """One dead letter. Another one at its place, after the topic was created again, replaces it."""
    letter = decode(record.value, DeadLetter)
    origin = letter.origin
    size = len(letter.value) * 3 // 4 if letter.value is not None else letter.value_bytes
    rows.put(
        schema.dead_letters,
        {
            "letter": origin_of(record.partition, record.offset),
            "topic": origin.topic,
            "partition": origin.partition,
            "offset": origin.offset,
            "stage": letter.stage,
            "error": letter.error,
            "reason": letter.reason,
            "field": letter.field,
            "attempts": letter.attempts,
            "failed_at": letter.failed_at,
            "letter_at": moment_of(record.timestamp),
            "bytes": size,
        },
    )


def fold_handled(record: Record, rows: Rows, _context: Context) -> None:
    """What an operator did with a letter."""
    handled = decode(record.value, HandledLetter)
    rows.put(
        schema.dead_letters_handled,
        {
            "letter": handled.letter,
            "state": handled.state,
            "letter_at": moment_of(handled.letter_timestamp),
            "handled_at": handled.handled_at,
            "handled_by": handled.handled_by,
            "why": handled.why,
        },
    )


def moment_of(timestamp: int) -> datetime:
    """The time of a record's timestamp in ms since 1970; the nearest one in the calendar, whatever it is."""
    return datetime.fromtimestamp(min(max(timestamp, 0), _LATEST) / 1000, UTC)
