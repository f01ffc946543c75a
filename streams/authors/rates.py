"""The transform that counts rates: records of moderation.author-posts, in order, to strikes of the same author.

A strike is written in the transaction of the record that passes the rate. A new owner of a partition restores the
windows from the records before the committed position, and from the strikes which items were counted already.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta

from safeguard_streams.authors.windows import Windows, kept_for
from safeguard_streams.bus import kafka
from safeguard_streams.bus.interface import Output, Partition, Record
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import (
    AuthorPost,
    Strike,
    TextFacts,
    carried,
    decode,
    encode,
    now,
    origin_of,
    schema_header,
    verdict_id,
)
from safeguard_streams.enforcement.author_rules import AuthorRules, Rate
from safeguard_streams.errors import RecordError
from safeguard_streams.releases.erasures import Erased
from safeguard_streams.runtime.settings import Settings

STAGE = "authors-rates"
_STRIKE = schema_header(Strike)
_CLOCKS = timedelta(minutes=10)  # by which those of this stage's machines may differ
RestoreWindows = Callable[[Partition], Awaitable[Windows]]


class Rates:
    """The transform of the engine, in batches. `windows` are those of the partitions that it owns."""

    def __init__(self, rules: AuthorRules, restore: RestoreWindows) -> None:
        self.windows: dict[int, Windows] = {}
        self._rules = rules
        self._restore = restore

    async def opened(self, partition: Partition) -> None:
        self.windows[partition.partition] = await self._restore(partition)

    def closed(self, partition: Partition) -> None:
        self.windows.pop(partition.partition, None)

    async def process(self, records: Sequence[Record]) -> list[Output]:
        # Read all records first: a malformed one then fails the batch before any item counts.
        posts = [checked(decode(record.value, AuthorPost)) for record in records]
        outputs = []
        for record, post in zip(records, posts, strict=True):
            windows = self.windows[record.partition]
            windows.take(post, record.offset, written(record))
            for rate in windows.passed(post, record.offset):
                strike, key = encode(self._strike(rate, post, record)), post.author_id.encode()
                headers = [_STRIKE, *carried(record.headers)]
                outputs.append(Output(topics.STRIKES, key, strike, headers, by_key=True))
        return outputs

    def _strike(self, rate: Rate, post: AuthorPost, record: Record) -> Strike:
        """The strike for a rate. Its id comes from the item that passed it: reading the events again gives no other."""
        at = now()
        return Strike(
            verdict_id(post.author_id, rate.name, post.content_id, "rate"),
            post.author_id,
            "given",
            at,
            content_id=post.content_id,
            rule=rate.name,
            weight=rate.weight,
            expires_at=at + self._rules.lifetime(rate),
            about=TextFacts(created_at=post.posted_at),
            origin=origin_of(record.partition, record.offset),
        )


def written(record: Record) -> int:
    """When a record was written, in ms since 1970: now, where its timestamp cannot be true."""
    return record.timestamp if kafka.plausible(record.timestamp) else round(now().timestamp() * 1000)


def checked(post: AuthorPost) -> AuthorPost:
    """A record whose sketch can be read. Raises RecordError otherwise."""
    try:
        usable = post.sketch is None or 0 <= int(post.sketch, 16) < 2**64
    except ValueError:
        usable = False
    if not usable:
        raise RecordError("sketch", "has not the form of 16 hex digits")
    return post


async def restored(settings: Settings, rates: Sequence[Rate], erased: Erased, partition: int) -> Windows:
    """The windows of a partition as they were at the committed position.

    Reads twice the time for which items are kept: one that is sent again later is then known by its first record.
    """
    windows = Windows(rates, erased)
    positions = await kafka.group_positions(settings, STAGE, topics.AUTHOR_POSTS, [partition])
    if partition not in positions:
        return windows
    position = positions[partition]
    since = await _written_at(settings, partition, position) - timedelta(milliseconds=2 * kept_for(rates)) - _CLOCKS
    given: dict[str, list[tuple[str, str]]] = {}  # by place: the author, and the rate
    async for _, strike in kafka.read_decoded(settings, [topics.STRIKES], Strike, partition, since=since):
        if strike.origin is not None and strike.rule is not None:
            given.setdefault(strike.origin, []).append((strike.author_id, strike.rule))
    reading = kafka.read_decoded(settings, [topics.AUTHOR_POSTS], AuthorPost, partition, since=since)
    async with contextlib.aclosing(reading) as records:
        async for record, post in records:
            if record.offset >= position:
                break
            with contextlib.suppress(RecordError):
                windows.take(checked(post), record.offset, written(record))
                for author_id, rate in given.get(origin_of(partition, record.offset), ()):
                    windows.use(author_id, rate, record.offset)
    return windows


async def _written_at(settings: Settings, partition: int, position: int) -> datetime:
    """When the record at a position was written; now, where there is none yet or its time cannot be true."""
    place = Partition(settings.prefix + topics.AUTHOR_POSTS, partition)
    reading = kafka.read_all(settings, [topics.AUTHOR_POSTS], partition, after={place: position})
    async with contextlib.aclosing(reading) as records:
        async for record in records:
            return datetime.fromtimestamp(written(record) / 1000, UTC)
    return now()
