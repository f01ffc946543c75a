"""Options, tables and errors that several commands share."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import orjson
import typer

from safeguard_streams.cli.output import Table, console, say
from safeguard_streams.contract import limits
from safeguard_streams.errors import ConfigurationError, choices
from safeguard_streams.policies import check as checking
from safeguard_streams.policies.check import Checked
from safeguard_streams.policies.document import Policy
from safeguard_streams.policies.files import load
from safeguard_streams.releases.operator import ChangedBy
from safeguard_streams.releases.people import checked
from safeguard_streams.runtime.counts import counted

Bootstrap = Annotated[
    str | None, typer.Option("--bootstrap", metavar="HOST:PORT", help="Kafka brokers; default SAFEGUARD_BOOTSTRAP.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Data = Annotated[
    Path,
    typer.Option(
        "--data",
        exists=True,
        file_okay=False,
        help="Folder of labelled texts: JSON lines {text, violates, category, harm}, .jsonl or .jsonl.gz.",
    ),
]
Library = Annotated[
    Path,
    typer.Option("--library", show_default="the one in the package", help="Folder of policies, one ID/policy.md each."),
]
Why = Annotated[str, typer.Option(help="Reason, for the history.")]
By = Annotated[str | None, typer.Option(help="Name, for the history; default: the logged-in user.")]


Port = Annotated[int | None, typer.Option(min=0, max=65_535, help="Port of the health endpoint.")]


def output_file(name: str | Path) -> Path:
    """The parser of an option that names a file to write: a wrong path ends the command before it works."""
    path = Path(name)
    folder = path.parent
    if path.is_dir():
        raise typer.BadParameter(f"{path} is a folder; name a file")
    if not folder.is_dir():
        raise typer.BadParameter(f"there is no folder {folder}; create it first")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise typer.BadParameter(f"{path} cannot be written by this user")
    return path


def output_folder(name: str | Path) -> Path:
    """The parser of an option that names a folder to write to, or to create: a wrong path ends the command at once."""
    path = Path(name)
    nearest = next(one for one in (path, *path.absolute().parents) if one.exists())
    if not nearest.is_dir():
        raise typer.BadParameter(f"{nearest} is a file; name a folder")
    if not os.access(nearest, os.W_OK):
        raise typer.BadParameter(f"{nearest} cannot be written by this user")
    return path


def check_content_id(content_id: str | None) -> None:
    """Raise ConfigurationError for an id that no content item can have; None stands for all items."""
    if content_id is None:
        return
    try:
        content_id.encode()
    except UnicodeEncodeError:
        raise ConfigurationError("CONTENT_ID: is not UTF-8") from None
    if not 0 < len(content_id) <= limits.ID_CHARACTERS:
        raise ConfigurationError(
            f"CONTENT_ID: has {counted(len(content_id), 'character')}, not 1 to {limits.ID_CHARACTERS}"
        )


def changed_by(why: str, by: str | None) -> ChangedBy:
    """Who changes something, and why. Raises ConfigurationError where the user has no name and none is given, or where
    a name or a reason is no plain text.
    """
    return checked(ChangedBy(why, by) if by else ChangedBy(why))


def fit_for_release(ids: Sequence[str], library: Path) -> list[Policy]:
    """Check policies by id or file, or the whole library. Raises PolicyError with every problem."""
    return checking.require(check_all(ids, library))


def check_all(ids: Sequence[str], library: Path) -> list[Checked]:
    """Check policies by id or file, or the whole library. Raises ConfigurationError for an id that there is not."""
    if not ids:
        return checking.check_library(library)
    paths = [(Path(name), False) if name.endswith(".md") else (policy_path(name, library), True) for name in ids]
    return [checking.check(path, named_by_folder=by_id) for path, by_id in paths]


def policy_path(name: str, library: Path) -> Path:
    """A policy's file, by its id in the library or by its path. Raises ConfigurationError when there is none."""
    path = Path(name) if name.endswith(".md") else library / name / "policy.md"
    if not path.is_file():
        folder = Path(name)
        if (folder / "policy.md").is_file():
            raise ConfigurationError(f"{name} is a policy's folder; name its file: {folder / 'policy.md'}")
        if any(folder.glob("*/policy.md")):
            raise ConfigurationError(f"{name} is a folder of policies, not a policy; name it with --library {name}")
        ids = [file.parent.name for file in library.glob("*/policy.md")]
        raise ConfigurationError(f"no policy {name!r} in {library}, and no such policy.md file{choices(name, ids)}")
    return path


def one_of(kind: str, vocabulary: Sequence[str]) -> Callable[[str], str]:
    """The parser of an option or argument with a fixed vocabulary; any other value ends with exit status 2."""

    def parse(value: str) -> str:
        if value not in vocabulary:
            raise typer.BadParameter(f"no {kind} {value!r}{choices(value, vocabulary)}")
        return value

    return parse


class LoadedPolicy(NamedTuple):
    """A policy and the file that it was read from."""

    policy: Policy
    path: Path


def load_policy(name: str, library: Path) -> LoadedPolicy:
    """Read a policy, by its id in the library or by its path. Raises PolicyError when it is malformed."""
    path = policy_path(name, library)
    return LoadedPolicy(load(path), path)


def show_rows(rows: list[dict[str, Any]], none: str, *, as_json: bool) -> None:
    """Print rows as JSON or as a table, whose headings are the keys with spaces; `none` is the line without rows."""
    if as_json:
        print(orjson.dumps(rows).decode())
        return
    if not rows:
        if none:
            say(none)
        return
    table = Table(*(key.replace("_", " ") for key in rows[0]), box=None)
    for row in rows:
        table.add_row(*row.values())
    console().print(table)


@contextlib.contextmanager
def extra(name: str) -> Iterator[None]:
    """Import what belongs to an extra in this block. Raises ConfigurationError where it is not installed here."""
    try:
        yield
    except ImportError as error:
        raise ConfigurationError(
            f"{error.name} is not installed here: install infra/requirements/{name}.txt (see README)"
        ) from error
