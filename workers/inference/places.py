"""Which request goes to which server next: live content first, to the server that is least loaded for its limit."""

from __future__ import annotations

import asyncio
import bisect
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager

import msgspec

from safeguard_streams.runtime import metrics
from safeguard_streams.workers.inference.server import Server


class _Turn(msgspec.Struct, frozen=True, eq=False):
    """A request that waits. tried: how often each server had it. near: the URL that it prefers."""

    rank: int
    tried: Mapping[Server, int]
    near: str
    granted: asyncio.Future[Server]


class Places:
    """The places at healthy servers.

    - A request goes to a server that had it least often, even if it waits for a place there.
    - Rank 0 comes first. While there is work of it, all other ranks together have at most `background_share` of the
      places.
    - Beside work of rank 0, one request of the other ranks is in progress while any waits.
    """

    def __init__(self, servers: Iterable[Server], background_share: float) -> None:
        self.servers = list(servers)
        self._share = background_share
        self._taken: Counter[bool] = Counter()  # places, by whether the request is in the background
        self._waiting: list[_Turn] = []  # by rank, then by arrival

    async def take(self, rank: int, tried: Mapping[Server, int], near: str = "") -> Server:
        """Wait for a place, and take it."""
        turn = _Turn(rank, tried, near, asyncio.get_running_loop().create_future())
        bisect.insort(self._waiting, turn, key=lambda other: other.rank)
        self.grant()
        try:
            return await turn.granted
        except asyncio.CancelledError:
            if turn in self._waiting:
                self._waiting.remove(turn)
            else:
                self.give_back(turn.granted.result(), rank)  # granted in the same moment
            raise

    def give_back(self, server: Server, rank: int) -> None:
        server.pending -= 1
        self._taken[rank > 0] -= 1
        self.grant()

    def grant(self) -> None:
        """Give what places there are to those that wait. Call this after a change of a server's health or limit."""
        for turn in self._in_order() if self._has_place() else ():
            if not self._has_place():
                return
            if turn.rank and not self._background_may():
                continue
            if server := self._server_for(turn):
                self._waiting.remove(turn)
                server.pending += 1
                self._taken[turn.rank > 0] += 1
                turn.granted.set_result(server)

    def observed(self) -> AbstractContextManager[None]:
        """Report each server's limit and what it has in progress while the context is open.

        Base URLs that differ in their path alone are one server here, because its labels are a host and a port.
        """
        return metrics.observed(
            {
                metrics.SERVER_LIMIT: lambda: self._by_labels(lambda one: one.limit.value),
                metrics.SERVER_IN_FLIGHT: lambda: self._by_labels(lambda one: one.pending),
            }
        )

    def _by_labels(self, value: Callable[[Server], int]) -> list[tuple[int, dict[str, str]]]:
        sums: Counter[tuple[tuple[str, str], ...]] = Counter()
        for one in self.servers:
            sums[tuple(one.address.labels.items())] += value(one)
        return [(total, dict(labels)) for labels, total in sums.items()]

    def _has_place(self) -> bool:
        return any(server.has_place for server in self.servers)

    def _in_order(self) -> list[_Turn]:
        waiting = [turn for turn in self._waiting if not turn.granted.cancelled()]
        background = next((turn for turn in waiting if turn.rank), None)
        if background is None or self._taken[True] or not self._taken[False]:
            return waiting
        return [background, *(turn for turn in waiting if turn is not background)]

    def _background_may(self) -> bool:
        if not self._taken[True]:
            return True
        live = self._taken[False] or (self._waiting and not self._waiting[0].rank)
        places = sum(server.limit.value for server in self.servers if server.healthy)
        return not live or self._taken[True] < self._share * places

    def _server_for(self, turn: _Turn) -> Server | None:
        healthy = [server for server in self.servers if server.healthy]
        least = min((turn.tried.get(server, 0) for server in healthy), default=0)
        free = [server for server in healthy if server.has_place and turn.tried.get(server, 0) == least]
        return min(
            free, key=lambda server: (server.url != turn.near, server.pending / server.limit.value), default=None
        )
