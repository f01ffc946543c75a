"""Who may begin work when there are few places: the first rank before the second, and none of them starved."""

from __future__ import annotations

import asyncio
from collections import deque


class Slots:
    """`total` places for work of several ranks, 0 first.

    Rank 0 may take them all but the floors. Lower ranks leave `reserve` places free, so that work of rank 0 that comes
    finds one, and are always allowed `floor` places each, so that they move however much comes before them.
    """

    def __init__(self, total: int, ranks: int = 1, reserve: int = 0, floor: int = 1) -> None:
        if ranks > 1 and total <= reserve + floor * (ranks - 1):
            raise ValueError(f"{total} places are too few for a reserve of {reserve} and {ranks} ranks")
        self._total = total
        self._reserve = reserve
        self._floor = floor
        self._taken = [0] * ranks
        self._waiting: list[deque[asyncio.Future[None]]] = [deque() for _ in range(ranks)]

    async def acquire(self, rank: int = 0) -> None:
        """Wait for a place."""
        if not self._waiting[rank] and self._allowed(rank):
            self._taken[rank] += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting[rank].append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release(rank)  # it was granted in the same moment
            raise

    def release(self, rank: int = 0) -> None:
        """Give a place back; it goes to the first rank that waits and may have it."""
        self._taken[rank] -= 1
        for other, waiting in enumerate(self._waiting):
            while waiting and self._allowed(other):
                turn = waiting.popleft()
                if not turn.cancelled():
                    self._taken[other] += 1
                    turn.set_result(None)

    def _allowed(self, rank: int) -> bool:
        free = self._total - sum(self._taken)
        if rank == 0:
            # What lower ranks have not yet taken of their floors is kept for those of them that wait.
            owed = sum(
                max(0, self._floor - taken)
                for taken, waiting in zip(self._taken[1:], self._waiting[1:], strict=True)
                if waiting
            )
            return free > owed
        return free > self._reserve or (self._taken[rank] < self._floor and free > 0)
