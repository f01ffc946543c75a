"""The manifest of an export: which files belong to it, and the next offset of each partition.

It is replaced as a whole by a rename, after the files that it names. A file that it does not name is of a run that was
ended; the next run removes it and exports its records again. A folder therefore holds each record once, whenever a run
is killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import msgspec

from safeguard_streams.contract.records import aware
from safeguard_streams.errors import ConfigurationError

MANIFEST = "_manifest.json"
_LOCK = "_lock"
_PATH = re.compile(r"day=(?:[0-9]{4}-(?:0[1-9]|1[0-2])-[0-3][0-9]|__HIVE_DEFAULT_PARTITION__)/records-[0-9]+\.[a-z]+")
_UNFINISHED = ".unfinished"  # the suffix of a file that is being written


class ExportedFile(msgspec.Struct, frozen=True):
    """A file of an export. path: in its folder."""

    path: str
    records: int
    bytes: int


class Manifest(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a folder with the records of one topic holds.

    kind: as in `safeguard export KIND`. topic_id: Kafka's id of the topic, where the broker has ids. since: when the
    oldest records were written, at the earliest; None for all that the topic had. until: the folder holds all records
    that were written before; None until a run has ended by itself. positions: the next offset by partition number.
    files_written: of all runs, which names the next file. left_out: records that are none of this kind, by what they
    are instead. erased: records about erased items, which are left out, too. expired: offsets that the topic had
    deleted before they were exported.
    """

    kind: str
    topic: str
    format: str
    topic_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    positions: dict[str, int] = {}
    files: tuple[ExportedFile, ...] = ()
    files_written: int = 0
    left_out: dict[str, int] = {}
    erased: int = 0
    expired: int = 0

    @property
    def records(self) -> int:
        """The number of records in all files."""
        return sum(file.records for file in self.files)


def load(folder: Path) -> Manifest | None:
    """The manifest of a folder; None if there is none. Raises ConfigurationError if it is damaged."""
    path = folder / MANIFEST
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except FileNotFoundError:
        return None
    except (msgspec.MsgspecError, OSError):
        found = None
    if found is None or not _is_whole(found):
        raise ConfigurationError(f"{path}: is no manifest of an export; export into another folder")
    return msgspec.structs.replace(
        found, since=found.since and aware(found.since), until=found.until and aware(found.until)
    )


def _is_whole(manifest: Manifest) -> bool:
    """Whether partitions are numbers, and files are those of days in the folder."""
    return all(map(str.isdecimal, manifest.positions)) and all(_PATH.fullmatch(file.path) for file in manifest.files)


def save(folder: Path, manifest: Manifest) -> None:
    """Replace the manifest of a folder."""
    path = folder / (MANIFEST + _UNFINISHED)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(manifest)))
    put(path, folder / MANIFEST)


def put(path: Path, final: Path) -> None:
    """Give a written file its final name, once its bytes are on disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
    path.replace(final)


def unfinished(folder: Path, name: str) -> Path:
    """The path of a file while it is being written."""
    return folder / f".{name}{_UNFINISHED}"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for this process. Raises ConfigurationError if another one holds it. A kill lets it go."""
    with (folder / _LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError(f"{folder}: another process exports into this folder") from None
        yield


def remove_strays(folder: Path, manifest: Manifest) -> None:
    """Remove the files of runs that were ended: those that are unfinished, and those that no manifest names."""
    named = {folder / file.path for file in manifest.files}
    for path in folder.glob(f".*{_UNFINISHED}"):
        path.unlink()
    for path in folder.glob("day=*/records-*.*"):
        if path not in named:
            path.unlink()
