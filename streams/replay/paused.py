"""Paused replays: a reasoning worker leaves their escalations where they are until they go on.

The replay lane is read in order, as every lane. A partition whose next escalation belongs to a paused replay is paused
as a whole: escalations of other replays behind it wait, too. Other lanes are not affected. What a worker had read
before it learned of the pause is still judged.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from safeguard_streams.bus import kafka
from safeguard_streams.bus.interface import Bus, Listener, Partition, Record, Writer
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Replay, decode
from safeguard_streams.errors import RecordError
from safeguard_streams.runtime.settings import Settings

log = logging.getLogger(__name__)


class PausedReplays:
    """The replays that operators have paused. A broken record is logged and changes nothing."""

    def __init__(self) -> None:
        self.ids: set[str] = set()

    def take(self, record: Record) -> None:
        """Apply one record of moderation.replays.jobs. Never raises."""
        name = (record.key or b"").decode(errors="replace")
        try:
            paused = record.value is not None and decode(record.value, Replay).state == "paused"
        except RecordError as error:
            message = "record of moderation.replays.jobs ignored offset=%d error=%s"
            log.error(message, record.offset, error)  # noqa: TRY400  (the error says it all)
            return
        if paused and name not in self.ids:
            log.info("replay paused replay=%s", name)
            self.ids.add(name)
        elif not paused and name in self.ids:
            log.info("replay resumed replay=%s", name)
            self.ids.discard(name)

    async def follow(self, settings: Settings, caught_up: asyncio.Event) -> None:
        """Read the topic from its beginning until cancelled. Sets `caught_up` at the end offsets found at the start."""
        await kafka.follow(settings, topics.REPLAY_JOBS, self.take, caught_up)


class _Escalation(msgspec.Struct, frozen=True):
    replay_id: str | None = None


def _replay_of(record: Record) -> str | None:
    """The replay of an escalation; None for what is no escalation of a replay."""
    try:
        return decode(record.value, _Escalation).replay_id
    except RecordError:
        return None


class HoldingBus:
    """A bus that hands out the records of some topics only up to the first that belongs to a paused replay.

    There it pauses the partition, and moves back to that record. It goes on when the replay does. The bus is its own
    listener, because a partition that is assigned again is not paused.
    """

    def __init__(self, bus: Bus, topic_names: Iterable[str], paused: PausedReplays) -> None:
        """topic_names: the topics as the bus names them, with the deployment's prefix."""
        self.group = bus.group
        self._bus = bus
        self._topics = frozenset(topic_names)
        self._paused = paused
        self._held: dict[Partition, str] = {}  # partitions by the replay that their next record belongs to
        self._full: set[Partition] = set()  # partitions that the engine has paused
        self._listener: Listener | None = None

    async def start(self, listener: Listener) -> None:
        self._listener = listener
        await self._bus.start(self)

    async def poll(self, timeout: float, max_records: int) -> Mapping[Partition, Sequence[Record]]:
        for partition in [held for held, replay in self._held.items() if replay not in self._paused.ids]:
            del self._held[partition]
            if partition not in self._full:
                self._bus.resume(partition)
        polled = await self._bus.poll(timeout, max_records)
        if not self._paused.ids:
            return polled
        before = {partition: self._before_paused(partition, records) for partition, records in polled.items()}
        return {partition: records for partition, records in before.items() if records}

    def _before_paused(self, partition: Partition, records: Sequence[Record]) -> Sequence[Record]:
        if partition.topic in self._topics:
            for place, record in enumerate(records):
                replay = _replay_of(record)
                if replay in self._paused.ids:
                    self._held[partition] = replay
                    self._bus.pause(partition)
                    self._bus.seek(partition, record.offset)
                    return records[:place]
        return records

    def assigned(self, partitions: Iterable[Partition]) -> None:
        owned = list(partitions)
        self._forget(owned)
        if self._listener is not None:
            self._listener.assigned(owned)

    def reset(self, partition: Partition, offset: int) -> None:
        if self._held.pop(partition, None) is not None and partition not in self._full:
            self._bus.resume(partition)
        if self._listener is not None:
            self._listener.reset(partition, offset)

    async def revoked(self, partitions: Iterable[Partition]) -> None:
        given_up = list(partitions)
        if self._listener is not None:
            await self._listener.revoked(given_up)
        self._forget(given_up)

    def _forget(self, partitions: Iterable[Partition]) -> None:
        for partition in partitions:
            self._held.pop(partition, None)
            self._full.discard(partition)

    def assignment(self) -> set[Partition]:
        return self._bus.assignment()

    def end(self, partition: Partition) -> int | None:
        return self._bus.end(partition)

    async def log_end(self, partition: Partition) -> int | None:
        return await self._bus.log_end(partition)

    async def position(self, partition: Partition) -> int | None:
        return await self._bus.position(partition)

    def pause(self, partition: Partition) -> None:
        self._full.add(partition)
        self._bus.pause(partition)

    def resume(self, partition: Partition) -> None:
        self._full.discard(partition)
        if partition not in self._held:
            self._bus.resume(partition)

    def seek(self, partition: Partition, offset: int) -> None:
        if self._held.pop(partition, None) is not None and partition not in self._full:
            self._bus.resume(partition)  # the record there may belong to another replay
        self._bus.seek(partition, offset)

    async def writer(self, partition: Partition) -> Writer:
        return await self._bus.writer(partition)

    async def stop(self) -> None:
        await self._bus.stop()
