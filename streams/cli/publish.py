"""safeguard publish."""

from __future__ import annotations

import asyncio
from typing import Annotated

import orjson
import typer

from safeguard_streams.bus import kafka
from safeguard_streams.cli.options import Bootstrap, Json
from safeguard_streams.cli.output import say
from safeguard_streams.client.event_files import Line, lines_of, named
from safeguard_streams.client.publisher import send
from safeguard_streams.contract import topics
from safeguard_streams.contract.intake import read_event
from safeguard_streams.errors import RecordError
from safeguard_streams.runtime import settings


def publish(
    file: Annotated[str, typer.Argument(help="JSON lines, one content event each; - for standard input.")],
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Publish content events to content.events.

    Reads UTF-8, also compressed with gzip. Checks the whole file first, and sends nothing if it has another encoding or
    a line that is too large. Lines are sent unchanged; the prefilter dead-letters invalid ones, which are named here.
    """
    current = settings.load(bootstrap=bootstrap)
    lines = lines_of(file)

    async def work() -> int:
        await kafka.wait_for_broker(current, timeout=10)
        async with kafka.producer(current) as producer:
            return await send(producer, current.prefix + topics.EVENTS, [line.value for line in lines])

    count = asyncio.run(work())
    print(orjson.dumps({"published": count}).decode() if as_json else f"published {count}")
    invalid = [line for line in lines if _invalid(line)]
    if invalid:
        say(f"{named(invalid)}: no content event; see safeguard dead-letters list", error=True)


def _invalid(line: Line) -> bool:
    try:
        read_event(line.value)
    except RecordError:
        return True
    return False
