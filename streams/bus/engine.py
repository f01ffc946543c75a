"""The stream engine: consume, transform, produce, exactly once.

    poll -> partition worker -> transform -> outputs + position + completed set, in one commit

With max_batch above 1, the records of one call finish together and calls run in order. With max_batch 1, each record
finishes when it is ready, and a slow one delays none behind it.

Invariants
- A record's outputs and the fact that it is done are committed together, or neither is.
- Polling never stops: a partition that has enough is paused, not waited for.
- A partition worker whose commit failed opens a new writer, reads the position, and drops what another owner has done.
- What is read counts against the limits, in records and in bytes, until its commit is known to have taken place.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from safeguard_streams.bus.admission import PriorityAdmission
from safeguard_streams.bus.interface import Bus, Partition, Record
from safeguard_streams.bus.partition_worker import PartitionWorker, Succession
from safeguard_streams.bus.tracing import Tracing
from safeguard_streams.bus.transform import Transform
from safeguard_streams.errors import RecordError
from safeguard_streams.runtime import metrics
from safeguard_streams.runtime.process import unless_stopped

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.1


class Retry(msgspec.Struct, frozen=True):
    """How often a failing record is tried, and the delay between attempts.

    Delays are in seconds and double from initial_delay to max_delay.

    Errors of the `non_retryable` types make a dead letter at once.
    """

    max_attempts: int = 3
    initial_delay: float = 0.2
    max_delay: float = 5.0
    non_retryable: tuple[type[Exception], ...] = (RecordError,)

    def delay_after(self, failures: int) -> float:
        return float(min(self.max_delay, self.initial_delay * 2 ** (failures - 1)))


class Limits(msgspec.Struct, frozen=True):
    """Bounds of the engine; counts are records, times seconds.

    max_batch, max_batch_bytes: records of one transform call (1: singly, out of order), and their bytes.
    max_in_flight: transform calls at once, over all partitions.
    ranks: topics (as the bus names them) whose work comes after that of all others, with their order: 1, 2, ...
    reserve: calls of max_in_flight that later ranks leave free for rank 0.
    max_background: calls of later ranks while there is work of rank 0; None: no such bound.
    max_buffered, max_buffered_bytes: a partition with this much in hand, outputs included, is paused, and resumed at
        half. What is committed ahead of a slow record is not in hand; that is bounded by the watermark's SPAN. No call
        begins while max_buffered_bytes of outputs wait for a commit.
    max_poll_records: records of one poll.
    max_commit_bytes: outputs of one commit, unless those of a single call are more.
    commit_interval: calls that finish within this time share a commit while others are in hand.
    commit_timeout: a commit that takes longer has failed.
    drain_timeout: time for calls in progress, and again for their commit, when a partition is given up.
    stall_timeout: when no commit succeeds for this long, although something is done, or although records wait and no
        call is under way or waits for a place, the engine ends with StalledError.
    reopen_delay: between attempts to open a writer; five times as long after being fenced.
    max_poll_gap: a process that has not polled for longer, such as one that was suspended, begins no call until a
        commit has shown that the partition is still its own.
    """

    max_batch: int = 2000
    max_batch_bytes: int = 4 * 2**20
    max_in_flight: int = 64
    ranks: Mapping[str, int] = {}
    reserve: int = 0
    max_background: int | None = None
    max_buffered: int = 8000
    max_buffered_bytes: int = 64 * 2**20
    max_poll_records: int = 8000
    max_commit_bytes: int = 32 * 2**20
    commit_interval: float = 0.1
    commit_timeout: float = 30.0
    drain_timeout: float = 6.0
    stall_timeout: float = 300.0
    reopen_delay: float = 1.0
    max_poll_gap: float = 10.0


def admission_of(limits: Limits) -> PriorityAdmission:
    """The admission of calls by these limits."""
    ranks = 1 + max(limits.ranks.values(), default=0)
    return PriorityAdmission(limits.max_in_flight, ranks, limits.reserve, limits.max_background)


class Engine:
    """Runs one transform over the partitions that the bus assigns."""

    def __init__(
        self,
        bus: Bus,
        transform: Transform,
        *,
        stage: str,
        limits: Limits | None = None,
        retry: Retry | None = None,
        trace_sample_rate: float = 0.0,
        admission: PriorityAdmission | None = None,
    ) -> None:
        """trace_sample_rate: share, 0 to 1, of the records without a trace that begin one. admission: what engines that
        share their calls in flight have in common; default: one by the limits.
        """
        self.bus = bus
        self.transform = transform
        self.stage = stage
        self.limits = limits or Limits()
        self.retry = retry or Retry()
        self.admission = admission or admission_of(self.limits)
        self.committed = 0
        self.tracing = Tracing(stage, bus.group, trace_sample_rate)
        self._workers: dict[Partition, PartitionWorker] = {}
        self._polled_at = 0.0
        self._failure: asyncio.Future[None] | None = None

    @property
    def ready(self) -> bool:
        """Whether partitions are owned and each has a writer."""
        return bool(self._workers) and all(worker.ready for worker in self._workers.values())

    # ------------------------------------------------------------------ run

    async def run(self, stop: asyncio.Event, until: Mapping[Partition, int] | None = None) -> frozenset[Partition]:
        """Consume until `stop` is set or the ends are reached. Then commit calls in progress and leave the group.

        until: the offset at which each partition ends. The engine leaves records from there on, and all records of a
        partition without an end. The run ends when it owns partitions and each of them is committed to its end. It
        returns these partitions, or none when `stop` ended it. Another member of the group may own others.

        Raises DependencyError or StalledError when the process should end and be started again.
        """
        failure = self._failure = asyncio.get_running_loop().create_future()
        with self._observed():
            try:
                await unless_stopped(self.bus.start(self), stop)
                self._polled_at = time.monotonic()
                while not stop.is_set():
                    await self._poll(until)
                    if failure.done():
                        failure.result()
                    if until is not None and (ended := await self._ended(until)):
                        return ended
                return frozenset()
            finally:
                await self.revoked(list(self._workers))
                await self.bus.stop()
                await self.revoked(list(self._workers))

    async def _poll(self, until: Mapping[Partition, int] | None) -> None:
        polled = await self.bus.poll(_POLL_SECONDS, self.limits.max_poll_records)
        gap, self._polled_at = time.monotonic() - self._polled_at, time.monotonic()
        if gap > self.limits.max_poll_gap:
            log.warning("not polled for long, checking ownership gap=%.1fs", gap)
            for worker in self._workers.values():
                worker.doubt()
        for partition, records in polled.items():
            worker = self._worker(partition)
            if worker.backlog.rewound(records):
                self.reset(partition, records[0].offset)
            worker.feed(records if until is None else self._before_end(partition, records, until))
        for worker in list(self._workers.values()):
            worker.balance()
            if worker.backlog.ends_before_done(self.bus.end(worker.partition)):
                worker.cut_off(await self.bus.log_end(worker.partition))  # a fetch may have named an end that lags

    def _before_end(
        self, partition: Partition, records: Sequence[Record], until: Mapping[Partition, int]
    ) -> Sequence[Record]:
        end = until.get(partition, 0)
        if records[-1].offset < end:
            return records
        self.bus.pause(partition)
        return [record for record in records if record.offset < end]

    async def _ended(self, until: Mapping[Partition, int]) -> frozenset[Partition]:
        """The owned partitions when all of them are committed to their ends, else none."""
        # In this order: what was read by the time of these positions is committed if the workers are idle after that.
        owned, workers = frozenset(self.bus.assignment()), list(self._workers.values())
        for partition in owned:
            # A position passes the markers of transactions, which end a partition after its last record.
            position = await self.bus.position(partition)
            if position is None or position < until.get(partition, 0):
                return frozenset()
        unchanged = workers == list(self._workers.values())  # after a rebalance these positions say nothing
        return owned if unchanged and self.ready and all(worker.backlog.idle for worker in workers) else frozenset()

    def fail(self, error: Exception) -> None:
        """End `run` with this error."""
        if self._failure is not None and not self._failure.done():
            self._failure.set_exception(error)

    # ------------------------------------------------------------------ ownership

    def assigned(self, partitions: Iterable[Partition]) -> None:
        for partition in partitions:
            self._worker(partition)

    async def revoked(self, partitions: Iterable[Partition]) -> None:
        workers = [worker for p in partitions if (worker := self._workers.pop(p, None))]
        self.admission.owners -= len(workers)
        if workers:
            await asyncio.gather(*(worker.drain() for worker in workers))

    def reset(self, partition: Partition, offset: int) -> None:
        self.note_reset(partition, offset)
        self._worker(partition).reset(offset)

    def note_reset(self, partition: Partition, offset: int | None) -> None:
        """Log and count a reset."""
        log.error("the log was reset: it ended before the position partition=%s resumed_at=%s", partition, offset)
        metrics.RESETS.add(1, {metrics.TOPIC: partition.topic, metrics.GROUP: self.bus.group})

    def replace(self, worker: PartitionWorker, succession: Succession) -> None:
        """Replace a closed worker by a new one. Does nothing if the partition has been given up."""
        partition, reset_to = worker.partition, succession.reset_to
        if self._workers.get(partition) is worker:
            successor = self._start(partition, succession.max_batch)
            successor.take_over(succession.earlier)
            self.bus.resume(partition)  # the old worker may have paused it
            self.bus.seek(partition, succession.offset if reset_to is None else reset_to)
            if reset_to is not None:
                successor.reset(reset_to)
            successor.balance()  # what it has taken over may be enough

    def _worker(self, partition: Partition) -> PartitionWorker:
        # The bus may hand out records of a partition before it reports the assignment.
        return self._workers.get(partition) or self._start(partition)

    def _start(self, partition: Partition, max_batch: int | None = None) -> PartitionWorker:
        self.admission.owners += partition not in self._workers
        worker = self._workers[partition] = PartitionWorker(self, partition, max_batch)
        worker.start()
        return worker

    # ------------------------------------------------------------------ figures

    def _observed(self) -> contextlib.AbstractContextManager[None]:
        """Report what waits and what is under way as metrics."""

        def each(value: Callable[[PartitionWorker], float]) -> list[tuple[float, metrics.Attributes]]:
            return [(value(worker), self._attributes(worker.partition)) for worker in list(self._workers.values())]

        def in_flight() -> list[tuple[float, metrics.Attributes]]:
            return [(sum(worker.backlog.under_way for worker in list(self._workers.values())), {"stage": self.stage})]

        return metrics.observed(
            {
                metrics.LAG_RECORDS: lambda: each(lambda worker: worker.lag),
                metrics.LAG_SECONDS: lambda: each(lambda worker: worker.backlog.age),
                metrics.BUFFERED_BYTES: lambda: each(lambda worker: worker.backlog.size + worker.backlog.output_size),
                metrics.CALL_AGE: lambda: each(lambda worker: worker.backlog.call_age),
                metrics.IN_FLIGHT: in_flight,
            }
        )

    def _attributes(self, partition: Partition) -> metrics.Attributes:
        topic, number = partition
        return {metrics.TOPIC: topic, metrics.PARTITION: str(number), metrics.GROUP: self.bus.group}
