"""The strikes of all authors, as moderation.author-standing has them, for rules about content that look at them.

A verdict is followed by what is known at that moment. The ledger may be some records behind: a rule that must not miss
a strike belongs to the thresholds, which the ledger itself counts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from safeguard_streams.bus import kafka
from safeguard_streams.bus.interface import Record
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import AuthorStanding, Strike, decode
from safeguard_streams.errors import RecordError
from safeguard_streams.runtime.settings import Settings

StrikesOf = Callable[[str | None], Sequence[Strike]]


def unknown(_: str | None) -> Sequence[Strike]:
    """Of no author is a strike known."""
    return ()


class KnownAuthors:
    """The newest record of each author, in the bytes that it came in: most authors are never asked about."""

    def __init__(self) -> None:
        self._standings: dict[bytes, bytes] = {}

    def take(self, record: Record) -> None:
        if record.key is None:
            return
        if record.value is None:
            self._standings.pop(record.key, None)
        else:
            self._standings[record.key] = record.value

    def strikes(self, author_id: str | None) -> Sequence[Strike]:
        """The strikes of an author that are known; those that were taken back are among them."""
        value = self._standings.get(author_id.encode()) if author_id else None
        if value is None:
            return ()
        try:
            return decode(value, AuthorStanding).strikes
        except RecordError:  # somebody else wrote it
            return ()

    async def follow(self, settings: Settings, caught_up: asyncio.Event) -> None:
        """Read the topic from its beginning until cancelled. Sets `caught_up` at the end offsets found at the start."""
        await kafka.follow(settings, topics.AUTHOR_STANDING, self.take, caught_up)
