"""Cleared texts of content items on which something stands, out of the millions on which nothing does.

An edit to harmless text is cleared, and only moderation.cleared says it. This stage passes on the cleared verdicts of
items on which something stands, to moderation.enforcement, where they meet verdicts and decisions in one order. Of all
others it looks at the key alone.

Reasoning on a text may take longer than clearing the next one. What stands then begins after the cleared verdict was
read. The stage therefore remembers where the last WINDOW cleared verdicts are, and passes such a one on as soon as
something stands on its item. Passing one on twice changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from aiokafka import TopicPartition

from safeguard_streams.bus import kafka
from safeguard_streams.bus.interface import Output, Partition, Record
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Standing, Verdict, came_later, decode
from safeguard_streams.enforcement import intake
from safeguard_streams.errors import BusError, RecordError
from safeguard_streams.releases.erasures import Erased, never
from safeguard_streams.runtime.aiokafka_patch import StrictConsumer
from safeguard_streams.runtime.process import run_until_first
from safeguard_streams.runtime.settings import Settings

log = logging.getLogger(__name__)

STAGE = "enforcement-cleared"
WINDOW = 100_000  # cleared verdicts of a partition: about 10 MB
RETRY_SECONDS = 1.0


class StandingItems:
    """The items of one partition on which something stands, and where the last cleared verdicts of all items are."""

    def __init__(self, window: int = WINDOW) -> None:
        self._stands: set[bytes] = set()
        self._half = max(1, window // 2)
        self._recent: dict[int, int] = {}  # hashes of keys to offsets; `_older` is the generation before
        self._older: dict[int, int] = {}

    def clear(self, key: bytes, offset: int) -> bool:
        """Remember a cleared verdict. Returns whether something stands on its item."""
        self._recent[hash(key)] = offset
        if len(self._recent) >= self._half:
            self._older, self._recent = self._recent, {}
        return key in self._stands

    def clear_all(self, records: Iterable[Record]) -> list[Record]:
        """Remember cleared verdicts. Returns those of items on which something stands."""
        return [record for record in records if record.key is not None and self.clear(record.key, record.offset)]

    def stand(self, key: bytes) -> int | None:
        """Something stands on an item. Returns the offset of its last cleared verdict, if it is remembered.

        Two keys may share a hash, so another item's verdict may be there.
        """
        self._stands.add(key)
        return self._recent.get(hash(key), self._older.get(hash(key)))

    def end(self, key: bytes) -> None:
        """Nothing stands on an item any more."""
        self._stands.discard(key)


class PartitionLogs(Protocol):
    """The topics that the stage reads beside its input, in one partition."""

    def last_cleared(self, offsets: int) -> AsyncGenerator[Sequence[Record], None]:
        """The cleared verdicts at the last `offsets` places that there are, a few at a time."""

    def standing(self) -> AsyncGenerator[tuple[Sequence[Record], bool], None]:
        """All records of moderation.standing, then those that come; and whether all that it held were read."""

    async def cleared_at(self, offset: int) -> Record | None:
        """The cleared verdict at an offset, if it is still there."""

    async def write(self, outputs: Sequence[Output]) -> None:
        """Write outputs; returns when the broker has them."""


class ClearedTexts:
    """The transform of the engine. open_logs opens the logs of a partition for as long as it is owned."""

    def __init__(
        self, open_logs: Callable[[int], AbstractAsyncContextManager[PartitionLogs]], erased: Erased = never
    ) -> None:
        self._open_logs = open_logs
        self._erased = erased
        self._items: dict[int, StandingItems] = {}
        self._following: dict[int, asyncio.Task[None]] = {}
        self._failures: asyncio.Queue[BaseException] = asyncio.Queue()
        self._ending: set[asyncio.Task[None]] = set()

    async def opened(self, partition: Partition) -> None:
        caught_up = asyncio.Event()
        following = asyncio.create_task(self._follow(partition.partition, caught_up))
        following.add_done_callback(self._ended)
        self._following[partition.partition] = following
        await caught_up.wait()

    def closed(self, partition: Partition) -> None:
        self._items.pop(partition.partition, None)
        following = self._following.pop(partition.partition, None)
        if following is not None:
            following.cancel()
            self._ending.add(following)

    async def process(self, records: Sequence[Record]) -> list[Output]:
        items = self._items[records[0].partition]
        return await intake.collect(items.clear_all(records), self._erased)

    async def watch(self, stop: asyncio.Event) -> None:
        """Wait for `stop`. Raises the error for which what stands can no longer be followed."""
        await run_until_first(stop.wait(), self._fail())

    async def _fail(self) -> None:
        raise await self._failures.get()

    async def aclose(self) -> None:
        """Wait until the clients of all partitions that were closed have stopped."""
        await asyncio.gather(*self._ending, return_exceptions=True)

    def _ended(self, following: asyncio.Task[None]) -> None:
        self._ending.discard(following)
        if not following.cancelled() and (error := following.exception()) is not None:
            self._failures.put_nowait(error)

    async def _follow(self, number: int, caught_up: asyncio.Event) -> None:
        """Follow what stands in a partition until cancelled, also while the broker is away."""
        while True:
            try:
                async with self._open_logs(number) as logs:
                    await self._follow_logs(logs, number, caught_up)
            except BusError as error:
                log.warning("standing records cannot be read, retrying partition=%d error=%s", number, error)
                await asyncio.sleep(RETRY_SECONDS)

    async def _follow_logs(self, logs: PartitionLogs, number: int, caught_up: asyncio.Event) -> None:
        items = self._items.setdefault(number, StandingItems())
        if not caught_up.is_set():
            async with contextlib.aclosing(logs.last_cleared(WINDOW)) as batches:
                async for records in batches:
                    items.clear_all(records)
        async with contextlib.aclosing(logs.standing()) as batches:
            async for records, complete in batches:
                found = [newer for record in records if (newer := await _newer(record, items, logs)) is not None]
                if found:
                    await logs.write(await intake.collect(found, self._erased))
                if complete:
                    caught_up.set()


async def _newer(record: Record, items: StandingItems, logs: PartitionLogs) -> Record | None:
    """The cleared verdict of a newer text than that on which something stands, if one was read before."""
    if record.key is None:
        return None
    if record.value is None:
        items.end(record.key)
        return None
    offset = items.stand(record.key)
    cleared = None if offset is None else await logs.cleared_at(offset)
    if cleared is None or cleared.key != record.key:
        return None
    with contextlib.suppress(RecordError):
        verdict, standing = decode(cleared.value, Verdict), decode(record.value, Standing)
        if came_later(verdict.origin, standing.origin) is not False:
            return cleared
    return None


class _KafkaLogs:
    """The logs of one partition on Kafka, by clients of its own."""

    def __init__(self, settings: Settings, number: int, standing: StrictConsumer, cleared: StrictConsumer) -> None:
        self._settings = settings
        self._number = number
        self._standing = standing
        self._cleared = cleared
        self._cleared_tp = TopicPartition(settings.prefix + topics.CLEARED, number)

    async def last_cleared(self, offsets: int) -> AsyncGenerator[Sequence[Record], None]:
        tp = self._cleared_tp
        ends = await kafka.EndOffsets.now(self._cleared)
        first = (await self._cleared.beginning_offsets([tp]))[tp]
        self._cleared.seek(tp, max(first, ends[tp] - offsets))
        while unread := await ends.remaining():
            for records in (await self._cleared.getmany(*unread, timeout_ms=500)).values():
                yield records

    async def standing(self) -> AsyncGenerator[tuple[Sequence[Record], bool], None]:
        ends = await kafka.EndOffsets.now(self._standing)
        while True:
            polled = await self._standing.getmany(timeout_ms=200)
            yield [record for records in polled.values() for record in records], not await ends.remaining()

    async def cleared_at(self, offset: int) -> Record | None:
        self._cleared.seek(self._cleared_tp, offset)
        polled = await self._cleared.getmany(self._cleared_tp, timeout_ms=1000, max_records=1)
        for record in polled.get(self._cleared_tp, ()):
            return record if record.offset == offset else None
        return None

    async def write(self, outputs: Sequence[Output]) -> None:
        async with kafka.producer(self._settings) as producer:
            for output in outputs:
                await producer.send_and_wait(
                    self._settings.prefix + output.topic,
                    output.value,
                    key=output.key,
                    partition=self._number,
                    headers=list(output.headers),
                )


@contextlib.asynccontextmanager
async def kafka_logs(settings: Settings, number: int) -> AsyncIterator[PartitionLogs]:
    """The logs of one partition on Kafka. Raises BusError when the broker is away, and ForbiddenError."""
    async with (
        kafka.reader(settings, [topics.STANDING], partition=number) as standing,
        kafka.reader(settings, [topics.CLEARED], partition=number) as cleared,
    ):
        yield _KafkaLogs(settings, number, standing, cleared)
