"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.table import Table

from safeguard_streams.errors import ConfigurationError
from safeguard_streams.policies import check as checking
from safeguard_streams.policies.document import Policy
from safeguard_streams.policies.files import load
from safeguard_streams.releases.operator import ChangedBy

Bootstrap = Annotated[
    str | None, typer.Option("--bootstrap", metavar="HOST:PORT", help="Kafka brokers; default SAFEGUARD_BOOTSTRAP.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Data = Annotated[
    Path,
    typer.Option(
        "--data", help="Folder of labelled texts: JSON lines {text, violates, category, harm}, .jsonl or .jsonl.gz."
    ),
]
Library = Annotated[
    Path,
    typer.Option("--library", show_default="the one in the package", help="Folder of policies, ID/policy.md each."),
]


Why = Annotated[str, typer.Option(help="Why, for the history.")]
By = Annotated[str | None, typer.Option(help="Who, for the history; by default who is logged in.")]


def changed_by(why: str, by: str | None) -> ChangedBy:
    """Who does something to policies, and why."""
    return ChangedBy(why, by) if by else ChangedBy(why)


def fit_for_release(ids: Sequence[str], library: Path) -> list[Policy]:
    """Policies by their ids or files, or all of the library; each checked. Raises PolicyError with all that is wrong."""
    if not ids:
        return checking.require(checking.check_library(library))
    paths = [(policy_path(name, library), not name.endswith(".md")) for name in ids]
    return checking.require([checking.check(path, named_by_folder=by_id) for path, by_id in paths])


def policy_path(name: str, library: Path) -> Path:
    """A policy's file, by its id in the library or by the file itself."""
    path = Path(name) if name.endswith(".md") else library / name / "policy.md"
    if not path.is_file():
        known = ", ".join(sorted(found.parent.name for found in library.glob("*/policy.md")))
        raise ConfigurationError(f"no policy {name!r} in {library}; there are: {known}; or name a policy.md file")
    return path


def policy_of(name: str, library: Path) -> tuple[Policy, Path]:
    """A policy and its file, by its id in the library or by the file itself."""
    path = policy_path(name, library)
    return load(path), path


def console(*, stderr: bool = False) -> Console:
    """Where tables go; a file or a pipe has no width of its own."""
    shown = Console(stderr=stderr)
    return shown if shown.is_terminal else Console(stderr=stderr, width=150)


def show_rows(rows: list[dict[str, Any]], none: str, *, as_json: bool) -> None:
    """Rows as a table, or as JSON for programs; `none` is what to say of no rows."""
    if as_json:
        print(orjson.dumps(rows).decode())
        return
    table = Table(*(rows[0] if rows else [none]), box=None)
    for row in rows:
        table.add_row(*map(str, row.values()))
    console().print(table)


def needs_extra(error: ImportError, extra: str) -> ConfigurationError:
    """What to say where a host lacks the libraries of a command."""
    return ConfigurationError(
        f"{error.name} is not installed here: install infra/requirements/{extra}.txt (see README)"
    )
