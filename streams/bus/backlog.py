"""The accounts of one partition: where each record is between its poll and its commit, in records and in bytes.

    add          begin           finish         collect            committed
    ---> waiting -----> under way -----> done -----------> in a commit ---------> left the backlog
                         | abandon        ^                    |
                         v                +--------------------+
                        left             put_back: the commit did not take place

- A record is in hand from `add` until its commit is known to have taken place.
- The watermark moves only with a known commit. A commit that is refused, whole or in part, therefore loses nothing.
- Bytes are those of keys, values and headers. They count the records in hand, and the outputs that are not committed.
- `reset` begins a new watermark. What is in hand of the earlier log keeps its place in the accounts, but its offsets
  mean nothing any more: its outputs are committed with the position in the new log.

The backlog does no work and starts no task.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import islice

import msgspec

from safeguard_streams.bus.interface import Committed, Output, Record
from safeguard_streams.bus.timestamps import age
from safeguard_streams.bus.watermark import SPAN, Watermark


class Work(msgspec.Struct, eq=False):
    """Records of one call, and their outputs once it has succeeded.

    watermark: the one that knows their offsets. size, output_size: bytes. begun: monotonic time in seconds.
    refusals: how often a commit of these outputs alone was refused.
    """

    records: Sequence[Record]
    size: int
    watermark: Watermark
    begun: float
    outputs: Sequence[Output] = ()
    output_size: int = 0
    refusals: int = 0

    @property
    def oldest(self) -> int:
        """The timestamp of the first record, in ms since 1970."""
        return self.records[0].timestamp


class Commit(msgspec.Struct, eq=False):
    """What one commit writes: the outputs of some work, and the position once that work is done."""

    works: list[Work]
    position: Committed
    output_size: int
    watermark: Watermark

    @property
    def outputs(self) -> list[Output]:
        return [output for work in self.works for output in work.outputs]

    @property
    def records(self) -> int:
        return sum(len(work.records) for work in self.works)


class Backlog:
    """Counts records and bytes in each state. records, size, output_size: those in hand."""

    def __init__(self) -> None:
        self.records = 0
        self.size = 0
        self.output_size = 0
        self.commit_due = False  # the position is to be committed even if no work is done
        self.reset_to: int | None = None  # where a new log began, until that is committed
        self._watermark = Watermark(None)
        self._first: int | None = None  # the lowest offset that was added
        self._next = 0  # what was added ends before this offset
        self._waiting: deque[Record] = deque()
        self._sizes: deque[int] = deque()  # of the waiting records
        self._earlier: tuple[int, Watermark] = (0, self._watermark)  # the first so many that wait are of an earlier log
        self._under_way: dict[Work, None] = {}
        self._done: deque[Work] = deque()
        self._committing: Commit | None = None

    def start_at(self, committed: Committed, end: int | None = None) -> bool:
        """Continue at a committed position, unless the log was reset meanwhile. Call this before the first batch.

        end: where the log ends now, if that is known. Returns whether it ends before what was done: the log was then
        cut off, and the completed set names records that are gone.
        """
        if self.reset_to is not None:
            return False
        self._watermark = Watermark(*committed)
        cut_off = self._done_beyond(end)
        if cut_off:
            self._forget()
        return cut_off

    def ends_before_done(self, end: int | None) -> bool:
        """Whether nothing is in hand, and a log with this end was cut off below what an earlier owner did."""
        return self.idle and self._done_beyond(end)

    def forget_beyond(self, end: int | None) -> bool:
        """Begin a new watermark at the position if the log was cut off, and return whether it was."""
        cut_off = self.ends_before_done(end)
        if cut_off:
            self._forget()
        return cut_off

    def _done_beyond(self, end: int | None) -> bool:
        return end is not None and self._watermark.last_done >= end

    def _forget(self) -> None:
        self.reset_to, self.commit_due = self._watermark.position, True
        self._watermark = _new_log(self.reset_to)

    def reset(self, offset: int) -> None:
        """Go on at an offset of a new log, of which nothing is done."""
        self._earlier = (len(self._waiting), self._watermark)
        self._watermark = _new_log(offset)
        self.reset_to = self._first = self._next = offset
        self.commit_due = True

    def of_earlier_logs(self) -> list[Record]:
        """The records in hand that cannot be read again, in their order."""
        works = (*self._done, *self._under_way)
        begun = [record for work in works if work.watermark is not self._watermark for record in work.records]
        return [*begun, *islice(self._waiting, self._earlier[0])]

    def take_over(self, records: Sequence[Record]) -> None:
        """Begin with records of earlier logs that another backlog had in hand. Call this before anything else."""
        self._append(records)
        self._earlier = (len(records), Watermark(None))

    # ------------------------------------------------------------------ a record's way

    def rewound(self, records: Sequence[Record]) -> bool:
        """Whether polled records lie below everything that was added, which only another log can explain."""
        return self._first is not None and records[0].offset < self._first

    def add(self, records: Sequence[Record]) -> None:
        """Append polled records to those that wait, without those that were added already."""
        if records[0].offset < self._next:
            records = [record for record in records if record.offset >= self._next]
            if not records:
                return
        elif self._first is None:
            self._first = records[0].offset
        self._next = records[-1].offset + 1
        self._append(records)

    def _append(self, records: Sequence[Record]) -> None:
        sizes = _sizes(records)
        self._waiting.extend(records)
        self._sizes.extend(sizes)
        self.records += len(records)
        self.size += sum(sizes)

    @property
    def blocked(self) -> bool:
        """Whether the next record would run too far ahead of the watermark."""
        return bool(self._waiting) and not self._earlier[0] and self._waiting[0].offset >= self._watermark.ceiling

    def begin(self, max_records: int, max_bytes: int) -> Work | None:
        """Take the next waiting records, at least one. None when an earlier owner has done them all."""
        before = self._watermark.position
        records, size, watermark = self._take(max_records, max_bytes)
        if not records:
            self._note_moved(before)
            return None
        work = Work(records, size, watermark, time.monotonic())
        self._under_way[work] = None
        return work

    def _take(self, max_records: int, max_bytes: int) -> tuple[list[Record], int, Watermark]:
        earlier, watermark = self._earlier
        if earlier:
            records, size = self._pop(min(max_records, earlier), max_bytes, math.inf)
            self._earlier = (earlier - len(records), watermark)
            return records, size, watermark
        watermark = self._watermark
        first = self._waiting[0].offset if self._waiting else 0
        records, size = self._pop(max_records, max_bytes, min(watermark.ceiling, first + SPAN))
        offsets = [record.offset for record in records]
        new = watermark.take_all(offsets)
        if len(new) < len(offsets):
            wanted = set(new)
            passed = [record for record in records if record.offset not in wanted]
            records = [record for record in records if record.offset in wanted]
            passed_size = _size(passed)
            size -= passed_size
            self.records -= len(passed)
            self.size -= passed_size
        return records, size, watermark

    def _pop(self, max_records: int, max_bytes: int, ceiling: float) -> tuple[list[Record], int]:
        """Remove the first waiting records below an offset, and return them with their bytes."""
        waiting, sizes = self._waiting, self._sizes
        records: list[Record] = []
        size = 0
        while waiting and len(records) < max_records and waiting[0].offset < ceiling:
            if size and size + sizes[0] > max_bytes:
                break
            records.append(waiting.popleft())
            size += sizes.popleft()
        return records, size

    def finish(self, work: Work, outputs: Sequence[Output]) -> None:
        """Note that work under way is done, with its outputs."""
        del self._under_way[work]
        self.answer(work, outputs)
        self._done.append(work)

    def answer(self, work: Work, outputs: Sequence[Output]) -> None:
        """Replace the outputs of work."""
        size = _size(outputs)
        self.output_size += size - work.output_size
        work.outputs, work.output_size = outputs, size

    def abandon(self, work: Work) -> None:
        """Note that the call of this work has ended; without a result, its records are no longer in hand."""
        if work in self._under_way:
            del self._under_way[work]
            self._leave(work)

    def collect(self, max_works: int, max_bytes: int) -> Commit:
        """Take work that is done for a commit: the first in any case, more as the bounds allow."""
        works: list[Work] = []
        size = 0
        while self._done and len(works) < max_works and (not works or size + self._done[0].output_size <= max_bytes):
            works.append(self._done.popleft())
            size += works[-1].output_size
        watermark = self._watermark
        if any(work.watermark is not watermark for work in works):
            watermark.draw_tag()  # such work moves no position, which must still show whether this commit took place
        self._committing = Commit(works, Committed(*watermark.with_done(_offsets(works, watermark))), size, watermark)
        self.commit_due = False
        return self._committing

    def committed(self, commit: Commit) -> None:
        """Note that a commit took place."""
        self._committing = None
        if commit.watermark is self._watermark:
            self.reset_to = None
        commit.watermark.complete(_offsets(commit.works, commit.watermark))
        for work in commit.works:
            self._leave(work)
        self._note_moved(commit.position.offset)

    def _note_moved(self, before: int | None) -> None:
        """Make the position due where it has moved over what an earlier owner did, unless other work will commit it."""
        if self._watermark.position != before and not (self._waiting or self._under_way or self._done):
            self.commit_due = True

    def put_back(self, commit: Commit) -> None:
        """Note that a commit did not take place: its work is the first of the next one."""
        self._committing = None
        self._done.extendleft(reversed(commit.works))
        self.commit_due = self.commit_due or not commit.works

    def drop(self) -> None:
        """Drop what waits and what is done, because nothing more will be committed."""
        self.drop_waiting()
        while self._done:
            self._leave(self._done.popleft())

    def drop_waiting(self) -> None:
        self.records -= len(self._waiting)
        self.size -= sum(self._sizes)
        self._waiting.clear()
        self._sizes.clear()
        self._earlier = (0, self._watermark)

    def _leave(self, work: Work) -> None:
        self.records -= len(work.records)
        self.size -= work.size
        self.output_size -= work.output_size

    # ------------------------------------------------------------------ figures

    @property
    def first(self) -> int | None:
        """The lowest offset that was added; None before any was."""
        return self._first

    @property
    def position(self) -> int | None:
        """The position that is known to be committed, or is the first to commit; None before anything was added."""
        return self._watermark.position

    @property
    def waiting(self) -> int:
        """Records that are read and not begun."""
        return len(self._waiting)

    @property
    def under_way(self) -> int:
        """Calls in progress."""
        return len(self._under_way)

    @property
    def has_done(self) -> bool:
        """Whether there is something to commit that is not in a commit yet."""
        return bool(self._done) or self.commit_due

    @property
    def uncommitted(self) -> bool:
        """Whether something is done and not known to be committed."""
        return self.has_done or self._committing is not None

    @property
    def idle(self) -> bool:
        """Whether everything that was read is known to be committed."""
        return not self.records and not self.uncommitted

    def lag(self, end: int | None) -> int:
        """Records of the partition below `end` that are not committed; of an unknown end, those in hand."""
        position = self._watermark.position
        if end is None or position is None:
            return self.records
        return max(0, end - position - self._watermark.ahead)

    @property
    def age(self) -> float:
        """Seconds since the oldest record in hand was written; 0 where there is none."""
        works = [*self._under_way, *self._done, *(self._committing.works if self._committing else ())]
        oldest = [*(work.oldest for work in works), *(record.timestamp for record in list(self._waiting)[:1])]
        return max(map(age, oldest), default=0.0)

    @property
    def call_age(self) -> float:
        """Seconds that the oldest call has been in progress; 0 where there is none."""
        return time.monotonic() - min(work.begun for work in self._under_way) if self._under_way else 0.0


def _new_log(offset: int | None) -> Watermark:
    watermark = Watermark(offset)
    watermark.draw_tag()
    return watermark


def _offsets(works: Iterable[Work], watermark: Watermark) -> list[int]:
    """The offsets of work, without those of an earlier log."""
    return [record.offset for work in works if work.watermark is watermark for record in work.records]


def _sizes(records: Iterable[Record]) -> list[int]:
    """The bytes of each."""
    return [
        _size((record,)) if record.headers else len(record.value or b"") + len(record.key or b"") for record in records
    ]


def _size(items: Iterable[Record | Output]) -> int:
    """The bytes of their keys, values and headers."""
    size = 0
    for item in items:
        size += len(item.value or b"") + len(item.key or b"")
        for name, value in item.headers:
            size += len(name) + len(value or b"")
    return size
