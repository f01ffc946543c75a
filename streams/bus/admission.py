"""Which work begins next when capacity is short: a higher rank first, no rank starved, and no owner takes it all."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Hashable

import msgspec

BUSY = 2.0  # seconds after the last work of rank 0 in which more of it is expected
_SHARE = 4  # an owner takes more room while it has less than this many times what stays free


class _Turn(msgspec.Struct, frozen=True, eq=False):
    """A call that waits for room."""

    weight: int
    owner: Hashable
    granted: asyncio.Future[None]


class PriorityAdmission:
    """Shares `total` units of room among work of several ranks, 0 first. A call takes one unit, or its weight.

    - Rank 0 may take all units but those for one call of each lower rank that waits and has none in progress.
    - Lower ranks leave `reserve` units free, which new work of rank 0 finds at once.
    - While there is work of rank 0, lower ranks together take at most `background` units, because they slow it.
    - Each lower rank may always have one call in progress, so it advances whatever comes before it.
    - While `owners` is above 1, an owner whose calls do not end leaves room for the others: beyond its first unit, it
      takes at most _SHARE times what then stays free. One owner alone can take four fifths, the next four fifths of
      the rest, and so on. Shared memory of network switches is divided in this way, as dynamic thresholds.

    A weight above an equal share of the room counts as that share: any call can begin. Work without an owner is bounded
    by its rank alone.
    """

    def __init__(self, total: int, ranks: int = 1, reserve: int = 0, background: int | None = None) -> None:
        if ranks > 1 and total < reserve + ranks:
            raise ValueError(f"{total} units are too few for a reserve of {reserve} and {ranks} ranks")
        self._owners = 0
        self._total = total
        self._reserve = reserve
        self._background = total if background is None else background
        self._heaviest = (total - reserve) // ranks
        self._taken = [0] * ranks
        self._taken_by: Counter[Hashable] = Counter()
        self._waiting: list[list[_Turn]] = [[] for _ in range(ranks)]
        self._last = -BUSY

    @property
    def owners(self) -> int:
        """How many owners share the room."""
        return self._owners

    @owners.setter
    def owners(self, owners: int) -> None:
        self._owners = owners
        self._grant()  # an owner that is alone waits for no other

    async def acquire(self, rank: int = 0, weight: int = 1, owner: Hashable = None) -> None:
        """Wait for room, and take it."""
        weight = min(weight, self._heaviest)
        if not self._waiting[rank] and self._allowed(rank, weight) and self._fair(owner, weight):
            self._take(rank, weight, owner)
            return
        turn = _Turn(weight, owner, asyncio.get_running_loop().create_future())
        self._waiting[rank].append(turn)
        self._grant()
        try:
            await turn.granted
        except asyncio.CancelledError:
            if not turn.granted.cancelled():
                self.release(rank, weight, owner)  # granted in the same moment
            elif turn in self._waiting[rank]:
                self._waiting[rank].remove(turn)
                self._grant()  # a call that waits behind it may be lighter
            raise

    def release(self, rank: int = 0, weight: int = 1, owner: Hashable = None) -> None:
        """Give room back. It goes to the first rank that waits and may have it."""
        self._take(rank, -min(weight, self._heaviest), owner)
        if rank == 0:
            self._last = asyncio.get_running_loop().time()
        self._grant()

    def _take(self, rank: int, weight: int, owner: Hashable) -> None:
        self._taken[rank] += weight
        self._taken_by[owner] += weight
        if not self._taken_by[owner]:
            del self._taken_by[owner]

    def _grant(self) -> None:
        for rank, waiting in enumerate(self._waiting):
            for turn in list(waiting):
                if turn.granted.cancelled():
                    waiting.remove(turn)
                elif self._fair(turn.owner, turn.weight):  # else those behind it may have the room that it leaves
                    if not self._allowed(rank, turn.weight):
                        break
                    waiting.remove(turn)
                    self._take(rank, turn.weight, turn.owner)
                    turn.granted.set_result(None)

    def _fair(self, owner: Hashable, weight: int) -> bool:
        held = self._taken_by[owner]
        if owner is None or self._owners < 2 or not held:
            return True
        return held + weight <= _SHARE * (self._total - sum(self._taken) - weight)

    def _allowed(self, rank: int, weight: int) -> bool:
        free = self._total - sum(self._taken)
        if rank == 0:
            guaranteed = [
                waiting[0].weight
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
