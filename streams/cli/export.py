"""safeguard export."""

from __future__ import annotations

import typer

from safeguard_streams.cli import export_statements

app = typer.Typer(no_args_is_help=True, help="Export records to files.")


@app.callback()
def _group() -> None:
    """Keep a group of one command a group."""


app.command("statements")(export_statements.statements)
