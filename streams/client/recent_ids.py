"""Ids that were seen, as many as are worth remembering."""

from __future__ import annotations

from collections import OrderedDict


class RecentIds:
    """The last `most` ids."""

    def __init__(self, most: int) -> None:
        self._ids: OrderedDict[str, None] = OrderedDict()
        self._most = most

    def add(self, name: str) -> bool:
        """Whether it is new."""
        if name in self._ids:
            self._ids.move_to_end(name)
            return False
        self._ids[name] = None
        if len(self._ids) > self._most:
            self._ids.popitem(last=False)
        return True
