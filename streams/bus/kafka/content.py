"""Where the records about a content item are.

The event's producer chooses its partition, and every stage writes to the partition of the same number. A producer that
keys events by content_id with Kafka's default partitioner makes that number known. Others may place events by hand, by
another key or with none, and then only a search of all partitions finds them.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncGenerator

import msgspec
from aiokafka.partitioner import murmur2

from safeguard_streams.bus.interface import Record
from safeguard_streams.bus.kafka.reading import partitions_of, read_all
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import decode
from safeguard_streams.errors import RecordError
from safeguard_streams.runtime.settings import Settings

# Topics with a record for nearly every item that was judged, the shorter topics first.
_SEARCHED = (topics.ACTIONS, topics.VERDICTS, topics.CLEARED, topics.EVENTS)
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
    number: int = (murmur2(content_id.encode()) & 0x7FFFFFFF) % count
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
