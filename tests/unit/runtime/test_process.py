"""The measurement of the event loop's pauses."""

import asyncio
import logging
import time

from safeguard_streams.runtime import process
from safeguard_streams.runtime.process import EventLoopPauses
from tests.conftest import TIMEOUT


async def _measured(work):
    pauses = EventLoopPauses("test")
    measuring = asyncio.create_task(pauses.measure())
    await asyncio.sleep(0.1)
    await work()
    await asyncio.sleep(0.1)
    measuring.cancel()
    return pauses.longest


async def test_work_that_keeps_the_event_loop_counts_as_a_pause():
    async def busy():
        begun = time.process_time()
        while time.process_time() - begun < 0.4:
            pass

    assert await _measured(busy) >= 0.3


async def test_time_in_which_the_process_did_not_run_is_no_pause():
    async def stopped():
        time.sleep(0.6)  # noqa: ASYNC251  (as if the process were stopped)

    assert await _measured(stopped) < 0.5


async def test_time_in_which_the_process_did_not_run_is_not_taken_from_its_end(monkeypatch):
    """A machine that stood still while a process stopped would end it although it would commit a moment later."""
    monkeypatch.setattr(process, "_STEP_SECONDS", 0.05)
    monkeypatch.setattr(process, "END_SECONDS", 2.0)
    exited = asyncio.Event()
    monkeypatch.setattr(process.Stop, "_exit", staticmethod(exited.set))
    stop = process.Stop()
    stop._on_signal("SIGTERM")
    assert stop.event.is_set()
    time.sleep(2.5)  # noqa: ASYNC251  (as if the process were stopped)
    for _ in range(5):
        await asyncio.sleep(0)
    assert not exited.is_set()
    await asyncio.wait_for(exited.wait(), TIMEOUT)


def test_a_librarys_repeated_line_is_logged_once_in_a_while_and_counted(capsys):
    process.configure_logging()
    ours, theirs = logging.getLogger("safeguard_streams.x"), logging.getLogger("aiokafka.conn")
    for second in (0, 0, 1, 9, 10, 20):
        for logger in (ours, theirs):
            record = logger.makeRecord(
                logger.name, logging.ERROR, "f", 1, "no connection to %s at 100%%", (second,), None
            )
            record.created = 1_000.0 + second
            logging.getLogger().handle(record)
    lines = capsys.readouterr().err.splitlines()
    assert sum("safeguard_streams.x" in line for line in lines) == 6
    shown = [line.split(": ", 1)[1] for line in lines if "aiokafka.conn" in line]
    assert shown == [
        "no connection to 0 at 100%",
        "no connection to 10 at 100% (and 3 more like it)",
        "no connection to 20 at 100%",
    ]
