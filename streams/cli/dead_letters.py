"""safeguard dead-letters."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence

import orjson
import typer
from aiokafka import TopicPartition
from rich.table import Table

from safeguard_streams.bus import kafka
from safeguard_streams.bus.dead_letters import retried
from safeguard_streams.bus.engine import Engine, Limits
from safeguard_streams.bus.interface import Output, Record
from safeguard_streams.cli.options import Bootstrap, Json, console
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import DeadLetter, decode, encode
from safeguard_streams.errors import RecordError
from safeguard_streams.runtime import settings
from safeguard_streams.runtime.process import Stop, configure_logging
from safeguard_streams.runtime.settings import Settings

app = typer.Typer(no_args_is_help=True, help="What could not be handled, whole, with the reason.")
GROUP = "dead-letters-retry"
IN_FLIGHT = 20_000  # more than a buffer holds: what is left to the next time takes no place from others


@app.command("list")
def show(bootstrap: Bootstrap = None, as_json: Json = False) -> None:
    """Dead letters, oldest first in each partition. With --json one whole dead letter a line, content included."""
    current = settings.load(bootstrap=bootstrap)

    async def read() -> list[DeadLetter]:
        await kafka.wait_for_broker(current, timeout=10)
        return [decode(r.value, DeadLetter) async for r in kafka.read_all(current, [topics.DEAD_LETTERS])]

    letters = asyncio.run(read())
    if as_json:
        for letter in letters:
            print(encode(letter).decode())
        return
    table = Table("from", "stage", "tries", "failed at", "bytes", "reason", box=None)
    for letter in letters:
        origin = f"{letter.origin.topic}[{letter.origin.partition}]@{letter.origin.offset}"
        size = len(base64.b64decode(letter.value or ""))
        moment = letter.failed_at.isoformat(timespec="seconds")
        table.add_row(origin, letter.stage, str(letter.attempts), moment, str(size), letter.reason)
    console().print(table)


@app.command("retry")
def retry(bootstrap: Bootstrap = None, as_json: Json = False) -> None:
    """Put back into their topics all dead letters that were not put back before, each exactly once.

    A header counts how often a record was tried; what fails again becomes a new dead letter.
    """
    current = settings.load(bootstrap=bootstrap)
    configure_logging("WARNING")
    count = asyncio.run(_retry(current))
    print(orjson.dumps({"retried": count}).decode() if as_json else f"put back {count}")


async def _retry(current: Settings) -> int:
    """Run the engine over the dead letters up to their end of now; what becomes one meanwhile is left to the next time."""
    await kafka.wait_for_broker(current, timeout=10)
    async with kafka.reader(current, [topics.DEAD_LETTERS]) as reader:
        ends = await (await kafka.EndOffsets.now(reader)).resolve()
    count = later = 0

    async def back(records: Sequence[Record]) -> list[Output]:
        nonlocal count, later
        (record,) = records
        if record.offset >= ends[TopicPartition(record.topic, record.partition)]:
            later += 1
            await asyncio.Event().wait()  # never finished, so never committed
        try:
            output = retried(record, current.prefix)
        except RecordError:
            return []  # it stays listed; there is no topic to put it back into
        count += 1
        return [output]

    bus = kafka.KafkaBus(current, [topics.DEAD_LETTERS], GROUP)
    engine = Engine(bus, back, stage=GROUP, limits=Limits(batch=1, in_flight=IN_FLIGHT, drain=0.5))

    async def read_to_the_ends() -> bool:
        owned = bus.consumer.assignment()
        return bool(owned) and all([await bus.consumer.position(tp) >= ends[tp] for tp in owned])

    async def finish(stop: asyncio.Event) -> None:
        while not stop.is_set() and not (engine.ready and await read_to_the_ends() and engine.unfinished == later):
            await asyncio.sleep(0.1)
        stop.set()

    with Stop() as stop:
        await asyncio.gather(engine.run(stop.event), finish(stop.event))
    return count
