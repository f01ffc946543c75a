"""What the long-running processes share: logs, signals, garbage collection, and an end that is bounded in time."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import Any

import orjson
from opentelemetry import trace

from safeguard_streams.runtime import metrics

log = logging.getLogger(__name__)

COLLECTION_SECONDS = 2.0
TICK_SECONDS = 0.05
PAUSE_SECONDS = 0.5  # a longer pause of the event loop is logged
END_SECONDS = 9.0  # a process that got a signal exits within this time, whatever hangs


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


def configure_logging(level: str = "INFO", form: str = "text") -> None:
    """Log to standard error, as text or json. Of libraries, log warnings and errors only. Content is never logged."""
    logging.basicConfig(
        level=logging.WARNING, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )
    if form == "json":
        logging.getLogger().handlers[0].setFormatter(_Json())
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
    """Sets its event on SIGTERM or SIGINT. After END_SECONDS more, the process exits at once, without committing."""

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
            asyncio.get_running_loop().call_later(END_SECONDS, self._exit)
            self.event.set()

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
