"""The command line `safeguard`.

Each module holds one command or one group of commands. It parses arguments, calls the package that does the work, and
prints the result as tables or, with --json, as JSON. A SafeguardError ends the command with exit status 1, and its
message goes to standard error.

- `options`: options, rows and errors that commands share; `output`: text and tables for people.
- `benchmark` runs and prints a benchmark.
- `demo`, `publish`, `verdicts`: try the pipeline, send content, follow verdicts.
- `status`, `doctor`, `dead_letters`: see how it is, and what to do.
- `topics`, `prefilter`, `policy`, `replay`, `enforce`, `bench`, `erase`, `capacity`: operate it.

## Design decisions

- **Commands of the reasoning worker join through entry points.** The bus side runs without vLLM and must not import
  workers/. `safeguard reason`, `bench reason`, `policy test` and `policy diff` are therefore entry points.
- **Libraries of an extra are imported inside the command.** `safeguard --help` works on every host. A command
  whose libraries are missing names what to install.
"""

from __future__ import annotations

import sys
from importlib.metadata import entry_points
from io import TextIOWrapper

import typer

from safeguard_streams.cli import (
    bench,
    capacity,
    dead_letters,
    demo,
    doctor,
    enforce,
    erase,
    policy,
    prefilter,
    publish,
    replay,
    status,
    topics,
    verdicts,
)
from safeguard_streams.cli.output import say
from safeguard_streams.errors import PolicyError, SafeguardError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Moderate streaming content on Apache Kafka. Settings: environment variables SAFEGUARD_*, or safeguard.toml.",
)
app.command("demo")(demo.demo)
app.command("publish")(publish.publish)
app.command("status")(status.status)
app.command("doctor")(doctor.doctor)
app.command("erase")(erase.erase)
app.command("capacity")(capacity.capacity)
app.add_typer(topics.app, name="topics")
app.add_typer(prefilter.app, name="prefilter")
app.add_typer(verdicts.app, name="verdicts")
app.add_typer(policy.app, name="policy")
app.add_typer(replay.app, name="replay")
app.add_typer(enforce.app, name="enforce")
app.add_typer(bench.app, name="bench")
app.add_typer(dead_letters.app, name="dead-letters")
for entry in sorted(entry_points(group="safeguard.commands"), key=lambda e: e.name):
    app.add_typer(entry.load(), name=entry.name)
for group, parent in (("safeguard.bench", bench.app), ("safeguard.policy", policy.app)):
    for entry in sorted(entry_points(group=group), key=lambda e: e.name):
        parent.command(entry.name)(entry.load())


def main() -> None:
    """Run a command. A SafeguardError is printed on standard error and ends the process with exit status 1."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # what the terminal's encoding lacks is shown escaped
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except PolicyError as error:  # begins with file and line, which editors parse; one problem a line
        for line in str(error).splitlines():
            say(line, error=True)
        sys.exit(1)
    except SafeguardError as error:
        say(f"safeguard: {error}", error=True)
        sys.exit(1)
