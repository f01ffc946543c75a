"""The commands `safeguard dead-letters`: list them, and requeue the records that they hold."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import Sequence

import orjson
import typer
from rich.table import Table

from safeguard_streams.bus import kafka
from safeguard_streams.bus.dead_letters import requeued
from safeguard_streams.bus.engine import Engine
from safeguard_streams.bus.interface import Output, Record
from safeguard_streams.bus.transform import stateless
from safeguard_streams.cli.options import Bootstrap, Json, console
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import DeadLetter, decode, encode
from safeguard_streams.errors import RecordError
from safeguard_streams.runtime import settings
from safeguard_streams.runtime.process import Stop, configure_logging
from safeguard_streams.runtime.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Records that could not be processed: list or requeue them.")
GROUP = "dead-letters-retry"


@app.command("list")
def show(bootstrap: Bootstrap = None, as_json: Json = False) -> None:
    """List dead letters, oldest first in each partition.

    With --json, print one whole dead letter per line, content included.
    """
    current = settings.load(bootstrap=bootstrap)

    async def read() -> list[DeadLetter]:
        await kafka.wait_for_broker(current, timeout=10)
        return [decode(r.value, DeadLetter) async for r in kafka.read_all(current, [topics.DEAD_LETTERS])]

    letters = asyncio.run(read())
    if as_json:
        for letter in letters:
            print(encode(letter).decode())
        return
    table = Table("from", "stage", "attempts", "failed at", "bytes", "reason", box=None)
    for letter in letters:
        origin = f"{letter.origin.topic}[{letter.origin.partition}]@{letter.origin.offset}"
        size = len(base64.b64decode(letter.value or ""))
        moment = letter.failed_at.isoformat(timespec="seconds")
        table.add_row(origin, letter.stage, str(letter.attempts), moment, str(size), letter.reason)
    console().print(table)


@app.command("retry")
def retry(bootstrap: Bootstrap = None, as_json: Json = False) -> None:
    """Requeue each dead letter to its topic, exactly once, unless it was requeued before.

    A header counts the attempts. A record that fails again becomes a new dead letter.
    """
    current = settings.load(bootstrap=bootstrap)
    configure_logging("WARNING")
    count = asyncio.run(_retry(current))
    print(orjson.dumps({"retried": count}).decode() if as_json else f"requeued {count}")


async def _retry(current: Settings) -> int:
    """Requeue the dead letters written so far. Letters written during the run are left to the next one."""
    await kafka.wait_for_broker(current, timeout=10)
    async with kafka.reader(current, [topics.DEAD_LETTERS]) as reader:
        ends = await (await kafka.EndOffsets.now(reader)).resolve()
    count = 0

    async def requeue(records: Sequence[Record]) -> list[Output]:
        nonlocal count
        outputs = []
        for record in records:
            with contextlib.suppress(RecordError):  # it stays listed: no topic is known for it
                outputs.append(requeued(record, current.prefix))
        count += len(outputs)
        return outputs

    bus = kafka.KafkaBus(current, [topics.DEAD_LETTERS], GROUP, record_seconds=0)
    with Stop() as stop:
        await Engine(bus, stateless(requeue), stage=GROUP).run(stop.event, until=ends)
    return count
