"""Parquet that is sent while it is written, one row group at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from safeguard_streams.exporting.formats import ParquetFile


class _Sink:
    """A file without an end of its own, whose bytes are taken away as they come."""

    closed = False

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: Any) -> int:
        self._parts.append(bytes(data))
        return len(self._parts[-1])

    def flush(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        self.closed = True

    def taken(self) -> bytes:
        """What was written since the last call."""
        parts, self._parts = self._parts, []
        return b"".join(parts)


def parquet(schema: Any, groups: Iterable[Sequence[Mapping[str, Any]]]) -> Iterator[bytes]:
    """The bytes of a Parquet file, each group of rows as one row group."""
    sink = _Sink()
    file = ParquetFile(sink, schema)
    for rows in groups:
        file.write(rows)
        yield sink.taken()
    file.close()
    yield sink.taken()
