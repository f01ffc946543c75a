"""The engine: consume, transform, produce, exactly once.

    poll -> lane of the partition -> transform -> outputs + watermark + completed set, in one commit

A transform is an async function from records to outputs; it knows nothing of the bus. In batches the records of
one call finish together and in order; singly, each finishes when it is ready, and a slow one delays none behind it.

Invariants
- A record's outputs and the fact that it is done are committed together, or neither is.
- Polling never stops: a lane that has enough is paused, not waited for.
- A lane that failed to commit does not guess: it opens a new writer, reads the position, and drops what stands there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

import msgspec

from safeguard_streams.bus.admission import PriorityAdmission
from safeguard_streams.bus.dead_letters import dead_letter
from safeguard_streams.bus.interface import Bus, Committed, Output, Partition, Record, Writer
from safeguard_streams.bus.tracing import Tracing
from safeguard_streams.bus.watermark import Watermark
from safeguard_streams.errors import BusError, DependencyError, FencedError, RecordError, StalledError
from safeguard_streams.runtime import metrics

log = logging.getLogger(__name__)

Transform = Callable[[Sequence[Record]], Awaitable[Sequence[Output]]]
OnPartitionOpened = Callable[[Partition], Awaitable[None]]


class _Done(msgspec.Struct, frozen=True):
    """Records that are finished and not committed; oldest is the timestamp of the first of them, in ms since 1970."""

    offsets: list[int]
    outputs: Sequence[Output]
    oldest: int


async def _nothing_to_restore(_: Partition) -> None:
    return


class Retry(msgspec.Struct, frozen=True):
    """How often a failing record is tried, and how long to wait in between (seconds, doubling).

    Errors of `never` are not tried again.
    """

    attempts: int = 3
    backoff: float = 0.2
    longest: float = 5.0
    non_retryable: tuple[type[Exception], ...] = (RecordError,)

    def wait(self, failures: int) -> float:
        return float(min(self.longest, self.backoff * 2 ** (failures - 1)))


class Limits(msgspec.Struct, frozen=True):
    """Bounds of the engine; counts are records, times seconds.

    batch: most records of one transform call (1: singly, out of order).
    in_flight: most transform calls at once, over all partitions.
    rank: topics (as the bus names them) whose work comes after that of all others, and in which order: 1, 2, ...
    reserve: of in_flight, what work of rank 0 always finds free of later ranks.
    background: of in_flight, what later ranks take while there is work of rank 0; None: no such bound.
    buffer, buffer_bytes: a lane with this much unfinished is paused, and resumed at half.
    drain: what is under way when a partition is given up may take this long.
    stalled: nothing finished for so long although records wait: the process should end.
    reopen_pause: between tries to open a writer, longer after being fenced.
    """

    batch: int = 2000
    in_flight: int = 64
    rank: Mapping[str, int] = {}
    reserve: int = 0
    background: int | None = None
    buffer: int = 8000
    buffer_bytes: int = 64 * 2**20
    poll: int = 8000
    commit_interval: float = 0.1
    commit_timeout: float = 30.0
    drain: float = 6.0
    stalled: float = 300.0
    reopen_pause: float = 1.0


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
        on_partition_opened: OnPartitionOpened = _nothing_to_restore,
        trace_sample_rate: float = 0.0,
    ) -> None:
        """opened is called when a partition is owned and no earlier owner can write any more, before its first record: the
        place to restore what the transform knows of the partition. trace_sample_rate, 0 to 1: of records without a trace, how
        many begin one.
        """
        self.bus = bus
        self.transform = transform
        self.on_partition_opened = on_partition_opened
        self.stage = stage
        self.limits = limits or Limits()
        self.retry = retry or Retry()
        ranks = 1 + max(self.limits.rank.values(), default=0)
        self.admission = PriorityAdmission(self.limits.in_flight, ranks, self.limits.reserve, self.limits.background)
        self.committed = 0
        self.tracing = Tracing(stage, bus.group, trace_sample_rate)
        self._workers: dict[Partition, PartitionWorker] = {}
        self._failure: asyncio.Future[None] | None = None

    @property
    def ready(self) -> bool:
        """Whether partitions are owned and each can be written for."""
        return bool(self._workers) and all(worker.ready for worker in self._workers.values())

    @property
    def unfinished(self) -> int:
        """Records that were read and are not committed."""
        return sum(worker.unfinished for worker in self._workers.values())

    @property
    def idle(self) -> bool:
        """Whether all that was read is finished and committed."""
        return not self.unfinished

    async def run(self, stop: asyncio.Event) -> None:
        """Consume until `stop` is set; then finish what is under way, within limits.drain, commit it, leave the group.

        Raises DependencyError or StalledError when the process should end and be started again.
        """
        self._failure = asyncio.get_running_loop().create_future()
        with self._observed():
            await self._run(stop, self._failure)

    async def _run(self, stop: asyncio.Event, failure: asyncio.Future[None]) -> None:
        await self.bus.start(self)
        try:
            while not stop.is_set():
                for partition, records in (await self.bus.poll(0.1, self.limits.poll)).items():
                    self._worker(partition).feed(records)
                for worker in self._workers.values():
                    worker.balance()
                if failure.done():
                    failure.result()
        finally:
            await self.revoked(list(self._workers))
            await self.bus.stop()
            await self.revoked(list(self._workers))

    def _observed(self) -> contextlib.AbstractContextManager[None]:
        """Let what waits and what is under way be seen."""

        def each(value: Callable[[PartitionWorker], float]) -> list[tuple[float, metrics.Attributes]]:
            return [(value(worker), self._attributes(worker.partition)) for worker in list(self._workers.values())]

        def running() -> list[tuple[float, metrics.Attributes]]:
            return [(sum(worker.running for worker in list(self._workers.values())), {"stage": self.stage})]

        return metrics.observed(
            {
                metrics.LAG_RECORDS: lambda: each(lambda worker: worker.lag),
                metrics.LAG_SECONDS: lambda: each(lambda worker: worker.age),
                metrics.IN_FLIGHT: running,
            }
        )

    def _attributes(self, partition: Partition) -> metrics.Attributes:
        topic, number = partition
        return {metrics.TOPIC: topic, metrics.PARTITION: str(number), metrics.GROUP: self.bus.group}

    def fail(self, error: Exception) -> None:
        """End `run` with this error."""
        if self._failure is not None and not self._failure.done():
            self._failure.set_exception(error)

    def assigned(self, partitions: Iterable[Partition]) -> None:
        for partition in partitions:
            self._worker(partition)

    async def revoked(self, partitions: Iterable[Partition]) -> None:
        workers = [worker for p in partitions if (worker := self._workers.pop(p, None))]
        if workers:
            await asyncio.gather(*(worker.drain() for worker in workers))

    def start_over(self, partition: Partition, offset: int) -> None:
        """Another owner has been at work: forget what is in hand, and go on from the position it left."""
        self._workers[partition] = PartitionWorker(self, partition)
        self.bus.seek(partition, offset)

    def _worker(self, partition: Partition) -> PartitionWorker:
        # The bus may hand out records of a partition before it says that the partition is ours.
        if partition not in self._workers:
            self._workers[partition] = PartitionWorker(self, partition)
        return self._workers[partition]


class PartitionWorker:
    """One partition: what waits, what is under way, what is done but not committed."""

    def __init__(self, engine: Engine, partition: Partition) -> None:
        self.engine = engine
        self.limits = engine.limits
        self.partition = partition
        self.ready = False
        self._rank = engine.limits.rank.get(partition.topic, 0)
        self._writer: Writer | None = None
        self._committed = Committed(None, "")
        self._watermark = Watermark(None)
        self._buffer: deque[Record] = deque()
        self._bytes = 0
        self.running = 0
        self._results: list[_Done] = []
        self._calls: dict[asyncio.Task[None], int] = {}  # to the timestamp of the oldest record of each
        self._fed = asyncio.Event()
        self._finished = asyncio.Event()
        self._room = asyncio.Event()
        self._draining = False
        self._over = False
        self._paused = False
        self._moved = time.monotonic()
        self._dispatcher = asyncio.create_task(self._guard(self._open_and_dispatch()), name=f"dispatch {partition}")
        self._committer = asyncio.create_task(self._guard(self._commit_forever()), name=f"commit {partition}")

    # ------------------------------------------------------------------ input

    def feed(self, records: Sequence[Record]) -> None:
        """Take records as they were polled; never waits."""
        if not self.unfinished:
            self._moved = time.monotonic()
        self._buffer.extend(records)
        self._bytes += sum([len(r.value) for r in records if r.value is not None])
        self._fed.set()

    @property
    def unfinished(self) -> int:
        """Records read and not committed."""
        return len(self._buffer) + self._watermark.waiting

    @property
    def lag(self) -> int:
        """Records of the partition that are not finished, as far as its end is known."""
        end, position = self.engine.bus.end(self.partition), self._watermark.position
        return self.unfinished if end is None or position is None else max(0, end - position)

    @property
    def age(self) -> float:
        """Seconds since the oldest record that was read and is not finished was written."""
        oldest = [*self._calls.values(), *(done.oldest for done in self._results)]
        if not oldest and self._buffer:
            oldest = [self._buffer[0].timestamp]
        return max(0.0, time.time() - min(oldest) / 1000) if oldest else 0.0

    @property
    def _idle(self) -> bool:
        return not self._buffer and not self.running

    def balance(self) -> None:
        """Pause or resume the partition, and raise the alarm when nothing moves."""
        limits, unfinished = self.limits, self.unfinished
        if not self._paused and (unfinished >= limits.buffer or self._bytes >= limits.buffer_bytes):
            self._paused = True
            self.engine.bus.pause(self.partition)
        elif self._paused and unfinished <= limits.buffer // 2 and self._bytes <= limits.buffer_bytes // 2:
            self._paused = False
            self.engine.bus.resume(self.partition)
        still = time.monotonic() - self._moved
        if unfinished and still > limits.stalled:
            where = f"{self.partition.topic}[{self.partition.partition}]"
            self.engine.fail(StalledError(f"{where}: {unfinished} records wait and none finished for {still:.0f} s"))

    # ------------------------------------------------------------------ work

    async def _open_and_dispatch(self) -> None:
        self._committed = await self._open()
        await self.engine.on_partition_opened(self.partition)
        self.ready = True
        self._watermark = Watermark(*self._committed)
        while True:
            await self._fed.wait()
            self._fed.clear()
            while self._buffer:
                if not self._watermark.room(self._buffer[0].offset):
                    self._room.clear()
                    await self._room.wait()
                elif batch := self._next_batch():
                    await self._start(batch)

    def _next_batch(self) -> list[Record]:
        watermark, buffer = self._watermark, self._buffer
        records: list[Record] = []
        while buffer and len(records) < self.limits.batch and watermark.room(buffer[0].offset):
            records.append(buffer.popleft())
        self._bytes -= sum([len(r.value) for r in records if r.value is not None])
        return [record for record in records if watermark.take(record.offset)]

    async def _start(self, batch: list[Record]) -> None:
        await self.engine.admission.acquire(self._rank)
        self.running += 1
        call = asyncio.create_task(self._guard(self._call(batch)))
        self._calls[call] = batch[0].timestamp
        call.add_done_callback(self._ended)
        if self.limits.batch > 1:
            await asyncio.wait({call})  # in order: the next batch starts when this one is done

    async def _call(self, records: list[Record]) -> None:
        started = time.perf_counter()
        with self.engine.tracing.processing(records) as handed:
            outputs = await self._isolated(handed)
        metrics.PROCESSED.record(time.perf_counter() - started, {"stage": self.engine.stage})
        self._results.append(_Done([r.offset for r in records], outputs, records[0].timestamp))

    def _ended(self, call: asyncio.Task[None]) -> None:
        """However it ended, also when it was cancelled before it began."""
        self._calls.pop(call, None)
        self.running -= 1
        self.engine.admission.release(self._rank)
        self._finished.set()

    async def _isolated(self, records: Sequence[Record]) -> Sequence[Output]:
        """The transform's outputs; a record at fault costs itself alone: a failing batch is halved until it is found."""
        failures = 0
        while True:
            try:
                return await self.engine.transform(records)
            except DependencyError:
                raise
            except Exception as error:
                failures += 1
                if len(records) > 1:
                    half = len(records) // 2
                    return [*await self._isolated(records[:half]), *await self._isolated(records[half:])]
                retry = self.engine.retry
                if isinstance(error, retry.non_retryable) or failures >= retry.attempts:
                    return [dead_letter(records[0], error, stage=self.engine.stage, attempts=failures)]
                await asyncio.sleep(retry.wait(failures))

    # ------------------------------------------------------------------ commit

    async def _open(self) -> Committed:
        """Become the partition's only writer and learn where it stands; tried until it works."""
        while True:
            writer = None
            try:
                writer = await self.engine.bus.writer(self.partition)
                committed = await writer.committed()
                self._writer = writer
                return committed
            except BusError as error:
                log.warning("%s: cannot open a writer yet: %s", self.partition, error)
            finally:
                if writer is not None and writer is not self._writer:
                    await writer.close()
            await asyncio.sleep(self.limits.reopen_pause)

    async def _commit_forever(self) -> None:
        last = 0.0
        while not self._over and not (self._draining and not self.running and not self._results):
            await self._finished.wait()
            # At once when nothing else waits; under load what finishes within the interval shares a commit.
            pause = last + self.limits.commit_interval - time.monotonic()
            if pause > 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        while not self._idle and not self._draining:
                            self._finished.clear()
                            await self._finished.wait()
            self._finished.clear()
            if self._results:
                await self._commit()
                last = time.monotonic()

    async def _commit(self) -> None:
        results, self._results = self._results, []
        self._watermark.complete([offset for done in results for offset in done.offsets])
        position = self._watermark.position
        assert position is not None
        assert self._writer is not None
        wanted = Committed(position, self._watermark.metadata)
        outputs = [output for done in results for output in done.outputs]
        try:
            async with asyncio.timeout(self.limits.commit_timeout):
                await self._writer.commit(outputs, position, wanted.metadata)
        except (BusError, TimeoutError) as error:
            await self._recover(results, wanted, error)
            return
        self._done(results, wanted)

    def _done(self, results: list[_Done], committed: Committed) -> None:
        self._committed = committed
        self.engine.committed += sum(len(done.offsets) for done in results)
        self._count(results)
        self._moved = time.monotonic()
        self._room.set()

    def _count(self, results: list[_Done]) -> None:
        """What was committed, for those who watch."""
        topic, stage, moment = self.partition.topic, self.engine.stage, time.time()
        consumed = sum(len(done.offsets) for done in results)
        metrics.CONSUMED.add(consumed, {metrics.TOPIC: topic, metrics.GROUP: self.engine.bus.group})
        metrics.COMMITS.add(1, {"stage": stage, "outcome": "done"})
        for name, count in Counter(output.topic for done in results for output in done.outputs).items():
            metrics.SENT.add(count, {metrics.TOPIC: name})
        for done in results:
            metrics.DELAY.record(max(0.0, moment - done.oldest / 1000), {"stage": stage, metrics.TOPIC: topic})

    async def _recover(self, results: list[_Done], wanted: Committed, error: Exception) -> None:
        """Whether the commit took place is not known here; the position says. Work in hand is kept, not repeated."""
        log.warning("%s: commit failed (%s), opening a new writer", self.partition, error or type(error).__name__)
        fenced = isinstance(error, FencedError)
        metrics.COMMITS.add(1, {"stage": self.engine.stage, "outcome": "fenced" if fenced else "failed"})
        self.ready = False
        if self._writer is not None:
            await self._writer.close()
            self._writer = None
        # A fenced process learns from its next heartbeats whether the partition is still its own.
        await asyncio.sleep(self.limits.reopen_pause * (5 if fenced else 1))
        found = await self._open()
        self.ready = True
        if found == wanted:
            self._done(results, wanted)
        elif found == self._committed:
            self._results = [*results, *self._results]
            self._finished.set()
        else:
            log.warning("%s: another owner went on to %s, starting over there", self.partition, found.offset)
            await self.drop()
            if not self._draining:
                self.engine.start_over(self.partition, found.offset or 0)

    # ------------------------------------------------------------------ end

    async def drain(self) -> None:
        """Give the partition up: nothing new is begun, what is under way may finish, what is done is committed."""
        self._draining = True
        self._dispatcher.cancel()
        self._buffer.clear()  # not begun: the next owner reads it
        if self._calls:
            await asyncio.wait(self._calls, timeout=self.limits.drain)
        for call in self._calls:
            call.cancel()
        self._finished.set()
        if self._writer is not None:
            await asyncio.wait({self._committer}, timeout=self.limits.drain)
        await self.drop()

    async def drop(self) -> None:
        """Stop at once; what is not committed is left to the next owner, and nothing is committed after this."""
        self._over = True
        self._results.clear()
        current = asyncio.current_task()
        for task in [self._dispatcher, self._committer, *self._calls]:
            if task is not current:
                task.cancel()
        if self._writer is not None:
            await self._writer.close()

    async def _guard(self, work: Awaitable[None]) -> None:
        try:
            await work
        except Exception as error:
            self.engine.fail(error)
