"""Dead letters: records that could not be processed, in full where they fit, with the reason.

Any record can become a dead letter, whatever its key, value and headers are: making one never raises. A letter that
would not fit on its topic leaves out the value first, then the headers, then the key. It always names the place of the
original.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Sequence

import msgspec

from safeguard_streams.bus.interface import Output, Partition, Record
from safeguard_streams.bus.tracing import original_headers
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import (
    DeadLetter,
    Headers,
    Origin,
    Part,
    carried,
    decode,
    encode,
    now,
    schema_header,
)
from safeguard_streams.errors import RecordError, SafeguardError
from safeguard_streams.runtime import metrics
from safeguard_streams.runtime.aiokafka_patch import UnreadableRecord

TRIES_HEADER = "safeguard-tries"
LARGEST_LETTER = topics.LARGEST_RECORD - 4096  # bytes of key, value and headers; the batch around them takes the rest
_LONGEST_TEXT = 2000  # characters of a reason, or of the name of a field
_SHORT = 1024  # bytes of a part that every letter has room for
_COUNT = re.compile(rb"[0-9]{1,9}")


def dead_letter(record: Record, error: Exception, *, stage: str, attempts: int, whole: bool = True) -> Output:
    """The dead letter of a record. Names an unexpected error by its type only, because its text may quote content.

    whole: whether to include value, headers and key if they fit. Otherwise the value is left out, and the others unless
    they are short. Never raises.
    """
    metrics.DEAD_LETTERS.add(1, {"stage": stage, "error": type(error).__name__})
    try:
        letters = _letters(record, _outline(record, error, stage, attempts), whole=whole)
        return next(output for output in letters if _size(output) <= LARGEST_LETTER)
    except Exception as failure:
        return _last_resort(record, error, stage, attempts, failure)


def set_apart(records: Sequence[Record], stage: str) -> tuple[Sequence[Record], list[Output]]:
    """The records that a transform may see, and the dead letters of those that the bus could not take apart."""
    unreadable = [record for record in records if isinstance(record, UnreadableRecord)]
    if not unreadable:
        return records, []
    readable = [record for record in records if not isinstance(record, UnreadableRecord)]
    return readable, [
        dead_letter(record, RecordError("record", record.problem), stage=stage, attempts=1) for record in unreadable
    ]


def was_requeued(record: Record) -> bool:
    """Whether a record was requeued from the dead letters and stands later in its topic than it belongs."""
    return any(name == TRIES_HEADER for name, _ in record.headers)


def requeued(record: Record, prefix: str) -> Output:
    """The original record of a dead letter, for its topic, with a header that counts the attempts.

    Raises RecordError when the record is not a dead letter, or when that does not hold the whole original.
    """
    letter = decode(record.value, DeadLetter)
    key, value, headers = letter.original()
    kept = [(name, data) for name, data in headers if name != TRIES_HEADER]
    return Output(
        letter.origin.topic.removeprefix(prefix), key, value, [*kept, (TRIES_HEADER, str(letter.attempts).encode())]
    )


def _outline(record: Record, error: Exception, stage: str, attempts: int) -> DeadLetter:
    """The letter without key, value and headers."""
    reason = str(error) if isinstance(error, SafeguardError) else f"unexpected {type(error).__name__} in {stage}"
    return DeadLetter(
        origin=Origin(record.topic, record.partition, record.offset, record.timestamp),
        stage=stage,
        error=type(error).__name__,
        reason=_clean(reason),
        attempts=_earlier_attempts(record.headers) + attempts,
        failed_at=now(),
        field=_clean(error.field) if isinstance(error, RecordError) else None,
        unreadable=isinstance(record, UnreadableRecord),
    )


def _letters(record: Record, outline: DeadLetter, *, whole: bool) -> Iterator[Output]:
    """The letter in full, then with less and less in it; the last one always fits."""
    headers = original_headers(record)
    sizes: dict[Part, int] = {
        "value": len(record.value or b""),
        "headers": _headers_size(headers),
        "key": len(record.key or b""),
    }
    large = tuple(part for part, size in sizes.items() if size > (0 if part == "value" and not whole else _SHORT))
    for count in range(0 if whole else len(large), len(large) + 1):
        left_out = large[:count]
        # A part takes 4/3 of its size in base64. This spares the work on letters that cannot fit.
        if sum(size * 4 // 3 for part, size in sizes.items() if part not in left_out) <= LARGEST_LETTER:
            yield _letter(record, headers, outline, left_out)


def _letter(record: Record, headers: Headers, outline: DeadLetter, left_out: tuple[Part, ...]) -> Output:
    letter = outline
    if left_out:
        place = f"{Partition(record.topic, record.partition)}@{record.offset}"
        reason = f"{outline.reason}; too large to keep its {' and '.join(left_out)} here, the original is at {place}"
        letter = msgspec.structs.replace(letter, left_out=left_out, reason=reason)
    if "value" in left_out:
        value = record.value or b""
        letter = msgspec.structs.replace(letter, value_bytes=len(value), value_sha256=hashlib.sha256(value).hexdigest())
    else:
        letter = msgspec.structs.replace(letter, value=_base64(record.value))
    if "headers" not in left_out:
        shown = tuple((_shown(name), _base64(value)) for name, value in headers)
        exact = tuple(base64.b64encode(_bytes(name)).decode() for name, _ in headers)
        all_utf8 = all(name == original for (name, _), (original, _) in zip(shown, headers, strict=True))
        letter = msgspec.structs.replace(letter, headers=shown, header_names=() if all_utf8 else exact)
    if "key" not in left_out:
        letter = msgspec.structs.replace(letter, key=_base64(record.key))
    return _output(letter, None if "key" in left_out else record.key, carried(record.headers))


def _output(letter: DeadLetter, key: bytes | None, headers: Headers) -> Output:
    return Output(topics.DEAD_LETTERS, key, encode(letter), [schema_header(DeadLetter), *headers])


def _last_resort(record: Record, error: Exception, stage: str, attempts: int, failure: Exception) -> Output:
    """The letter that needs nothing of the record but its place."""
    reason = f"{type(error).__name__} in {stage}, and no whole dead letter could be made: {type(failure).__name__}"
    origin = Origin(record.topic, record.partition, record.offset, record.timestamp)
    parts: tuple[Part, ...] = ("value", "headers", "key")
    return _output(DeadLetter(origin, stage, type(error).__name__, reason, attempts, now(), left_out=parts), None, [])


def _earlier_attempts(headers: Headers) -> int:
    """What the header of an earlier requeue says; 0 where there is none, or one that is not a count."""
    counts = (value for name, value in headers if name == TRIES_HEADER and value is not None)
    return next((int(value) for value in counts if _COUNT.fullmatch(value)), 0)


def _size(output: Output) -> int:
    return len(output.key or b"") + len(output.value or b"") + _headers_size(output.headers)


def _headers_size(headers: Headers) -> int:
    """Bytes, with the quotes and commas that JSON puts around each name and value."""
    return sum(16 + len(name) + len(value or b"") for name, value in headers)


def _base64(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode()


def _bytes(name: str) -> bytes:
    """The bytes of a header's name as they came."""
    return name.encode(errors="surrogateescape")


def _shown(name: str) -> str:
    """A header's name as text that JSON can hold, with escapes for bytes that are not UTF-8."""
    return _bytes(name).decode(errors="backslashreplace")


def _clean(text: str) -> str:
    """A text that JSON can hold, of bounded length."""
    return text[:_LONGEST_TEXT].encode(errors="replace").decode()
