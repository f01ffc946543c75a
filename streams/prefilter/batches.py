"""Cuts batches into parts whose cost has a bound."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from safeguard_streams.bus.interface import Record
from safeguard_streams.contract import limits


def parts(records: Sequence[Record]) -> Iterator[Sequence[Record]]:
    """Cut a batch into parts of at most DECISION_BYTES. A record above LARGE_EVENT is a part of its own."""
    first = total = 0
    for number, record in enumerate(records):
        size = _size(record)
        alone = size > limits.LARGE_EVENT
        if number > first and (alone or total + size > limits.DECISION_BYTES):
            yield records[first:number]
            first, total = number, 0
        total += limits.DECISION_BYTES if alone else size  # nothing joins a large record
    if records:
        yield records[first:]


def is_large(part: Sequence[Record]) -> bool:
    """Whether the mean size of a part's records exceeds LARGE_MEAN. Such a part may hold many words that are new."""
    return sum(map(_size, part)) > limits.LARGE_MEAN * len(part)


def _size(record: Record) -> int:
    return len(record.value or b"")
