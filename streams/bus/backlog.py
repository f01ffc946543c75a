"""Tracks one partition's records: which wait, are in progress, or are finished and not committed.

    add -> waiting -> next_batch -> begin -> in progress -> finish, end -> finished -> collect -> committed

The backlog does no work and starts no task. A record leaves it when its offset is below the watermark; until then it
counts as unfinished.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection, Iterable, Sequence

import msgspec

from safeguard_streams.bus.interface import Committed, Output, Record
from safeguard_streams.bus.timestamps import age
from safeguard_streams.bus.watermark import Watermark


class FinishedCall(msgspec.Struct, frozen=True):
    """Records of one call that are finished and not committed. oldest: timestamp of the first, in ms since 1970."""

    offsets: list[int]
    outputs: Sequence[Output]
    oldest: int


class Backlog:
    """Counts records, and the bytes of those that wait."""

    def __init__(self) -> None:
        self.waiting_bytes = 0
        self._watermark = Watermark(None)
        self._waiting: deque[Record] = deque()
        self._calls: dict[asyncio.Task[None], int] = {}  # to the timestamp of the oldest record of each
        self._finished: list[FinishedCall] = []

    def start_at(self, committed: Committed) -> None:
        """Continue at a committed position. Call this before the first batch is taken."""
        self._watermark = Watermark(*committed)

    # ------------------------------------------------------------------ a record's way

    def add(self, records: Sequence[Record]) -> None:
        """Append polled records to those that wait."""
        self._waiting.extend(records)
        self.waiting_bytes += _size(records)

    @property
    def blocked(self) -> bool:
        """Whether the next record would run too far ahead of the watermark."""
        return bool(self._waiting) and not self._watermark.room(self._waiting[0].offset)

    def next_batch(self, max_records: int) -> list[Record]:
        """Take the next waiting records. Those that an earlier owner has done are left out."""
        watermark, waiting = self._watermark, self._waiting
        records: list[Record] = []
        while waiting and len(records) < max_records and watermark.room(waiting[0].offset):
            records.append(waiting.popleft())
        self.waiting_bytes -= _size(records)
        return [record for record in records if watermark.take(record.offset)]

    def begin(self, call: asyncio.Task[None], batch: Sequence[Record]) -> None:
        """Note that a call of a batch is in progress."""
        self._calls[call] = batch[0].timestamp

    def finish(self, records: Sequence[Record], outputs: Sequence[Output]) -> None:
        """Note that records are finished, with their outputs."""
        self._finished.append(FinishedCall([r.offset for r in records], outputs, records[0].timestamp))

    def end(self, call: asyncio.Task[None]) -> None:
        """Note that a call has ended, with or without a result."""
        self._calls.pop(call, None)

    def collect(self) -> list[FinishedCall]:
        """Take the finished calls for a commit. `to_commit` then includes them."""
        collected, self._finished = self._finished, []
        self._watermark.complete([offset for call in collected for offset in call.offsets])
        return collected

    def put_back(self, collected: list[FinishedCall]) -> None:
        """Keep collected calls, whose commit failed, for the next commit."""
        self._finished = [*collected, *self._finished]

    def drop_waiting(self) -> None:
        self._waiting.clear()
        self.waiting_bytes = 0

    def drop_finished(self) -> None:
        self._finished.clear()

    # ------------------------------------------------------------------ figures

    @property
    def to_commit(self) -> Committed:
        """The current position and completed set."""
        return Committed(self._watermark.position, self._watermark.metadata)

    @property
    def waiting(self) -> int:
        """Records that are read and not begun."""
        return len(self._waiting)

    @property
    def calls(self) -> Collection[asyncio.Task[None]]:
        """The calls in progress."""
        return self._calls.keys()

    @property
    def has_finished(self) -> bool:
        """Whether there is something to commit."""
        return bool(self._finished)

    @property
    def unfinished(self) -> int:
        """Records that are read and not below the watermark."""
        return len(self._waiting) + self._watermark.waiting

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing is in progress."""
        return not self._waiting and not self._calls

    def lag(self, end: int | None) -> int:
        """Records of the partition below `end` that are not done; of an unknown end, those that are read."""
        position = self._watermark.position
        return self.unfinished if end is None or position is None else max(0, end - position)

    @property
    def age(self) -> float:
        """Seconds since the oldest record that is read and not committed was written; 0 where there is none."""
        oldest = [*self._calls.values(), *(call.oldest for call in self._finished)]
        if not oldest and self._waiting:
            oldest = [self._waiting[0].timestamp]
        return max(map(age, oldest), default=0.0)


def _size(records: Iterable[Record]) -> int:
    return sum([len(record.value) for record in records if record.value is not None])
