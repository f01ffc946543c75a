"""`safeguard export statements`: statements of reasons as the EU's DSA Transparency Database takes them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from safeguard_streams.cli.options import Bootstrap, Json, needs_extra, one_of, output_folder
from safeguard_streams.cli.output import say
from safeguard_streams.cli.reading import shown_reading
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.runtime import settings
from safeguard_streams.runtime.counts import counted
from safeguard_streams.runtime.durations import moment

FORMATS = ("dsa",)
_SHOWN = 10  # invalid statements that messages explain at most


def statements(
    to: Annotated[
        Path,
        typer.Option(
            "--to", parser=output_folder, metavar="DIR", help="Folder for the files; repeat the command to add to it."
        ),
    ],
    since: Annotated[
        str | None,
        typer.Option(help="Begin with statements issued at this time: 2026-01-31T12:00:00Z, or 7d for seven days ago."),
    ] = None,
    until: Annotated[str | None, typer.Option(help="End before statements issued at this time.")] = None,
    form: Annotated[
        str,
        typer.Option(
            "--format", parser=one_of("format", FORMATS), metavar="|".join(FORMATS), help="What takes the files."
        ),
    ] = "dsa",
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Export statements of reasons for the EU's DSA Transparency Database, at most 100 in each file.

    Each file is the body of one request: POST /api/v1/statements. Statements that the folder's files hold are left out,
    so repeat the command to continue after an interruption. Exits with status 1 if the database would refuse some.
    """
    del form  # the only one
    try:
        from safeguard_streams.enforcement import dsa_export
    except ImportError as error:
        raise needs_extra(error, "enforcement") from error
    period = dsa_export.Period(
        moment(since, "--since") if since is not None else None, moment(until, "--until") if until is not None else None
    )
    if period.since is not None and period.until is not None and period.since >= period.until:
        raise ConfigurationError("--until: is not after --since")
    current = settings.load(bootstrap=bootstrap)
    with shown_reading():
        done = asyncio.run(dsa_export.export(current, to, period))
    if as_json:
        printed: dict[str, Any] = {
            "statements": done.statements,
            "files": done.files,
            "exported_before": done.before,
            "left_out": dict(done.left_out),
            "invalid": done.invalid,
        }
        print(orjson.dumps(printed).decode())
    else:
        say(f"exported {counted(done.statements, 'statement')} in {counted(done.files, 'file')}")
        if done.before:
            say(f"{to} held {counted(done.before, 'statement')} before")
        for reason, count in sorted(done.left_out.items()):
            say(f"{counted(count, 'statement')} left out: {reason}")
    for puid, problem in list(done.invalid.items())[:_SHOWN]:
        say(f"{puid}: {problem}", error=True)
    if done.invalid:
        raise typer.Exit(1)
