"""The clients of a MemoryBroker: the parts of aiokafka's consumer and producer that `Verdicts` and `Publisher` use."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from aiokafka import ConsumerRebalanceListener, TopicPartition

from safeguard_streams.runtime.memory_broker import MemoryBroker, StoredRecord


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
                async with asyncio.timeout(timeout_ms / 1000):
                    await self._broker.changed.wait()
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

    def highwater(self, partition: TopicPartition) -> int | None:
        return len(self._broker.logs[partition.topic, partition.partition])

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
        self,
        topic: str,
        *,
        value: bytes,
        key: bytes | None,
        headers: Iterable[tuple[str, bytes]],
        partition: int | None = None,
    ) -> asyncio.Future[Any]:
        written: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        written.set_result(self._broker.append(topic, value, key, headers=[*headers], partition=partition))
        return written
