"""Cuts batches into parts whose cost has a bound."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from safeguard_streams.bus.interface import Record
from safeguard_streams.contract import limits


def parts(records: Sequence[Record]) -> Iterator[Sequence[Record]]:
    """Cut a batch into parts of at most DECISION_BYTES. A larger record is a part of its own."""
    first = total = 0
    for number, record in enumerate(records):
        size = len(record.value or b"")
        if total + size > limits.DECISION_BYTES and number > first:
            yield records[first:number]
            first, total = number, 0
        total += size
    if records:
        yield records[first:]


def is_large(part: Sequence[Record]) -> bool:
    """Whether a part is one record that exceeds DECISION_BYTES."""
    return len(part[0].value or b"") > limits.DECISION_BYTES
