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
    """One record to write. topic is without the deployment's prefix; value None makes a tombstone."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


class Committed(NamedTuple):
    """The group's position in a partition: the next offset to read (None at first) and the metadata stored with it."""

    offset: int | None
    metadata: str


class Listener(Protocol):
    """Called by the bus when ownership changes."""

    def assigned(self, partitions: Iterable[Partition]) -> None:
        """Partitions are owned from now on. Records of them may have arrived already."""

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

        An output goes to the partition of its topic that has the input's number (modulo the topic's count). Everything
        about one content item therefore stays in one partition, in order.

        Raises FencedError, or BusError when it is unknown whether the commit took place: open a new writer and read the
        position.
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

        Waits at most `timeout` seconds for the first record. Raises ForbiddenError.
        """

    def assignment(self) -> set[Partition]:
        """The partitions that are owned now."""

    def end(self, partition: Partition) -> int | None:
        """The offset at which a partition ended at its last fetch; None where that is unknown."""

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
