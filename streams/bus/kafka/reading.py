"""Reads whole topics without a group, up to where they end now."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError, UnknownTopicOrPartitionError

from safeguard_streams.bus.interface import Partition, Record
from safeguard_streams.bus.kafka.clients import FORBIDDEN_ERRORS, bounded_stop, forbidden
from safeguard_streams.contract import topics
from safeguard_streams.errors import BusError, ConfigurationError
from safeguard_streams.runtime.aiokafka_patch import StrictConsumer
from safeguard_streams.runtime.security import client_options
from safeguard_streams.runtime.settings import Settings


@contextlib.asynccontextmanager
async def reader(
    settings: Settings, names: Sequence[str], *, from_end: bool = False, partition: int | None = None
) -> AsyncIterator[StrictConsumer]:
    """A consumer of whole topics, or of one partition of each, that reads committed records only.

    It begins at the first record, or with the records that come next. Raises ConfigurationError when a topic is
    missing, ForbiddenError or BusError.
    """
    full = [settings.prefix + name for name in names]
    client = StrictConsumer(
        *(full if partition is None else ()),
        **client_options(settings),
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        max_partition_fetch_bytes=4 * topics.MiB,
    )
    try:
        if partition is not None:
            client.assign([TopicPartition(name, partition) for name in full])
        await client.start()
        partitions = client.assignment()
        if from_end:
            await client.seek_to_end(*partitions)
        else:
            await client.seek_to_beginning(*partitions)
        yield client
    except UnknownTopicOrPartitionError as error:
        raise ConfigurationError(
            f"not all of these topics exist: {', '.join(full)}; run: safeguard topics create"
        ) from error
    except FORBIDDEN_ERRORS as error:
        raise forbidden(error) from error
    except KafkaError as error:
        raise BusError(f"{settings.bootstrap}: {error!r}") from error
    finally:
        await bounded_stop(client.stop)


class EndOffsets:
    """Where a consumer's partitions ended at one moment.

    Some brokers report too low an end offset, so the first fetch of each partition may raise it.
    """

    def __init__(self, client: StrictConsumer, ends: dict[TopicPartition, int]) -> None:
        self._client = client
        self._ends = ends
        self._remaining = {tp for tp, end in ends.items() if end > 0}
        self._fetched: set[TopicPartition] = set()

    @classmethod
    async def now(cls, client: StrictConsumer) -> EndOffsets:
        """The ends of all partitions that the consumer is assigned."""
        return cls(client, await client.end_offsets(list(client.assignment())))

    async def resolve(self) -> dict[Partition, int]:
        """The end of each partition, after a fetch of those that hold records. The fetched records are lost."""
        waiting = set(self._remaining)
        while waiting:
            await self._client.getmany(*waiting, timeout_ms=200, max_records=1)
            waiting = {tp for tp in waiting if (self._client.last_stable_offset(tp) or -1) < 0}
        await self.remaining()
        return {Partition(*tp): end for tp, end in self._ends.items()}

    async def remaining(self) -> set[TopicPartition]:
        """The partitions that the consumer has not read to their ends yet."""
        for tp in list(self._remaining):
            end = self._client.last_stable_offset(tp)
            if tp not in self._fetched and end is not None and end >= 0:
                self._fetched.add(tp)
                self._ends[tp] = max(self._ends[tp], end)
            # A position passes the markers of transactions, which end a partition after its last record.
            if await self._client.position(tp) >= self._ends[tp]:
                self._remaining.discard(tp)
        return self._remaining


async def read_all(
    settings: Settings, names: Sequence[str], partition: int | None = None
) -> AsyncGenerator[Record, None]:
    """Every record that the topics hold now, or one partition of each; in order within each partition."""
    async with reader(settings, names, partition=partition) as client:
        ends = await EndOffsets.now(client)
        while unread := await ends.remaining():
            for records in (await client.getmany(*unread, timeout_ms=500)).values():
                for record in records:
                    yield record


async def partitions_of(settings: Settings, name: str) -> list[int]:
    """The numbers of a topic's partitions."""
    async with reader(settings, [name]) as client:
        return sorted(tp.partition for tp in client.assignment())
