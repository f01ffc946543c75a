"""`safeguard export statements`: statements of reasons, for a warehouse or the EU's DSA Transparency Database."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from safeguard_streams.cli.export_records import Since, To, Until, export_records, period_of
from safeguard_streams.cli.options import Bootstrap, Json, extra, one_of
from safeguard_streams.cli.output import say
from safeguard_streams.cli.reading import shown_reading
from safeguard_streams.exporting.formats import FORMATS
from safeguard_streams.runtime import settings
from safeguard_streams.runtime.counts import counted

KIND = "statements"
DSA = "dsa"
_FORMATS = (*FORMATS, DSA)
_SHOWN = 10  # invalid statements that messages explain at most


def statements(
    to: To,
    since: Since = None,
    until: Until = None,
    form: Annotated[
        str,
        typer.Option(
            "--format", parser=one_of("format", _FORMATS), metavar="|".join(_FORMATS), help="Format of files."
        ),
    ] = FORMATS[0],
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Export statements of reasons, each once, to Parquet or CSV or for the EU's DSA Transparency Database.

    With --format dsa, each file is the body of one request, POST /api/v1/statements, of at most 100 statements.
    Statements that the folder's files hold are left out, so repeat the command to continue after an interruption. It
    exits with status 1 if the database would refuse some.
    """
    if form != DSA:
        export_records(KIND, to, form, (since, until), bootstrap, as_json=as_json)
        return
    export_dsa(to, (since, until), bootstrap, as_json=as_json)


def export_dsa(to: Path, times: tuple[str | None, str | None], bootstrap: str | None, *, as_json: bool) -> None:
    """Export statements as the database takes them, and say how many. times: --since and --until."""
    with extra("enforcement"):
        from safeguard_streams.enforcement import dsa_export
    period = dsa_export.Period(*period_of(times))
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
