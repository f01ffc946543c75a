"""A cache of judgements: concurrent requests for one judgement share a single call, and recent judgements are kept."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable

import msgspec

from safeguard_streams.workers.judging.judgement import Judgement


class CachedJudgement(msgspec.Struct, frozen=True):
    """cached: the judgement was made for an identical content item."""

    judgement: Judgement
    cached: bool


class JudgementCache:
    """Keeps the `max_size` judgements used last. Only judgements that decide are kept."""

    def __init__(self, max_size: int) -> None:
        self._max_size = max_size
        self._kept: OrderedDict[Hashable, Judgement] = OrderedDict()
        self._pending: dict[Hashable, asyncio.Future[Judgement | None]] = {}

    async def get_or_judge(self, key: Hashable, judge: Callable[[], Awaitable[Judgement]]) -> CachedJudgement:
        """Return the judgement for a key; call `judge` unless it is kept or in progress.

        Callers that wait share the result. When the call in progress fails or is cancelled, one of them calls `judge`.
        """
        while key not in self._kept and key in self._pending:
            shared = await asyncio.shield(self._pending[key])
            if shared is not None:
                return CachedJudgement(shared, cached=True)
        if key in self._kept:
            self._kept.move_to_end(key)
            return CachedJudgement(self._kept[key], cached=True)
        pending = self._pending[key] = asyncio.get_running_loop().create_future()
        judgement: Judgement | None = None
        try:
            judgement = await judge()
        finally:
            del self._pending[key]
            pending.set_result(judgement)
        if judgement.decided:
            self._kept[key] = judgement
            if len(self._kept) > self._max_size:
                self._kept.popitem(last=False)
        return CachedJudgement(judgement, cached=False)
