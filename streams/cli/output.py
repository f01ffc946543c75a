"""Output for people: text of others is shown as plain text, and cannot draw, hide or reorder what a terminal shows.

Reasons, names, keys and policies come from records that anyone may have written. Every table and every line for people
goes through this module. JSON for programs does not.
"""

from __future__ import annotations

import sys
import unicodedata

import rich.box
import rich.table
from rich.console import Console
from rich.text import Text

# Control and format characters (which include bidirectional ones), surrogates, line and paragraph separators.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_WHOLE = 40  # characters of a word that is never broken; longer ones would leave no room for other columns
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
    """A table whose cells are plain text, without rich's markup.

    Columns of single words, such as ids and times, stay whole on a narrow terminal; the others take several lines.
    """

    def __init__(self, *headings: str, box: rich.box.Box | None = None) -> None:
        super().__init__(box=box)
        for heading in headings:
            self.add_column(heading, no_wrap=True)

    def add_row(self, *cells: object) -> None:  # type: ignore[override]  # fewer options, and any value as a cell
        """Add a row; a cell is any value."""
        texts = [plain(cell) for cell in cells]
        for column, text in zip(self.columns, texts, strict=False):
            if " " in text or len(text) > _WHOLE:
                column.no_wrap, column.overflow = False, "fold"
        super().add_row(*map(Text, texts))


def console(*, stderr: bool = False) -> Console:
    """The console for tables: as wide as the terminal, or 150 columns in a file or pipe."""
    terminal = Console(stderr=stderr, markup=False, emoji=False, highlight=False)
    if not terminal.is_terminal:
        terminal.width = 150
    return terminal
