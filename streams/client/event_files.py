"""Files of content events, one JSON object a line: read and checked as a whole before the first line is sent.

UTF-8 with or without a byte order mark, plain or compressed with gzip, with any line ends. Other encodings are
refused with what to do, because their lines would arrive as noise.
"""

from __future__ import annotations

import codecs
import difflib
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import orjson

from safeguard_streams.contract import limits
from safeguard_streams.contract.intake import read_event
from safeguard_streams.contract.records import ContentEvent, Message
from safeguard_streams.errors import ConfigurationError, RecordError

_EVENT_FIELDS = ContentEvent.__struct_fields__
_MESSAGE_FIELDS = Message.__struct_fields__
_USUAL_NAMES = {  # names of other systems for an event's fields
    "id": "content_id",
    "body": "text",
    "message": "text",
    "content": "text",
    "timestamp": "created_at",
    "time": "created_at",
    "user_id": "author_id",
    "author": "author_id",
    "account_created_at": "author_created_at",
    "user_created_at": "author_created_at",
    "lang": "language",
    "channel": "surface",
    "metadata": "attributes",
}
MAX_BYTES = 4 * 2**30  # of a decompressed file, which is held in memory
_NAMED = 5  # lines that a message names at most
_GZIP = b"\x1f\x8b"
_PIECE = 2**16  # bytes that are decompressed at a time
_REFUSED = {  # first bytes, the longer ones first: what the file is, and what makes lines of JSON of it
    codecs.BOM_UTF32_LE: ("UTF-32", "iconv -f UTF-32 -t UTF-8"),
    codecs.BOM_UTF32_BE: ("UTF-32", "iconv -f UTF-32 -t UTF-8"),
    codecs.BOM_UTF16_LE: ("UTF-16", "iconv -f UTF-16 -t UTF-8"),
    codecs.BOM_UTF16_BE: ("UTF-16", "iconv -f UTF-16 -t UTF-8"),
    b"\x28\xb5\x2f\xfd": ("compressed with zstd", "zstd -d"),
    b"\xfd7zXZ\x00": ("compressed with xz", "xz -d"),
    b"BZh": ("compressed with bzip2", "bzip2 -d"),
    b"PK\x03\x04": ("a ZIP archive", "unzip -p"),
    b"PAR1": ("a Parquet file", "duckdb, COPY ... TO 'events.jsonl'"),
    b"[": ("a JSON array", "jq -c '.[]'"),
}


class Line(NamedTuple):
    """A line of a file that is not empty, with its number, counted from 1."""

    number: int
    value: bytes


class LineProblem(NamedTuple):
    """A line that is no content event, and why; the reason quotes nothing of the content."""

    line: Line
    reason: str


class CheckedLines(NamedTuple):
    """What is wrong with lines. unknown: lines by the name of a field that no event has, as in `context[].txt`."""

    invalid: list[LineProblem]
    unknown: dict[str, list[Line]]


def lines_of(file: str) -> list[Line]:
    """The non-empty lines of a file or, for '-', of standard input, without their ends.

    Raises ConfigurationError that says what to do if the file cannot be read, is no UTF-8 with a JSON object in a line,
    or has a line that is too large for the topic.
    """
    data = decompressed(file, read(file)).removeprefix(codecs.BOM_UTF8)
    _refuse_encodings(file, data)
    lines = [Line(number, line) for number, line in enumerate(data.splitlines(), 1) if line.strip()]
    _refuse(file, "NUL bytes: convert the file to UTF-8", [line for line in lines if b"\0" in line.value])
    too_large = [line for line in lines if len(line.value) > limits.EVENT_BYTES]
    _refuse(file, f"larger than an event may be, {limits.EVENT_BYTES:,} bytes: shorten or remove them", too_large)
    if lines and not any(_is_object(line.value) for line in lines):
        raise ConfigurationError(f"{file}: no line is a JSON object; write one content event a line, in UTF-8")
    return lines


def checked(lines: Sequence[Line]) -> CheckedLines:
    """Check lines as the prefilter reads them, and look for fields that it would ignore."""
    invalid: list[LineProblem] = []
    unknown: dict[str, list[Line]] = {}
    for line in lines:
        try:
            read_event(line.value)
        except RecordError as error:
            invalid.append(LineProblem(line, str(error)))
        for name in _unknown_fields(line.value):
            unknown.setdefault(name, []).append(line)
    return CheckedLines(invalid, unknown)


def meant(name: str) -> str | None:
    """The field of an event that a person may have meant by this name."""
    inner, _, last = name.rpartition(".")
    close = difflib.get_close_matches(last.lower(), _MESSAGE_FIELDS if inner else _EVENT_FIELDS, 1)
    if not close and last.lower() in _USUAL_NAMES and not inner:
        close = [_USUAL_NAMES[last.lower()]]
    return f"{inner}.{close[0]}" if close and inner else next(iter(close), None)


def _unknown_fields(line: bytes) -> list[str]:
    """The names of fields that no event has, each once, in the order of the line."""
    try:
        event = orjson.loads(line.removeprefix(codecs.BOM_UTF8))
    except ValueError:
        return []
    if not isinstance(event, dict):
        return []
    context = event.get("context")
    messages = [one for one in context if isinstance(one, dict)] if isinstance(context, list) else []
    inner = [f"context[].{name}" for one in messages for name in one if name not in _MESSAGE_FIELDS]
    return list(dict.fromkeys([*(name for name in event if name not in _EVENT_FIELDS), *inner]))


def read(file: str) -> bytes:
    """The bytes of a file or, for '-', of standard input. Raises ConfigurationError if it cannot be read."""
    try:
        return sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) else "not a file's name"
        raise ConfigurationError(f"{file}: cannot be read: {reason}") from error


def decompressed(file: str, data: bytes) -> bytes:
    """The data without gzip, of which a file may hold several members; other data as it is.

    Raises ConfigurationError with what to do for gzip that is damaged or too large.
    """
    parts: list[bytes] = []
    size = start = 0
    view = memoryview(data)
    while view[start : start + len(_GZIP)] == _GZIP:
        stream = zlib.decompressobj(wbits=31)
        while not stream.eof:
            piece = view[start : start + _PIECE]  # the library copies what follows a member
            if not piece:
                raise ConfigurationError(f"{file}: its gzip ends too early; compress it again")
            try:
                parts.append(stream.decompress(piece, MAX_BYTES - size + 1))
            except zlib.error:
                raise ConfigurationError(f"{file}: is damaged gzip; compress it again") from None
            size += len(parts[-1])
            if size > MAX_BYTES:
                raise ConfigurationError(f"{file}: has more than {MAX_BYTES:,} bytes when decompressed; split it")
            start += len(piece) - len(stream.unused_data)
    if parts and bytes(view[start:]).strip(b"\0"):  # tape blocks end with zeros
        raise ConfigurationError(f"{file}: is damaged gzip; compress it again")
    return b"".join(parts) if parts else data


def _refuse_encodings(file: str, data: bytes) -> None:
    for magic, (what, command) in _REFUSED.items():
        if data.lstrip(b" \t\r\n").startswith(magic):
            raise ConfigurationError(f"{file}: is {what}; publish lines of JSON in UTF-8, from: {command}")


def _refuse(file: str, problem: str, lines: Sequence[Line]) -> None:
    if lines:
        raise ConfigurationError(f"{file}: {named(lines)}: {problem}. Nothing was published")


def named(lines: Sequence[Line]) -> str:
    """Lines by number, as in 'lines 3, 7 and 2 more'."""
    numbers = ", ".join(str(line.number) for line in lines[:_NAMED])
    more = f" and {len(lines) - _NAMED:,} more" if len(lines) > _NAMED else ""
    return f"{'line' if len(lines) == 1 else 'lines'} {numbers}{more}"


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(orjson.loads(line.removeprefix(codecs.BOM_UTF8)), dict)
    except ValueError:
        return line.lstrip().startswith(b"{")  # the prefilter repairs some, and explains the others
