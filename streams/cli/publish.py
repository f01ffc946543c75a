"""safeguard publish."""

from __future__ import annotations

import asyncio
from typing import Annotated

import orjson
import typer

from safeguard_streams.bus import kafka
from safeguard_streams.cli.options import Bootstrap, Json
from safeguard_streams.client.publisher import lines_of, send
from safeguard_streams.contract import topics
from safeguard_streams.runtime import settings


def publish(
    file: Annotated[str, typer.Argument(help="JSON lines, one content event each; - for standard input.")],
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Publish content events to content.events. Lines are sent unchanged; the prefilter dead-letters invalid ones."""
    current = settings.load(bootstrap=bootstrap)
    lines = lines_of(file)

    async def work() -> int:
        await kafka.wait_for_broker(current, timeout=10)
        async with kafka.producer(current) as producer:
            return await send(producer, current.prefix + topics.EVENTS, lines)

    count = asyncio.run(work())
    print(orjson.dumps({"published": count}).decode() if as_json else f"published {count}")
