"""safeguard publish."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from streams import kafka, settings, topics
from streams.cli.options import Bootstrap, Json
from streams.errors import ConfigurationError
from streams.records import ContentEvent, schema_header


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


def publish(
    file: Annotated[str, typer.Argument(help="JSON lines, one content event each; - for standard input.")],
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Publish content events to content.events, each line as it is: what is no event ends in the dead letters."""
    current = settings.load(bootstrap=bootstrap)
    lines = lines_of(file)

    async def work() -> int:
        await kafka.wait_for_broker(current, patience=10)
        async with kafka.producer(current) as producer:
            return await send(producer, current.prefix + topics.EVENTS, lines)

    count = asyncio.run(work())
    print(orjson.dumps({"published": count}).decode() if as_json else f"published {count}")
