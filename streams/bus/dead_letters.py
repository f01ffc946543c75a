"""Dead letters: records that could not be processed, in full, with the reason."""

from __future__ import annotations

import base64

from safeguard_streams.bus.interface import Output, Record
from safeguard_streams.bus.tracing import original_headers
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import DeadLetter, Origin, carried, decode, encode, now, schema_header
from safeguard_streams.errors import RecordError, SafeguardError
from safeguard_streams.runtime import metrics

TRIES_HEADER = "safeguard-tries"


def _base64(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode()


def dead_letter(record: Record, error: Exception, *, stage: str, attempts: int, whole: bool = True) -> Output:
    """The dead letter of a record. Names an unexpected error by its type only, because its text may quote content."""
    expected = isinstance(error, SafeguardError)
    metrics.DEAD_LETTERS.add(1, {"stage": stage, "error": type(error).__name__})
    earlier = next((int(value) for name, value in record.headers if name == TRIES_HEADER and value.isdigit()), 0)
    letter = DeadLetter(
        origin=Origin(record.topic, record.partition, record.offset, record.timestamp),
        stage=stage,
        error=type(error).__name__,
        reason=str(error) if expected else f"unexpected {type(error).__name__} in {stage}",
        attempts=earlier + attempts,
        failed_at=now(),
        field=error.field if isinstance(error, RecordError) else None,
        key=_base64(record.key),
        value=_base64(record.value) if whole else None,
        headers=tuple((name, base64.b64encode(value).decode()) for name, value in original_headers(record)),
    )
    return Output(
        topics.DEAD_LETTERS, record.key, encode(letter), [schema_header(DeadLetter), *carried(record.headers)]
    )


def was_requeued(record: Record) -> bool:
    """Whether a record was requeued from the dead letters and stands later in its topic than it belongs."""
    return any(name == TRIES_HEADER for name, _ in record.headers)


def requeued(record: Record, prefix: str) -> Output:
    """The original record of a dead letter, for its topic, with a header that counts the attempts.

    Raises RecordError when the record is not a dead letter.
    """
    letter = decode(record.value, DeadLetter)
    key, value, headers = letter.original()
    kept = [(name, data) for name, data in headers if name != TRIES_HEADER]
    return Output(
        letter.origin.topic.removeprefix(prefix), key, value, [*kept, (TRIES_HEADER, str(letter.attempts).encode())]
    )
