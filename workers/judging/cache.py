"""No question twice: equal questions that are open at once are asked once, and recent answers are kept."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Reuse(Generic[T]):
    """Keeps at most `most` answers, those used last; `good` says which may be kept beyond those who wait for them."""

    def __init__(self, most: int, good: Callable[[T], bool]) -> None:
        self._most = most
        self._good = good
        self._kept: OrderedDict[Hashable, T] = OrderedDict()
        self._open: dict[Hashable, asyncio.Future[tuple[T] | None]] = {}

    async def ask(self, key: Hashable, question: Callable[[], Awaitable[T]]) -> tuple[T, bool]:
        """The answer, and whether it was another's. When the one who asks fails, one of those who wait asks again."""
        while key not in self._kept and key in self._open:
            said = await asyncio.shield(self._open[key])
            if said is not None:
                return said[0], True
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key], True
        opened = self._open[key] = asyncio.get_running_loop().create_future()
        said = None
        try:
            answer = await question()
            said = (answer,)
        finally:
            del self._open[key]
            opened.set_result(said)
        if self._good(answer):
            self._kept[key] = answer
            if len(self._kept) > self._most:
                self._kept.popitem(last=False)
        return answer, False
