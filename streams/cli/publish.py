"""safeguard publish."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated

import orjson
import typer

from safeguard_streams.bus import kafka
from safeguard_streams.cli.options import Bootstrap, Json
from safeguard_streams.cli.output import say
from safeguard_streams.cli.record_files import MAX_SHOWN, CheckOnly, as_builtins, say_invalid
from safeguard_streams.client.event_files import CheckedLines, Line, checked, lines_of, meant, named
from safeguard_streams.client.publisher import send
from safeguard_streams.contract import topics
from safeguard_streams.runtime import settings
from safeguard_streams.runtime.counts import counted
from safeguard_streams.runtime.settings import Settings

_LONGEST_NAME = 60  # characters of a field's name that are shown


def publish(
    file: Annotated[str, typer.Argument(help="JSON lines, one content event each; - for standard input.")],
    check: CheckOnly = False,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Publish content events to content.events. Exit with status 1 if some lines are no content events.

    Reads UTF-8, also compressed with gzip. Checks the whole file first, and sends nothing if it has another encoding or
    a line that is too large. Lines are sent unchanged; the prefilter dead-letters those that are no events. Fields that
    no event has are reported, because they are ignored.
    """
    current = settings.load(bootstrap=bootstrap)
    lines = lines_of(file)
    found = checked(lines)
    count = 0 if check else asyncio.run(_send(current, lines))
    if as_json:
        print(orjson.dumps(_keys(lines, found, count)).decode())
    else:
        say(counted(len(lines) - len(found.invalid), "content event") if check else f"published {count}")
    _report(found, len(lines), check=check)
    if found.invalid:
        raise typer.Exit(1)


async def _send(current: Settings, lines: Sequence[Line]) -> int:
    await kafka.wait_for_broker(current, timeout=kafka.COMMAND_SECONDS)
    async with kafka.producer(current) as producer:
        return await send(producer, current.prefix + topics.EVENTS, [line.value for line in lines])


def _keys(lines: Sequence[Line], found: CheckedLines, published: int) -> dict[str, object]:
    return {
        "published": published,
        "events": len(lines) - len(found.invalid),
        "invalid": as_builtins(found.invalid),
        "unknown_fields": {name: [line.number for line in where] for name, where in found.unknown.items()},
    }


def _report(found: CheckedLines, total: int, *, check: bool) -> None:
    """Say on standard error what is wrong with the lines, and with which."""
    for name, where in list(found.unknown.items())[:MAX_SHOWN]:
        hint = f", did you mean {meant(name)}?" if meant(name) else ""
        say(f"{named(where)}: no event has a field {name[:_LONGEST_NAME]!r}, which is ignored{hint}", error=True)
    say_invalid(found.invalid, total, "content event", "" if check else "; see: safeguard dead-letters list")
