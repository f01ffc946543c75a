"""Records of a group's positions on moderation.positions, which outlive Kafka's own.

Kafka drops the committed positions of a group that was empty for offsets.retention.minutes, by default 7 days. A paused
replay would then begin again, and `safeguard dead-letters retry` would requeue everything once more. Writers therefore
add the position to their commits from time to time, and it counts where Kafka has none. It does not count in a topic
that was created again: Kafka forgets positions in a topic that is deleted, and all its records are new.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Sequence

from safeguard_streams.bus.interface import Committed, Output, Partition, Writer
from safeguard_streams.bus.kafka.clients import bounded_stop
from safeguard_streams.bus.kafka.reading import read_all
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Position, decode, encode, schema_header
from safeguard_streams.errors import RecordError, SafeguardError
from safeguard_streams.runtime import metrics
from safeguard_streams.runtime.settings import Settings

log = logging.getLogger(__name__)

_FRESH_SECONDS = 30.0


async def recorded_positions(settings: Settings, group: str) -> dict[Partition, Position]:
    """The positions that a group has recorded; group includes the prefix.

    Raises ConfigurationError if the topic is missing, ForbiddenError or BusError.
    """
    found: dict[bytes, Position] = {}
    async for record in read_all(settings, [topics.POSITIONS]):
        if record.value is None and record.key is not None:
            found.pop(record.key, None)
        with contextlib.suppress(RecordError):  # a tombstone, or a record of others
            position = decode(record.value, Position)
            if position.group == group and position.offset >= 0:
                found[position.key] = position
    return {Partition(one.topic, one.partition): one for one in found.values()}


class RecordedPositions:
    """The recorded positions of one group, read when Kafka has no position for one of its partitions."""

    def __init__(self, settings: Settings, group: str) -> None:
        self.topic_ids: dict[str, str] = {}  # of the topics as they are now; the bus keeps it up to date
        self._settings = settings
        self._group = group
        self._read: dict[Partition, Position] = {}
        self._read_at: float | None = None
        self._reported: set[Partition] = set()

    async def instead_of(self, partition: Partition, committed: Committed) -> Committed:
        """The position that Kafka has committed, or the recorded one where it has none. Raises SafeguardError."""
        if committed.offset is not None:
            return committed
        if self._read_at is None or time.monotonic() - self._read_at > _FRESH_SECONDS:
            self._read = await recorded_positions(self._settings, self._group)
            self._read_at = time.monotonic()
        position = self._read.get(partition)
        same_topic = position is not None and position.topic_id == self.topic_ids.get(partition.topic)
        if partition not in self._reported:
            self._reported.add(partition)
            self._report(partition, position, same_topic=same_topic)
        return Committed(position.offset, position.metadata) if position is not None and same_topic else committed

    def _report(self, partition: Partition, position: Position | None, *, same_topic: bool) -> None:
        if position is None:
            log.info("group began at the first record group=%s partition=%s", self._group, partition)
            return
        kind = "forgotten" if same_topic else "recreated"
        event = "Kafka had forgotten the group's position, resumed at the recorded one"
        if not same_topic:
            event = "topic was created again, began at its first record"
        log.error("%s group=%s partition=%s offset=%s", event, self._group, partition, position.offset)
        metrics.POSITION_LOST.add(1, {metrics.TOPIC: partition.topic, metrics.GROUP: self._group, "kind": kind})


class RecordingWriter:
    """A writer that adds the position to its commits as a record, with the first, once per interval and at the end."""

    def __init__(
        self, writer: Writer, group: str, partition: Partition, recorded: RecordedPositions, interval: float
    ) -> None:
        """interval: seconds between two records; 0 for one with each commit."""
        self._writer = writer
        self._group = group
        self._partition = partition
        self._recorded = recorded
        self._interval = interval
        self._due = 0.0
        self._unrecorded: Committed | None = None  # committed by this writer, and newer than its last record

    async def committed(self) -> Committed:
        """The group's position. One that Kafka had forgotten is committed: those who measure lag read it there."""
        known = await self._writer.committed()
        position = await self._recorded.instead_of(self._partition, known)
        if position != known and position.offset is not None:
            await self._writer.commit([], position.offset, position.metadata)
        return position

    async def commit(self, outputs: Sequence[Output], offset: int, metadata: str) -> None:
        position, due = Committed(offset, metadata), time.monotonic() >= self._due
        self._unrecorded = None  # until it is known what was committed
        await self._writer.commit([*outputs, self._record(position)] if due else outputs, offset, metadata)
        if due:
            self._due = time.monotonic() + self._interval
        else:
            self._unrecorded = position

    async def close(self) -> None:
        if self._unrecorded is not None:
            await bounded_stop(self._record_last)
        await self._writer.close()

    async def _record_last(self) -> None:
        """Commit the last position once more, with its record. A newer owner may have fenced this writer."""
        last, self._unrecorded = self._unrecorded, None
        if last is not None and last.offset is not None:
            with contextlib.suppress(SafeguardError):
                await self._writer.commit([self._record(last)], last.offset, last.metadata)

    def _record(self, position: Committed) -> Output:
        assert position.offset is not None
        topic_id = self._recorded.topic_ids.get(self._partition.topic)
        record = Position(self._group, *self._partition, position.offset, position.metadata, topic_id)
        return Output(topics.POSITIONS, record.key, encode(record), [schema_header(Position)])
