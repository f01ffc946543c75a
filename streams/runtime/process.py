"""What the long-running processes share: logs, signals, garbage collection, and an end that is bounded in time."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any, NoReturn, TypeVar

import orjson
from opentelemetry import trace

from safeguard_streams.runtime import metrics

log = logging.getLogger(__name__)
T = TypeVar("T")

COLLECTION_SECONDS = 2.0
TICK_SECONDS = 0.05
PAUSE_SECONDS = 0.5  # a longer pause of the event loop is logged
REPEAT_SECONDS = 10.0  # between equal messages of a library
END_SECONDS = 9.0  # a process that got a signal exits when it has run for this time, whatever hangs
_STEP_SECONDS = 1.0  # of a wait for the end; one that takes longer counts as two
INTERRUPTED = 130  # the exit status after Ctrl-C, as shells report it


class _Json(logging.Formatter):
    """Formats a line as a JSON object, with the trace that it belongs to."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        context = trace.get_current_span().get_span_context()
        if context.is_valid:
            line |= {
                "trace_id": trace.format_trace_id(context.trace_id),
                "span_id": trace.format_span_id(context.span_id),
            }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()


class _Rarely(logging.Filter):
    """Passes each message of a library once in REPEAT_SECONDS, with the number that it left out.

    Without a broker, aiokafka would write hundreds of equal lines a second.
    """

    def __init__(self, library: str) -> None:
        super().__init__()
        self._library = library
        self._last: dict[str, tuple[float, int]] = {}  # when a message was passed, and how many were left out since

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith(self._library):
            return True
        passed_at, left_out = self._last.get(record.msg, (-REPEAT_SECONDS, 0))
        if record.created - passed_at < REPEAT_SECONDS:
            self._last[record.msg] = passed_at, left_out + 1
            return False
        self._last[record.msg] = record.created, 0
        if left_out:
            record.msg, record.args = f"{record.getMessage()} (and {left_out} more like it)", ()
        return True


def configure_logging(level: str = "INFO", form: str = "text") -> None:
    """Log to standard error, as text or json. Of libraries, log warnings and errors only. Content is never logged."""
    logging.basicConfig(
        level=logging.WARNING, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )
    if form == "json":
        logging.getLogger().handlers[0].setFormatter(_Json())
    logging.getLogger().handlers[0].addFilter(_Rarely("aiokafka"))
    logging.getLogger("safeguard_streams").setLevel(level)
    # aiokafka logs ordinary changes of a group as errors.
    logging.getLogger("aiokafka.consumer.group_coordinator").setLevel(logging.CRITICAL)


def collect_rarely() -> None:
    """Leave reference cycles to `collect_by_the_clock`: a batch of records makes many objects and few cycles."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(200_000, 20, 100)


async def collect_by_the_clock() -> None:
    """Free reference cycles every COLLECTION_SECONDS; the clients' responses, of megabytes, are among them."""
    while True:
        await asyncio.sleep(COLLECTION_SECONDS)
        gc.collect()


class EventLoopPauses:
    """Measures how long this process's own work kept its event loop from running.

    Heartbeats, health and all other records wait in such a pause. Time in which the machine ran other processes, or in
    which this process was stopped, is not its own: a pause is no longer than the processor time that passed in it.
    """

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self._longest = [0.0, 0.0]  # seconds, within this minute and the one before
        self._minute = 0

    async def measure(self) -> None:
        """Measure until cancelled, report the longest pause as a metric, and log long ones."""
        with metrics.observed({metrics.PAUSE: lambda: [(self.longest, {"stage": self._stage})]}):
            while True:
                wall, processor = time.monotonic(), time.process_time()
                await asyncio.sleep(TICK_SECONDS)
                late = time.monotonic() - wall - TICK_SECONDS
                self._add(min(late, time.process_time() - processor))

    @property
    def longest(self) -> float:
        """Seconds of the longest pause within the last one to two minutes."""
        return max(self._longest)

    def _add(self, pause: float) -> None:
        minute = int(time.monotonic() // 60)
        if minute != self._minute:
            self._longest = [0.0, self._longest[0]]
            self._minute = minute
        self._longest[0] = max(self._longest[0], pause)
        if pause > PAUSE_SECONDS:
            log.warning("event loop paused stage=%s seconds=%.2f", self._stage, pause)


class Stop:
    """Sets its event on SIGTERM or SIGINT. After END_SECONDS more, the process exits at once, without committing.

    Time in which the process or its machine stood still is not its own: each such pause counts as two seconds at most.
    """

    def __init__(self) -> None:
        self.event = asyncio.Event()

    def __enter__(self) -> Stop:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, signal.Signals(number).name)
        return self

    def __exit__(self, *_: object) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)

    def _on_signal(self, name: str) -> None:
        if not self.event.is_set():
            log.info("stop requested, finishing calls in progress signal=%s", name)
            self._exit_after(END_SECONDS)
            self.event.set()

    def _exit_after(self, left: float) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()

        def look() -> None:
            still = left - min(loop.time() - began, 2 * _STEP_SECONDS)
            if still > 0:
                self._exit_after(still)
            else:
                self._exit()

        loop.call_later(min(left, _STEP_SECONDS), look)

    @staticmethod
    def _exit() -> None:
        log.error("not stopped in time, exiting; uncommitted records will be read again timeout=%.0fs", END_SECONDS)
        logging.shutdown()
        os._exit(1)


async def run_until_first(*coroutines: Coroutine[Any, Any, Any]) -> None:
    """Run coroutines together until the first ends, then cancel the others. Raises the error of the first."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def unless_stopped(work: Coroutine[Any, Any, T], stop: asyncio.Event) -> T | None:
    """The result of work. Once `stop` is set, the work is cancelled, and the result is None when it has ended."""
    working, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        working.cancel()
        stopping.cancel()
        await asyncio.gather(working, stopping, return_exceptions=True)


async def in_thread(work: Callable[[], T]) -> T:
    """Run work in a thread of its own. Once this is cancelled, nothing waits for that thread, unlike asyncio's."""
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()

    def hand_over(value: T | None, error: BaseException | None) -> None:
        if result.done():
            return
        if error is not None:
            result.set_exception(error)
        else:
            result.set_result(value)  # type: ignore[arg-type]  # without an error there is a value

    def run() -> None:
        value, failed = None, None
        try:
            value = work()
        except BaseException as error:  # whatever it is, the caller gets it
            failed = error
        with contextlib.suppress(RuntimeError):  # the loop was closed
            loop.call_soon_threadsafe(hand_over, value, failed)

    threading.Thread(target=run, name="in_thread", daemon=True).start()
    return await result


def bound_interrupts() -> None:
    """From now on, this process ends when it has run for END_SECONDS after a SIGINT, with its children, whatever hangs.

    Cleaning up has that long. It may never end: asyncio and the interpreter join threads, and one of them may be
    loading a model. The C handler writes to a pipe, which works while native code keeps the main thread. An event loop
    with signal handlers of its own, as in `Stop`, replaces this bound by its own.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_end_late, args=(reading,), name="interrupts", daemon=True).start()


def _end_late(signals: int) -> None:
    while os.read(signals, 1) != bytes([signal.SIGINT]):
        pass
    left = END_SECONDS
    while left > 0:
        began = time.monotonic()
        time.sleep(min(_STEP_SECONDS, left))
        left -= min(time.monotonic() - began, 2 * _STEP_SECONDS)
    leave(INTERRUPTED)


def leave(status: int) -> NoReturn:
    """End this process and its children now, without waiting for threads. A further SIGINT does not cut this short."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_children()
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


def end_children() -> None:
    """End the processes that this one started, and theirs. They are of inference backends and hold no state."""
    try:
        import psutil
    except ImportError:  # roles without it start none
        return
    children = psutil.Process().children(recursive=True)
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.terminate()
    _, alive = psutil.wait_procs(children, timeout=2)
    for child in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
