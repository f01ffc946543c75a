"""A broker in memory, for tests that need no Kafka.

`Verdicts` and `Publisher` take a MemoryBroker instead of an address, and the engine's MemoryBus runs on one. Topics
are lists, commits are atomic, and records and offsets outlive the clients, as on Kafka. A group has one member, which
owns all partitions.
"""

from __future__ import annotations

import asyncio
import math
import time
import zlib
from collections import defaultdict

import msgspec

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

    Every topic exists and has `partitions` partitions. A commit whose outputs hold a value of more than
    `max_record_size` bytes is refused. Use a broker in one event loop only.
    """

    def __init__(self, partitions: int = 1, max_record_size: float = math.inf) -> None:
        self.partitions = partitions
        self.max_record_size = max_record_size
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

    def truncate(self, topic: str, end: int, partition: int = 0) -> None:
        """Cut a log off at an offset, as an unclean leader election does; the next record gets this offset."""
        del self.logs[topic, partition][end:]

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
