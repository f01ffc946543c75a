"""Committed positions of groups, read and set from outside the group."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Collection, Iterable, Mapping
from typing import Any

from aiokafka import TopicPartition
from aiokafka.errors import CommitFailedError, KafkaError
from aiokafka.structs import OffsetAndMetadata

from safeguard_streams.bus.interface import Committed, Partition
from safeguard_streams.bus.kafka.clients import FORBIDDEN_ERRORS, forbidden, started
from safeguard_streams.bus.kafka.reading import EndOffsets, partitions_of, reader
from safeguard_streams.bus.kafka.recording import recorded_positions
from safeguard_streams.bus.kafka.topic_ids import topic_ids
from safeguard_streams.errors import BusError
from safeguard_streams.runtime.aiokafka_patch import StrictConsumer
from safeguard_streams.runtime.security import client_options
from safeguard_streams.runtime.settings import Settings


async def committed(consumer: StrictConsumer, partitions: Collection[Partition]) -> dict[Partition, Committed]:
    """The positions and metadata that a member's group has committed. Raises BusError.

    aiokafka's public `committed` leaves the metadata out.
    """
    try:
        async with asyncio.timeout(30):
            positions: Mapping[TopicPartition, OffsetAndMetadata]
            positions = await consumer._coordinator.fetch_committed_offsets([TopicPartition(*p) for p in partitions])
    except FORBIDDEN_ERRORS as error:
        raise forbidden(error) from error
    except (KafkaError, TimeoutError) as error:
        names = ", ".join(map(str, partitions))
        raise BusError(f"{names}: cannot read the committed position: {error!r}") from error
    found = dict.fromkeys(partitions, Committed(None, ""))
    for tp, position in positions.items():
        if position.offset >= 0:
            found[Partition(*tp)] = Committed(position.offset, position.metadata or "")
    return found


@contextlib.asynccontextmanager
async def _outsider(settings: Settings, group: str, partitions: Iterable[TopicPartition]) -> AsyncIterator[Any]:
    """A client that reads and commits positions of a group without being a member."""
    client = StrictConsumer(**client_options(settings), group_id=settings.prefix + group, enable_auto_commit=False)
    client.assign(list(partitions))
    async with started(settings, client):
        yield client


async def group_positions(settings: Settings, group: str, topic: str, partitions: Iterable[int]) -> dict[int, int]:
    """The next offset that a group reads in each partition; partitions without a position are left out.

    Where Kafka has forgotten a position, the one on moderation.positions counts, unless the topic was created again.
    """
    full = settings.prefix + topic
    asked = [TopicPartition(full, partition) for partition in partitions]
    async with _outsider(settings, group, asked) as client:
        offsets = {tp.partition: await client.committed(tp) for tp in asked}
        ids = await topic_ids(client._client, [full])
    if None in offsets.values():
        for (name, partition), position in (await recorded_positions(settings, settings.prefix + group)).items():
            same_topic = name == full and position.topic_id == ids.get(full)
            if same_topic and offsets.get(partition, 0) is None:
                offsets[partition] = position.offset
    return {partition: offset for partition, offset in offsets.items() if offset is not None}


async def set_first_positions(settings: Settings, group: str, topic: str, starts: Mapping[int, int]) -> None:
    """Set where a group begins in the partitions in which it has no position yet."""
    present = await group_positions(settings, group, topic, starts)
    first = {TopicPartition(settings.prefix + topic, p): at for p, at in starts.items() if p not in present}
    if first:
        async with _outsider(settings, group, first) as client:
            await client.commit({tp: OffsetAndMetadata(at, "") for tp, at in first.items()})


async def begin_where_another_stands(settings: Settings, group: str, other: str, topic: str) -> None:
    """Let a group that has no position yet begin where another group of this topic stands.

    To be called before a member joins: the positions that an earlier member has set, or has committed since, stay.
    """
    starts = await group_positions(settings, other, topic, await partitions_of(settings, topic))
    await _unless_joined(set_first_positions(settings, group, topic, starts))


async def begin_at_end(settings: Settings, group: str, topic: str) -> None:
    """Let a group begin with the records that come next, in the partitions in which it has no position yet."""
    await set_first_positions(settings, group, topic, await _ends(settings, topic))


async def begin_unused_at_end(settings: Settings, group: str, topic: str) -> bool:
    """Let a group that was never used begin with the records that come next. Whether it then leaves out earlier ones.

    To be called before a member joins. A group that has a position in any partition stays as it is.
    """
    ends = await _ends(settings, topic)
    if await group_positions(settings, group, topic, ends):
        return False
    await _unless_joined(set_first_positions(settings, group, topic, ends))
    return any(ends.values())


async def _ends(settings: Settings, topic: str) -> dict[int, int]:
    async with reader(settings, [topic]) as client:
        ends = await (await EndOffsets.now(client)).resolve()
    return {tp.partition: end for tp, end in ends.items()}


async def _unless_joined(setting: Awaitable[None]) -> None:
    """Set first positions, unless a member of the group joined just now, which has set them."""
    try:
        await setting
    except BusError as error:
        if not isinstance(error.__cause__, CommitFailedError):
            raise
