"""The commands `safeguard dead-letters`: list them, and requeue the records that they hold."""

from __future__ import annotations

import asyncio
from typing import Annotated

import msgspec
import typer

from safeguard_streams.bus import kafka
from safeguard_streams.cli.options import Bootstrap, Json
from safeguard_streams.cli.output import Table, console, say
from safeguard_streams.cli.reading import shown_reading
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import DeadLetter, encode
from safeguard_streams.operations import requeueing
from safeguard_streams.runtime import settings
from safeguard_streams.runtime.process import configure_logging

app = typer.Typer(no_args_is_help=True, help="Records that could not be processed: list or requeue them.")
_SHOWN_KEPT = 20


@app.command("list")
def show(bootstrap: Bootstrap = None, as_json: Json = False) -> None:
    """List dead letters, oldest first in each partition.

    With --json, print one whole dead letter per line, content included.
    """
    current = settings.load(bootstrap=bootstrap)

    table = Table("from", "stage", "attempts", "failed at", "bytes", "reason", box=None)

    async def read() -> None:
        await kafka.wait_for_broker(current, timeout=10)
        async for _, letter in kafka.read_decoded(current, [topics.DEAD_LETTERS], DeadLetter):
            if as_json:
                print(encode(letter).decode())
            else:
                table.add_row(*_row(letter))

    with shown_reading():
        asyncio.run(read())
    if not as_json:
        console().print(table)


def _row(letter: DeadLetter) -> list[str]:
    origin = f"{letter.origin.topic}[{letter.origin.partition}]@{letter.origin.offset}"
    size = letter.value_bytes if letter.value_bytes is not None else len(letter.value or "") * 3 // 4
    moment = letter.failed_at.isoformat(timespec="seconds")
    return [origin, letter.stage, str(letter.attempts), moment, str(size), letter.reason]


@app.command("retry")
def retry(
    yes: Annotated[bool, typer.Option("--yes", help="Skip the confirmation.")] = False,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Requeue each dead letter to the topic that its stage read, exactly once, unless it was requeued before.

    Shows the numbers and asks for confirmation, except with --json. Letters stay in place if their record is not whole,
    if their stage does not read the topic that they name, or if their item was erased. A header counts the attempts. A
    record that fails again becomes a new dead letter.
    """
    current = settings.load(bootstrap=bootstrap)
    configure_logging("WARNING")

    async def work() -> requeueing.RequeuePlan:
        await kafka.wait_for_broker(current, timeout=10)
        return await requeueing.plan(current)

    with shown_reading() as reading:
        planned = asyncio.run(work())
    _show_plan(planned)
    if planned.letters and not (yes or as_json) and not typer.confirm(f"requeue {len(planned.letters):,}?", err=True):
        raise typer.Exit(1)
    count = asyncio.run(requeueing.requeue(current, planned))
    if as_json:
        result = {"retried": count, "kept": planned.kept, "left_out": reading.left_out.total()}
        print(msgspec.json.encode(result).decode())
    else:
        say(f"requeued {count}")


def _show_plan(planned: requeueing.RequeuePlan) -> None:
    """Print what would be requeued, and what stays, on standard error."""
    for (stage, topic), count in sorted(planned.counts.items()):
        say(f"{count:,} letters of {stage} go back to {topic}", error=True)
    for letter in planned.kept[:_SHOWN_KEPT]:
        say(f"{letter.letter} of {letter.stage} from {letter.origin} stays: {letter.why}", error=True)
    if len(planned.kept) > _SHOWN_KEPT:
        say(f"{len(planned.kept) - _SHOWN_KEPT:,} more letters stay; see --json", error=True)
