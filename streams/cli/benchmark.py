"""Runs a benchmark and prints its figures."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import orjson

from safeguard_streams.cli.output import Table, console, say
from safeguard_streams.errors import SafeguardError


def run_benchmark(
    measure: Callable[[str, Path, Callable[[str], None]], Awaitable[dict[str, Any]]],
    bootstrap: str | None,
    as_json: bool,
) -> None:
    """Run a benchmark on the given broker, or on one started for it, and print its figures as a table or JSON."""
    from safeguard_streams.bench import common
    from safeguard_streams.infra.brokers import BrokerError

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    async def work(address: str) -> dict[str, Any]:
        await common.wait_for(address)
        with tempfile.TemporaryDirectory(prefix="safeguard-bench-") as folder:
            return await measure(address, Path(folder), say)

    try:
        with common.broker(bootstrap) as address:
            figures = asyncio.run(work(address))
    except BrokerError as error:
        raise SafeguardError(f"{error}; or name a broker with --bootstrap") from error
    print_figures(figures, as_json=as_json)


def print_figures(figures: dict[str, Any], *, as_json: bool) -> None:
    """Print a benchmark's figures as a table or JSON."""
    if as_json:
        print(orjson.dumps(figures).decode())
        return
    variants = figures["variants"]
    table = Table("variant", *next(iter(variants.values())), box=None)
    for name, row in variants.items():
        table.add_row(name, *(f"{value:,}" if value is not None else "-" for value in row.values()))
    console().print(table)
    for name, value in {**figures.get("ratios", {}), **figures.get("counts", {})}.items():
        say(f"{name.replace('_', ' ')}: {'-' if value is None else value}")
