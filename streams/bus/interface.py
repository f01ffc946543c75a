"""What the engine asks of a bus. Kafka (streams.kafka) and memory (streams.memory) keep the same contract."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec

from safeguard_streams.contract.records import Headers


class Partition(NamedTuple):
    topic: str
    partition: int


class Record(Protocol):
    """One record as it was read. timestamp is in ms since 1970."""

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
    """One record to write; topic without the deployment's prefix, value None for a tombstone."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


class Committed(NamedTuple):
    """The group's position in a partition: the next offset to read (None at first) and the metadata kept with it."""

    offset: int | None
    metadata: str


class Listener(Protocol):
    """Called by the bus when ownership changes."""

    def assigned(self, partitions: Iterable[Partition]) -> None:
        """New partitions. Must not wait: records may arrive at once."""

    async def revoked(self, partitions: Iterable[Partition]) -> None:
        """Partitions about to be given up. May wait a bounded time to finish work."""


class Writer(Protocol):
    """Writes for one input partition, on whose behalf it alone may write once it is open."""

    async def committed(self) -> Committed:
        """The position as it stands now that no earlier writer can change it."""

    async def commit(self, outputs: Sequence[Output], offset: int, metadata: str) -> None:
        """Outputs and position, all or nothing on a bus with transactions; outputs first, then the position, without.

        An output goes to the partition of its topic that has the input's number (modulo the topic's count), so
        that what is said of one content stays in one partition, in order.
        Raises FencedError, or BusError when it is not known whether the commit took place: open a new writer and
        read the position.
        """

    async def close(self) -> None:
        """Let go; never raises, waits a bounded time."""


class Bus(Protocol):
    """Consumer of some topics in a group, with a writer for each partition it owns. group is its whole name."""

    group: str

    async def start(self, listener: Listener) -> None:
        """Join the group."""

    async def poll(self, timeout: float, max_records: int) -> Mapping[Partition, Sequence[Record]]:
        """Records of partitions that are not paused, none of them empty; waits at most `timeout` seconds for the first."""

    def assignment(self) -> set[Partition]:
        """What is owned now."""

    def end(self, partition: Partition) -> int | None:
        """The offset at which a partition ended when it was last read from, None where that is not known."""

    async def position(self, partition: Partition) -> int | None:
        """The offset that is read next, past what `poll` returned; None while it is not known. Waits a moment at most."""

    def pause(self, partition: Partition) -> None: ...

    def resume(self, partition: Partition) -> None: ...

    def seek(self, partition: Partition, offset: int) -> None:
        """Read on from this offset."""

    async def writer(self, partition: Partition) -> Writer:
        """Open a writer; any earlier writer of the partition is fenced from here on."""

    async def stop(self) -> None:
        """Leave the group (calls revoked first); bounded."""
