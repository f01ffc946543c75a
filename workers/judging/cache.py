"""A cache of judgements: concurrent requests for one judgement share a single call, and recent judgements are kept.

Keys are hashes, so no content is kept. A judgement holds the model's words about the content, until it is forgotten.
"""

from __future__ import annotations

import asyncio
import sys
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable

import msgspec

from safeguard_streams.workers.judging.judgement import Judgement

MAX_BYTES = 64 * 2**20
OVERHEAD = 1000  # bytes of a judgement beside its texts, at most


class CachedJudgement(msgspec.Struct, frozen=True):
    """cached: the judgement was made for an identical content item."""

    judgement: Judgement
    cached: bool


class _Kept(msgspec.Struct):
    """A judgement, the ids of the content items that it is about, and the bytes of both."""

    judgement: Judgement
    content_ids: set[str]
    size: int


class JudgementCache:
    """Keeps the judgements used last: at most `max_size`, of `max_bytes` together. Only those that decide are kept."""

    def __init__(self, max_size: int, max_bytes: int = MAX_BYTES) -> None:
        self._max_size = max_size
        self._max_bytes = max_bytes
        self._bytes = 0
        self._kept: OrderedDict[Hashable, _Kept] = OrderedDict()
        self._pending: dict[Hashable, asyncio.Future[Judgement | None]] = {}

    async def get_or_judge(
        self, key: Hashable, content_id: str, judge: Callable[[], Awaitable[Judgement]]
    ) -> CachedJudgement:
        """Return the judgement for a key; call `judge` unless it is kept or in progress.

        Callers that wait share the result. When the call in progress fails or is cancelled, one of them calls `judge`.
        """
        while key not in self._kept and key in self._pending:
            shared = await asyncio.shield(self._pending[key])
            if shared is not None:
                self._keep(key, content_id, shared)
                return CachedJudgement(shared, cached=True)
        if key in self._kept:
            judgement = self._kept[key].judgement
            self._keep(key, content_id, judgement)
            return CachedJudgement(judgement, cached=True)
        pending = self._pending[key] = asyncio.get_running_loop().create_future()
        made: Judgement | None = None
        try:
            made = await judge()
        finally:
            del self._pending[key]
            pending.set_result(made)
        self._keep(key, content_id, made)
        return CachedJudgement(made, cached=False)

    def forget(self, content_id: str) -> None:
        """Drop all judgements of a content item."""
        for key in [key for key, kept in self._kept.items() if content_id in kept.content_ids]:
            self._drop(key)

    def _keep(self, key: Hashable, content_id: str, judgement: Judgement) -> None:
        """Keep a judgement as the one used last."""
        if not judgement.decided:
            return
        kept = self._kept.setdefault(key, _Kept(judgement, set(), 0))
        self._kept.move_to_end(key)
        added = 0 if kept.size else _size(judgement)
        if content_id not in kept.content_ids:
            kept.content_ids.add(content_id)
            added += sys.getsizeof(content_id)
        kept.size += added
        self._bytes += added
        while self._kept and (len(self._kept) > self._max_size or self._bytes > self._max_bytes):
            self._drop(next(iter(self._kept)))

    def _drop(self, key: Hashable) -> None:
        self._bytes -= self._kept.pop(key).size


def _size(judgement: Judgement) -> int:
    texts = (text for attempt in judgement.attempts for text in (attempt.analysis, attempt.final))
    return OVERHEAD * (1 + len(judgement.attempts)) + sum(map(sys.getsizeof, texts))
