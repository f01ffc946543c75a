"""safeguard erase."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import msgspec
import typer

from safeguard_streams.cli.options import Bootstrap, Json, console, show_rows
from safeguard_streams.operations import erasure
from safeguard_streams.runtime import settings


def erase(
    content: Annotated[str, typer.Argument(metavar="CONTENT_ID", help="Id of a content.")],
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Erase what the model thought about a content, and say what else is known of it, where, and until when.

    Kafka erases single records in compacted topics only: the rationales. All else goes with its topic's retention.
    """
    current = settings.load(bootstrap=bootstrap)
    with console(stderr=True).status("reading") as status:
        found = asyncio.run(erasure.erase(current, content, lambda topic: status.update(f"reading {topic}")))
    if as_json:
        print(msgspec.json.encode(found).decode())
        return
    print(f"{found.rationales:,} rationales are erased; gone from the brokers' disks by {found.by:%Y-%m-%d %H:%M} UTC")
    rows: list[dict[str, Any]] = [
        {
            "topic": one.topic,
            "records": one.records,
            "text": "holds the text" if one.text else "no text",
            "gone by": f"{one.until:%Y-%m-%d %H:%M} UTC",
        }
        for one in found.remains
    ]
    show_rows(rows, "nothing else is known of it", as_json=False)
