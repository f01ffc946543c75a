"""What the engine asks of a bus. The buses on Kafka and in memory pass the same contract tests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec

from safeguard_streams.contract.records import Headers


class Partition(NamedTuple):
    """One partition of a topic, whose name is that on the bus, with the deployment's prefix."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}]"


class Record(Protocol):
    """One record read from a partition. timestamp is in ms since 1970."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Headers: ...


class Output(msgspec.Struct, frozen=True):
    """One record to write. topic is without the deployment's prefix; value None makes a tombstone.

    by_key: it goes to the partition of its key instead of the one that has the input's number.
    """

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    by_key: bool = False


class Committed(NamedTuple):
    """The group's position in a partition: the next offset to read (None at first) and the metadata stored with it."""

    offset: int | None
    metadata: str


class Listener(Protocol):
    """Called by the bus when ownership changes, and when a log was reset."""

    def assigned(self, partitions: Iterable[Partition]) -> None:
        """Partitions are owned from now on. Records of them may have arrived already."""

    def reset(self, partition: Partition, offset: int) -> None:
        """The log of an owned partition ends before the position: offsets from `offset` on name other records.

        That follows an unclean leader election, a restored cluster or a topic that was created again. The bus calls
        this from `poll`, or before it, as soon as the broker reports an end offset below the position, or the position
        as out of range. The position may be the committed one, which the bus has not read from yet.

        The bus chooses `offset`, no later than the first record that may be new: rather twice than lost. It has moved
        its own position there, and hands out nothing of the earlier log after this call. Records from `offset` on
        are new to the engine, whatever their numbers. The engine commits `offset` with an empty completed set even
        before a record arrives, and finishes what it has read of the earlier log.

        A position below the first offset of the log is no reset: retention deleted the records between. The bus then
        moves its position to the first offset and calls nothing.
        """

    async def revoked(self, partitions: Iterable[Partition]) -> None:
        """Partitions are about to be given up; returns when work on them has ended, in bounded time.

        The bus hands out no records of them until they are assigned again.
        """


class Writer(Protocol):
    """Writes for one input partition. Once it is open, no earlier writer of that partition can write."""

    async def committed(self) -> Committed:
        """The committed position, which no earlier writer can change any more. Raises BusError."""

    async def commit(self, outputs: Sequence[Output], offset: int, metadata: str) -> None:
        """Write outputs and position: all or nothing on a bus with transactions, else outputs first, then the position.

        An output goes to the partition of its topic that has the input's number (modulo the topic's count), unless it
        is `by_key`. Everything about one content item therefore stays in one partition, in order.

        Raises FencedError, OutputRefusedError, or BusError when it is unknown whether the commit took place. After
        each of them, open a new writer and read the position. OutputRefusedError says that the same outputs will be
        refused again: the client, a topic or the broker takes no record, or no batch, of such a size or form.
        """

    async def close(self) -> None:
        """Release the writer in bounded time; never raises."""


class Bus(Protocol):
    """A member of a consumer group, with a writer for each partition that it owns. group includes the prefix."""

    group: str

    async def start(self, listener: Listener) -> None:
        """Join the group."""

    async def poll(self, timeout: float, max_records: int) -> Mapping[Partition, Sequence[Record]]:
        """Records by partition, without paused partitions and without empty lists.

        Waits at most `timeout` seconds for the first record. Offsets of a partition rise. After a failed fetch, the
        bus reads on behind what it returned last. Records that it returns twice are taken once; a record below the
        first one that it returned since the assignment counts as a reset. Raises ForbiddenError.
        """

    def assignment(self) -> set[Partition]:
        """The partitions that are owned now."""

    def end(self, partition: Partition) -> int | None:
        """The offset at which a partition ended at its last fetch; None where that is unknown."""

    async def log_end(self, partition: Partition) -> int | None:
        """The offset at which a partition ends now, asked of the broker; None where that cannot be learned."""

    async def position(self, partition: Partition) -> int | None:
        """The offset to read next, past what `poll` returned; None while that is unknown. Waits a moment at most."""

    def pause(self, partition: Partition) -> None: ...

    def resume(self, partition: Partition) -> None: ...

    def seek(self, partition: Partition, offset: int) -> None:
        """Continue reading at this offset."""

    async def writer(self, partition: Partition) -> Writer:
        """Open a writer, which fences every earlier writer of the partition. Raises BusError."""

    async def stop(self) -> None:
        """Call `revoked`, then leave the group, in bounded time."""
