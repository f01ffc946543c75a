"""The command line `safeguard`.

Each module holds one command or one group of commands. It parses arguments, calls the package that does the work, and
prints the result as tables or, with --json, as JSON. A SafeguardError ends the command with exit status 1, and its
message goes to standard error. A wrong option ends it with 2, and Ctrl-C with 130, or with 0 where running until then
is the command's purpose.

- `options`: options, rows and errors that commands share; `output`: text and tables for people.
- `texts`: texts of content items, wrapped or shortened to the width of the terminal.
- `benchmark` runs and prints a benchmark.
- `content`: looks up a content item.
- `demo`, `broker`, `publish`, `verdicts`: try the pipeline, run a broker to try it on, send content, follow verdicts.
- `reports`, `appeals`: report content, and appeal what was done about it.
- `completion`: lets a shell complete commands.
- `status`, `doctor`, `dead_letters`: see how it is, and what to do.
- `topics`, `prefilter`, `gates`, `policy`, `replay`, `enforce`, `authors`, `console`, `bench`, `erase`, `capacity`,
  `referrals`: operate it.
- `export`, `report`: records to files, and reports from these.

## Design decisions

- **Commands of the reasoning worker join through entry points.** The bus side runs without vLLM and must not import
  workers/. `safeguard reason`, `bench reason`, `bench model`, `policy test` and `policy diff` are entry points.
- **Libraries of an extra are imported inside the command.** `safeguard --help` works on every host. A command
  whose libraries are missing names what to install.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
from importlib.metadata import entry_points, version
from io import TextIOWrapper
from typing import Annotated

import typer
from typer.completion import completion_init  # type: ignore[attr-defined]  # public, but not marked as such

from safeguard_streams.cli import (
    appeals,
    authors,
    bench,
    broker,
    capacity,
    completion,
    console,
    content,
    dead_letters,
    demo,
    doctor,
    enforce,
    erase,
    export,
    gates,
    policy,
    prefilter,
    publish,
    referrals,
    replay,
    report,
    reports,
    status,
    topics,
    verdicts,
)
from safeguard_streams.cli.output import say
from safeguard_streams.errors import PolicyError, SafeguardError
from safeguard_streams.runtime.process import INTERRUPTED, bound_interrupts, leave
from safeguard_streams.runtime.settings import misspelled

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Moderate streaming content on Apache Kafka. Settings: environment variables SAFEGUARD_*, or safeguard.toml.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        say(f"safeguard {version('safeguard-streams')}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options of the command line itself; --version has ended the process before."""
    if sys.argv[2:3] != ["run"]:  # a process logs this, in the format of its settings
        for name, near in misspelled(os.environ).items():
            say(f"safeguard: warning: nothing reads {name}; did you mean {near}?", error=True)


app.command("demo")(demo.demo)
app.command("broker")(broker.broker)
app.command("publish")(publish.publish)
app.command("status")(status.status)
app.command("doctor")(doctor.doctor)
app.command("erase")(erase.erase)
app.command("capacity")(capacity.capacity)
app.add_typer(topics.app, name="topics")
app.add_typer(prefilter.app, name="prefilter")
app.add_typer(gates.app, name="gates")
app.add_typer(verdicts.app, name="verdicts")
app.add_typer(policy.app, name="policy")
app.add_typer(replay.app, name="replay")
app.add_typer(enforce.app, name="enforce")
app.add_typer(authors.app, name="authors")
app.add_typer(console.app, name="console")
app.add_typer(bench.app, name="bench")
app.add_typer(content.app, name="content")
app.add_typer(reports.app, name="reports")
app.add_typer(appeals.app, name="appeals")
app.add_typer(referrals.app, name="referrals")
app.add_typer(report.app, name="report")
app.add_typer(dead_letters.app, name="dead-letters")
app.add_typer(export.app, name="export")
app.command("completion")(completion.completion)
for entry in sorted(entry_points(group="safeguard.commands"), key=lambda e: e.name):
    app.add_typer(entry.load(), name=entry.name)
for group, parent in (("safeguard.bench", bench.app), ("safeguard.policy", policy.app)):
    for entry in sorted(entry_points(group=group), key=lambda e: e.name):
        parent.command(entry.name)(entry.load())


def main() -> None:
    """Run a command, and end within seconds of Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # what the terminal's encoding lacks is shown escaped
            stream.reconfigure(errors="backslashreplace")
    logging.getLogger("aiokafka").addHandler(logging.NullHandler())  # errors say what it logs
    completion_init()
    bound_interrupts()
    try:
        _run()
    except SystemExit as end:
        if end.code == INTERRUPTED:
            leave(INTERRUPTED)
        raise
    except KeyboardInterrupt:
        leave(INTERRUPTED)


def _run() -> None:
    """Run a command. An error that a user can mend is printed on standard error, and ends it with exit status 1."""
    try:
        app(prog_name=completion.PROGRAM)
    except PolicyError as error:  # begins with file and line, which editors parse; one problem a line
        for line in str(error).splitlines():
            say(line, error=True)
        sys.exit(1)
    except SafeguardError as error:
        say(f"safeguard: {error}", error=True)
        for note in getattr(error, "__notes__", ()):  # lines of another process's log
            say(f"   {note}", error=True)
        sys.exit(1)
    except OSError as error:
        if error.filename is None and error.errno != errno.ENOSPC:
            raise
        place = f"{error.filename}: " if error.filename is not None else ""
        say(f"safeguard: {place}{(error.strerror or str(error)).lower()}", error=True)
        sys.exit(1)
