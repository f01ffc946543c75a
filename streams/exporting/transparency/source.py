"""Reads the records of an export in Parquet, one kind at a time, as records of the contract."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
from pyarrow import parquet

from safeguard_streams.errors import ConfigurationError
from safeguard_streams.exporting import manifest as manifests
from safeguard_streams.exporting.formats import Place
from safeguard_streams.exporting.manifest import Manifest

_BATCH = 10_000  # rows that become records at a time
Row = dict[str, Any]


class Coverage(msgspec.Struct, frozen=True):
    """What an export holds of one kind: records in its files, and the time in which they were written.

    since: the bound of the export or, without one, the day of its oldest record. expired: offsets that were lost.
    """

    records: int
    since: datetime | None
    until: datetime
    expired: int


class Source:
    """An export. Raises ConfigurationError if the folder holds none."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._manifests = {path.parent.name: path.parent for path in folder.glob(f"*/{manifests.MANIFEST}")}
        if not self._manifests:
            raise ConfigurationError(f"{folder}: holds no export; run: safeguard export KIND --to {folder}")

    def coverage(self, kind: str) -> Coverage | None:
        """What there is of a kind; None if it was not exported."""
        manifest = self._manifest(kind)
        if manifest is None:
            return None
        assert manifest.until is not None
        days = sorted(file.path[4:14] for file in manifest.files if file.path[4].isdigit())
        first = datetime.combine(date.fromisoformat(days[0]), time(), UTC) if days else None
        return Coverage(manifest.records, manifest.since or first, manifest.until, manifest.expired)

    def rows(self, kind: str, columns: Sequence[str]) -> Iterator[Row]:
        """The rows of a kind, file by file; none if it was not exported. A column that a file lacks is left out.

        A column may be a part of another one, as in event.content_id.
        """
        for file in self._files(kind):
            names = [name for name in columns if name.split(".")[0] in file.schema_arrow.names]
            for batch in file.iter_batches(_BATCH, columns=names):
                yield from batch.to_pylist()

    def sorted_rows(self, kind: str, columns: Sequence[str]) -> Iterator[Row]:
        """The rows of a kind by content_id, and those of an item in the order of its partition. Keeps the columns in
        memory.
        """
        order = ("content_id", "kafka_partition", "kafka_offset")
        tables = []
        for file in self._files(kind):
            names = [name for name in (*columns, *order) if name in file.schema_arrow.names]
            tables.append(file.read(columns=list(dict.fromkeys(names))))
        if not tables:
            return
        table = pa.concat_tables(tables, promote_options="default").sort_by([(name, "ascending") for name in order])
        tables.clear()  # the sorted table is a copy
        for batch in table.to_batches(_BATCH):
            yield from batch.to_pylist()

    def _files(self, kind: str) -> Iterator[Any]:
        """The files of a kind. Raises ConfigurationError for one that is away, damaged, or no file of its kind."""
        manifest = self._manifest(kind)
        for file in manifest.files if manifest else ():
            path = self._manifests[kind] / file.path
            try:
                opened = parquet.ParquetFile(path)
            except (OSError, pa.ArrowException):
                opened = None
            if opened is None or not set(Place._fields) <= set(opened.schema_arrow.names):
                raise ConfigurationError(f"{path}: is no file of this export; export into a new folder")
            yield opened

    def _manifest(self, kind: str) -> Manifest | None:
        if kind not in self._manifests:
            return None
        manifest = manifests.load(self._manifests[kind])
        assert manifest is not None
        place = self._manifests[kind]
        if manifest.format != "parquet":
            raise ConfigurationError(f"{place}: holds {manifest.format} files; reports read Parquet, which keeps types")
        if manifest.until is None:
            raise ConfigurationError(f"{place}: its export has not ended; repeat: safeguard export {kind}")
        return manifest
