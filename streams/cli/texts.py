"""How commands show texts of others: shortened or wrapped to the terminal's width, never inside a character.

A text is plain, as everything that `output` shows, and each of its lines is indented under a label. It therefore cannot
be taken for a line of the command.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, NamedTuple

import typer
from rich.cells import cell_len, split_graphemes
from rich.text import Text

from safeguard_streams.cli.output import console, plain, say

WIDEST = 80  # columns, also in a file or a pipe
EXCERPT_LINES = 4
_LABEL_WIDTH = 12
_MARKS = 16  # code points of the text for each column, at most: what has more in accents is cut
_FLAG = range(0x1F1E6, 0x1F200)  # letters that make a flag in pairs

Texts = Annotated[bool, typer.Option("--texts/--no-texts", help="Show the text of each item; --json has it whole.")]


class Labelled(NamedTuple):
    """A text with a label; None is left out. most: lines of it at most. keep_lines: whether to keep its line ends."""

    label: str
    text: str | None
    most: int = EXCERPT_LINES
    keep_lines: bool = False


def item_text(text: str | None, *, asked: bool) -> Labelled:
    """The line with an item's text; it names why there is none, if one was asked for."""
    if text is None and asked:
        return Labelled("no text", "past retention, erased, or not readable by this user")
    return Labelled("text", text)


def reason_of(decision: str, rules: Sequence[str], reason: str | None) -> str:
    """A decision with its rules and its short reason."""
    return " ".join([decision, *rules]) + (f": {reason}" if reason else "")


def show_item(heading: str, lines: Sequence[Labelled]) -> None:
    """Print an item after an empty line: a heading, which is whole, and labelled texts under it."""
    say()
    say(heading)
    for label, text, most, keep_lines in lines:
        if text is not None:
            shown = wrapped(text, _width() - _LABEL_WIDTH - 2, most, keep_lines=keep_lines)
            for number, line in enumerate(shown or [""]):
                say(f"  {'' if number else label:<{_LABEL_WIDTH}}{line}".rstrip())


def _width() -> int:
    return min(console().width, WIDEST)


def wrapped(text: str, width: int, most: int, *, keep_lines: bool = False) -> list[str]:
    """A text as plain lines of at most so many columns. most: their number; the last then ends in … where more follows.

    keep_lines: whether to keep its line ends; otherwise, white space is shown as one space.
    """
    width = max(width, 20)
    beginning = text[: (most + 1) * width * _MARKS]
    parts = beginning.splitlines() if keep_lines else [" ".join(beginning.split())]
    lines = [line.plain.rstrip() for part in parts for line in Text(plain(part)).wrap(console(), width)]
    if len(lines) <= most and len(beginning) == len(text):
        return lines
    return [*lines[: most - 1], shortened(" ".join([*lines[most - 1 : most], "…"]), width)]


def shortened(text: str, width: int) -> str:
    """A text as one plain line of at most so many columns, which ends in … where something was cut."""
    beginning = plain(text[: width * _MARKS])
    if len(text) <= width * _MARKS and cell_len(beginning) <= width:
        return beginning
    end = columns = 0
    for _, stop, cells in split_graphemes(beginning)[0]:
        if columns + cells > width - 1:
            break
        end, columns = stop, columns + cells
    return _without_half_a_flag(beginning[:end]).rstrip() + "…"


def _without_half_a_flag(text: str) -> str:
    letters = len(text) - len(text.rstrip("".join(map(chr, _FLAG))))
    return text[:-1] if letters % 2 else text
