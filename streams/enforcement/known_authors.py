"""The strikes of all authors, as moderation.author-standing has them, for rules about content that look at them.

A verdict is followed by what is known at that moment. The ledger may be some records behind: a rule that must not miss
a strike belongs to the thresholds, which the ledger itself counts.
"""

from __future__ import annotations

import asyncio
import contextlib
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
    """The newest record of each author, in the bytes that it came in: most authors are never asked about.

    By partition, because a repartition leaves a tombstone where a record was, which may be read after the moved one.
    """

    def __init__(self) -> None:
        self._standings: dict[int, dict[bytes, bytes]] = {}

    def take(self, record: Record) -> None:
        if record.key is None:
            return
        standings = self._standings.setdefault(record.partition, {})
        if record.value is None:
            standings.pop(record.key, None)
        else:
            standings[record.key] = record.value

    def strikes(self, author_id: str | None) -> Sequence[Strike]:
        """The strikes of an author that are known; those that were taken back are among them.

        Of two records in two partitions, the one counts that was written when there were more of them.
        """
        key, found = author_id.encode() if author_id else None, []
        for standings in self._standings.values():
            if key is not None and (value := standings.get(key)) is not None:
                with contextlib.suppress(RecordError):  # somebody else wrote it
                    found.append(decode(value, AuthorStanding))
        return max(found, key=lambda one: one.partitions).strikes if found else ()

    async def follow(self, settings: Settings, caught_up: asyncio.Event) -> None:
        """Read the topic from its beginning until cancelled. Sets `caught_up` at the end offsets found at the start."""
        await kafka.follow(settings, topics.AUTHOR_STANDING, self.take, caught_up)
