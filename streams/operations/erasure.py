"""Erasure of a content item: tombstones where Kafka can erase records, and a list of what remains until retention ends.

Kafka erases single records in compacted topics only. For this reason the model's rationales have a compacted topic,
keyed by verdict. All other records about a content item are gone when the retention of their topic ends.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from safeguard_streams.bus import kafka
from safeguard_streams.bus.interface import Output
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import decode
from safeguard_streams.runtime.settings import Settings

_WRITER = "policy-releases"  # a transactional id that operators may use
# Topics with records about content items, and whether these hold the text.
_HOLD_TEXT = {
    **dict.fromkeys((topics.EVENTS, *topics.LANES.values(), topics.DEAD_LETTERS), True),
    **dict.fromkeys((topics.CLEARED, topics.VERDICTS, topics.REPLAYS, topics.ACTIONS), False),
}
_JUDGED = (topics.VERDICTS, topics.REPLAYS)


class RemainingRecords(msgspec.Struct, frozen=True):
    """Records about a content item in a topic. text: whether they hold its text. until: when the last is gone."""

    topic: str
    records: int
    text: bool
    until: datetime


class Erasure(msgspec.Struct, frozen=True):
    """The result of an erasure. rationales: the number erased. by: when compaction has removed them from the brokers'
    disks. remains: the records that stay until retention ends.
    """

    content_id: str
    rationales: int
    by: datetime
    remains: list[RemainingRecords]


class _VerdictRef(msgspec.Struct, frozen=True):
    verdict_id: str


async def erase(
    settings: Settings, content_id: str, on_progress: Callable[[str], None] = lambda topic: None
) -> Erasure:
    """Write tombstones for all rationales about a content item. on_progress receives each topic before it is read."""
    key = content_id.encode()
    timestamps: dict[str, list[int]] = {}  # of the records found, in ms, by topic
    partitions: dict[str, int] = {}  # verdict ids to the verdict's partition, where its rationale is too
    for topic in _HOLD_TEXT:
        on_progress(topic)
        async for record in kafka.read_all(settings, [topic]):
            if record.key == key:
                timestamps.setdefault(topic, []).append(record.timestamp)
                if topic in _JUDGED:
                    partitions[decode(record.value, _VerdictRef).verdict_id] = record.partition
    if partitions:
        async with kafka.exclusive_writer(settings, _WRITER) as write:
            tombstones = [Output(topics.RATIONALES, name.encode(), None) for name in partitions]
            await write(tombstones, list(partitions.values()))
    retention: dict[str, Any] = {topic.name: topic.retention for topic in topics.CATALOGUE}
    return Erasure(
        content_id,
        len(partitions),
        datetime.now(UTC) + timedelta(milliseconds=topics.COMPACTION_LAG),
        [
            RemainingRecords(
                topic,
                len(times),
                _HOLD_TEXT[topic],
                datetime.fromtimestamp((max(times) + retention[topic]) / 1000, UTC),
            )
            for topic, times in timestamps.items()
        ],
    )
