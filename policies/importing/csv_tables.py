"""The tables of a CSV file of labelled texts: its delimiter, its rows, and which columns hold texts and labels."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from safeguard_streams.errors import ConfigurationError
from safeguard_streams.policies.importing import source
from safeguard_streams.policies.importing.labels import side_of_label

MAX_BYTES = 20_000_000
_DELIMITERS = ",;\t|"
_HEADER_ROWS = 10  # a file may begin with a note
_TEXT = re.compile(r"(?:test )?(?:text|content|example|prompt|message|input|post|comment|body|sample|response)s?", re.I)
_LABEL = re.compile(
    r".*\b(?:labels?|classification|decision|expected|verdict|gold|answer|output|target|ground truth)"
    r"|(?:is )?(?:violations?|violates|violating|spam|toxic|unsafe|harmful|safe|valid|allowed)",
    re.I,
)
_OF_MODEL = re.compile(r"\b(?:model|predict\w*|output|answer|actual|gpt)\b", re.I)  # labels that are to be tested
_RULE = re.compile(r"rules?(?: ?ids?)?|category|severity|policy|section|code", re.I)
_LANGUAGE = re.compile(r"lang(?:uage)?", re.I)
_OF_SAFE = re.compile(r"(?:is )?(?:safe|valid|allowed)", re.I)  # a column whose 1 or yes means safe
_LONG = 40  # characters; no label has as many
_END = "\x01"  # a row after the last; source.read accepts no such character

Resolve = Callable[[str], str | None]


class Row(NamedTuple):
    """A row: the line that it begins in, counted from 1, and its cells."""

    line: int
    cells: list[str]

    def cell(self, column: int | None) -> str:
        return self.cells[column].strip() if column is not None and column < len(self.cells) else ""


class Columns(NamedTuple):
    """Columns of one text and its labels.

    group_but: None unless rows of one cell, a rule's id, label the rows below them; then the columns of other labels.
    label_name: the name of the column of labels. unused: those of others that may hold labels, too.
    """

    text: int
    label: int | None
    rule: int | None
    language: int | None
    group_but: Collection[int] | None
    one_is_safe: bool
    label_name: str = ""
    unused: Sequence[str] = ()


def read(path: Path, resolve: Resolve) -> Iterator[tuple[Columns, Sequence[Row]]]:
    """The columns to read, with the rows below their header. One file may have several pairs of text and label.

    Raises ConfigurationError where there is no column of texts or of labels.
    """
    rows = _rows(source.read(path, MAX_BYTES), path)
    for number, row in enumerate(rows[:_HEADER_ROWS]):
        names = [" ".join(cell.replace("_", " ").split()) for cell in row.cells]
        labels = [i for i, name in enumerate(names) if name and len(name) < 60 and _LABEL.fullmatch(name)]
        rules = [i for i, name in enumerate(names) if _RULE.fullmatch(name)]
        if not (labels or rules):
            continue
        body = rows[number + 1 :]
        named = {*labels, *rules}
        group = sum(group_of(later, resolve, named) is not None for later in body) > 1
        texts = [i for i, name in enumerate(names) if _TEXT.fullmatch(name) and i not in labels]
        texts = texts or _longest(body, named)
        if not texts:
            break
        language = next((i for i, name in enumerate(names) if _LANGUAGE.fullmatch(name)), None)
        rule = rules[0] if rules else None
        if len(texts) != len(labels):
            labels.sort(key=lambda i: bool(_OF_MODEL.search(names[i])))
            texts = texts[:1]
        unused = [names[i] for i in labels[len(texts) :]]
        for text, label in itertools.zip_longest(texts, labels[: len(texts)]):
            name = "" if label is None else names[label]
            one_is_safe = bool(_OF_SAFE.fullmatch(name))
            yield Columns(text, label, rule, language, named if group else None, one_is_safe, name, unused), body
        return
    columns = _unnamed(rows, resolve)
    if columns is None:
        raise ConfigurationError(
            f"{path}: has no column of labels or of texts: name them in the first row, as in text,label"
        )
    yield columns, rows


def _rows(text: str, path: Path) -> list[Row]:
    """The rows of a CSV text, with the delimiter that gives the most cells to the most rows.

    Raises ConfigurationError where the last row's quotation marks take in the end of the file.
    """
    csv.field_size_limit(max(csv.field_size_limit(), MAX_BYTES))  # of the whole process, and therefore only raised
    *rows, last = max((_parsed(f"{text}\n{_END}", delimiter) for delimiter in _DELIMITERS), key=_regularity)
    if last.cells != [_END]:
        raise ConfigurationError(f"{path}:{last.line}: a quotation mark is not closed in the row that begins here")
    return rows


def _parsed(text: str, delimiter: str) -> list[Row]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    rows, line = [], 1
    for cells in reader:
        rows.append(Row(line, cells))
        line = reader.line_num + 1
    return [row for row in rows if any(cell.strip() for cell in row.cells)]


def _regularity(rows: Sequence[Row]) -> tuple[int, int]:
    """How many rows have the commonest number of cells above one, and that number."""
    counts = Counter(len(row.cells) for row in rows if len(row.cells) > 1)
    return max(((count, cells) for cells, count in counts.items()), default=(0, 0))


def group_of(row: Row, resolve: Resolve, labels: Collection[int]) -> str | None:
    """The rule that a row with one cell announces for the rows below it. A label alone is none."""
    filled = {i: cell for i, cell in enumerate(row.cells) if cell.strip()}
    ((column, cell),) = filled.items() if len(filled) == 1 else [(-1, "")]
    return resolve(cell) if cell and column not in labels and len(cell) < _LONG else None


def _longest(rows: Sequence[Row], but: set[int]) -> list[int]:
    """The column with the longest texts, for files whose header does not name it."""
    lengths: Counter[int] = Counter()
    for row in rows:
        lengths.update({i: len(cell.strip()) for i, cell in enumerate(row.cells) if i not in but})
    return [column for column, length in lengths.most_common(1) if length]


def _unnamed(rows: Sequence[Row], resolve: Resolve) -> Columns | None:
    """The columns of a file without a header, by what most of their cells hold."""
    hits: Counter[int] = Counter()
    for row in rows:
        hits.update(
            i
            for i, cell in enumerate(row.cells)
            if cell.strip() and len(cell) < _LONG and (resolve(cell) or side_of_label(cell))
        )
    label = next((column for column, count in hits.most_common(1) if 2 * count > len(rows)), None)
    texts = _longest(rows, {label}) if label is not None else []
    return Columns(texts[0], label, None, None, group_but=None, one_is_safe=False) if texts else None
