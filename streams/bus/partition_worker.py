"""Processes the records of one input partition and commits those that are finished.

                 a commit failed
    OPENING --> RUNNING <--------> RECOVERING, FENCED
       |           |                |      |
       +-----------+----------------+      | another owner
                   | given up              | went on
                   v                       v
               DRAINING ------------> CLOSED

Two tasks do the work. The dispatcher opens the partition, then begins calls of the transform as records, room and
admission allow. The committer commits finished calls. After a failed commit it opens a new writer and reads the
position, which says whether that commit took place. A fenced worker begins no call until then, because another owner
may already process its records. `Backlog` keeps the accounts of the records, and `OwnedWriter` opens and replaces the
writer.

A commit that failed is tried again in halves, and grows again as commits succeed. Outputs that are refused are thereby
traced to one record, which gets a dead letter instead. Only processing them again tells the records of one call apart:
the worker is then replaced by one that begins with half the batch.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from enum import Enum, auto
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from safeguard_streams.bus.backlog import Backlog, Commit, Work
from safeguard_streams.bus.dead_letters import dead_letter, set_apart
from safeguard_streams.bus.interface import Committed, Output, Partition, Record
from safeguard_streams.bus.owned_writer import OwnedWriter
from safeguard_streams.bus.timestamps import age
from safeguard_streams.bus.watermark import log_tag
from safeguard_streams.contract import topics
from safeguard_streams.errors import (
    BusError,
    ConfigurationError,
    DependencyError,
    FencedError,
    OutputRefusedError,
    StalledError,
)
from safeguard_streams.runtime import metrics

if TYPE_CHECKING:
    from safeguard_streams.bus.engine import Engine

log = logging.getLogger(__name__)

_WHOLE = 2**30  # calls of a commit: no bound


class WorkerState(Enum):
    """How far a partition worker is; DRAINING and CLOSED are never left for an earlier state."""

    OPENING = auto()
    RUNNING = auto()
    RECOVERING = auto()  # the outcome of a commit is unknown; calls go on
    FENCED = auto()  # another process may own the partition; no call begins
    DRAINING = auto()
    CLOSED = auto()


class Succession(msgspec.Struct, frozen=True):
    """What a worker leaves to the one that replaces it in the same process.

    offset: the position that is committed now. max_batch: records of the first call; None: without this caution.
    reset_to: where the log was reset, while that is not committed. earlier: records of earlier logs, which cannot be
    read again.
    """

    offset: int
    max_batch: int | None = None
    reset_to: int | None = None
    earlier: Sequence[Record] = ()


class PartitionWorker:
    """Processes and commits one partition for one ownership: until it is given up or another owner overtakes it."""

    _dispatcher: asyncio.Task[None]
    _committer: asyncio.Task[None]

    def __init__(self, engine: Engine, partition: Partition, max_batch: int | None = None) -> None:
        """max_batch: records of the first call, and each commit holds one call at first; both grow as commits succeed.
        None: without this caution.
        """
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
        self._max_batch = max_batch or limits.max_batch
        self._max_calls = _WHOLE if max_batch is None else 1  # of one commit
        self._calls: set[asyncio.Task[None]] = set()
        self._opened = False
        self._paused = False
        self._moved_at = time.monotonic()
        self._slow = False  # a call has been in progress for longer than stall_timeout
        self._admitting = False  # a call waits for a place
        self._fed = asyncio.Event()
        self._finished = asyncio.Event()
        self._room = asyncio.Event()

    def start(self) -> None:
        """Begin to open the partition; records may be fed from now on."""
        self._dispatcher = asyncio.create_task(self._guard(self._dispatch), name=f"dispatch {self.partition}")
        self._committer = asyncio.create_task(self._guard(self._commit_until_closed), name=f"commit {self.partition}")

    @property
    def ready(self) -> bool:
        """Whether the worker can process and commit."""
        return self.state is WorkerState.RUNNING

    @property
    def lag(self) -> int:
        """Records of the partition that are not committed; of an unknown end, those that are read."""
        return self.backlog.lag(self._engine.bus.end(self.partition))

    @property
    def _ending(self) -> bool:
        return self.state in (WorkerState.DRAINING, WorkerState.CLOSED)

    # ------------------------------------------------------------------ input

    def feed(self, records: Sequence[Record]) -> None:
        """Take polled records; never waits."""
        if records:
            self.backlog.add(records)
            self._fed.set()

    def take_over(self, records: Sequence[Record]) -> None:
        """Begin with records of earlier logs, which an earlier worker of this process had in hand."""
        self.backlog.take_over(records)
        self._fed.set()

    def reset(self, offset: int) -> None:
        """Go on at an offset of a new log, and commit that. What was read of the earlier log is finished."""
        self.backlog.reset(offset)
        if not self._paused:
            self._engine.bus.resume(self.partition)  # the end of a run may have paused it
        self._room.set()
        self._finished.set()

    def cut_off(self, end: int | None) -> None:
        """Forget what an earlier owner did beyond the end of the log, because other records come there."""
        if self.state is WorkerState.RUNNING and self.backlog.forget_beyond(end):
            self._engine.note_reset(self.partition, self.backlog.reset_to)
            self._finished.set()

    def doubt(self) -> None:
        """Begin no call until a commit has shown that the partition is still owned."""
        self._moved_at = time.monotonic()
        if self.state is WorkerState.RUNNING and self.backlog.position is not None:
            self.state = WorkerState.FENCED
            self.backlog.commit_due = True
            self._finished.set()

    def balance(self) -> None:
        """Pause or resume the partition by what is in hand, and end the engine when it makes no progress."""
        limits, records = self._limits, self.backlog.records
        size = self.backlog.size + self.backlog.output_size
        if not self._paused and (records >= limits.max_buffered or size >= limits.max_buffered_bytes):
            self._paused = True
            self._engine.bus.pause(self.partition)
        elif self._paused and records <= limits.max_buffered // 2 and size <= limits.max_buffered_bytes // 2:
            self._paused = False
            self._engine.bus.resume(self.partition)
        self._check_progress()

    def _check_progress(self) -> None:
        """End the engine when something is done and no commit succeeds, or when records wait and no call is under way.

        A call that takes long is no stall: others go on beside it. Nor is a wait for a place that such calls take.
        """
        backlog, moment, timeout = self.backlog, time.monotonic(), self._limits.stall_timeout
        if not backlog.uncommitted and (backlog.under_way or self._admitting or not backlog.records):
            self._moved_at = moment
        still = moment - self._moved_at
        if still > timeout:
            problem = "none was committed" if backlog.uncommitted else "none was begun"
            self._engine.fail(
                StalledError(f"{self.partition}: {backlog.records} records wait and {problem} for {still:.0f} s")
            )
        slow = backlog.call_age > timeout
        if slow and not self._slow:
            log.warning("call in progress for long partition=%s age=%.0fs", self.partition, backlog.call_age)
        self._slow = slow

    # ------------------------------------------------------------------ dispatcher

    async def _dispatch(self) -> None:
        self._committed = await self._writer.open()
        await self._engine.transform.opened(self.partition)
        # A completed set may lie beyond the end of a log that was cut off, although the position does not.
        end = await self._engine.bus.log_end(self.partition) if self._committed.metadata else None
        if self.backlog.start_at(self._committed, end):
            self._engine.note_reset(self.partition, self._committed.offset)
        self._opened = True
        self._finished.set()  # a reset may be to commit already
        self.state = WorkerState.RUNNING
        while True:
            await self._fed.wait()
            self._fed.clear()
            while self.backlog.waiting:
                await self._begin_next()

    async def _begin_next(self) -> None:
        """Begin one call as soon as it may begin; a worker that may begin none holds no place while it waits."""
        while not self._may_begin:
            self._room.clear()
            await self._room.wait()
        self._admitting = True
        await self._engine.admission.acquire(self._rank, owner=self.partition)
        self._admitting = False
        work = self.backlog.begin(self._max_batch, self._limits.max_batch_bytes) if self._may_begin else None
        if work is None:
            self._engine.admission.release(self._rank, owner=self.partition)
            self._finished.set()
            return
        call = asyncio.create_task(self._guard(partial(self._call, work)))
        self._calls.add(call)
        call.add_done_callback(partial(self._ended, work))
        if self._limits.max_batch > 1:
            await asyncio.wait({call})  # in order: the next batch begins when this one is done

    @property
    def _may_begin(self) -> bool:
        """Whether the watermark, and the bytes of outputs that wait for a commit, leave room for a call."""
        fenced = self.state is WorkerState.FENCED
        return not (fenced or self.backlog.blocked or self.backlog.output_size >= self._limits.max_buffered_bytes)

    async def _call(self, work: Work) -> None:
        started = time.perf_counter()
        readable, outputs = set_apart(work.records, self._engine.stage)
        if readable:
            with self._engine.tracing.processing(readable) as handed:
                outputs += await self._isolated(handed)
        metrics.PROCESSED.record(time.perf_counter() - started, {"stage": self._engine.stage})
        self.backlog.finish(work, outputs)

    def _ended(self, work: Work, call: asyncio.Task[None]) -> None:
        """Called however a call ended, also when it was cancelled before it began."""
        self._calls.discard(call)
        self.backlog.abandon(work)
        self._engine.admission.release(self._rank, owner=self.partition)
        self._finished.set()

    async def _isolated(self, records: Sequence[Record]) -> Sequence[Output]:
        """The transform's outputs. Halves a failing batch until the failing record is alone, then retries it."""
        failures = 0
        while True:
            try:
                return await self._processed(records)
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

    async def _processed(self, records: Sequence[Record]) -> Sequence[Output]:
        try:
            return await self._engine.transform.process(records)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise RuntimeError("cancelled within the stage") from error  # a failure like any other: nobody gave it up

    # ------------------------------------------------------------------ committer

    async def _commit_until_closed(self) -> None:
        committed_at = 0.0
        while self._may_commit_more():
            await self._finished.wait()
            await self._gather_until(committed_at + self._limits.commit_interval)
            self._finished.clear()
            if self._has_done:
                if await self._commit():
                    committed_at = time.monotonic()
                else:
                    self._finished.set()

    def _may_commit_more(self) -> bool:
        if self.state is WorkerState.DRAINING:
            return bool(self._calls) or self._has_done
        return self.state is not WorkerState.CLOSED

    @property
    def _has_done(self) -> bool:
        return self._opened and self.backlog.has_done

    async def _gather_until(self, moment: float) -> None:
        """Let calls that finish before `moment` share a commit; return at once when nothing else is in hand."""
        pause = moment - time.monotonic()
        if pause > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    while (self.backlog.waiting or self.backlog.under_way) and not self._ending:
                        self._finished.clear()
                        await self._finished.wait()

    async def _commit(self) -> bool:
        """Commit what is done, as far as the bounds of a commit allow. Returns whether nothing was left."""
        commit = self.backlog.collect(self._max_calls, self._limits.max_commit_bytes)
        whole = not self.backlog.has_done
        try:
            await self._writer.commit(commit.outputs, commit.position)
        except (BusError, TimeoutError) as error:
            await self._recover(commit, error)
            return False
        self._mark_committed(commit)
        return whole

    def _mark_committed(self, commit: Commit) -> None:
        self.backlog.committed(commit)
        self._committed = commit.position
        self._moved_at = time.monotonic()
        self._max_calls = min(2 * self._max_calls, _WHOLE)
        self._max_batch = min(2 * self._max_batch, self._limits.max_batch)
        self._engine.committed += commit.records
        self._measure(commit)
        self._change(WorkerState.FENCED, WorkerState.RUNNING)
        self._room.set()

    def _measure(self, commit: Commit) -> None:
        """Count what was committed."""
        topic, stage, moment = self.partition.topic, self._engine.stage, time.time()
        metrics.CONSUMED.add(commit.records, {metrics.TOPIC: topic, metrics.GROUP: self._engine.bus.group})
        metrics.COMMITS.add(1, {"stage": stage, "outcome": "done"})
        for name, count in Counter(output.topic for work in commit.works for output in work.outputs).items():
            metrics.SENT.add(count, {metrics.TOPIC: name})
        for work in commit.works:
            metrics.DELAY.record(age(work.oldest, moment), {"stage": stage, metrics.TOPIC: topic})

    async def _recover(self, commit: Commit, error: Exception) -> None:
        """Learn from the position whether a failed commit took place. Finished calls are kept, not repeated."""
        fenced = isinstance(error, FencedError)
        outcome = "fenced" if fenced else "refused" if isinstance(error, OutputRefusedError) else "failed"
        log.warning(
            "commit failed, opening a new writer partition=%s outcome=%s calls=%d bytes=%d error=%s",
            self.partition, outcome, len(commit.works), commit.output_size, error or type(error).__name__,
        )  # fmt: skip
        metrics.COMMITS.add(1, {"stage": self._engine.stage, "outcome": outcome})
        recovering = WorkerState.FENCED if fenced else WorkerState.RECOVERING
        self._change(WorkerState.RUNNING, recovering)
        committed = await self._writer.reopen(error)
        self._change(recovering, WorkerState.RUNNING)
        self._room.set()
        if committed == self._committed:
            self.backlog.put_back(commit)
            await self._shrink(commit, error)
        elif committed == commit.position:
            self._mark_committed(commit)
        else:
            log.warning("partition overtaken by another owner partition=%s offset=%s", self.partition, committed.offset)
            await self.close()
            same_log = log_tag(committed.metadata) == log_tag(self._committed.metadata)
            # An owner that went on in the earlier log does not know of the reset.
            reset_to = self.backlog.reset_to if same_log else None
            self._engine.replace(self, Succession(committed.offset or 0, reset_to=reset_to))

    async def _shrink(self, commit: Commit, error: Exception) -> None:
        """Try less than this commit, which did not take place, next time."""
        works, refused = commit.works, isinstance(error, OutputRefusedError)
        if refused and not works:
            raise ConfigurationError(f"{topics.POSITIONS} refuses the position of {self.partition}; {error}")
        if len(works) > 1:
            self._max_calls = len(works) // 2
        elif refused or commit.output_size > self._limits.max_commit_bytes:  # an empty commit is neither
            (work,) = works
            if len(work.records) > 1:
                await self._restart(len(work.records) // 2)
            elif refused:
                self._answer_refused(work, error)

    def _answer_refused(self, work: Work, error: Exception) -> None:
        """Give a record whose outputs are refused a dead letter instead; if that is refused, too, one without value."""
        (record,) = work.records
        work.refusals += 1
        if work.refusals > 2:
            raise ConfigurationError(
                f"{topics.DEAD_LETTERS} refuses even a letter of {work.output_size} bytes: "
                f"raise max.message.bytes of the topic; {error}"
            )
        whole = work.refusals == 1
        log.warning(
            "outputs refused, writing a dead letter partition=%s offset=%d bytes=%d whole=%s",
            self.partition, record.offset, work.output_size, whole,
        )  # fmt: skip
        letter = dead_letter(record, error, stage=self._engine.stage, attempts=1, whole=whole)
        self.backlog.answer(work, [letter])

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
        if self._calls:
            await asyncio.wait(self._calls, timeout=self._limits.drain_timeout)
        for call in self._calls:
            call.cancel()
        self._finished.set()
        if self._writer.is_open:
            await asyncio.wait({self._committer}, timeout=self._limits.drain_timeout)
        await self.close()

    async def close(self) -> None:
        """Stop at once. The next owner repeats what is not committed; nothing is committed here after this."""
        first = self.state is not WorkerState.CLOSED
        self.state = WorkerState.CLOSED
        self.backlog.drop()
        current = asyncio.current_task()
        for task in [self._dispatcher, self._committer, *self._calls]:
            if task is not current:
                task.cancel()
        if first:
            self._close_transform()  # before any wait, hence before the next ownership begins
        await self._writer.close()

    async def _restart(self, max_batch: int) -> None:
        """Close this worker, and let a new one repeat with smaller batches what is not committed."""
        earlier = self.backlog.of_earlier_logs()
        await self.close()
        at = (self.backlog.first or 0) if self._committed.offset is None else self._committed.offset
        self._engine.replace(self, Succession(at, max_batch, self.backlog.reset_to, earlier))

    def _close_transform(self) -> None:
        try:
            self._engine.transform.closed(self.partition)
        except Exception as error:
            self._engine.fail(error)

    async def _guard(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except Exception as error:
            self._engine.fail(error)
