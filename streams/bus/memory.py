"""The interface of the bus on a MemoryBroker: commits are atomic and a new writer fences the old one.

For tests of logic. A broker with a bound on the size of records refuses commits, and a log that was cut off is reported
as reset to its beginning.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from safeguard_streams.bus.interface import Committed, Listener, Output, Partition, Record
from safeguard_streams.errors import FencedError, OutputRefusedError
from safeguard_streams.runtime.memory_broker import ENGINE_GROUP, MemoryBroker, StoredRecord


class MemoryBus:
    """One member of a group that owns all partitions of its topics."""

    def __init__(self, broker: MemoryBroker, topics: Sequence[str]) -> None:
        self.broker = broker
        self.group = ENGINE_GROUP
        self._owned = {Partition(t, p) for t in topics for p in range(broker.partitions)}
        self._next: dict[Partition, int] = {}
        self._paused: set[Partition] = set()
        self._listener: Listener | None = None

    async def start(self, listener: Listener) -> None:
        self._listener = listener
        for partition in self._owned:
            self._next[partition] = self.broker.positions.get(partition, (0, ""))[0] or 0
        listener.assigned(self._owned)

    async def poll(self, timeout: float, max_records: int) -> Mapping[Partition, Sequence[Record]]:
        await asyncio.sleep(0)  # before the records are taken: those that are taken reach the caller in the same step
        polled = self._take(max_records)
        if not polled:
            self.broker.changed.clear()
            try:
                async with asyncio.timeout(timeout):
                    await self.broker.changed.wait()
            except TimeoutError:
                return {}
            polled = self._take(max_records)
        return polled

    def _take(self, max_records: int) -> dict[Partition, list[StoredRecord]]:
        polled: dict[Partition, list[StoredRecord]] = {}
        self._report_resets()
        for partition in sorted(self._owned - self._paused):
            start = self._next[partition]
            records = self.broker.logs[partition][start : start + max_records]
            if records:
                polled[partition] = records
                self._next[partition] = start + len(records)
                max_records -= len(records)
        return polled

    def _report_resets(self) -> None:
        for partition in sorted(self._owned):
            if self._listener is not None and self._next[partition] > len(self.broker.logs[partition]):
                self._next[partition] = 0
                self._listener.reset(partition, 0)

    def assignment(self) -> set[Partition]:
        return set(self._owned)

    def end(self, partition: Partition) -> int | None:
        return len(self.broker.logs[partition])

    async def log_end(self, partition: Partition) -> int | None:
        return self.end(partition)

    async def position(self, partition: Partition) -> int | None:
        return self._next.get(partition)

    def pause(self, partition: Partition) -> None:
        self._paused.add(partition)

    def resume(self, partition: Partition) -> None:
        self._paused.discard(partition)

    def seek(self, partition: Partition, offset: int) -> None:
        self._next[partition] = offset

    async def writer(self, partition: Partition) -> MemoryWriter:
        self.broker.epochs[partition] += 1
        return MemoryWriter(self.broker, partition, self.broker.epochs[partition])

    async def stop(self) -> None:
        if self._listener is not None:
            await self._listener.revoked(self._owned)
        self._owned = set()


class MemoryWriter:
    def __init__(self, broker: MemoryBroker, partition: Partition, epoch: int) -> None:
        self._broker = broker
        self._partition = partition
        self._epoch = epoch

    async def committed(self) -> Committed:
        return Committed(*self._broker.positions.get(self._partition, (None, "")))

    async def commit(self, outputs: Sequence[Output], offset: int, metadata: str) -> None:
        await asyncio.sleep(0)
        if self._broker.epochs[self._partition] != self._epoch:
            raise FencedError(f"{self._partition} has a newer writer")
        if any(len(output.value or b"") > self._broker.max_record_size for output in outputs):
            raise OutputRefusedError(f"{self._partition}: an output is refused for its size")
        for output in outputs:
            own = self._partition.partition % self._broker.partitions
            partition = None if output.by_key else own
            self._broker.append(output.topic, output.value, output.key, partition, output.headers)
        self._broker.positions[self._partition] = Committed(offset, metadata)

    async def close(self) -> None:
        return
