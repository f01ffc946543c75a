"""safeguard bench."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.table import Table

from streams.cli.options import Bootstrap, Json, console
from streams.errors import SafeguardError

app = typer.Typer(no_args_is_help=True, help="Figures beside their baselines, measured in one run.")


def _run(
    measure: Callable[[str, Path, Callable[[str], None]], Awaitable[dict[str, Any]]],
    bootstrap: str | None,
    as_json: bool,
) -> None:
    from infra.brokers import BrokerError
    from streams.bench import run

    run.check_extra()

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    async def work(address: str) -> dict[str, Any]:
        await run.wait_for(address)
        with tempfile.TemporaryDirectory(prefix="safeguard-bench-") as folder:
            return await measure(address, Path(folder), say)

    try:
        with run.broker(bootstrap) as address:
            figures = asyncio.run(work(address))
    except BrokerError as error:
        raise SafeguardError(f"{error}; or give a broker with --bootstrap") from error
    if as_json:
        print(orjson.dumps(figures).decode())
        return
    variants = figures["variants"]
    table = Table("variant", *next(iter(variants.values())), box=None)
    for name, row in variants.items():
        table.add_row(name, *(f"{value:,}" if value is not None else "-" for value in row.values()))
    console().print(table)
    for name, value in figures.get("ratios", {}).items():
        print(f"{name.replace('_', ' ')}: {value}")


@app.command("prefilter")
def prefilter(
    events: Annotated[int, typer.Option(min=1000, help="Events to work off.")] = 200_000,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Throughput from Kafka to Kafka: a plain Faust agent, a bare loop, and the prefilter, exactly once.

    Without --bootstrap on Apache Kafka started from its jars (Java 17 and Maven).
    """
    from streams.bench import run

    _run(lambda address, folder, say: run.prefilter(address, events, folder, say), bootstrap, as_json)


@app.command("pipeline")
def pipeline(
    rate: Annotated[float, typer.Option(min=1, help="Events per second.")] = 500.0,
    seconds: Annotated[float, typer.Option(min=1, help="How long.")] = 20.0,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Latency of cleared events, exactly once: a bare loop with a transaction per poll, and the prefilter."""
    from streams.bench import run

    _run(lambda address, folder, say: run.pipeline(address, rate, seconds, folder, say), bootstrap, as_json)
