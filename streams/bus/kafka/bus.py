"""A member of a consumer group on Kafka, as the interface of the bus asks for it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterable, Mapping, Sequence

from aiokafka import AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import KafkaError, NoOffsetForPartitionError, OffsetOutOfRangeError, UnknownTopicOrPartitionError

from safeguard_streams.bus.interface import Listener, Partition, Record, Writer
from safeguard_streams.bus.kafka.clients import FORBIDDEN_ERRORS, PRODUCER_OPTIONS, bounded_stop, forbidden
from safeguard_streams.bus.kafka.positions import committed
from safeguard_streams.bus.kafka.probes import has_transactions, wait_for_broker
from safeguard_streams.bus.kafka.reading import partitions_of
from safeguard_streams.bus.kafka.recording import RecordedPositions, RecordingWriter
from safeguard_streams.bus.kafka.topic_ids import topic_ids
from safeguard_streams.bus.kafka.writers import PlainWriter, TransactionalWriter
from safeguard_streams.contract import topics
from safeguard_streams.errors import BusError, ConfigurationError, SafeguardError
from safeguard_streams.runtime import metrics
from safeguard_streams.runtime.aiokafka_patch import StrictConsumer
from safeguard_streams.runtime.security import client_options
from safeguard_streams.runtime.settings import Settings

log = logging.getLogger(__name__)

START_SECONDS = 120.0  # for the broker to answer, and again to join the group
RECORD_SECONDS = 60.0
_POSITION_SECONDS = 0.1
_RETRY_SECONDS = 0.5
_CHECK_SECONDS = 5.0  # between looks at whether a topic was created again
_END_SECONDS = 10.0


class KafkaBus:
    """A group member on some topics. topic_names and group are without the deployment's prefix.

    The bus alone decides where reading begins and goes on. `_next` holds, for each owned partition, the offset behind
    what `poll` returned last, or where reading begins. A fetch that fails may have moved aiokafka's own position of
    another partition, so every partition then goes back to there.
    """

    def __init__(
        self,
        settings: Settings,
        topic_names: Sequence[str],
        group: str,
        *,
        record_seconds: float = RECORD_SECONDS,
        restart_seconds: float = 0.0,
    ) -> None:
        """record_seconds: time between records of the position on moderation.positions; 0: with each commit.

        restart_seconds: what a restart of this process takes. Where a session is no longer than twice that, a member
        with an instance id leaves the group when it stops: its partitions would wait for nothing.
        """
        self._settings = settings
        self._topics = [settings.prefix + name for name in topic_names]
        self.group = settings.prefix + group
        self.transactional = False
        self._record_seconds = record_seconds
        self._leaves = settings.session_timeout_ms <= 2000 * restart_seconds
        self._recorded = RecordedPositions(settings, self.group)
        self._next: dict[Partition, int] = {}
        self._generation = 0
        self._check_at = 0.0
        self._listener: Listener | None = None
        self._consumer: StrictConsumer | None = None
        self._shared: AIOKafkaProducer | None = None

    @property
    def _member(self) -> StrictConsumer:
        if self._consumer is None:
            raise BusError(f"{self.group}: the bus is not started; call start() first")
        return self._consumer

    async def start(self, listener: Listener) -> None:
        """Wait for the broker, find out whether it has transactions, join the group.

        Raises ConfigurationError if a topic is missing or the broker lacks what the settings require, ForbiddenError,
        or BusError if this takes too long.
        """
        self._listener = listener
        await wait_for_broker(self._settings, START_SECONDS)
        await partitions_of(self._settings, topics.POSITIONS)
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
            group_instance_id=self._settings.group_instance_id or None,
            enable_auto_commit=False,
            auto_offset_reset="none",  # `_begin` and `_leave_range` choose
            isolation_level="read_committed",
            session_timeout_ms=session,
            heartbeat_interval_ms=session // 5,
            rebalance_timeout_ms=60_000,
            max_partition_fetch_bytes=4 * topics.MiB,
            metadata_max_age_ms=30_000,  # until a new partition, or a topic created again, is seen
        )
        self._consumer.subscribe(self._topics, listener=_Rebalance(self))
        await self._join(self._consumer)

    async def _join(self, consumer: StrictConsumer) -> None:
        try:
            async with asyncio.timeout(START_SECONDS):
                await consumer.start()
        except FORBIDDEN_ERRORS as error:
            raise forbidden(error) from error
        except UnknownTopicOrPartitionError as error:
            names = ", ".join(self._topics)
            raise ConfigurationError(f"not all of these topics exist: {names}; run: safeguard topics create") from error
        except (KafkaError, TimeoutError) as error:
            raise BusError(
                f"{self.group}: could not join the group ({error!r}); see whether all brokers are up and "
                "__consumer_offsets has a leader"
            ) from error

    # ------------------------------------------------------------------ reading

    async def poll(self, timeout: float, max_records: int) -> Mapping[Partition, Sequence[Record]]:
        try:
            await self._begin()
            if time.monotonic() > self._check_at:
                await self._check_topic_ids()
            polled = await self._member.getmany(timeout_ms=int(timeout * 1000), max_records=max_records)
        except FORBIDDEN_ERRORS as error:
            raise forbidden(error) from error
        except ConfigurationError:
            raise
        except Exception as error:
            if self._member.replaced:
                raise ConfigurationError(
                    f"{self.group}: another process joined with SAFEGUARD_GROUP_INSTANCE_ID="
                    f"{self._settings.group_instance_id}; give each process an id of its own"
                ) from None
            self._go_back()
            await self._mend(error)
            return {}
        records = {Partition(*tp): records for tp, records in polled.items()}
        self._next |= {partition: handed[-1].offset + 1 for partition, handed in records.items()}
        return records

    async def _begin(self) -> None:
        """Seek to where the group stands in partitions that were assigned since the last poll. Raises BusError."""
        if not (new := self.assignment() - self._next.keys()):
            return
        generation = self._generation
        await self._learn_topic_ids()
        starts = {
            partition: (await self._recorded.instead_of(partition, position)).offset
            for partition, position in (await committed(self._member, new)).items()
        }
        for partition, start in starts.items():
            offset = await self._first_offset(partition) if start is None else start
            if generation == self._generation and partition not in self._next:
                self.seek(partition, offset)

    async def _learn_topic_ids(self, timeout: float = 10.0) -> None:
        """Ask for the ids of the topics as they are now. Raises BusError."""
        try:
            async with asyncio.timeout(timeout):
                self._recorded.topic_ids |= await topic_ids(self._member._client, self._topics)
        except (KafkaError, TimeoutError) as error:
            raise BusError(f"{self.group}: cannot read the ids of the topics: {error!r}") from error

    async def _check_topic_ids(self) -> set[Partition]:
        """Begin again in topics that were created again, although the new log may be past the position already.

        Returns the partitions that are affected. Where the broker does not answer soon, the next look is later.
        """
        self._check_at = time.monotonic() + _CHECK_SECONDS
        before = dict(self._recorded.topic_ids)
        with contextlib.suppress(BusError):
            await self._learn_topic_ids(timeout=1.0)
        new = {topic for topic, known in before.items() if self._recorded.topic_ids[topic] != known}
        affected = {partition for partition in self._next if partition.topic in new}
        for partition in affected:
            await self._leave_range(partition, self._next[partition])
        return affected

    def _go_back(self) -> None:
        for partition, offset in self._next.items():
            self.seek(partition, offset)

    async def _mend(self, error: Exception) -> None:
        """After a failed fetch: choose another position where that is what failed, else wait a moment."""
        try:
            if isinstance(error, OffsetOutOfRangeError):
                positions = {Partition(*tp): position for tp, position in error.args[0].items()}
                for partition in positions.keys() - await self._check_topic_ids():
                    await self._leave_range(partition, positions[partition])
                return
        except (KafkaError, SafeguardError) as problem:
            error = problem
        if not isinstance(error, NoOffsetForPartitionError):  # of a partition that `_begin` has not come to
            # The text of others' errors may quote content.
            text = error if isinstance(error, SafeguardError) else type(error).__name__
            log.warning("poll failed, retrying group=%s error=%s", self.group, text)
            await asyncio.sleep(_RETRY_SECONDS)

    async def _leave_range(self, partition: Partition, position: int) -> None:
        """Go on in a partition whose log does not have the position.

        Where the log begins after it, retention has deleted records that were not read. Where it ends before it, the
        log was cut or created again. Which of its records are new cannot be known then, so all of them are read.
        """
        first = await self._first_offset(partition)
        if partition not in self.assignment():
            return
        self.seek(partition, first)
        if position < first:
            log.error(
                "records were deleted before they were read partition=%s from=%s to=%s", partition, position, first
            )
            attributes = {metrics.TOPIC: partition.topic, metrics.GROUP: self.group, "kind": "retention"}
            metrics.POSITION_LOST.add(1, attributes)
            return
        log.error(
            "log was cut or created again, reading it from its first record partition=%s position=%s first=%s",
            *(partition, position, first),
        )
        if self._listener is not None:
            self._listener.reset(partition, first)

    async def _first_offset(self, partition: Partition) -> int:
        tp = TopicPartition(*partition)
        first: int = (await self._member.beginning_offsets([tp]))[tp]
        return first

    def assigned(self, partitions: Sequence[Partition]) -> None:
        """Begin with a new assignment, which `partitions` are all of."""
        self._generation += 1
        self._next.clear()
        if self._listener is not None:
            self._listener.assigned(partitions)

    async def revoked(self, partitions: Sequence[Partition]) -> None:
        """Let work on partitions end before they are given up."""
        if self._listener is not None:
            await self._listener.revoked(partitions)

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
            self._next[partition] = offset
            self._member.seek(TopicPartition(*partition), offset)

    # ------------------------------------------------------------------ writing

    async def writer(self, partition: Partition) -> Writer:
        if partition.topic not in self._recorded.topic_ids:
            await self._learn_topic_ids()
        return RecordingWriter(
            await self._writer(partition), self.group, partition, self._recorded, self._record_seconds
        )

    async def _writer(self, partition: Partition) -> Writer:
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
            if self._leaves:
                self._consumer.leave_on_stop()
            await bounded_stop(self._consumer.stop)
        if self._shared is not None:
            await bounded_stop(self._shared.stop)


class _Rebalance(ConsumerRebalanceListener):
    def __init__(self, bus: KafkaBus) -> None:
        self._bus = bus

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        self._bus.assigned([Partition(*tp) for tp in assigned])

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        await self._bus.revoked([Partition(*tp) for tp in revoked])
