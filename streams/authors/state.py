"""What stands against the authors of one partition, as moderation.author-standing records it.

Most authors are not asked about for days, so their records stay in the bytes in which they were written. A restore
reads the compacted topic alone: its time grows with the number of authors, and not with what they did.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import datetime

import msgspec

from safeguard_streams.bus import kafka
from safeguard_streams.bus.interface import Partition
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import AuthorStanding, decode, encode
from safeguard_streams.errors import ConfigurationError, RecordError
from safeguard_streams.runtime.settings import Settings

RestoreAuthors = Callable[[Partition], Awaitable["AuthorsState"]]


class _Kept(msgspec.Struct, frozen=True):
    """The fields of a record that a restore needs."""

    partitions: int
    due: datetime | None = None
    thresholds: str | None = None


class AuthorsState:
    """The authors of one partition. partitions is the number of partitions of the topic."""

    def __init__(self, partitions: int = 1) -> None:
        self.partitions = partitions
        self.restored_by: Counter[str] = Counter()  # authors that were read, by the digest of the thresholds they had
        self._records: dict[str, bytes] = {}
        self._due: list[tuple[float, str]] = []  # a heap of seconds since 1970 and author ids, outdated ones among them

    def __len__(self) -> int:
        """The number of authors against whom something stands."""
        return len(self._records)

    def __getitem__(self, author_id: str) -> AuthorStanding:
        """What stands against an author, also where that is nothing."""
        record = self._records.get(author_id)
        return AuthorStanding(author_id, self.partitions) if record is None else decode(record, AuthorStanding)

    def put(self, standing: AuthorStanding, due_before: datetime | None = None) -> bytes | None:
        """Replace what stands against an author. Returns the record to write, None for a tombstone.

        due_before: when the next change was due by the record that is replaced: there is a reminder of that time.
        """
        if standing.empty:
            self._records.pop(standing.author_id, None)
            return None
        record = self._records[standing.author_id] = encode(standing)
        if standing.due is not None and standing.due != due_before:
            heapq.heappush(self._due, (standing.due.timestamp(), standing.author_id))
        return record

    def take_due(self, moment: datetime, most: int) -> list[AuthorStanding]:
        """The authors of whom a strike expired or left a window by a moment, at most so many, each once."""
        taken: dict[str, AuthorStanding] = {}
        while self._due and self._due[0][0] <= moment.timestamp() and len(taken) < most:
            _, author_id = heapq.heappop(self._due)
            standing = self[author_id]
            if standing.due is not None and standing.due <= moment:
                taken[author_id] = standing
        return list(taken.values())

    @classmethod
    async def restore(cls, settings: Settings, partition: int, partitions: int) -> AuthorsState:
        """Read what stands in a partition. Raises ConfigurationError where it is of another number of partitions."""
        state = cls(partitions)
        async for record in kafka.read_all(settings, [topics.AUTHOR_STANDING], partition):
            if record.key is None:
                continue
            author_id = record.key.decode("utf-8", "replace")
            if record.value is None:
                state._records.pop(author_id, None)
            else:
                state._records[author_id] = record.value
        state._look_through()
        return state

    def _look_through(self) -> None:
        """Leave out what is no standing, check the number of partitions, and note when strikes are due."""
        for author_id, record in list(self._records.items()):
            try:
                kept = decode(record, _Kept)
            except RecordError:
                del self._records[author_id]
                continue
            check_partitions(kept.partitions, self.partitions)
            if kept.thresholds is not None:
                self.restored_by[kept.thresholds] += 1
            if kept.due is not None:
                self._due.append((kept.due.timestamp(), author_id))
        heapq.heapify(self._due)


def check_partitions(written: int, partitions: int) -> None:
    """Raise ConfigurationError for a record that was written when the topics had another number of partitions."""
    if written != partitions:
        raise ConfigurationError(
            f"{topics.AUTHOR_STANDING} was written with {written} partitions, and the topics now have {partitions}, so "
            "that strikes no longer meet what stands on their authors: stop all ledgers and run "
            "`safeguard authors repartition`"
        )
