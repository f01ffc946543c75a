"""A broker in memory, for tests that need no Kafka.

`Verdicts` and `Publisher` take a MemoryBroker instead of an address, and the engine's MemoryBus runs on one. Topics
are lists, commits are atomic, and records and offsets outlive the clients, as on Kafka. A group has one member, which
owns all partitions.
"""

from __future__ import annotations

import asyncio
import time
import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from aiokafka import ConsumerRebalanceListener, TopicPartition

from safeguard_streams.contract import topics
from safeguard_streams.contract.records import ContentEvent, Headers, Verdict, decode, encode, schema_header

ENGINE_GROUP = "memory"
Partition = tuple[str, int]  # a topic, its prefix included, and a number
Position = tuple[int | None, str]  # the next offset to read, None at first, and the metadata kept with it


class StoredRecord(msgspec.Struct, frozen=True):
    """A record as it was written; timestamp is in milliseconds since 1970."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


class MemoryBroker:
    """The state of a broker: records, committed offsets, and the epochs that fence writers.

    Every topic exists and has `partitions` partitions. Use a broker in one event loop only.
    """

    def __init__(self, partitions: int = 1) -> None:
        self.partitions = partitions
        self.logs: dict[Partition, list[StoredRecord]] = defaultdict(list)
        self.groups: dict[str, dict[Partition, Position]] = defaultdict(dict)
        self.epochs: dict[Partition, int] = defaultdict(int)
        self.changed = asyncio.Event()

    @property
    def positions(self) -> dict[Partition, Position]:
        """What the engine's group has committed."""
        return self.groups[ENGINE_GROUP]

    def append(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None = None,
        partition: int | None = None,
        headers: Headers = (),
    ) -> StoredRecord:
        """Write a record, to the key's partition if none is given."""
        number = zlib.crc32(key or b"") % self.partitions if partition is None else partition
        log = self.logs[topic, number]
        record = StoredRecord(topic, number, len(log), int(time.time() * 1000), key, value, headers)
        log.append(record)
        self.changed.set()
        return record

    def read(self, topic: str) -> list[StoredRecord]:
        """All records of a topic, partition by partition."""
        return [record for (name, _), log in sorted(self.logs.items()) if name == topic for record in log]

    def add_verdict(self, verdict: Verdict, prefix: str = "") -> None:
        """Write a verdict to moderation.verdicts, as the reasoner does."""
        key = verdict.content_id.encode()
        self.append(prefix + topics.VERDICTS, encode(verdict), key, headers=[schema_header(Verdict)])

    def events(self, prefix: str = "") -> list[ContentEvent]:
        """The events on content.events, partition by partition."""
        return [decode(record.value, ContentEvent) for record in self.read(prefix + topics.EVENTS)]


class MemoryConsumer:
    """The part of aiokafka's consumer that `Verdicts` uses, on a MemoryBroker."""

    def __init__(self, broker: MemoryBroker, group: str) -> None:
        self._broker = broker
        self._committed = broker.groups[group]
        self._next: dict[TopicPartition, int] = {}
        self._topics: Sequence[str] = ()
        self._listener: ConsumerRebalanceListener | None = None

    def subscribe(self, topics: Sequence[str], *, listener: ConsumerRebalanceListener) -> None:
        self._topics, self._listener = topics, listener

    async def start(self) -> None:
        assigned = [
            TopicPartition(topic, number) for topic in self._topics for number in range(self._broker.partitions)
        ]
        self._next = {tp: await self.committed(tp) or 0 for tp in assigned}
        if self._listener is not None:
            await self._listener.on_partitions_assigned(assigned)

    async def stop(self) -> None:
        self._next.clear()

    async def getmany(self, *, timeout_ms: int) -> Mapping[TopicPartition, Sequence[StoredRecord]]:
        batches = self._take()
        if not batches:
            self._broker.changed.clear()
            try:
                await asyncio.wait_for(self._broker.changed.wait(), timeout_ms / 1000)
            except TimeoutError:
                return {}
            batches = self._take()
        return batches

    def _take(self) -> dict[TopicPartition, Sequence[StoredRecord]]:
        batches = {tp: self._broker.logs[tp.topic, tp.partition][start:] for tp, start in self._next.items()}
        self._next.update({tp: self._next[tp] + len(batch) for tp, batch in batches.items()})
        return {tp: batch for tp, batch in batches.items() if batch}

    async def committed(self, partition: TopicPartition) -> int | None:
        return self._committed.get((partition.topic, partition.partition), (None, ""))[0]

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        self._committed.update({(tp.topic, tp.partition): (offset, "") for tp, offset in offsets.items()})

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self._next[partition] = offset


class MemoryProducer:
    """The part of aiokafka's producer that `Publisher` uses, on a MemoryBroker."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker

    async def start(self) -> None:
        return

    async def stop(self) -> None:
        return

    async def send(
        self, topic: str, *, value: bytes, key: bytes | None, headers: Iterable[tuple[str, bytes]]
    ) -> asyncio.Future[Any]:
        written: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        written.set_result(self._broker.append(topic, value, key, headers=[*headers]))
        return written
