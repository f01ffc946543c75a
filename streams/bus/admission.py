"""Which work begins next when capacity is short: a higher rank first, and no rank starved."""

from __future__ import annotations

import asyncio
from collections import deque

BUSY = 2.0  # seconds after the last work of rank 0 in which more of it is expected


class PriorityAdmission:
    """Shares `total` units of room among work of several ranks, 0 first. A call takes one unit, or its weight.

    - Rank 0 may take all units but those for one call of each lower rank that waits and has none in progress.
    - Lower ranks leave `reserve` units free, which new work of rank 0 finds at once.
    - While there is work of rank 0, lower ranks together take at most `background` units, because they slow it.
    - Each lower rank may always have one call in progress, so it advances whatever comes before it.

    A weight above an equal share of the room counts as that share: any call can begin.
    """

    def __init__(self, total: int, ranks: int = 1, reserve: int = 0, background: int | None = None) -> None:
        if ranks > 1 and total < reserve + ranks:
            raise ValueError(f"{total} units are too few for a reserve of {reserve} and {ranks} ranks")
        self._total = total
        self._reserve = reserve
        self._background = total if background is None else background
        self._heaviest = (total - reserve) // ranks
        self._taken = [0] * ranks
        self._waiting: list[deque[tuple[int, asyncio.Future[None]]]] = [deque() for _ in range(ranks)]
        self._last = -BUSY

    async def acquire(self, rank: int = 0, weight: int = 1) -> None:
        """Wait for room, and take it."""
        weight = min(weight, self._heaviest)
        if not self._waiting[rank] and self._allowed(rank, weight):
            self._taken[rank] += weight
            return
        turn = (weight, asyncio.get_running_loop().create_future())
        self._waiting[rank].append(turn)
        try:
            await turn[1]
        except asyncio.CancelledError:
            if not turn[1].cancelled():
                self.release(rank, weight)  # granted in the same moment
            elif turn in self._waiting[rank]:
                self._waiting[rank].remove(turn)
                self._grant()  # a call that waits behind it may be lighter
            raise

    def release(self, rank: int = 0, weight: int = 1) -> None:
        """Give room back. It goes to the first rank that waits and may have it."""
        self._taken[rank] -= min(weight, self._heaviest)
        if rank == 0:
            self._last = asyncio.get_running_loop().time()
        self._grant()

    def _grant(self) -> None:
        for rank, waiting in enumerate(self._waiting):
            while waiting and self._allowed(rank, waiting[0][0]):
                weight, turn = waiting.popleft()
                if not turn.cancelled():
                    self._taken[rank] += weight
                    turn.set_result(None)

    def _allowed(self, rank: int, weight: int) -> bool:
        free = self._total - sum(self._taken)
        if rank == 0:
            guaranteed = [
                waiting[0][0]
                for taken, waiting in zip(self._taken[1:], self._waiting[1:], strict=True)
                if waiting and not taken
            ]
            return free >= weight + sum(guaranteed)
        if not self._taken[rank]:
            return free >= weight
        if free - weight < self._reserve:
            return False
        return not self._busy() or sum(self._taken[1:]) + weight <= self._background

    def _busy(self) -> bool:
        """Whether there is work of rank 0, or was within the last BUSY seconds."""
        return bool(self._taken[0] or self._waiting[0]) or asyncio.get_running_loop().time() - self._last < BUSY
