"""safeguard bench."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from safeguard_streams.cli.benchmark import print_figures, run_benchmark
from safeguard_streams.cli.options import Bootstrap, Json, extra
from safeguard_streams.contract.limits import EVENT_BYTES

WithEncoder = Annotated[
    bool,
    typer.Option(
        "--encoder",
        help="Also measure with two gates that use vectors, of 5%, 20% and all texts; needs the extra encoder.",
    ),
]
app = typer.Typer(no_args_is_help=True, help="Measure the pipeline beside its baselines, in one run.")


@app.command("prefilter")
def prefilter(
    events: Annotated[int, typer.Option(min=1000, help="Number of events.")] = 200_000,
    encoder: WithEncoder = False,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Measure throughput from Kafka to Kafka: a plain Faust agent, a bare loop, and the prefilter, exactly once.

    Without --bootstrap, starts Apache Kafka from its jars (needs Java 17 and Maven).
    """
    from safeguard_streams.bench import prefilter as measurement

    measurement.check_extra(encoder=encoder)
    run_benchmark(
        lambda address, folder, say: measurement.prefilter(address, events, folder, say, encoder=encoder),
        bootstrap,
        as_json,
    )


@app.command("pipeline")
def pipeline(
    rate: Annotated[float, typer.Option(min=1, help="Events per second.")] = 500.0,
    seconds: Annotated[float, typer.Option(min=1, help="Duration in seconds.")] = 20.0,
    encoder: WithEncoder = False,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Measure the latency of cleared events, exactly once: a loop with a transaction per poll, and the prefilter."""
    from safeguard_streams.bench import prefilter as measurement

    measurement.check_extra(encoder=encoder)
    run_benchmark(
        lambda address, folder, say: measurement.pipeline(address, rate, seconds, folder, say, encoder=encoder),
        bootstrap,
        as_json,
    )


@app.command("telemetry")
def telemetry(
    events: Annotated[int, typer.Option(min=1000, help="Number of events in each of the six turns.")] = 200_000,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Measure the cost of telemetry: the prefilter's throughput without and with exported metrics and traces."""
    from safeguard_streams.bench import prefilter as measurement

    measurement.check_extra()
    run_benchmark(lambda address, folder, say: measurement.telemetry(address, events, folder, say), bootstrap, as_json)


@app.command("release")
def release(
    rate: Annotated[float, typer.Option(min=10, help="Events per second.")] = 1000.0,
    seconds: Annotated[float, typer.Option(min=6, help="Duration in seconds.")] = 30.0,
    escalated: Annotated[float, typer.Option(min=0.1, help="Judged events per second.")] = 5.0,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Release and roll back a policy under load.

    Measures when each stage applies the version. Counts events that are unanswered, judged by a version that was not
    released, or judged by a version older than the one that escalated them.
    """
    from safeguard_streams.bench import prefilter as requirements
    from safeguard_streams.bench import release as measurement

    requirements.check_extra()
    run_benchmark(
        lambda address, folder, say: measurement.release(address, rate, seconds, escalated, folder, say),
        bootstrap,
        as_json,
    )


@app.command("texts")
def texts(
    largest: Annotated[int, typer.Option(min=300, help="Length of the longest texts, in bytes.")] = EVENT_BYTES,
    as_json: Json = False,
) -> None:
    """Measure what a text costs by its kind and length, in microseconds and MiB of memory.

    Covers the prefilter's decision, and the prompt where the reasoner is installed. Needs no broker. Each measurement
    runs in a process of its own. A measurement of more than 2 minutes has no figures.
    """
    from safeguard_streams.bench import prefilter as requirements
    from safeguard_streams.bench import texts as measurement

    requirements.check_extra()
    sizes = [size for size in measurement.SIZES if size <= largest]
    print_figures(measurement.measure(sizes, lambda line: print(line, file=sys.stderr, flush=True)), as_json=as_json)


@app.command("console")
def console(
    verdicts: Annotated[int, typer.Option(min=1000, help="Number of verdicts.")] = 1_000_000,
    actions: Annotated[int, typer.Option(min=100, help="Number of actions.")] = 200_000,
    database: Annotated[
        str | None,
        typer.Option(metavar="URL", help="An empty database, which is filled; default: a temporary file of SQLite."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure how fast records are projected into the console's database, and how fast its pages answer on that."""
    with extra("console"):
        from safeguard_streams.bench import console as measurement

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    deployment = measurement.Deployment(verdicts, actions)
    with tempfile.TemporaryDirectory(prefix="safeguard-bench-") as folder:
        url = database or f"sqlite:///{folder}/console.db"
        figures = asyncio.run(measurement.console(url, deployment, Path(folder), say))
    print_figures(figures, as_json=as_json)
