"""A bounded set of ids, for deduplication."""

from __future__ import annotations

from collections import OrderedDict


class RecentIds:
    """The last `size` ids that were added."""

    def __init__(self, size: int) -> None:
        self._ids: OrderedDict[str, None] = OrderedDict()
        self._size = size

    def __contains__(self, name: str) -> bool:
        return name in self._ids

    def add(self, name: str) -> bool:
        """Add an id. Returns whether it is new."""
        if name in self._ids:
            self._ids.move_to_end(name)
            return False
        self._ids[name] = None
        if len(self._ids) > self._size:
            self._ids.popitem(last=False)
        return True
