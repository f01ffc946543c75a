"""Which of several records about a key counts, where a repartition moved what stands to another partition.

A repartition writes the record to its new partition and a tombstone to the former one, and no order between partitions
is the same for every reader. A record names the number of partitions that its topic had. One with fewer is outdated,
and a tombstone ends only what its own partition said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sqlalchemy import Column, Connection, select


class RecordPlace(NamedTuple):
    """Where the record that counts is, and how many partitions its topic had; None where that is not known."""

    partition: int
    partitions: int | None


class RowPlace(NamedTuple):
    """The place of the record that a row comes from; None where an earlier version of the console wrote the row."""

    partition: int | None = None
    partitions: int | None = None


def next_place(known: RowPlace | None, says: Mapping[int, int | None], most: int | None) -> RecordPlace | None:
    """The place of the record that changes a row; None if the row stays.

    known: None if there is no row. says: the number of partitions that the records of each partition name, None where
    there are only tombstones; the partition that was read last comes last. most: how many the topic has now, if
    that is known. A row of more is of a topic that was deleted.
    """
    row = known or RowPlace()
    last_first = list(reversed(list(says.items())))
    records = [RecordPlace(partition, count) for partition, count in last_first if count is not None]
    newest = max(records, key=lambda place: place.partitions or 0, default=None)
    if newest is not None and not _is_outdated(newest, row, most):
        return newest
    tombstones = (partition for partition, count in last_first if count is None)
    ended = next((partition for partition in tombstones if row.partition in (None, partition)), None)
    return None if ended is None else RecordPlace(ended, row.partitions)


def _is_outdated(place: RecordPlace, row: RowPlace, most: int | None) -> bool:
    if row.partitions is None or place.partitions is None:
        return False
    return place.partitions < row.partitions and (most is None or row.partitions <= most)


def places_of(
    connection: Connection, key: Column[str], columns: tuple[Column[int], Column[int]], names: Sequence[str]
) -> dict[str, RowPlace]:
    """The places of the rows whose key is one of these. columns: the partition, and the number of partitions."""
    found = connection.execute(select(key, *columns).where(key.in_(names)))
    return {name: RowPlace(partition, partitions) for name, partition, partitions in found}
