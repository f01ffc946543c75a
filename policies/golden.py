"""Golden sets: labelled texts in golden.jsonl beside a policy, which show what its rules mean."""

from __future__ import annotations

import codecs
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
import orjson

from safeguard_streams.errors import PolicyError, Problem
from safeguard_streams.policies.folding import normalized

NAME = "golden.jsonl"
_LONGEST = 200  # characters of what is wrong with a line, which may name a field of any length
Kind = Literal["clear", "boundary", "language", "evasion", "quotation", "reclaimed", "news", "fiction"]


class Golden(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One text, its decision under the policy, and the rule that decides.

    kind: what the text tests. This is a clear case, one near the boundary, another language, an evasion (spelling,
        homoglyphs, euphemism), a quotation, reclaimed words, news or fiction.
    language: a tag such as 'en'. source and licence: of texts that the policy's author did not write.
    """

    text: str
    decision: Literal["violates", "safe"]
    rule: str
    kind: Kind
    language: str = "en"
    source: str = ""
    licence: str = ""


def canonical(text: str) -> str:
    """One form for texts that read the same."""
    return " ".join(normalized("NFKC", text).casefold().split())


class GoldenRow(msgspec.Struct, frozen=True):
    """A golden text and its line in the file, counted from 1."""

    line: int
    golden: Golden


class GoldenFile(NamedTuple):
    """The rows of a golden set in file order, and the problems of the lines that are not rows."""

    rows: list[GoldenRow]
    problems: list[Problem]


def read(path: Path) -> GoldenFile:
    """Read a golden set. Raises PolicyError when the file cannot be read."""
    try:
        # At newlines only: texts hold other line separators.
        lines = path.read_bytes().removeprefix(codecs.BOM_UTF8).split(b"\n")
    except OSError as error:
        raise PolicyError(f"{path}: cannot be read: {error.strerror}") from error
    file = GoldenFile([], [])
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                file.rows.append(GoldenRow(number, msgspec.convert(orjson.loads(line), Golden)))
            except (orjson.JSONDecodeError, msgspec.ValidationError) as error:
                message = str(error).replace("`", "")[:_LONGEST]
                file.problems.append(Problem(str(path), number, "error", "golden", message[:1].lower() + message[1:]))
    return file


def add(path: Path, golden: Golden) -> GoldenRow:
    """Append a text to a golden set, which begins with its first one. Returns its row.

    Raises PolicyError when the file has a broken line or cannot be written, or when it has the text already.
    """
    rows, problems = read(path) if path.exists() else GoldenFile([], [])
    if problems:
        raise PolicyError.of(problems)
    twin = next((row for row in rows if canonical(row.golden.text) == canonical(golden.text)), None)
    if twin is not None:
        marked = f"{twin.golden.decision}, {twin.golden.rule}"
        raise PolicyError(f"{path}:{twin.line}: the golden set has this text already, as {marked}; nothing was added")
    written = path.read_bytes() if path.exists() else b""
    begun = b"" if not written or written.endswith(b"\n") else b"\n"
    line = json.dumps(msgspec.to_builtins(golden), ensure_ascii=False)
    try:
        with path.open("ab") as file:
            file.write(begun + line.encode() + b"\n")
    except OSError as error:
        raise PolicyError(f"{path}: cannot be written: {error.strerror}") from error
    return GoldenRow((written + begun).count(b"\n") + 1, golden)


def load(path: Path) -> Sequence[Golden]:
    """The texts of a golden set. Raises PolicyError with the problem of each invalid line."""
    rows, problems = read(path)
    if problems:
        raise PolicyError.of(problems)
    if not rows:
        raise PolicyError(f"{path}: contains no golden text")
    return [row.golden for row in rows]
