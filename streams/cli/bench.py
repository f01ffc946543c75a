"""safeguard bench."""

from __future__ import annotations

from typing import Annotated

import typer

from streams.cli.measured import measured
from streams.cli.options import Bootstrap, Json

app = typer.Typer(no_args_is_help=True, help="Figures beside their baselines, measured in one run.")


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

    run.check_extra()
    measured(lambda address, folder, say: run.prefilter(address, events, folder, say), bootstrap, as_json)


@app.command("pipeline")
def pipeline(
    rate: Annotated[float, typer.Option(min=1, help="Events per second.")] = 500.0,
    seconds: Annotated[float, typer.Option(min=1, help="How long.")] = 20.0,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Latency of cleared events, exactly once: a bare loop with a transaction per poll, and the prefilter."""
    from streams.bench import run

    run.check_extra()
    measured(lambda address, folder, say: run.pipeline(address, rate, seconds, folder, say), bootstrap, as_json)
