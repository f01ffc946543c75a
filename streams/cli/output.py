"""Output for people: text of others is shown as plain text, and cannot draw, hide or reorder what a terminal shows.

Reasons, names, keys and policies come from records that anyone may have written. Every table and every line for people
goes through this module. JSON for programs does not.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterator, Sequence

import rich.table
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.text import Text

# Control and format characters (which include bidirectional ones), surrogates, line and paragraph separators.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_ENDLESS = 100_000  # columns
_JOINERS = "\u200c\u200d"  # parts of Persian words, Indic words and emoji


def plain(text: object) -> str:
    r"""A text on one line, with characters that a terminal interprets or hides written as in \x1b or \u202e."""
    shown = str(text)
    if shown.isascii() and shown.isprintable():
        return shown
    return "".join(
        c.encode("unicode_escape").decode() if unicodedata.category(c) in _HIDDEN and c not in _JOINERS else c
        for c in shown
    )


def say(text: object = "", *, error: bool = False) -> None:
    """Print a line of plain text, on standard error if it is an error or progress."""
    print(plain(text), file=sys.stderr if error else sys.stdout)


class Table(rich.table.Table):
    """A table whose cells are plain text, without rich's markup, and whose ids, times and numbers stay whole.

    Only spaces break a cell. Where the columns do not fit the terminal even so, each row becomes a block of lines.
    """

    def add_row(self, *cells: object) -> None:  # type: ignore[override]  # fewer options, and any value as a cell
        """Add a row; a cell is any value."""
        super().add_row(*(Text(plain(cell)) for cell in cells))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The table, or its rows one below the other."""
        texts = [[_text(cell) for cell in (column.header, *column.cells)] for column in self.columns]
        gaps = 2 * len(texts) if self.box is None else 3 * len(texts) + 1
        room = options.max_width - gaps
        wanted = [max(map(cell_len, cells)) for cells in texts]
        least = [max(cell_len(word) for cell in cells for word in cell.split() or [""]) for cells in texts]
        if sum(least) > room and self.row_count:
            yield from _blocks(texts)
            return
        for column, width in zip(self.columns, _shared(room, least, wanted), strict=True):
            column.width = max(1, width)
        yield from super().__rich_console__(console, options)


def _text(cell: RenderableType) -> str:
    return cell.plain if isinstance(cell, Text) else str(cell)


def _shared(room: int, least: Sequence[int], wanted: Sequence[int]) -> list[int]:
    """The width of each column: what it wants, except that the widest ones give way, none below its least."""
    limit = max(wanted, default=0)
    while limit and sum(max(low, min(high, limit)) for low, high in zip(least, wanted, strict=True)) > room:
        limit -= 1
    return [max(low, min(high, limit)) for low, high in zip(least, wanted, strict=True)]


def _blocks(columns: Sequence[Sequence[str]]) -> Iterator[Text]:
    """Each row as lines of a heading and a value, without the empty ones, and an empty line between the rows."""
    heading = max(cell_len(column[0]) for column in columns)
    for row in range(1, len(columns[0])):
        if row > 1:
            yield Text()
        for column in columns:
            if column[row]:
                gap = " " * (heading - cell_len(column[0]) + 2)
                yield Text(f"{column[0]}{gap}{column[row]}", overflow="fold")


def console(*, stderr: bool = False) -> Console:
    """The console for tables: as wide as the terminal; in a file or pipe, as wide as each row needs."""
    terminal = Console(stderr=stderr, markup=False, emoji=False, highlight=False)
    if not terminal.is_terminal:
        terminal.width = _ENDLESS
    return terminal
