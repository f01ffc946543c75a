"""Where the records about a content item are, and which text it has, for those who decide about it."""

from __future__ import annotations

import contextlib
from typing import NamedTuple

from safeguard_streams.bus import kafka
from safeguard_streams.bus.interface import Record
from safeguard_streams.contract import topics
from safeguard_streams.contract.intake import read_event
from safeguard_streams.contract.records import Verdict, came_later, content_sha256, decode, origin_of
from safeguard_streams.enforcement.moderators import standing_on
from safeguard_streams.errors import ConfigurationError, RecordError
from safeguard_streams.runtime.settings import Settings


class KnownItem(NamedTuple):
    """A content item, the partition of its records, and the text that the moderator saw; None if no text is known.

    origin: where the event of that text stands on content.events, as 3@1042.
    """

    content_id: str
    partition: int
    content_sha256: str | None = None
    origin: str | None = None


async def locate(settings: Settings, item: str | KnownItem) -> KnownItem:
    """An item with its newest text, found by its id. Raises ConfigurationError when the pipeline never saw it."""
    if isinstance(item, KnownItem):
        return item
    # What stands outlives all other records, so look there first and last.
    count = len(await kafka.partitions_of(settings, topics.STANDING))
    likely = kafka.likely_partition(item, count)
    placed = await standing_on(settings, item, likely)
    partition = likely if placed else await kafka.partition_of_content(settings, item)
    if partition is None:
        placed = await standing_on(settings, item)
        if placed is None:
            raise ConfigurationError(
                f"no event, verdict or action has the content id {item!r}: check the id and SAFEGUARD_PREFIX"
            )
        partition = placed.partition
    if placed is not None and placed.standing.content_sha256 is not None:
        return KnownItem(item, partition, placed.standing.content_sha256, placed.standing.origin)
    return await _newest_text(settings, item, partition)


async def _newest_text(settings: Settings, content_id: str, partition: int) -> KnownItem:
    """The newest text of an item on which nothing stands, by the verdicts on it, or else by its events."""
    newest, mention = KnownItem(content_id, partition), kafka.Mention(content_id)
    for names in ([topics.VERDICTS, topics.CLEARED], [topics.EVENTS]):
        async with contextlib.aclosing(kafka.read_all(settings, names, partition)) as records:
            async for record in records:
                if mention.possible(record.key, record.value) and (text := _text_of(record, content_id)) is not None:
                    later = came_later(text.origin, newest.origin)
                    newest = text if later is not False else newest
        if newest.content_sha256 is not None:
            break
    return newest


def _text_of(record: Record, content_id: str) -> KnownItem | None:
    """The text that a verdict or an event is about; None for records about other items and for broken ones."""
    with contextlib.suppress(RecordError):
        if record.topic.endswith(topics.EVENTS):
            event, origin = read_event(record.value).event, origin_of(record.partition, record.offset)
            if event.content_id == content_id:
                return KnownItem(content_id, record.partition, content_sha256(event.text), origin)
        elif (verdict := decode(record.value, Verdict)).content_id == content_id:
            return KnownItem(content_id, record.partition, verdict.content_sha256, verdict.origin)
    return None
