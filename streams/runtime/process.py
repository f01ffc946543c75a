"""What the long-running processes share: logs, signals, and an end that is bounded in time."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import Any

import orjson
from opentelemetry import trace

log = logging.getLogger(__name__)

COLLECTION = 2.0  # seconds
END_SECONDS = 9.0  # a process that was told to end is gone after this long, whatever hangs


class _Json(logging.Formatter):
    """One JSON object a line, with the trace that the line belongs to."""

    def format(self, record: logging.LogRecord) -> str:
        said = {
            "time": datetime.fromtimestamp(record.created, UTC),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        context = trace.get_current_span().get_span_context()
        if context.is_valid:
            said |= {
                "trace_id": trace.format_trace_id(context.trace_id),
                "span_id": trace.format_span_id(context.span_id),
            }
        if record.exc_info:
            said["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(said, default=str).decode()


def configure_logging(level: str = "INFO", form: str = "text") -> None:
    """Lines on standard error, as text or json; libraries only from warnings on. Content is never logged."""
    logging.basicConfig(
        level=logging.WARNING, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )
    if form == "json":
        logging.getLogger().handlers[0].setFormatter(_Json())
    for ours in ("safeguard_streams",):
        logging.getLogger(ours).setLevel(level)
    # Group changes are part of ordinary life, and this library calls them errors.
    logging.getLogger("aiokafka.consumer.group_coordinator").setLevel(logging.CRITICAL)


def collect_rarely() -> None:
    """Leave looking for reference cycles to `collect_by_the_clock`: a batch of records makes many objects, few cycles."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(200_000, 20, 100)


async def collect_by_the_clock() -> None:
    """Free what only cycles keep, every few seconds: the clients' answers, of megabytes, are among it."""
    while True:
        await asyncio.sleep(COLLECTION)
        gc.collect()


class Stop:
    """Set by SIGTERM or SIGINT; a process that has not ended END_SECONDS later ends at once, without committing."""

    def __init__(self) -> None:
        self.event = asyncio.Event()

    def __enter__(self) -> Stop:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._told, signal.Signals(number).name)
        return self

    def __exit__(self, *_: object) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)

    def _told(self, name: str) -> None:
        if not self.event.is_set():
            log.info("%s: finishing what is under way", name)
            asyncio.get_running_loop().call_later(END_SECONDS, self._too_late)
            self.event.set()

    @staticmethod
    def _too_late() -> None:
        log.error("not finished within %.0f s, leaving; what is not committed will be read again", END_SECONDS)
        logging.shutdown()
        os._exit(1)


async def run_until_first(*works: Coroutine[Any, Any, Any]) -> None:
    """Run together until the first ends; then cancel the others. Raises what the first raised."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
