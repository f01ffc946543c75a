"""Writers: with transactions, without them, and one for the exclusive holder of a name."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from itertools import zip_longest
from typing import Protocol

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import (
    BrokerResponseError,
    InvalidTimestampError,
    KafkaError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    RecordTooLargeError,
    kafka_errors,
)
from aiokafka.structs import OffsetAndMetadata, RecordMetadata

from safeguard_streams.bus.interface import Committed, Output, Partition
from safeguard_streams.bus.kafka.batches import append, have_utf8_names, new_batch
from safeguard_streams.bus.kafka.clients import (
    FENCED_ERRORS,
    FORBIDDEN_ERRORS,
    PRODUCER_OPTIONS,
    bounded_stop,
    forbidden,
    started,
)
from safeguard_streams.bus.kafka.content import partition_of_key
from safeguard_streams.bus.kafka.positions import committed
from safeguard_streams.bus.kafka.probes import has_transactions
from safeguard_streams.errors import BusError, FencedError, OutputRefusedError
from safeguard_streams.runtime.aiokafka_patch import StrictConsumer
from safeguard_streams.runtime.security import client_options
from safeguard_streams.runtime.settings import Settings

_VISIBLE_SECONDS = 3.0


class InvalidRecordError(BrokerResponseError):
    """A record that its topic cannot hold, such as one without a key on a compacted topic. aiokafka lacks the code."""

    errno = 87
    message = "INVALID_RECORD"


kafka_errors.setdefault(InvalidRecordError.errno, InvalidRecordError)
# Retries change none of these: the record is refused for its size or its form.
REFUSED_ERRORS = (
    InvalidRecordError,
    InvalidTimestampError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    RecordTooLargeError,
)


class TransactionalWriter:
    """Exactly once: commits outputs and position in one transaction of the partition's only producer."""

    def __init__(
        self,
        consumer: StrictConsumer,
        prefix: str,
        partition: Partition,
        producer: AIOKafkaProducer,
        group: str,
    ) -> None:
        self._consumer = consumer
        self._prefix = prefix
        self._partition = partition
        self._producer = producer
        self._group = group

    async def committed(self) -> Committed:
        # The producer's start ended any transaction of an earlier holder, so the position is final.
        return (await committed(self._consumer, [self._partition]))[self._partition]

    async def commit(self, outputs: Sequence[Output], offset: int, metadata: str) -> None:
        producer = self._producer
        position = {TopicPartition(*self._partition): OffsetAndMetadata(offset, metadata)}
        try:
            await producer.begin_transaction()
            await _produce(producer, self._prefix, outputs, self._partition.partition)
            await producer.send_offsets_to_transaction(position, self._group)
            await producer.commit_transaction()
        except FENCED_ERRORS as error:
            raise FencedError(f"{self._partition} is owned by another process: {error!r}") from error
        except FORBIDDEN_ERRORS as error:
            raise forbidden(error) from error
        except REFUSED_ERRORS as error:
            raise _refused(self._partition, error) from error
        except (KafkaError, AssertionError) as error:
            raise BusError(f"{self._partition}: {error!r}") from error

    async def close(self) -> None:
        await bounded_stop(self._producer.stop)


class PlainWriter:
    """At least once: writes outputs, then the position. A crash in between repeats outputs, with the same ids."""

    def __init__(self, consumer: StrictConsumer, prefix: str, partition: Partition, producer: AIOKafkaProducer) -> None:
        self._consumer = consumer
        self._prefix = prefix
        self._partition = partition
        self._producer = producer

    async def committed(self) -> Committed:
        return (await committed(self._consumer, [self._partition]))[self._partition]

    async def commit(self, outputs: Sequence[Output], offset: int, metadata: str) -> None:
        try:
            await _produce(self._producer, self._prefix, outputs, self._partition.partition)
            await self._consumer.commit({TopicPartition(*self._partition): (offset, metadata)})
        except REFUSED_ERRORS as error:
            raise _refused(self._partition, error) from error
        except KafkaError as error:
            raise BusError(f"{self._partition}: {error!r}") from error

    async def close(self) -> None:
        return


def _refused(partition: Partition, error: KafkaError) -> OutputRefusedError:
    return OutputRefusedError(f"{partition}: an output is refused: {type(error).__name__}")


async def _produce(producer: AIOKafkaProducer, prefix: str, outputs: Sequence[Output], number: int) -> None:
    """Write outputs in order, in few batches. Returns when the broker has acknowledged them all."""
    counts = {name: len(await producer.partitions_for(prefix + name)) for name in {one.topic for one in outputs}}
    by_partition: dict[tuple[str, int], list[Output]] = {}
    for output in outputs:
        count = counts[output.topic]
        target = partition_of_key(output.key or b"", count) if output.by_key else number % count
        by_partition.setdefault((output.topic, target), []).append(output)
    sent = []
    for (name, target), group in by_partition.items():
        topic = prefix + name
        any_names = not have_utf8_names(group)
        batch = new_batch(producer, any_names=any_names)
        for output in group:
            if not append(batch, output):
                sent.append(await producer.send_batch(batch, topic, partition=target))
                batch = new_batch(producer, any_names=any_names)
                if not append(batch, output):
                    raise OutputRefusedError(f"{topic}: a record is too large for a batch")
        sent.append(await producer.send_batch(batch, topic, partition=target))
    failures = [done for done in await asyncio.gather(*sent, return_exceptions=True) if isinstance(done, BaseException)]
    if failures:  # a refused batch may be the cause of the other failures
        raise next((failure for failure in failures if isinstance(failure, REFUSED_ERRORS)), failures[0])


class Write(Protocol):
    """Writes records together. partitions: one entry for each record, None for the partition of its key."""

    async def __call__(self, outputs: Sequence[Output], partitions: Sequence[int | None] = ()) -> None: ...


@contextlib.asynccontextmanager
async def exclusive_writer(settings: Settings, name: str) -> AsyncIterator[Write]:
    """A function that writes records all or nothing, for the one holder of a name. A new holder fences the old one.

    The records are visible to readers when the function returns. On a broker without transactions they are written one
    after the other, and nobody is fenced. Raises BusError when another holder fenced this one.
    """
    group = settings.prefix + name
    transactional = await has_transactions(settings, group)
    client = AIOKafkaProducer(
        **client_options(settings), **PRODUCER_OPTIONS, **({"transactional_id": group} if transactional else {})
    )

    async def write(outputs: Sequence[Output], partitions: Sequence[int | None] = ()) -> None:
        async with client.transaction() if transactional else contextlib.nullcontext():
            sent = [
                await _send(client, settings.prefix + output.topic, output, partition)
                for output, partition in zip_longest(outputs, partitions)
            ]
            written = await asyncio.gather(*sent)
        if transactional:
            await _until_visible(observer, {TopicPartition(at.topic, at.partition): at.offset for at in written})

    observer = StrictConsumer(**client_options(settings), group_id=None, isolation_level="read_committed")
    async with started(settings, client), started(settings, observer):
        try:
            yield write
        except FENCED_ERRORS as error:
            raise BusError(f"another process holds {name}; try again when it has finished") from error


async def _send(
    client: AIOKafkaProducer, topic: str, output: Output, partition: int | None
) -> asyncio.Future[RecordMetadata]:
    """Send one record. Header names that are not UTF-8 need a batch of their own, and hence a partition."""
    if partition is None or have_utf8_names([output]):
        sent: asyncio.Future[RecordMetadata] = await client.send(
            topic, value=output.value, key=output.key, partition=partition, headers=list(output.headers)
        )
        return sent
    batch = new_batch(client, any_names=True)
    append(batch, output)
    sent = await client.send_batch(batch, topic, partition=partition)
    return sent  # noqa: RET504  (its type is not declared by aiokafka)


async def _until_visible(client: StrictConsumer, last: Mapping[TopicPartition, int]) -> None:
    """Wait until readers of committed records see these offsets.

    The wait is bounded, because another producer's transaction may be open before these offsets.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_VISIBLE_SECONDS):
            while any(end <= last[tp] for tp, end in (await client.end_offsets(list(last))).items()):
                await asyncio.sleep(0.01)
