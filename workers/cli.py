"""safeguard reason."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Annotated

import typer

from streams import settings
from streams.cli.options import Bootstrap, Data, needs_extra
from streams.process import configure_logging

app = typer.Typer(no_args_is_help=True, help="The second stage: a reasoning model under written policies.")


@app.command("run")
def run(
    bootstrap: Bootstrap = None,
    model: Annotated[
        str | None, typer.Option(help="A folder, a hub name, or 'small' (the model in the package).")
    ] = None,
    server: Annotated[
        list[str] | None,
        typer.Option(help="Ask this inference server instead, as in http://gpu-1:8000/v1; may be given several times."),
    ] = None,
    port: Annotated[int | None, typer.Option(help="Port of the health endpoint.")] = None,
) -> None:
    """Judge what was escalated, with the model in this process or on inference servers. Ends on SIGTERM with its work
    committed.
    """
    try:
        from workers import app as worker
    except ImportError as error:
        raise needs_extra(error, "reasoner-gpu") from error
    configure_logging()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(
            worker.run(
                settings.load(
                    bootstrap=bootstrap, model=model, reasoner_port=port, servers=",".join(server) if server else None
                )
            )
        )


@app.command("train-small")
def train_small(
    data: Data,
    out: Annotated[Path, typer.Option(help="The compacted model to write; its card goes beside it as card.md.")] = Path(
        "model.safetensors"
    ),
    validation: Annotated[Path | None, typer.Option(help="Folder of sources that are only measured on.")] = None,
    steps: Annotated[int, typer.Option(help="Batches of 32; 8,000 take about 25 minutes on two cores.")] = 8000,
    seed: Annotated[int, typer.Option(help="Seed of the training.")] = 0,
) -> None:
    """Train the small model for machines without a GPU, and measure it through vLLM. It is for trying the pipeline only."""
    try:
        from workers.small import report
    except ImportError as error:
        raise needs_extra(error, "reasoner-gpu") from error
    report.train_and_measure(data, validation, out, steps, seed)
