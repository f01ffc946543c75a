"""A member of a consumer group on Kafka, as the interface of the bus asks for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence

from aiokafka import AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import KafkaError

from safeguard_streams.bus.interface import Listener, Partition, Record, Writer
from safeguard_streams.bus.kafka.clients import FORBIDDEN_ERRORS, PRODUCER_OPTIONS, bounded_stop, forbidden
from safeguard_streams.bus.kafka.probes import has_transactions, wait_for_broker
from safeguard_streams.bus.kafka.writers import PlainWriter, TransactionalWriter
from safeguard_streams.contract import topics
from safeguard_streams.errors import BusError
from safeguard_streams.runtime.aiokafka_patch import StrictConsumer
from safeguard_streams.runtime.security import client_options
from safeguard_streams.runtime.settings import Settings

log = logging.getLogger(__name__)

_POSITION_SECONDS = 0.1
_END_SECONDS = 10.0


class KafkaBus:
    """A group member on some topics. topic_names and group are without the deployment's prefix."""

    def __init__(self, settings: Settings, topic_names: Sequence[str], group: str) -> None:
        self._settings = settings
        self._topics = [settings.prefix + name for name in topic_names]
        self.group = settings.prefix + group
        self.transactional = False
        self._consumer: StrictConsumer | None = None
        self._shared: AIOKafkaProducer | None = None

    @property
    def _member(self) -> StrictConsumer:
        if self._consumer is None:
            raise BusError(f"{self.group}: the bus is not started; call start() first")
        return self._consumer

    async def start(self, listener: Listener) -> None:
        """Wait for the broker, find out whether it has transactions, join the group."""
        await wait_for_broker(self._settings)
        self.transactional = await has_transactions(self._settings, self.group)
        if self.transactional:
            log.info("transactions enabled group=%s delivery=exactly-once", self.group)
        else:
            log.warning("broker has no transactions group=%s delivery=at-least-once", self.group)
            self._shared = AIOKafkaProducer(**client_options(self._settings), **PRODUCER_OPTIONS)
            await self._shared.start()
        session = self._settings.session_timeout_ms
        self._consumer = StrictConsumer(
            **client_options(self._settings),
            group_id=self.group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            session_timeout_ms=session,
            heartbeat_interval_ms=session // 5,
            rebalance_timeout_ms=60_000,
            max_partition_fetch_bytes=4 * topics.MiB,
        )
        self._consumer.subscribe(self._topics, listener=_Rebalance(listener))
        await self._consumer.start()

    async def poll(self, timeout: float, max_records: int) -> Mapping[Partition, Sequence[Record]]:
        try:
            polled = await self._member.getmany(timeout_ms=int(timeout * 1000), max_records=max_records)
        except FORBIDDEN_ERRORS as error:
            raise forbidden(error) from error
        except KafkaError as error:
            log.warning("poll failed, retrying group=%s error=%r", self.group, error)
            await asyncio.sleep(0.5)
            return {}
        return {Partition(*tp): records for tp, records in polled.items()}

    def assignment(self) -> set[Partition]:
        return {Partition(*tp) for tp in self._consumer.assignment()} if self._consumer is not None else set()

    def end(self, partition: Partition) -> int | None:
        if self._consumer is None or partition not in self.assignment():
            return None
        end: int | None = self._consumer.last_stable_offset(TopicPartition(*partition))
        return end if end is not None and end >= 0 else None

    async def log_end(self, partition: Partition) -> int | None:
        tp = TopicPartition(*partition)
        try:
            async with asyncio.timeout(_END_SECONDS):
                ends: Mapping[TopicPartition, int] = await self._member.end_offsets([tp])
        except (KafkaError, TimeoutError):
            return None
        return ends.get(tp)

    async def position(self, partition: Partition) -> int | None:
        if partition not in self.assignment():
            return None
        try:
            async with asyncio.timeout(_POSITION_SECONDS):
                position: int = await self._member.position(TopicPartition(*partition))
        except (KafkaError, TimeoutError):
            return None
        return position

    def pause(self, partition: Partition) -> None:
        if partition in self.assignment():
            self._member.pause(TopicPartition(*partition))

    def resume(self, partition: Partition) -> None:
        if partition in self.assignment():
            self._member.resume(TopicPartition(*partition))

    def seek(self, partition: Partition, offset: int) -> None:
        if partition in self.assignment():
            self._member.seek(TopicPartition(*partition), offset)

    async def writer(self, partition: Partition) -> Writer:
        if self._shared is not None:
            return PlainWriter(self._member, self._settings.prefix, partition, self._shared)
        producer = await self._transactional_producer(f"{self.group}-{partition.topic}-{partition.partition}")
        return TransactionalWriter(self._member, self._settings.prefix, partition, producer, self.group)

    async def _transactional_producer(self, transactional_id: str) -> AIOKafkaProducer:
        """Started; its start fences any earlier producer of this id and ends that one's transaction."""
        producer = AIOKafkaProducer(
            **client_options(self._settings),
            **PRODUCER_OPTIONS,
            transactional_id=transactional_id,
            transaction_timeout_ms=60_000,
        )
        try:
            async with asyncio.timeout(30):
                await producer.start()
        except (KafkaError, TimeoutError) as error:
            await bounded_stop(producer.stop)
            raise BusError(f"{transactional_id}: {error!r}") from error
        except asyncio.CancelledError:
            await bounded_stop(producer.stop)
            raise
        return producer

    async def stop(self) -> None:
        if self._consumer is not None:
            await bounded_stop(self._consumer.stop)
        if self._shared is not None:
            await bounded_stop(self._shared.stop)


class _Rebalance(ConsumerRebalanceListener):
    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        self._listener.assigned([Partition(*tp) for tp in assigned])

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        await self._listener.revoked([Partition(*tp) for tp in revoked])
