"""safeguard report."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from safeguard_streams.cli.options import Json, extra, output_file
from safeguard_streams.cli.output import say

app = typer.Typer(no_args_is_help=True, help="Write reports from exported records.")
_FIRST = 2000  # year


@app.callback()
def _group() -> None:
    """Keep a group of one command a group."""


@app.command("transparency")
def transparency(
    year: Annotated[int, typer.Option(min=_FIRST, max=9998, metavar="YEAR", help="Year to report on, in UTC.")],
    source: Annotated[
        Path,
        typer.Option(
            "--from", metavar="DIR", exists=True, file_okay=False, help="Folder that safeguard export wrote to."
        ),
    ],
    out: Annotated[Path, typer.Option(parser=output_file, metavar="FILE", help="HTML file to write.")],
    service: Annotated[str, typer.Option(metavar="NAME", help="Name of the service, for the title.")] = "",
    as_json: Json = False,
) -> None:
    """Write a year's transparency report as one HTML page: orders, notices, restrictions, appeals, rates of error.

    Export reports, verdicts, actions, appeals and statements to the folder first, as Parquet. What the folder lacks is
    "not recorded" on the page, and null in the JSON. The page holds counts and no personal data.
    """
    with extra("export"):
        from safeguard_streams.exporting.transparency import counting, page
        from safeguard_streams.exporting.transparency.source import Source
    figures = counting.count(Source(source), year)
    out.write_text(page.render(figures, service), encoding="utf-8")
    if as_json:
        print(msgspec.json.encode(figures).decode())
        return
    say(f"wrote {out}")
    missing = [kind for kind, there in figures.records.items() if there is None]
    if missing:
        say(f"not recorded, because the folder holds no such export: {', '.join(missing)}", error=True)
    if datetime.now(UTC).year <= year:
        say(f"the year {year} has not ended", error=True)
