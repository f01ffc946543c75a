"""safeguard erase."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import msgspec
import typer

from safeguard_streams.cli.options import Bootstrap, Json, show_rows
from safeguard_streams.cli.output import console, say
from safeguard_streams.operations import erasure
from safeguard_streams.runtime import settings


def erase(
    content: Annotated[str, typer.Argument(metavar="CONTENT_ID", help="Id of a content item.")],
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Erase the model's rationales about a content item, and list which other records remain, and when they expire.

    Kafka can erase single records only in compacted topics, and only rationales are in such a topic. All other records
    expire with the retention of their topic.
    """
    current = settings.load(bootstrap=bootstrap)
    with console(stderr=True).status("reading") as status:
        result = asyncio.run(erasure.erase(current, content, lambda topic: status.update(f"reading {topic}")))
    if as_json:
        print(msgspec.json.encode(result).decode())
        return
    say(
        f"{result.rationales:,} rationales were erased; compaction removes them from the brokers' disks by "
        f"{result.by:%Y-%m-%d %H:%M} UTC"
    )
    rows: list[dict[str, Any]] = [
        {
            "topic": remaining.topic,
            "records": remaining.records,
            "text": "holds the text" if remaining.text else "no text",
            "gone by": f"{remaining.until:%Y-%m-%d %H:%M} UTC",
        }
        for remaining in result.remains
    ]
    show_rows(rows, "no other records remain", as_json=False)
