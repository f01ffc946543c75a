"""The records of a kind as files: what the commands of `safeguard export` share."""

from __future__ import annotations

import asyncio
from datetime import datetime
from pathlib import Path
from typing import Annotated

import orjson
import typer

from safeguard_streams.cli.options import extra, one_of, output_folder
from safeguard_streams.cli.output import say
from safeguard_streams.cli.reading import shown_reading
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.exporting import export as exporting
from safeguard_streams.exporting.formats import FORMATS
from safeguard_streams.runtime import settings
from safeguard_streams.runtime.counts import counted
from safeguard_streams.runtime.durations import moment

_TIMES = ("--since", "--until")


To = Annotated[
    Path,
    typer.Option(
        "--to",
        parser=output_folder,
        metavar="DIR",
        help="Folder for the files; repeat the command to add to it.",
    ),
]
Since = Annotated[
    str | None,
    typer.Option(help="Begin with records written at this time: 2026-01-31T12:00:00Z, or 7d for seven days ago."),
]
Until = Annotated[str | None, typer.Option(help="End before records written at this time.")]
Form = Annotated[
    str, typer.Option("--format", parser=one_of("format", FORMATS), metavar="|".join(FORMATS), help="Format of files.")
]


def period_of(times: tuple[str | None, str | None]) -> tuple[datetime | None, datetime | None]:
    """The moments of --since and --until. Raises ConfigurationError where the second is not after the first."""
    since, until = (moment(text, option) if text else None for text, option in zip(times, _TIMES, strict=True))
    if since is not None and until is not None and since >= until:
        raise ConfigurationError("--until: is not after --since")
    return since, until


def export_records(
    kind: str, to: Path, form: str, times: tuple[str | None, str | None], bootstrap: str | None, *, as_json: bool
) -> None:
    """Export the records of a kind, and say how many. times: --since and --until."""
    since, until = period_of(times)
    current = settings.load(bootstrap=bootstrap)
    target = exporting.Target(kind, to, form, since, until)
    with extra("export"), shown_reading():
        done = asyncio.run(exporting.export(current, target))
    _show(target, done, as_json=as_json)


def _show(target: exporting.Target, done: exporting.Exported, *, as_json: bool) -> None:
    holds = done.manifest
    if as_json:
        printed = {
            "kind": target.kind,
            "topic": holds.topic,
            "folder": str(target.path),
            "records": done.records,
            "files": done.files,
            "total": holds.records,
            "left_out": holds.left_out,
            "erased": holds.erased,
            "expired": holds.expired,
        }
        print(orjson.dumps(printed).decode())
        return
    say(f"exported {counted(done.records, 'record')} in {counted(done.files, 'file')}")
    say(f"{target.path} holds {counted(holds.records, 'record')} of {holds.topic}")
    if holds.erased:
        say(f"{counted(holds.erased, 'record')} about erased items left out")
    if holds.expired:
        say(
            f"up to {counted(holds.expired, 'record')} expired before they were exported; export more often", error=True
        )
