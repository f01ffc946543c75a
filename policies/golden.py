"""Golden sets: labelled texts beside a policy, golden.jsonl, that say what its rules mean."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec
import orjson

from safeguard_streams.errors import PolicyError, Problem

NAME = "golden.jsonl"
Kind = Literal["clear", "boundary", "language", "evasion", "quotation", "reclaimed", "news", "fiction"]


class Golden(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One text, the decision under the policy, and the rule that decides.

    kind says what the text tries: a clear case, one near the boundary, another language, evasion (spelling, homoglyphs,
    euphemism), quotation, reclaimed words, news or fiction. language is a tag as in 'en'. source and licence are of texts
    that are not the policy author's own.
    """

    text: str
    decision: Literal["violates", "safe"]
    rule: str
    kind: Kind
    language: str = "en"
    source: str = ""
    licence: str = ""


class Row(msgspec.Struct, frozen=True):
    """A golden text and its line in the file."""

    line: int
    golden: Golden


def read(path: Path) -> tuple[list[Row], list[Problem]]:
    """Rows in their order, and what is wrong with lines that are none. Raises PolicyError when the file cannot be read."""
    try:
        lines = path.read_bytes().split(b"\n")  # at newlines only: texts hold other line separators
    except OSError as error:
        raise PolicyError(f"{path}: cannot be read: {error}") from error
    rows, problems = [], []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                rows.append(Row(number, msgspec.convert(orjson.loads(line), Golden)))
            except (orjson.JSONDecodeError, msgspec.ValidationError) as error:
                said = str(error).replace("`", "")
                problems.append(Problem(str(path), number, "error", "golden", said[:1].lower() + said[1:]))
    return rows, problems


def load(path: Path) -> Sequence[Golden]:
    """The texts of a golden set. Raises PolicyError with each line that is none."""
    rows, problems = read(path)
    if problems:
        raise PolicyError.of(problems)
    if not rows:
        raise PolicyError(f"{path}: no golden text in it")
    return [row.golden for row in rows]
