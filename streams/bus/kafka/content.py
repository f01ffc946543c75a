"""Where the records about a content item are.

The event's producer chooses its partition, and every stage writes to the partition of the same number. A producer that
keys events by content_id with Kafka's default partitioner makes that number known. Others may place events by hand, by
another key or with none, and then only a search of all partitions finds them.
"""

from __future__ import annotations

import contextlib
import re
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterable

import msgspec
from aiokafka import TopicPartition
from aiokafka.partitioner import murmur2

from safeguard_streams.bus.interface import Record
from safeguard_streams.bus.kafka.reading import partitions_of, read_all, reader
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import decode
from safeguard_streams.errors import RecordError
from safeguard_streams.runtime.aiokafka_patch import StrictConsumer
from safeguard_streams.runtime.settings import Settings

# Topics with a record for nearly every item that was judged, the shorter topics first.
_SEARCHED = (topics.ACTIONS, topics.VERDICTS, topics.CLEARED, topics.EVENTS)
Place = tuple[int, int]  # a partition and an offset
_NEAR = 1000  # offsets that are read over rather than sought: a seek drops what was fetched and asks again
_PLAIN = re.compile(r"[A-Za-z0-9_.-]+")  # characters that every JSON encoder writes as they are


class _About(msgspec.Struct, frozen=True):
    """The field that the records of these topics share."""

    content_id: str


class Mention:
    """A cheap test of whether a record may mention a content item, which spares decoding most records."""

    def __init__(self, content_id: str) -> None:
        self.key = content_id.encode()
        self._part = max(_PLAIN.findall(content_id), key=len, default="").encode()

    def possible(self, key: bytes | None, value: bytes | None) -> bool:
        """Whether the key is the item's, or the JSON of the value may contain its id in any notation."""
        return key == self.key or (value is not None and (self._part in value or b"\\u" in value))


def likely_partition(content_id: str, count: int) -> int:
    """The partition, of this many, in which the default partitioner places records that are keyed by the item's id."""
    return partition_of_key(content_id.encode(), count)


def partition_of_key(key: bytes, count: int) -> int:
    """The partition, of this many, in which the default partitioner places records with a key."""
    number: int = (murmur2(key) & 0x7FFFFFFF) % count
    return number


async def partition_of_content(settings: Settings, content_id: str) -> int | None:
    """The number of the partition that holds the records about an item; None if there are none.

    Searches the likely partition first, then the others. Raises only the errors of the broker.
    """
    likely = likely_partition(content_id, len(await partitions_of(settings, topics.EVENTS)))
    for partition in (likely, None):
        async with contextlib.aclosing(_about(settings, content_id, partition)) as found:
            async for record in found:
                return record.partition
    return None


async def _about(settings: Settings, content_id: str, partition: int | None) -> AsyncGenerator[Record, None]:
    mention = Mention(content_id)
    for name in _SEARCHED:
        async with contextlib.aclosing(read_all(settings, [name], partition)) as records:
            async for record in records:
                if mention.possible(record.key, record.value):
                    with contextlib.suppress(RecordError):
                        if decode(record.value, _About).content_id == content_id:
                            yield record


async def records_at(settings: Settings, name: str, places: Iterable[Place]) -> dict[Place, Record]:
    """The records of a topic at these places, without those that are not there any more.

    Reads little beside them, however long the topic is. Raises ForbiddenError or BusError.
    """
    wanted: dict[int, set[int]] = defaultdict(set)
    for partition, offset in places:
        wanted[partition].add(offset)
    found: dict[Place, Record] = {}
    for partition in wanted.keys() & set(await partitions_of(settings, name) if wanted else ()):
        async with reader(settings, [name], partition=partition) as client:
            (tp,) = client.assignment()
            for offset in sorted(wanted[partition]):
                record = await _record_from(client, tp, offset)
                if record is not None and record.offset == offset:
                    found[partition, offset] = record
    return found


async def _record_from(client: StrictConsumer, tp: TopicPartition, offset: int) -> Record | None:
    """The record at an offset or, if none is there, another one of the partition; None at its end."""
    if not 0 <= offset - await client.position(tp) <= _NEAR:
        client.seek(tp, offset)
    while True:
        ahead = offset - await client.position(tp)
        records = (await client.getmany(tp, timeout_ms=500, max_records=max(0, ahead) + 1)).get(tp, ())
        if records and records[-1].offset >= offset:
            record: Record = next(one for one in records if one.offset >= offset)
            return record
        end = client.last_stable_offset(tp)
        if await client.position(tp) > offset or (end is not None and 0 <= end <= offset):
            return None
