"""Processes the records of one input partition and commits those that are finished.

                 a commit failed
    OPENING --> RUNNING <--------> RECOVERING, FENCED
       |           |                |      |
       +-----------+----------------+      | another owner
                   | given up              | went on
                   v                       v
               DRAINING ------------> CLOSED

Two tasks do the work. The dispatcher opens the partition, then begins calls of the transform as records, room below the
watermark and admission allow. The committer commits finished calls. After a failed commit it opens a new writer and
reads the position, which says whether that commit took place. A fenced worker begins no call until then, because
another owner may already process its records. `Backlog` keeps the accounts of the records, and
`OwnedWriter` opens and replaces the writer.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Sequence
from enum import Enum, auto
from typing import TYPE_CHECKING

from safeguard_streams.bus.backlog import Backlog, FinishedCall
from safeguard_streams.bus.dead_letters import dead_letter, set_apart
from safeguard_streams.bus.interface import Committed, Output, Partition, Record
from safeguard_streams.bus.owned_writer import OwnedWriter
from safeguard_streams.bus.timestamps import age
from safeguard_streams.errors import BusError, DependencyError, FencedError, StalledError
from safeguard_streams.runtime import metrics

if TYPE_CHECKING:
    from safeguard_streams.bus.engine import Engine

log = logging.getLogger(__name__)


class WorkerState(Enum):
    """How far a partition worker is; DRAINING and CLOSED are never left for an earlier state."""

    OPENING = auto()
    RUNNING = auto()
    RECOVERING = auto()  # the outcome of a commit is unknown; calls go on
    FENCED = auto()  # another writer was opened; no call begins
    DRAINING = auto()
    CLOSED = auto()


class PartitionWorker:
    """Processes and commits one partition for one ownership: until it is given up or another owner overtakes it."""

    _dispatcher: asyncio.Task[None]
    _committer: asyncio.Task[None]

    def __init__(self, engine: Engine, partition: Partition) -> None:
        limits = engine.limits
        self.partition = partition
        self.state = WorkerState.OPENING
        self.backlog = Backlog()
        self._engine = engine
        self._limits = limits
        self._rank = limits.ranks.get(partition.topic, 0)
        self._writer = OwnedWriter(
            engine.bus, partition, commit_timeout=limits.commit_timeout, reopen_delay=limits.reopen_delay
        )
        self._committed = Committed(None, "")
        self._committing = False
        self._paused = False
        self._progressed_at = time.monotonic()
        self._fed = asyncio.Event()
        self._finished = asyncio.Event()
        self._room = asyncio.Event()

    def start(self) -> None:
        """Begin to open the partition; records may be fed from now on."""
        self._dispatcher = asyncio.create_task(self._guard(self._dispatch()), name=f"dispatch {self.partition}")
        self._committer = asyncio.create_task(self._guard(self._commit_until_closed()), name=f"commit {self.partition}")

    @property
    def ready(self) -> bool:
        """Whether the worker can process and commit."""
        return self.state is WorkerState.RUNNING

    @property
    def idle(self) -> bool:
        """Whether everything that was read is committed.

        The backlog alone cannot tell: its watermark passes the records of a commit before that commit has succeeded.
        """
        return not (self.backlog.unfinished or self.backlog.has_finished or self._committing)

    @property
    def lag(self) -> int:
        """Records of the partition that are not done; of an unknown end, those that are read."""
        return self.backlog.lag(self._engine.bus.end(self.partition))

    @property
    def _ending(self) -> bool:
        return self.state in (WorkerState.DRAINING, WorkerState.CLOSED)

    # ------------------------------------------------------------------ input

    def feed(self, records: Sequence[Record]) -> None:
        """Take polled records; never waits."""
        if not self.backlog.unfinished:
            self._progressed_at = time.monotonic()
        self.backlog.add(records)
        self._fed.set()

    def balance(self) -> None:
        """Pause or resume the partition by its unfinished records, and end the engine when it makes no progress."""
        limits, unfinished, size = self._limits, self.backlog.unfinished, self.backlog.waiting_bytes
        if not self._paused and (unfinished >= limits.max_buffered or size >= limits.max_buffered_bytes):
            self._paused = True
            self._engine.bus.pause(self.partition)
        elif self._paused and unfinished <= limits.max_buffered // 2 and size <= limits.max_buffered_bytes // 2:
            self._paused = False
            self._engine.bus.resume(self.partition)
        still = time.monotonic() - self._progressed_at
        if unfinished and still > limits.stall_timeout:
            self._engine.fail(
                StalledError(f"{self.partition}: {unfinished} records wait and none finished for {still:.0f} s")
            )

    # ------------------------------------------------------------------ dispatcher

    async def _dispatch(self) -> None:
        self._committed = await self._writer.open()
        await self._engine.transform.opened(self.partition)
        self.backlog.start_at(self._committed)
        self.state = WorkerState.RUNNING
        while True:
            await self._fed.wait()
            self._fed.clear()
            while self.backlog.waiting:
                if self.backlog.blocked or self.state is WorkerState.FENCED:
                    await self._wait_for_room()
                elif batch := self.backlog.next_batch(self._limits.max_batch):
                    await self._begin(batch)

    async def _begin(self, batch: list[Record]) -> None:
        await self._admit()
        call = asyncio.create_task(self._guard(self._call(batch)))
        self.backlog.begin(call, batch)
        call.add_done_callback(self._ended)
        if self._limits.max_batch > 1:
            await asyncio.wait({call})  # in order: the next batch begins when this one is done

    async def _admit(self) -> None:
        """Acquire a place for one call; a fenced worker holds none while it waits."""
        await self._engine.admission.acquire(self._rank)
        while self.state is WorkerState.FENCED:
            self._engine.admission.release(self._rank)
            await self._wait_for_room()
            await self._engine.admission.acquire(self._rank)

    async def _wait_for_room(self) -> None:
        self._room.clear()
        await self._room.wait()

    async def _call(self, records: list[Record]) -> None:
        started = time.perf_counter()
        readable, outputs = set_apart(records, self._engine.stage)
        if readable:
            with self._engine.tracing.processing(readable) as handed:
                outputs += await self._isolated(handed)
        metrics.PROCESSED.record(time.perf_counter() - started, {"stage": self._engine.stage})
        self.backlog.finish(records, outputs)

    def _ended(self, call: asyncio.Task[None]) -> None:
        """Called however a call ended, also when it was cancelled before it began."""
        self.backlog.end(call)
        self._engine.admission.release(self._rank)
        self._finished.set()

    async def _isolated(self, records: Sequence[Record]) -> Sequence[Output]:
        """The transform's outputs. Halves a failing batch until the failing record is alone, then retries it."""
        failures = 0
        while True:
            try:
                return await self._engine.transform.process(records)
            except DependencyError:
                raise
            except Exception as error:
                failures += 1
                if len(records) > 1:
                    half = len(records) // 2
                    return [*await self._isolated(records[:half]), *await self._isolated(records[half:])]
                retry = self._engine.retry
                if isinstance(error, retry.non_retryable) or failures >= retry.max_attempts:
                    return [dead_letter(records[0], error, stage=self._engine.stage, attempts=failures)]
                await asyncio.sleep(retry.delay_after(failures))

    # ------------------------------------------------------------------ committer

    async def _commit_until_closed(self) -> None:
        committed_at = 0.0
        while self._may_commit_more():
            await self._finished.wait()
            await self._gather_until(committed_at + self._limits.commit_interval)
            self._finished.clear()
            if self.backlog.has_finished:
                await self._commit()
                committed_at = time.monotonic()

    def _may_commit_more(self) -> bool:
        if self.state is WorkerState.DRAINING:
            return bool(self.backlog.calls) or self.backlog.has_finished
        return self.state is not WorkerState.CLOSED

    async def _gather_until(self, moment: float) -> None:
        """Let calls that finish before `moment` share a commit; return at once when nothing else is in hand."""
        pause = moment - time.monotonic()
        if pause > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    while not self.backlog.idle and not self._ending:
                        self._finished.clear()
                        await self._finished.wait()

    async def _commit(self) -> None:
        calls = self.backlog.collect()
        position = self.backlog.to_commit
        outputs = [output for call in calls for output in call.outputs]
        self._committing = True
        try:
            await self._writer.commit(outputs, position)
        except (BusError, TimeoutError) as error:
            await self._recover(calls, position, error)
        else:
            self._mark_committed(calls, position)
        finally:
            self._committing = False

    def _mark_committed(self, calls: list[FinishedCall], position: Committed) -> None:
        self._committed = position
        self._engine.committed += sum(len(call.offsets) for call in calls)
        self._measure(calls)
        self._progressed_at = time.monotonic()
        self._room.set()

    def _measure(self, calls: list[FinishedCall]) -> None:
        """Count what was committed."""
        topic, stage, moment = self.partition.topic, self._engine.stage, time.time()
        consumed = sum(len(call.offsets) for call in calls)
        metrics.CONSUMED.add(consumed, {metrics.TOPIC: topic, metrics.GROUP: self._engine.bus.group})
        metrics.COMMITS.add(1, {"stage": stage, "outcome": "done"})
        for name, count in Counter(output.topic for call in calls for output in call.outputs).items():
            metrics.SENT.add(count, {metrics.TOPIC: name})
        for call in calls:
            metrics.DELAY.record(age(call.oldest, moment), {"stage": stage, metrics.TOPIC: topic})

    async def _recover(self, calls: list[FinishedCall], requested: Committed, error: Exception) -> None:
        """Learn from the position whether a failed commit took place. Finished calls are kept, not repeated."""
        fenced = isinstance(error, FencedError)
        log.warning(
            "commit failed, opening a new writer partition=%s error=%s", self.partition, error or type(error).__name__
        )
        metrics.COMMITS.add(1, {"stage": self._engine.stage, "outcome": "fenced" if fenced else "failed"})
        recovering = WorkerState.FENCED if fenced else WorkerState.RECOVERING
        self._change(WorkerState.RUNNING, recovering)
        committed = await self._writer.reopen(fenced=fenced)
        self._change(recovering, WorkerState.RUNNING)
        self._room.set()
        if committed == requested:
            self._mark_committed(calls, requested)
        elif committed == self._committed:
            self.backlog.put_back(calls)
            self._finished.set()
        else:
            log.warning("partition overtaken by another owner partition=%s offset=%s", self.partition, committed.offset)
            await self.close()
            self._engine.replace(self, committed.offset or 0)

    def _change(self, before: WorkerState, after: WorkerState) -> None:
        """Change the state, unless the partition has been given up."""
        if self.state is before:
            self.state = after

    # ------------------------------------------------------------------ end

    async def drain(self) -> None:
        """Give the partition up: begin no call, let those under way finish, commit them.

        Waits at most drain_timeout for the calls, and as long again for the commit.
        """
        if self.state is not WorkerState.CLOSED:
            self.state = WorkerState.DRAINING
        self._dispatcher.cancel()
        self.backlog.drop_waiting()  # not begun: the next owner reads it
        if self.backlog.calls:
            await asyncio.wait(self.backlog.calls, timeout=self._limits.drain_timeout)
        for call in self.backlog.calls:
            call.cancel()
        self._finished.set()
        if self._writer.is_open:
            await asyncio.wait({self._committer}, timeout=self._limits.drain_timeout)
        await self.close()

    async def close(self) -> None:
        """Stop at once. The next owner repeats what is not committed; nothing is committed here after this."""
        first = self.state is not WorkerState.CLOSED
        self.state = WorkerState.CLOSED
        self.backlog.drop_finished()
        current = asyncio.current_task()
        for task in [self._dispatcher, self._committer, *self.backlog.calls]:
            if task is not current:
                task.cancel()
        if first:
            self._close_transform()  # before any wait, hence before the next ownership begins
        await self._writer.close()

    def _close_transform(self) -> None:
        try:
            self._engine.transform.closed(self.partition)
        except Exception as error:
            self._engine.fail(error)

    async def _guard(self, work: Awaitable[None]) -> None:
        try:
            await work
        except Exception as error:
            self._engine.fail(error)
