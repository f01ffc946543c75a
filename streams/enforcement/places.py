"""Where the records about content items are, and which texts they have, for those who decide about them."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from typing import NamedTuple

import msgspec

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

    origin: where the event of that text stands on content.events, as 3@1042. author_id: of its author, if known.
    """

    content_id: str
    partition: int
    content_sha256: str | None = None
    origin: str | None = None
    author_id: str | None = None


class _About(msgspec.Struct, frozen=True):
    """The field that the records of all these topics share."""

    content_id: str


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
        standing = placed.standing
        return KnownItem(item, partition, standing.content_sha256, standing.origin, standing.author_id)
    return (await with_texts(settings, [item], partition)).get(item, KnownItem(item, partition))


async def with_texts(settings: Settings, ids: Collection[str], partition: int | None = None) -> dict[str, KnownItem]:
    """Items with their newest texts, by the verdicts on them, or else by their events; by id, those that have some."""
    newest: dict[str, KnownItem] = {}
    for names in ([topics.VERDICTS, topics.CLEARED], [topics.EVENTS]):
        wanted = set(ids) - newest.keys()
        if not wanted:
            break
        async for record in kafka.read_all(settings, names, partition):
            text = _text_of(record, wanted)
            known = text and newest.get(text.content_id)
            if text and (known is None or came_later(text.origin, known.origin) is not False):
                newest[text.content_id] = text
    return newest


async def with_actions(settings: Settings, ids: Collection[str]) -> dict[str, KnownItem]:
    """Items with the partitions of the actions on them, by id, those that have some; their texts are not known."""
    found: dict[str, KnownItem] = {}
    if ids:
        async for record in kafka.read_all(settings, [topics.ACTIONS]):
            if (content_id := content_id_of(record)) in ids and content_id is not None:
                found[content_id] = KnownItem(content_id, record.partition)
    return found


def content_id_of(record: Record) -> str | None:
    """The item that a record is about, without decoding the rest; None for a tombstone or a broken record."""
    with contextlib.suppress(RecordError):
        return decode(record.value, _About).content_id
    if record.topic.endswith(topics.EVENTS):
        with contextlib.suppress(RecordError):  # an event that the intake repairs
            return read_event(record.value).event.content_id
    return None


def _text_of(record: Record, wanted: Collection[str]) -> KnownItem | None:
    """The text that a verdict or an event is about; None for records about other items and for broken ones."""
    content_id = content_id_of(record)
    if content_id is None or content_id not in wanted:
        return None
    with contextlib.suppress(RecordError):
        if record.topic.endswith(topics.EVENTS):
            event, origin = read_event(record.value).event, origin_of(record.partition, record.offset)
            text_hash = content_sha256(event.text)
            return KnownItem(content_id, record.partition, text_hash, origin, event.author_id or None)
        verdict = decode(record.value, Verdict)
        return KnownItem(content_id, record.partition, verdict.content_sha256, verdict.origin, verdict.author_id)
    return None
