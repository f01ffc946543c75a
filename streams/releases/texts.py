"""Texts of content items, for people who compare what was decided about them.

Verdicts and escalations name the place of their event on content.events, and are read there without a search. A record
at that place is the text only if it has the id and, where it is known, the hash that was judged: a topic that was
created again holds others. Texts of erased items are never returned.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple

from safeguard_streams.bus import kafka
from safeguard_streams.contract import topics
from safeguard_streams.contract.intake import read_event
from safeguard_streams.contract.records import Action, ContentEvent, Verdict, content_sha256, origin_of, place_of
from safeguard_streams.errors import ConfigurationError, ForbiddenError, RecordError
from safeguard_streams.releases.erasures import Erased, ErasureList
from safeguard_streams.runtime.settings import Settings


class TextPlace(NamedTuple):
    """The text of an item that was judged: its id, its hash, and where its event stands, as 3@1042."""

    content_id: str
    content_sha256: str | None
    origin: str | None

    @classmethod
    def of(cls, record: Verdict | Action) -> TextPlace:
        """The text that a verdict or an action is about."""
        return cls(record.content_id, record.content_sha256, record.origin)


class PlacedEvent(NamedTuple):
    """An event, and where it stands on content.events."""

    event: ContentEvent
    origin: str


async def newest_event(settings: Settings, content_id: str, since: datetime | None = None) -> PlacedEvent:
    """The newest event of an item. since: when the oldest event to read was written.

    Reads the partition that the id hashes to, and all others only if that one has none. Raises ConfigurationError if
    there is none, or the item was erased.
    """
    erasures = ErasureList()
    await erasures.read(settings)
    likely = kafka.likely_partition(content_id, len(await kafka.partitions_of(settings, topics.EVENTS)))
    mention, newest = kafka.Mention(content_id), None
    for partition in (likely, None):
        async with contextlib.aclosing(kafka.read_all(settings, [topics.EVENTS], partition, since=since)) as records:
            async for record in records:
                if mention.possible(record.key, record.value) and not erasures.erased(content_id, record.timestamp):
                    with contextlib.suppress(RecordError):
                        event = read_event(record.value).event
                        if event.content_id == content_id:
                            newest = PlacedEvent(event, origin_of(record.partition, record.offset))
        if newest is not None:
            return newest
    raise ConfigurationError(
        f"{topics.EVENTS} holds no text of {content_id!r}: check the id; its events may be erased or past retention"
    )


async def texts_at(settings: Settings, places: Iterable[TextPlace], erased: Erased) -> dict[TextPlace, str]:
    """The texts at these places, as far as `events_at` finds their events."""
    return {place: event.text for place, event in (await events_at(settings, places, erased)).items()}


async def events_at(settings: Settings, places: Iterable[TextPlace], erased: Erased) -> dict[TextPlace, ContentEvent]:
    """The events at these places, without those past retention, erased, or of records without an origin.

    A user who may not read content.events gets none; the `Reading` that observes this counts them as left out.
    """
    wanted = {one: place for one in places if (place := place_of(one.origin)) is not None}
    try:
        records = await kafka.records_at(settings, topics.EVENTS, wanted.values())
    except ForbiddenError:
        for _ in wanted:
            kafka.watching().leave_out(topics.EVENTS, "not readable by this user")
        return {}
    events = {}
    for one, place in wanted.items():
        record = records.get(place)
        if record is None or erased(one.content_id, record.timestamp):
            continue
        with contextlib.suppress(RecordError):
            event = read_event(record.value).event
            if (event.content_id, content_sha256(event.text)) == (one.content_id, one.content_sha256):
                events[one] = event
    return events
