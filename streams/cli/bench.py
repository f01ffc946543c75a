"""safeguard bench."""

from __future__ import annotations

from typing import Annotated

import typer

from safeguard_streams.cli.measured import measured
from safeguard_streams.cli.options import Bootstrap, Json

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
    from safeguard_streams.bench import run

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
    from safeguard_streams.bench import run

    run.check_extra()
    measured(lambda address, folder, say: run.pipeline(address, rate, seconds, folder, say), bootstrap, as_json)


@app.command("telemetry")
def telemetry(
    events: Annotated[int, typer.Option(min=1000, help="Events to work off, each time.")] = 200_000,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """What telemetry costs: the prefilter's throughput without it, and with metrics and traces exported, in turns."""
    from safeguard_streams.bench import run

    run.check_extra()
    measured(lambda address, folder, say: run.telemetry(address, events, folder, say), bootstrap, as_json)


@app.command("release")
def release(
    rate: Annotated[float, typer.Option(min=10, help="Events per second.")] = 1000.0,
    seconds: Annotated[float, typer.Option(min=6, help="How long.")] = 30.0,
    escalated: Annotated[float, typer.Option(min=0.1, help="Events per second that are judged.")] = 5.0,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """A policy released and rolled back under load: when each stage takes it, and whether any event goes unanswered or is
    judged by a version that was not released, or by one older than it was escalated under.
    """
    from safeguard_streams.bench import release as measurement
    from safeguard_streams.bench import run

    run.check_extra()
    measured(
        lambda address, folder, say: measurement.release(address, rate, seconds, escalated, folder, say),
        bootstrap,
        as_json,
    )
