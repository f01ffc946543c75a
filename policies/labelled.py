"""Labelled texts: JSON lines {text, violates, category, harm}, and the split that is held out from training."""

from __future__ import annotations

import codecs
import gzip
import hashlib
import zlib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import orjson

from safeguard_streams.errors import PolicyError

# No shipped model has seen these texts. Figures, the demo and later comparisons rest on them.
HELD_OUT_SHARE = 0.1


class Labelled(msgspec.Struct, frozen=True):
    """One row. source: the file's name without its extensions; harm: 'none' where the text does not violate."""

    text: str
    violates: bool
    source: str = ""
    category: str = ""
    harm: str = ""


def held_out(text: str) -> bool:
    """Whether no model may train on this text. A hash of its letters and digits keeps near copies on one side."""
    letters = "".join(filter(str.isalnum, text.casefold()))
    digest = hashlib.sha256(letters.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:4], "big") < HELD_OUT_SHARE * 2**32


def files(folder: Path) -> list[Path]:
    """The .jsonl and .jsonl.gz files of a folder, in order. Raises PolicyError when there are none."""
    paths = sorted([*folder.glob("*.jsonl"), *folder.glob("*.jsonl.gz")])
    if not paths:
        raise PolicyError(f"{folder}: contains no .jsonl or .jsonl.gz file")
    return paths


def read(path: Path) -> Iterator[Labelled]:
    """Rows of one file, split at newlines only, because texts hold other line separators.

    Raises PolicyError with file and line.
    """
    source = path.name.removesuffix(".gz").removesuffix(".jsonl")
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            row = msgspec.convert(orjson.loads(line), Labelled)
        except (orjson.JSONDecodeError, msgspec.ValidationError) as error:
            raise PolicyError(f"{path}:{number}: {error}") from error
        yield msgspec.structs.replace(row, source=source, harm=row.harm if row.violates else "none")


def _lines(path: Path) -> Iterator[bytes]:
    """The lines of a file. Raises PolicyError when it cannot be read to its end."""
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as lines:
            yield next(lines, b"").removeprefix(codecs.BOM_UTF8)
            yield from lines
    except (OSError, EOFError, zlib.error) as error:
        raise PolicyError(f"{path}: cannot be read: {error}") from error
