"""The two formats of exported files: how a record becomes a row, and how rows become a file.

The columns of a file are those of its record, after the place of the record on its topic.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec

from safeguard_streams.exporting.cells import cell

FORMATS = ("parquet", "csv")
Row = Any
"""What a format makes of a record: a mapping for Parquet, cells for CSV."""


class Place(NamedTuple):
    """Where a record stands. timestamp: None where its producer wrote one that cannot be true."""

    kafka_topic: str
    kafka_partition: int
    kafka_offset: int
    kafka_timestamp: datetime | None

    @property
    def day(self) -> str:
        """The day of its timestamp in UTC, as engines for Parquet name a partition; or their name for no value."""
        at = self.kafka_timestamp
        return "__HIVE_DEFAULT_PARTITION__" if at is None else at.astimezone(UTC).date().isoformat()


class OpenFile(Protocol):
    """A file that is being written."""

    def write(self, rows: Sequence[Row]) -> None:
        """Append rows."""

    def close(self) -> None:
        """Write what is left, and close the file."""


class Format(Protocol):
    """A format of files with the records of one kind."""

    def row(self, place: Place, record: msgspec.Struct) -> Row:
        """The row of a record. Raises RecordError for a record that no row can hold."""

    def open(self, path: Path) -> OpenFile:
        """A new file."""


class CsvFormat:
    """CSV in UTF-8 as in RFC 4180. Fields that are no simple values are JSON as on the wire; null is an empty cell."""

    def __init__(self, record: type[msgspec.Struct]) -> None:
        self._fields = record.__struct_fields__

    def row(self, place: Place, record: msgspec.Struct) -> Row:
        return [*map(cell, place), *(cell(getattr(record, name)) for name in self._fields)]

    def open(self, path: Path) -> OpenFile:
        return _CsvFile(path, [*Place._fields, *self._fields])


class _CsvFile:
    def __init__(self, path: Path, names: Sequence[str]) -> None:
        self._file = path.open("w", encoding="utf-8", newline="")
        self._rows = csv.writer(self._file)
        self._rows.writerow(names)

    def write(self, rows: Sequence[Row]) -> None:
        self._rows.writerows(rows)

    def close(self) -> None:
        self._file.close()


class ParquetFormat:
    """Parquet with typed columns, compressed with zstd. Each write of rows is a row group."""

    def __init__(self, record: type[msgspec.Struct]) -> None:
        import pyarrow as pa

        from safeguard_streams.exporting.columns import TIME, columns, values

        self._columns, self._values = columns(record), values
        place = zip(Place._fields, (pa.string(), pa.int32(), pa.int64(), TIME), strict=True)
        self._schema = pa.schema([*place, *((name, column.type) for name, column in self._columns.items())])

    def row(self, place: Place, record: msgspec.Struct) -> Row:
        return {**place._asdict(), **self._values(record, self._columns)}

    def open(self, path: Path) -> OpenFile:
        return ParquetFile(path, self._schema)


class ParquetFile:
    """A Parquet file that is being written, to a path or to anything that takes bytes."""

    def __init__(self, sink: Any, schema: Any) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        self._make, self._schema = pa.RecordBatch.from_pylist, schema
        self._file = parquet.ParquetWriter(
            sink if not isinstance(sink, Path) else str(sink), schema, compression="zstd"
        )

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append rows as one row group."""
        self._file.write_batch(self._make(list(rows), self._schema))

    def close(self) -> None:
        """Write the footer, and close the file."""
        self._file.close()


_FORMATS: dict[str, Callable[[type[msgspec.Struct]], Format]] = {"parquet": ParquetFormat, "csv": CsvFormat}


def format_of(name: str, record: type[msgspec.Struct]) -> Format:
    """The format with a name, for the records of one kind. Raises ImportError where its library is missing."""
    return _FORMATS[name](record)
