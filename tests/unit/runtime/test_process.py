"""The measurement of the event loop's pauses."""

import asyncio
import time

from safeguard_streams.runtime.process import EventLoopPauses


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
