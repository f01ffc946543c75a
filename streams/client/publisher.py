"""Publishing content events."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson

from safeguard_streams.contract.records import ContentEvent, schema_header
from safeguard_streams.errors import ConfigurationError


def lines_of(file: str) -> list[bytes]:
    """The non-empty lines of a file or, for '-', of standard input."""
    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{file}: cannot be read: {error.strerror}") from error
    return [line for line in data.split(b"\n") if line.strip()]


def key_of(line: bytes) -> bytes | None:
    """The content_id of an event; None when there is none to read: such a line ends in the dead letters."""
    try:
        content_id = orjson.loads(line)["content_id"]
        return content_id.encode() if isinstance(content_id, str) else None
    except (ValueError, TypeError, KeyError):
        return None


async def send(producer: Any, topic: str, lines: Iterable[bytes]) -> int:
    """Publish lines as they are; returns how many, when the broker has them all."""
    header = [schema_header(ContentEvent)]
    sent = [await producer.send(topic, value=line, key=key_of(line), headers=header) for line in lines]
    for future in sent:
        await future
    return len(sent)
