"""Follows the topics and projects them into the database, through outages of both.

Positions are in the database. After any failure, the projector reads them there and goes on. It reads without a
consumer group, and takes every partition itself: a second process that projects into the same database finds the
positions moved, and stands by.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from aiokafka import TopicPartition
from sqlalchemy import Engine
from sqlalchemy.exc import InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from safeguard_streams.bus import kafka
from safeguard_streams.bus.interface import Partition, Record
from safeguard_streams.console.folding import FOLDS
from safeguard_streams.console.store import Moved, Store, Stored
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import now
from safeguard_streams.errors import BusError, ConfigurationError
from safeguard_streams.runtime import metrics
from safeguard_streams.runtime.aiokafka_patch import StrictConsumer
from safeguard_streams.runtime.process import in_thread
from safeguard_streams.runtime.settings import Settings

log = logging.getLogger(__name__)

STAGE = "projector"
AWAY = (OperationalError, InterfaceError, InternalError, PoolTimeoutError)  # of the database, or of its network
_RECORDS, _BYTES = 5_000, 16 * topics.MiB  # of one transaction
_POLL_MS = 300
_STANDBY_SECONDS = 5.0
_RETRY_SECONDS = (0.5, 1.0, 2.0, 5.0)
_TIDY_SECONDS = 60.0
_CHECK_SECONDS = 30.0  # until a topic that was created again is noticed


class Projector:
    """Projects every topic of `FOLDS`. following: whether both Kafka and the database answer."""

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self.store = Store(engine, prefix=settings.prefix, text_days=settings.console_text_days)
        self.following = self._followed = False
        self.projected = 0  # records since this process began
        self.caught_up = False  # with what the topics held when it last began to follow
        self.lag: dict[Partition, int] = {}  # records of each partition that are not projected yet, as far as is known
        self._waiting_since: dict[Partition, float] = {}  # timestamps of the oldest records that were read
        self._stands_by = False
        self._settings = settings
        self._names = [settings.prefix + name for name in FOLDS]
        self._begun: set[TopicPartition] = set()
        self._tidy_at = self._check_at = 0.0

    @property
    def is_catching_up(self) -> bool:
        """Whether it still has to read what the topics held when it began to follow, and no other process does."""
        return not (self.caught_up or self._stands_by)

    def state(self) -> dict[str, Any]:
        """The body of /health/ready."""
        return {
            **self._settings.identity(STAGE),
            "ready": self.following,
            "projected": self.projected,
            "caught_up": self.caught_up,
            "lag": sum(self.lag.values()),
            "skipped": dict(self.store.skipped),
        }

    async def run(self, stop: asyncio.Event, *, to_end: bool = False) -> None:
        """Project until `stop`; with to_end, also end when all is projected that the topics held at the start.

        Raises ConfigurationError if a topic is missing at the start, or Kafka denies access then. Once it has followed,
        it waits for a topic that is deleted and created again.
        """
        failures = 0
        with metrics.observed({metrics.LAG_RECORDS: self._lag_observed, metrics.LAG_SECONDS: self._age_observed}):
            while not stop.is_set():
                seconds, projected = _STANDBY_SECONDS, self.projected
                try:
                    async with kafka.reader(self._settings, list(FOLDS)) as client:
                        await self._follow(client, stop, to_end=to_end)
                    return
                except Moved as moved:
                    self._stands_by = True
                    self._waiting_since.clear()  # the other process projects what was read here
                    log.info("standing by reason=%s", moved)
                except (*AWAY, BusError, ConfigurationError) as error:
                    if isinstance(error, ConfigurationError) and not self._followed:
                        raise
                    if isinstance(error, AWAY):
                        metrics.DATABASE_FAILURES.add(1, {"stage": STAGE})
                    failures = 0 if self.projected > projected else failures
                    seconds = _RETRY_SECONDS[min(failures, len(_RETRY_SECONDS) - 1)]
                    failures += 1
                    log.warning("projection interrupted, retrying seconds=%.1f error=%s", seconds, brief(error))
                self.following = False
                await _pause(stop, seconds)

    async def _follow(self, client: StrictConsumer, stop: asyncio.Event, *, to_end: bool) -> None:
        await in_thread(self.store.open)
        self.store.topic_ids = await kafka.topic_ids_of(client, self._names)
        self._begun.clear()
        self._check_at = time.monotonic() + _CHECK_SECONDS
        ends, self.caught_up = await kafka.EndOffsets.now(client), False
        while not stop.is_set():
            await self._begin(client)
            self.following = self._followed = True
            polled = await client.getmany(timeout_ms=_POLL_MS, max_records=_RECORDS)
            await self._apply(await self._expected(client, polled))
            await self._measure(client)
            await self._maintain(client)
            self.caught_up = self.caught_up or not await ends.remaining()
            if to_end and self.caught_up:
                return

    async def _apply(self, records: Sequence[Record]) -> None:
        for record in reversed(records):
            self._waiting_since[self.store.place(record)] = record.timestamp / 1000
        for part in _parts(records):
            await in_thread(partial(self.store.apply, part))
            self._stands_by = False
            self._count(part)
        self._waiting_since.clear()

    # ------------------------------------------------------------------ positions

    async def _begin(self, client: StrictConsumer) -> None:
        """Seek to where the projection stands in partitions that are new to this consumer."""
        if not (new := client.assignment() - self._begun):
            return
        self.store.partitions = Counter(self._place(tp).topic for tp in client.assignment())
        firsts: dict[TopicPartition, int] = await client.beginning_offsets(list(new))
        for tp, first in firsts.items():
            client.seek(tp, self._start(tp, first))
        self._begun |= new

    def _start(self, tp: TopicPartition, first: int) -> int:
        """Where to begin in a partition. A log that ends before the position is found when records come again."""
        place = self._place(tp)
        stored, attributes = self.store.positions.get(place), {metrics.TOPIC: place.topic, metrics.GROUP: STAGE}
        if stored is None:
            return first
        if self._is_new(tp, stored):
            log.warning("topic was created again, reading it from its first record partition=%s", place)
            metrics.POSITION_LOST.add(1, {**attributes, "kind": "recreated"})
            return first
        if stored.offset < first:
            log.error(
                "records were deleted before they were projected partition=%s from=%d to=%d",
                *(place, stored.offset, first),
            )
            metrics.POSITION_LOST.add(1, {**attributes, "kind": "retention"})
            return first
        return stored.offset

    async def _expected(
        self, client: StrictConsumer, polled: Mapping[TopicPartition, Sequence[Record]]
    ) -> list[Record]:
        """The polled records that are to be projected.

        The client begins again with a log that was cut. It also does so when partitions were added to a topic; records
        that are projected already are left out then.
        """
        kept: list[Record] = []
        for tp, records in polled.items():
            stored = self.store.positions.get(self._place(tp))
            if stored is None or records[0].offset >= stored.offset or self._is_new(tp, stored):
                kept += records
                continue
            await self._check_topic_ids(client)
            ends = await client.end_offsets([tp])
            if ends[tp] >= stored.offset:
                client.seek(tp, stored.offset)
                continue
            log.error("log was cut, reading it from its first record partition=%s position=%d", tp, stored.offset)
            metrics.RESETS.add(1, {metrics.TOPIC: self._place(tp).topic, metrics.GROUP: STAGE})
            self.store.recount(self._place(tp))
            kept += records
        return kept

    def _is_new(self, tp: TopicPartition, stored: Stored) -> bool:
        """Whether the topic was created again since the position was stored. Some brokers have no ids of topics."""
        topic_id = self.store.topic_ids.get(tp.topic)
        return None not in (topic_id, stored.topic_id) and topic_id != stored.topic_id

    def _place(self, tp: TopicPartition) -> Partition:
        return Partition(tp.topic.removeprefix(self._settings.prefix), tp.partition)

    # ------------------------------------------------------------------ upkeep

    async def _maintain(self, client: StrictConsumer) -> None:
        if time.monotonic() > self._check_at:
            await self._check_topic_ids(client)
        if time.monotonic() > self._tidy_at or self.store.has_traces:
            more = await in_thread(lambda: self.store.tidy(now()))
            self._tidy_at = 0.0 if more else time.monotonic() + _TIDY_SECONDS

    async def _check_topic_ids(self, client: StrictConsumer) -> None:
        """Raise BusError where a topic was created again: another consumer then begins with its new log."""
        self._check_at = time.monotonic() + _CHECK_SECONDS
        ids = await kafka.topic_ids_of(client, self._names)
        changed = sorted(name for name, known in self.store.topic_ids.items() if ids.get(name) != known)
        if changed:
            raise BusError(f"topics were deleted or created again: {', '.join(changed)}")

    def _count(self, records: Sequence[Record]) -> None:
        self.projected += len(records)
        for name, count in Counter(record.topic for record in records).items():
            topic = name.removeprefix(self._settings.prefix)
            metrics.CONSUMED.add(count, {metrics.TOPIC: topic, metrics.GROUP: STAGE})

    async def _measure(self, client: StrictConsumer) -> None:
        """How far the topics are ahead. A position passes the markers of transactions, as the ends do."""
        for tp in self._begun:
            end = client.last_stable_offset(tp) if tp in client.assignment() else None
            if end is not None and end >= 0:
                self.lag[self._place(tp)] = max(0, end - await client.position(tp))

    def _lag_observed(self) -> list[tuple[float, metrics.Attributes]]:
        return [(lag, _labels(place)) for place, lag in list(self.lag.items())]

    def _age_observed(self) -> list[tuple[float, metrics.Attributes]]:
        at = time.time()
        return [(max(0.0, at - since), _labels(place)) for place, since in list(self._waiting_since.items())]


def _labels(place: Partition) -> metrics.Attributes:
    return {metrics.TOPIC: place.topic, metrics.PARTITION: str(place.partition), metrics.GROUP: STAGE}


def _parts(records: Sequence[Record]) -> Iterator[Sequence[Record]]:
    """The records in parts that one transaction takes."""
    part: list[Record] = []
    size = 0
    for record in records:
        part.append(record)
        size += len(record.value or b"")
        if size > _BYTES or len(part) == _RECORDS:
            yield part
            part, size = [], 0
    if part:
        yield part


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return


def brief(error: Exception) -> str:
    """The first line of an error. Those of the database's client name hosts and users, never content."""
    reason = getattr(error, "orig", None) or error
    return next(iter(str(reason).splitlines()), type(reason).__name__)
