"""Files of content ids, one a line, for commands about many items."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from safeguard_streams.cli.options import check_content_id
from safeguard_streams.client.event_files import decompressed, read
from safeguard_streams.errors import ConfigurationError

IdFile = Annotated[
    str | None,
    typer.Option("--file", metavar="FILE", help="File of content ids, one a line; - for standard input."),
]
_LINE_END = re.compile("\r\n|\n|\r")  # no other character that ends a line elsewhere: an id may hold it


def ids_in(file: str) -> list[str]:
    """The ids in a file or, for '-', of standard input, each once, in their order; empty lines are left out.

    Raises ConfigurationError, with the line, for what no content item can have as its id.
    """
    try:
        text = decompressed(file, read(file)).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigurationError(f"{file}: is not UTF-8; convert it, as with iconv -f UTF-16 -t UTF-8") from None
    ids: dict[str, None] = {}
    for number, line in enumerate(_LINE_END.split(text), 1):
        if line.strip():
            try:
                check_content_id(line)
            except ConfigurationError as error:
                raise ConfigurationError(f"{file}, line {number}: {error}") from None
            ids[line] = None
    if not ids:
        raise ConfigurationError(f"{file}: has no content id; write one a line")
    return list(ids)


def check_answerable(file: str, *, yes: bool, dry_run: bool) -> None:
    """Raise ConfigurationError where a question would be answered by the ids on standard input."""
    if file == "-" and not (yes or dry_run):
        raise ConfigurationError("--file -: add --yes or --dry-run, because the ids use the standard input")
