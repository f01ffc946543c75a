"""Whether vLLM still takes steps. A hung engine core, unlike a dead one, reports nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

TICK = 1.0  # seconds between two looks at the steps
STALLED = 10  # ticks without a step, after which vLLM is not healthy; a step rarely takes one second


class StallDetector:
    """Ends the requests in progress once vLLM has taken no step for `limit` ticks. It then counts as hung for good.

    A single request may take any time. Ticks count instead of the clock, because a time in which this process did not
    run either, such as the machine's sleep, says nothing about vLLM. steps: how many were taken so far.
    """

    def __init__(self, steps: Callable[[], int], limit: int) -> None:
        self._steps = steps
        self.limit = limit
        self._idle = 0  # ticks
        self._deadlines: set[asyncio.Timeout] = set()

    @property
    def stalled(self) -> bool:
        """Whether requests wait for a step that takes unusually long."""
        return self._idle >= min(STALLED, self.limit)

    @property
    def hung(self) -> bool:
        """Whether vLLM took no step for the whole limit."""
        return self._idle >= self.limit

    @asynccontextmanager
    async def awaited(self) -> AsyncIterator[None]:
        """Await vLLM in this context. Raises TimeoutError when vLLM hangs."""
        if self.hung:
            raise TimeoutError
        async with asyncio.timeout(None) as deadline:
            self._deadlines.add(deadline)
            try:
                yield
            finally:
                self._deadlines.remove(deadline)

    async def watch(self) -> None:
        """Look at the steps until vLLM hangs or this is cancelled."""
        seen = -1
        while not self.hung:
            await asyncio.sleep(TICK)
            steps = self._steps()
            self._idle = self._idle + 1 if self._deadlines and steps == seen else 0
            seen = steps
        now = asyncio.get_running_loop().time()
        for deadline in self._deadlines:
            deadline.reschedule(now)
