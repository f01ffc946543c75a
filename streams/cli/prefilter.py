"""safeguard prefilter."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Annotated

import typer

from streams import settings
from streams.cli.options import Bootstrap, Data, needs_extra
from streams.process import configure_logging

app = typer.Typer(no_args_is_help=True, help="The first stage: what needs a closer look.")


@app.command("run")
def run(
    bootstrap: Bootstrap = None,
    port: Annotated[int | None, typer.Option(help="Port of the health pages.")] = None,
) -> None:
    """Classify content.events: clear most of it, escalate the rest. Ends on SIGTERM with its work committed."""
    try:
        from streams import prefilter_app
    except ImportError as error:
        raise needs_extra(error, "prefilter") from error
    configure_logging()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(prefilter_app.run(settings.load(bootstrap=bootstrap, prefilter_port=port)))


@app.command("train")
def train(
    data: Data,
    out: Annotated[Path, typer.Option(help="The model to write; its card goes beside it as card.md.")] = Path(
        "prefilter.ftz"
    ),
    validation: Annotated[Path | None, typer.Option(help="Folder of sources that are only measured on.")] = None,
    seed: Annotated[int, typer.Option(help="Equal data and seed give an equal model.")] = 0,
) -> None:
    """Train the fastText classifier and write its model card."""
    try:
        from streams import training
    except ImportError as error:
        raise needs_extra(error, "prefilter") from error
    rows, held = training.read_folder(data, typer.echo)
    typer.echo(f"training on {len(rows)} rows; {len(held)} are held out (about half a minute for 300,000 rows)")
    training.fit(rows, out, seed)
    typer.echo(f"measuring {out} ({out.stat().st_size:,} bytes)")
    card = out.with_name("card.md")
    card.write_text(training.card(data, validation, out, rows, held, seed), encoding="utf-8")
    typer.echo(f"card: {card}")
