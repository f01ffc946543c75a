"""Reads topics without a group, up to where they end now, whole or between two times.

`read_decoded` and `read_table` are how commands read records of one kind: what cannot be read is left out and counted,
because anyone may have written a tombstone or a record of another kind. A `Reading` observes how far they are:

    with watched(Reading()) as reading:
        verdicts = [verdict async for _, verdict in read_decoded(settings, [topics.VERDICTS], Verdict)]
    print(reading)  # 2 records were left out: 1 tombstone on moderation.verdicts, ...
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from datetime import datetime
from typing import TypeVar

import msgspec
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError, UnknownTopicOrPartitionError

from safeguard_streams.bus.interface import Partition, Record
from safeguard_streams.bus.kafka.clients import FORBIDDEN_ERRORS, bounded_stop, failed, forbidden
from safeguard_streams.bus.kafka.probes import wait_for_broker
from safeguard_streams.bus.timestamps import EARLIEST
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import decode
from safeguard_streams.errors import ConfigurationError, RecordError
from safeguard_streams.runtime.aiokafka_patch import StrictConsumer
from safeguard_streams.runtime.counts import counted
from safeguard_streams.runtime.security import client_options
from safeguard_streams.runtime.settings import Settings

T = TypeVar("T", bound=msgspec.Struct)
R = TypeVar("R", bound="Reading")
_FINITE_MS = 10  # a reading up to the ends of its partitions waits for no later record
_SKEW = 3600 * 1000  # ms: a timestamp further in the future cannot be one


class Reading:
    """Observes readings of topics, and counts the records that they leave out. A subclass may show how far they are.

    left_out: number of records by topic, without the deployment's prefix, and by what they are instead.
    """

    def __init__(self) -> None:
        self.left_out: Counter[tuple[str, str]] = Counter()

    def begin(self, names: Sequence[str], offsets: int) -> None:
        """A reading begins. offsets: how many it covers, which is at least the number of its records."""

    def advance(self, offsets: int) -> None:
        """So many more of its offsets were read."""

    def leave_out(self, name: str, kind: str) -> None:
        """A record of a topic was left out. kind: what it is, as in 'tombstone' or 'no Verdict'."""
        self.left_out[name, kind] += 1

    def __str__(self) -> str:
        """One line about what was left out; empty if nothing was."""
        if not self.left_out:
            return ""
        parts = ", ".join(f"{count:,} {kind} on {name}" for (name, kind), count in sorted(self.left_out.items()))
        return f"{counted(self.left_out.total(), 'record was left out', 'records were left out')}: {parts}"


_watching: ContextVar[Reading] = ContextVar("reading")


@contextlib.contextmanager
def watched(reading: R) -> Iterator[R]:
    """Let a `Reading` observe all readings of the block, in its tasks and in `asyncio.run`, too."""
    token = _watching.set(reading)
    try:
        yield reading
    finally:
        _watching.reset(token)


def watching() -> Reading:
    """The `Reading` that observes this task."""
    return _watching.get(None) or Reading()


@contextlib.asynccontextmanager
async def reader(
    settings: Settings,
    names: Sequence[str],
    *,
    from_end: bool = False,
    partition: int | None = None,
    wait_ms: int = 500,
) -> AsyncIterator[StrictConsumer]:
    """A consumer of whole topics, or of one partition of each, that reads committed records only.

    It begins at the first record, or with the records that come next. wait_ms: how long the broker may hold a fetch
    that finds no record. Brokers answer the requests of a connection in order, so all others wait that long.

    Raises ConfigurationError when a topic is missing, ForbiddenError or BusError.
    """
    full = [settings.prefix + name for name in names]
    client = StrictConsumer(
        *(full if partition is None else ()),
        **client_options(settings),
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        fetch_max_wait_ms=wait_ms,
        max_partition_fetch_bytes=4 * topics.MiB,
    )
    try:
        if partition is not None:
            client.assign([TopicPartition(name, partition) for name in full])
        await client.start()
        if from_end:
            # `seek_to_end` would race with the client's own first reset, whose late answer could set the beginning.
            # A `seek` to an offset is final.
            for end, offset in (await (await EndOffsets.now(client)).resolve()).items():
                client.seek(TopicPartition(*end), offset)
        else:
            await client.seek_to_beginning(*client.assignment())
        yield client
    except UnknownTopicOrPartitionError as error:
        raise ConfigurationError(
            f"not all of these topics exist: {', '.join(full)}; run: safeguard topics create"
        ) from error
    except FORBIDDEN_ERRORS as error:
        raise forbidden(error) from error
    except KafkaError as error:
        raise failed(settings, error) from error
    finally:
        await bounded_stop(client.stop)


class EndOffsets:
    """Where a consumer's partitions ended at one moment.

    Some brokers report too low an end offset, so the first fetch of each partition may raise it.
    """

    def __init__(self, client: StrictConsumer, ends: dict[TopicPartition, int]) -> None:
        self._client = client
        self._ends = ends
        self._limits: Mapping[TopicPartition, int] = {}
        self._remaining = {tp for tp, end in ends.items() if end > 0}
        self._fetched: set[TopicPartition] = set()

    @property
    def offsets(self) -> Mapping[TopicPartition, int]:
        """The end of each partition, as far as it is known."""
        return self._ends

    def __getitem__(self, tp: TopicPartition) -> int:
        """The end of a partition, as its first fetch tells."""
        end = self._client.last_stable_offset(tp)
        if tp not in self._fetched and end is not None and end >= 0:
            self._fetched.add(tp)
            self._ends[tp] = max(self._ends[tp], min(end, self._limits.get(tp, end)))
        return self._ends[tp]

    def limit(self, limits: Mapping[TopicPartition, int]) -> None:
        """Let partitions end at these offsets at the latest."""
        self._limits = limits
        self._ends = {tp: min(end, limits.get(tp, end)) for tp, end in self._ends.items()}

    def distance(self, starts: Mapping[TopicPartition, int]) -> int:
        """The number of offsets between starts and ends, as far as the ends are known by now."""
        return sum(max(0, self[tp] - start) for tp, start in starts.items())

    @classmethod
    async def now(cls, client: StrictConsumer) -> EndOffsets:
        """The ends of all partitions that the consumer is assigned."""
        return cls(client, await client.end_offsets(list(client.assignment())))

    async def resolve(self) -> dict[Partition, int]:
        """The end of each partition, after a fetch of those that hold records. The fetched records are lost."""
        waiting = set(self._remaining)
        while waiting:
            await self._client.getmany(*waiting, timeout_ms=200, max_records=1)
            waiting = {tp for tp in waiting if (self._client.last_stable_offset(tp) or -1) < 0}
        await self.remaining()
        return {Partition(*tp): end for tp, end in self._ends.items()}

    async def remaining(self) -> set[TopicPartition]:
        """The partitions that the consumer has not read to their ends yet."""
        for tp in list(self._remaining):
            # A position passes the markers of transactions, which end a partition after its last record.
            if await self._client.position(tp) >= self[tp]:
                self._remaining.discard(tp)
        return self._remaining


async def read_all(
    settings: Settings,
    names: Sequence[str],
    partition: int | None = None,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    after: Mapping[Partition, int] | None = None,
) -> AsyncGenerator[Record, None]:
    """Every record that the topics hold now, or one partition of each; in order within each partition.

    since, until: bounds of the time at which the records were written, the latter excluded. after: the first offset to
    read, for the partitions that it names.
    """
    reading = watching()
    async with reader(settings, names, partition=partition, wait_ms=_FINITE_MS) as client:
        ends = await EndOffsets.now(client)
        starts = await _seek(client, ends, since, until, after or {})
        unread = await ends.remaining()
        fetched = await client.getmany(*unread, timeout_ms=500) if unread else {}
        reading.begin(names, ends.distance(starts))  # a fetch may tell of later ends
        while unread:
            for tp, records in fetched.items():
                end = ends[tp]
                inside = [record for record in records if record.offset < end]
                for record in inside:
                    yield record
                if inside:
                    reading.advance(inside[-1].offset + 1 - starts[tp])
                    starts[tp] = inside[-1].offset + 1
            unread = await ends.remaining()
            fetched = await client.getmany(*unread, timeout_ms=500) if unread else {}


async def _seek(
    client: StrictConsumer,
    ends: EndOffsets,
    since: datetime | None,
    until: datetime | None,
    after: Mapping[Partition, int],
) -> dict[TopicPartition, int]:
    """Bound a reading, and seek to where it begins in each partition."""
    partitions = list(client.assignment())
    starts: dict[TopicPartition, int] = await client.beginning_offsets(partitions)
    first = starts
    if since is not None:
        starts = await offsets_at(client, since, first, ends.offsets)
    if until is not None:
        found = await offsets_at(client, until, first, ends.offsets)
        ends.limit({tp: offset for tp, offset in found.items() if offset < ends.offsets[tp]})
    starts = {tp: max(start, after.get(Partition(*tp), 0)) for tp, start in starts.items()}
    if since is not None or until is not None or after:
        for tp, start in starts.items():
            client.seek(tp, start)
    return starts


async def offsets_at(
    client: StrictConsumer,
    moment: datetime,
    starts: Mapping[TopicPartition, int],
    ends: Mapping[TopicPartition, int],
) -> dict[TopicPartition, int]:
    """The offset of the first record written at a time or later; the partition's end where there is none.

    Producers write timestamps. One that cannot be true, as in microseconds, hides what comes after it from Kafka's own
    search. Such a partition is searched by halving instead, by the timestamps that can be true. Moves the client.
    """
    timestamp = max(0, int(moment.timestamp() * 1000))
    asked = [tp for tp in starts if starts[tp] < ends[tp]]
    found = await client.offsets_for_times(dict.fromkeys(asked, timestamp)) if asked else {}
    offsets = dict(ends)
    for tp in asked:
        at = found.get(tp)
        if at is None:
            continue
        true = plausible(at.timestamp)
        offsets[tp] = at.offset if true else await _halve(client, tp, timestamp, starts[tp], ends[tp])
    return offsets


def plausible(timestamp: int) -> bool:
    """Whether a record's timestamp, in ms since 1970, can be the time at which it was written."""
    return EARLIEST <= timestamp <= time.time() * 1000 + _SKEW


async def _halve(client: StrictConsumer, tp: TopicPartition, timestamp: int, low: int, high: int) -> int:
    """The first offset between two whose record was written at a time or later, by plausible timestamps."""
    while low < high:
        middle = (low + high) // 2
        record = await _first_plausible(client, tp, middle, high)
        if record is None or record.timestamp >= timestamp:
            high = middle
        else:
            low = record.offset + 1
    return low


async def _first_plausible(client: StrictConsumer, tp: TopicPartition, offset: int, end: int) -> Record | None:
    """The first record from an offset on, and before an end, whose timestamp can be true."""
    client.seek(tp, offset)
    while await client.position(tp) < end:
        for record in (await client.getmany(tp, timeout_ms=500, max_records=100)).get(tp, ()):
            if plausible(record.timestamp):
                return record if record.offset < end else None
    return None


async def read_decoded(
    settings: Settings,
    names: Sequence[str],
    kind: type[T],
    partition: int | None = None,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    after: Mapping[Partition, int] | None = None,
) -> AsyncGenerator[tuple[Record, T], None]:
    """The records of one kind that the topics hold now, bounded as in `read_all`.

    Tombstones and records that are not of this kind are left out and counted. Raises only the errors of the broker.
    """
    async with contextlib.aclosing(
        read_all(settings, names, partition, since=since, until=until, after=after)
    ) as records:
        async for record in records:
            if (decoded := decoded_or_left_out(settings, record, kind)) is not None:
                yield record, decoded


def decoded_or_left_out(settings: Settings, record: Record, kind: type[T]) -> T | None:
    """A record as one of a kind; None if it is not, which is counted."""
    try:
        return decode(record.value, kind)
    except RecordError:
        what = "tombstone" if record.value is None else f"no {kind.__name__}"
        watching().leave_out(record.topic.removeprefix(settings.prefix), what)
        return None


async def read_table(settings: Settings, name: str, kind: type[T], partition: int | None = None) -> dict[bytes, T]:
    """The newest record of each key of a compacted topic, without the keys that ended with a tombstone.

    A record that is not of this kind or has no key is left out and counted; the one before it stands.
    """
    table: dict[bytes, T] = {}
    async with contextlib.aclosing(read_all(settings, [name], partition)) as records:
        async for record in records:
            if record.key is None:
                watching().leave_out(name, "without a key")
            elif record.value is None:
                table.pop(record.key, None)
            elif (decoded := decoded_or_left_out(settings, record, kind)) is not None:
                table[record.key] = decoded
    return table


async def follow(settings: Settings, name: str, take: Callable[[Record], None], caught_up: asyncio.Event) -> None:
    """Hand on every record of a topic until cancelled. Sets `caught_up` at the end offsets found at the start."""
    await wait_for_broker(settings)
    async with reader(settings, [name]) as client:
        ends = await EndOffsets.now(client)
        while True:
            for records in (await client.getmany(timeout_ms=200)).values():
                for record in records:
                    take(record)
            if not caught_up.is_set() and not await ends.remaining():
                caught_up.set()


async def end_offsets(settings: Settings, name: str) -> dict[Partition, int]:
    """Where each partition of a topic ends now."""
    async with reader(settings, [name], wait_ms=_FINITE_MS) as client:
        return await (await EndOffsets.now(client)).resolve()


async def partitions_of(settings: Settings, name: str) -> list[int]:
    """The numbers of a topic's partitions."""
    async with reader(settings, [name]) as client:
        return sorted(tp.partition for tp in client.assignment())
