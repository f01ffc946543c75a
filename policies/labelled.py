"""Labelled texts: JSON lines {text, violates, category, harm}, and which of them are kept from all training."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import orjson

from safeguard_streams.errors import PolicyError

# One text in ten is kept from every model that this project trains, so that figures, the demo
# and later comparisons all rest on texts that no shipped model has seen.
HELD_OUT_SHARE = 0.1


class Labelled(msgspec.Struct, frozen=True):
    """One row. source is the file's name without its endings; harm is 'none' where the row does not violate."""

    text: str
    violates: bool
    source: str = ""
    category: str = ""
    harm: str = ""


def held_out(text: str) -> bool:
    """Decided by a hash of the text's letters and digits, so that near copies fall on the same side."""
    letters = "".join(filter(str.isalnum, text.casefold()))
    digest = hashlib.sha256(letters.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:4], "big") < HELD_OUT_SHARE * 2**32


def files(folder: Path) -> list[Path]:
    """The .jsonl and .jsonl.gz files of a folder, in order; raises PolicyError when there are none."""
    found = sorted([*folder.glob("*.jsonl"), *folder.glob("*.jsonl.gz")])
    if not found:
        raise PolicyError(f"{folder}: no .jsonl or .jsonl.gz file in it")
    return found


def read(path: Path) -> Iterator[Labelled]:
    """Rows of one file, split at newlines only (texts hold other line separators).

    Raises PolicyError that names file and line.
    """
    source = path.name.removesuffix(".gz").removesuffix(".jsonl")
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = msgspec.convert(orjson.loads(line), Labelled)
            except (orjson.JSONDecodeError, msgspec.ValidationError) as error:
                raise PolicyError(f"{path}:{number}: {error}") from error
            yield msgspec.structs.replace(row, source=source, harm=row.harm if row.violates else "none")
