"""safeguard console."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import orjson
import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from safeguard_streams.cli.options import Bootstrap, Json, Port, extra, output_file
from safeguard_streams.cli.output import console, say
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.runtime import settings
from safeguard_streams.runtime.counts import counted
from safeguard_streams.runtime.durations import moment
from safeguard_streams.runtime.ports import check_port
from safeguard_streams.runtime.process import INTERRUPTED, configure_logging
from safeguard_streams.runtime.settings import Settings

app = typer.Typer(no_args_is_help=True, help="The console: its pages, and the database behind them.")


def _require_database(current: Settings) -> None:
    if current.console_database is None:
        raise ConfigurationError(
            "set SAFEGUARD_CONSOLE_DATABASE to the console's database, as in "
            "sqlite:////var/lib/safeguard/console.db or postgresql://USER@HOST/NAME"
        )


@app.command("serve")
def serve(
    port: Annotated[int | None, typer.Option(min=0, max=65_535, help="Port of the pages.")] = None,
    projected: Annotated[
        bool, typer.Option("--project/--no-project", help="Also project the topics, in this process.")
    ] = True,
    bootstrap: Bootstrap = None,
) -> None:
    """Serve the console's pages until SIGTERM or Ctrl-C.

    People sign in at SAFEGUARD_CONSOLE_OIDC_ISSUER, or at a proxy that has SAFEGUARD_CONSOLE_PROXY_SECRET, and get
    roles by SAFEGUARD_CONSOLE_ROLES. Without either, it serves 127.0.0.1 only, and everybody on this machine is one
    user with all roles.
    """
    current = settings.load(bootstrap=bootstrap, console_port=port)
    _require_database(current)
    check_port(current.host, current.console_port)
    with extra("console"):
        from safeguard_streams.console.web import serve as process
    configure_logging(form=current.log_format)
    settings.log_misspelled()
    asyncio.run(process.run(current, project=projected))


@app.command("project")
def project(port: Port = None, bootstrap: Bootstrap = None) -> None:
    """Project the topics into the console's database until SIGTERM or Ctrl-C.

    It follows verdicts, rationales, actions, escalations, policies, replays and dead letters, and counts what was
    cleared. Rows and positions change in one transaction, so each record counts once. It creates or upgrades the tables
    of SAFEGUARD_CONSOLE_DATABASE first, and removes texts after SAFEGUARD_CONSOLE_TEXT_DAYS.
    """
    current = settings.load(bootstrap=bootstrap, projector_port=port)
    _require_database(current)
    check_port(current.host, current.projector_port)
    with extra("console"):
        from safeguard_streams.console import app as process
    configure_logging(form=current.log_format)
    settings.log_misspelled()
    asyncio.run(process.run(current))


@app.command("rebuild")
def rebuild(
    yes: Annotated[bool, typer.Option("--yes", help="Skip the confirmation.")] = False,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Delete all that is projected, and project the topics again.

    What people did in the console stays: the audit log, reviews and settings. Claims end. The database then holds what
    the topics hold; what their retention has deleted is gone.
    """
    current = settings.load(bootstrap=bootstrap)
    _require_database(current)
    with extra("console"):
        from safeguard_streams.console import app as process
    if not yes:
        typer.confirm("Delete what is projected, and read the topics again?", abort=True, err=True)
    out = console(stderr=True)
    columns = (TextColumn("projecting"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=out, transient=True, disable=not out.is_terminal) as bar:
        task = bar.add_task("", total=None)
        result = asyncio.run(
            process.rebuild(current, lambda done, left: bar.update(task, completed=done, total=done + left or None))
        )
    if as_json:
        print(
            orjson.dumps(
                {
                    "records": result.records,
                    "seconds": round(result.seconds, 3),
                    "records_per_second": round(result.rate),
                    "skipped": result.skipped,
                    "complete": result.complete,
                }
            ).decode()
        )
    else:
        rate = f"{result.rate:,.0f} records/s"
        say(f"projected {counted(result.records, 'record')} in {result.seconds:.1f} s, {rate}")
        if result.skipped:
            say(f"{counted(result.skipped, 'record was', 'records were')} skipped: the log says which", error=True)
    if not result.complete:
        say("interrupted; `safeguard console project` goes on from here", error=True)
        raise typer.Exit(INTERRUPTED)


@app.command("labels")
def labels(
    policy: Annotated[str, typer.Option("--policy", metavar="ID", help="Policy under which people decided.")],
    out: Annotated[
        Path, typer.Option("--out", parser=output_file, metavar="FILE", help="File to write; it holds texts of users.")
    ],
    since: Annotated[
        str | None,
        typer.Option("--since", help="Only decisions of this time or later: 2026-01-31T12:00:00Z, or 30d."),
    ] = None,
    blind_only: Annotated[
        bool, typer.Option("--blind-only", help="Only decisions of people who had not seen the verdict.")
    ] = False,
    as_golden: Annotated[
        bool, typer.Option("--golden", help="Write rows of a golden set: those with a rule, each text once.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write what people decided in the console as labels, one JSON line each.

    `prefilter calibrate`, `prefilter distill` and `reason calibrate` read them by --labels: {text, violates, weight}. A
    text that the gate drew at a rate stands for others, and weighs more. With --golden, they are rows of golden.jsonl.
    Decisions that were taken back or are disputed, and items whose text is gone or edited, are left out and counted.
    """
    current = settings.load()
    _require_database(current)
    start = moment(since, "--since") if since else None
    with extra("console"):
        from safeguard_streams.console import labels as reading
        from safeguard_streams.console.database import connect
    engine = connect(current)
    try:
        counts = reading.write(engine, reading.Wanted(policy, start, blind_only, as_golden), out)
    finally:
        engine.dispose()
    if as_json:
        print(orjson.dumps(counts.report()).decode())
        return
    say(f"wrote {counted(counts.written.total(), 'label')} to {out}: {counts.written['violates']:,} violating")
    if counts.reasons:
        say(f"left out: {counts.reasons}", error=True)
