"""Erasing a content: tombstones where records can be erased, and what remains elsewhere until retention takes it.

Kafka erases single records in compacted topics only. That is why the model's thoughts about a content lie in one, by verdict; all
else about a content is gone when its topic's retention has passed.
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

_WRITER = "policy-releases"  # an operator's name
# Topics with records about contents, and whether these hold its text.
_HOLD_TEXT = {
    **dict.fromkeys((topics.EVENTS, *topics.LANES.values(), topics.DEAD_LETTERS), True),
    **dict.fromkeys((topics.CLEARED, topics.VERDICTS, topics.REPLAYS, topics.ACTIONS), False),
}
_JUDGED = (topics.VERDICTS, topics.REPLAYS)


class Remains(msgspec.Struct, frozen=True):
    """Records about a content in a topic; text says whether they hold it, until when the last of them is gone."""

    topic: str
    records: int
    text: bool
    until: datetime


class Erased(msgspec.Struct, frozen=True):
    """What was erased, and what remains. by: when compaction has removed what was erased from the brokers' disks."""

    content_id: str
    rationales: int
    by: datetime
    remains: list[Remains]


class _Named(msgspec.Struct, frozen=True):
    verdict_id: str


async def erase(settings: Settings, content_id: str, on_progress: Callable[[str], None] = lambda topic: None) -> Erased:
    """Write tombstones for all rationales about a content. told gets each topic before it is read."""
    key = content_id.encode()
    found: dict[str, list[int]] = {}
    judged: dict[str, int] = {}  # verdict ids to the partition where their rationale lies: that of the verdict
    for topic in _HOLD_TEXT:
        on_progress(topic)
        async for record in kafka.read_all(settings, [topic]):
            if record.key == key:
                found.setdefault(topic, []).append(record.timestamp)
                if topic in _JUDGED:
                    judged[decode(record.value, _Named).verdict_id] = record.partition
    if judged:
        async with kafka.exclusive_writer(settings, _WRITER) as write:
            tombstones = [Output(topics.RATIONALES, name.encode(), None) for name in judged]
            await write(tombstones, list(judged.values()))
    retention: dict[str, Any] = {topic.name: topic.retention for topic in topics.CATALOGUE}
    return Erased(
        content_id,
        len(judged),
        datetime.now(UTC) + timedelta(milliseconds=topics.COMPACTION_LAG),
        [
            Remains(
                topic,
                len(times),
                _HOLD_TEXT[topic],
                datetime.fromtimestamp((max(times) + retention[topic]) / 1000, UTC),
            )
            for topic, times in found.items()
        ],
    )
