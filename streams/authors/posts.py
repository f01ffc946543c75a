"""What authors publish, for rates: content events to moderation.author-posts, in the partition of the author.

An author's items lie in many partitions of content.events, because their ids are the keys. A record for each event
brings them into one, in the transaction of the event's place. Events that are cleared count as others do. An event that
cannot be read is the prefilter's dead letter, and counts for nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime

from safeguard_streams.bus import kafka
from safeguard_streams.bus.interface import Output, Record
from safeguard_streams.contract import topics
from safeguard_streams.contract.intake import read_event
from safeguard_streams.contract.records import (
    AuthorPost,
    ContentEvent,
    account_age,
    aware,
    encode,
    now,
    schema_header,
)
from safeguard_streams.errors import ForbiddenError, RecordError, SafeguardError
from safeguard_streams.prefilter.sketch import sketches
from safeguard_streams.runtime.process import unless_stopped
from safeguard_streams.runtime.settings import Settings

log = logging.getLogger(__name__)

STAGE = "authors-posts"
_RETRY_SECONDS = 30.0
_POST = schema_header(AuthorPost)
Kept = Callable[[Iterable[Record]], list[Record]]


class Posts:
    """The transform of the engine. kept: leaves out the events of erased items."""

    def __init__(self, kept: Kept) -> None:
        self._kept = kept

    async def process(self, records: Sequence[Record]) -> list[Output]:
        """Made in a thread: the sketches of a batch take longer than an event loop may pause."""
        kept = self._kept(records)
        return await asyncio.to_thread(posts, kept, now()) if kept else []


def posts(records: Sequence[Record], moment: datetime) -> list[Output]:
    """A record for each event that can be read and names an author. moment: now."""
    found: list[tuple[ContentEvent, datetime]] = []
    for record in records:
        with contextlib.suppress(RecordError):
            event = read_event(record.value).event
            if event.author_id:
                found.append((event, _arrived(record, moment)))
    made = sketches([event.text for event, _ in found])
    outputs = []
    for (event, arrived), sketch in zip(found, made, strict=True):
        author_id = event.author_id or ""
        post = AuthorPost(
            author_id,
            event.content_id,
            min(aware(event.created_at), arrived),
            None if sketch.bits is None else f"{sketch.bits:016x}",
            sketch.characters,
            account_age(event, arrived),
        )
        outputs.append(Output(topics.AUTHOR_POSTS, author_id.encode(), encode(post), [_POST], by_key=True))
    return outputs


def _arrived(record: Record, moment: datetime) -> datetime:
    """When an event arrived: by the clock of its producer, if that can be true and is not ahead."""
    if not kafka.plausible(record.timestamp):
        return moment
    return min(datetime.fromtimestamp(record.timestamp / 1000, UTC), moment)


async def begin(settings: Settings) -> None:
    """Let a new group count what comes from now on: a rule is no judgement of the past."""
    await kafka.begin_unused_at_end(settings, STAGE, topics.EVENTS)


async def end(settings: Settings, stop: asyncio.Event) -> None:
    """Forget how far events were counted, where the rules have no rates any more: nobody waits for what comes then, and
    rates that are added later count from that time on. Tries again while another ledger still counts.
    """
    while not stop.is_set():
        try:
            partitions = await kafka.partitions_of(settings, topics.EVENTS)
            if not await kafka.group_positions(settings, STAGE, topics.EVENTS, partitions):
                return
            if await kafka.forget_group(settings, STAGE):
                log.info("rates are not counted any more, the group's positions were forgotten group=%s", STAGE)
                return
        except ForbiddenError as error:
            log.warning("positions of a group that is no longer used stay group=%s error=%s", STAGE, error)
            return
        except (SafeguardError, TimeoutError) as error:
            log.debug("positions not forgotten yet group=%s error=%r", STAGE, error)
        await unless_stopped(asyncio.sleep(_RETRY_SECONDS), stop)
