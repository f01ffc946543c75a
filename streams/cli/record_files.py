"""Files of records to publish, one JSON object a line: events, reports or appeals; what their commands share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Annotated, NamedTuple

import orjson
import typer

from safeguard_streams.bus import kafka
from safeguard_streams.cli.output import say
from safeguard_streams.client.event_files import Line, LineProblem, lines_of, named
from safeguard_streams.client.publisher import ReadyRecord, send_ready
from safeguard_streams.errors import RecordError
from safeguard_streams.runtime import settings
from safeguard_streams.runtime.counts import counted
from safeguard_streams.runtime.settings import Settings

MAX_SHOWN = 10  # lines and fields that messages explain
CheckOnly = Annotated[bool, typer.Option("--check", help="Check the file without publishing it; needs no broker.")]


class RecordKind(NamedTuple):
    """What the lines of a file are. noun: as in 'report'. ready: the record of a line; raises RecordError."""

    noun: str
    topic: str
    ready: Callable[[bytes], ReadyRecord]


def publish_all_or_none(file: str, kind: RecordKind, *, check: bool, bootstrap: str | None, as_json: bool) -> None:
    """Check a file and, if all its lines are records, publish them unless only `check` was asked for.

    Ends the command with status 1, and publishes nothing, if some lines are no records.
    """
    current = settings.load(bootstrap=bootstrap)
    lines = lines_of(file)
    ready, invalid = _checked(lines, kind)
    send = not check and not invalid
    if send:
        asyncio.run(send_records(current, kind, ready))
    if as_json:
        counts = {"published": len(ready) if send else 0, f"{kind.noun}s": len(ready)}
        print(orjson.dumps({**counts, "invalid": as_builtins(invalid)}).decode())
    else:
        say(f"published {counted(len(ready), kind.noun)}" if send else counted(len(ready), kind.noun))
    say_invalid(invalid, len(lines), kind.noun, ". Nothing was published")
    if invalid:
        raise typer.Exit(1)


def _checked(lines: Sequence[Line], kind: RecordKind) -> tuple[list[ReadyRecord], list[LineProblem]]:
    """The records of the lines that hold one, and what is wrong with the others."""
    ready, invalid = [], []
    for line in lines:
        try:
            ready.append(kind.ready(line.value))
        except RecordError as error:
            invalid.append(LineProblem(line, str(error)))
    return ready, invalid


async def send_records(current: Settings, kind: RecordKind, ready: Sequence[ReadyRecord]) -> None:
    """Send records to the topic of their kind; returns when the brokers have them all."""
    async with kafka.producer(current) as producer:
        await send_ready(producer, current.prefix + kind.topic, ready)


def as_builtins(invalid: Sequence[LineProblem]) -> list[dict[str, object]]:
    """Lines that are no records, for --json."""
    return [{"line": one.line.number, "reason": one.reason} for one in invalid]


def say_invalid(invalid: Sequence[LineProblem], total: int, noun: str, follows: str) -> None:
    """Say on standard error which lines are no records, and why. follows: what follows from that, after the lines."""
    for one in invalid[:MAX_SHOWN]:
        say(f"line {one.line.number}: no {noun}: {one.reason}", error=True)
    if invalid:
        count = counted(total, f"line is no {noun}", f"lines are no {noun}s")
        say(f"{len(invalid):,} of {count}: {named([one.line for one in invalid])}{follows}", error=True)
