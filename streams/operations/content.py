"""Everything that the topics hold about one content item: texts, verdicts, actions, what stands, dead letters.

Every stage writes to the partition of the event, so one pass over one partition of each topic finds an item whose
producer keys events by content_id. Only if that pass finds nothing are all partitions read. Records of an erased item
are shown without its text and without words that may quote it.
"""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import datetime

import msgspec

from safeguard_streams.bus import kafka
from safeguard_streams.contract import topics
from safeguard_streams.errors import ConfigurationError, ForbiddenError
from safeguard_streams.operations.content_records import KINDS, FoundRecords
from safeguard_streams.operations.content_report import ItemRecords, of_records
from safeguard_streams.releases.erasures import ErasureList
from safeguard_streams.runtime.settings import Settings


async def report(
    settings: Settings, content_id: str, since: datetime | None = None, *, every_partition: bool = False
) -> ItemRecords:
    """Find what there is about an item. since: when the oldest record to read was written; what stands has no bound.

    Raises ConfigurationError if no record is about the item.
    """
    erasures = ErasureList()
    await erasures.read(settings)
    search = _Search(settings, content_id, since)
    partition = None if every_partition else await search.likely_partition()
    if search.found.empty:
        partition = None
        await search.every_partition()
    found, erased_at = search.found, erasures.erased_at(content_id)
    if found.empty and erased_at is None:
        raise ConfigurationError(_unknown(content_id, since, search.forbidden))
    return msgspec.structs.replace(
        of_records(found, erasures.erased), read_partition=partition, erased_at=erased_at, forbidden=search.forbidden
    )


def _unknown(content_id: str, since: datetime | None, forbidden: Sequence[str]) -> str:
    bound = f" since {since:%Y-%m-%d %H:%M} UTC" if since else ""
    unread = f"; this user may not read {', '.join(forbidden)}" if forbidden else ""
    return (
        f"no record{bound} is about the content id {content_id!r}{unread}: check the id and SAFEGUARD_PREFIX. Records "
        f"past the retention of their topic are gone, by default events after {_days(topics.EVENTS)} days and verdicts "
        f"after {_days(topics.VERDICTS)}"
    )


def _days(name: str) -> int:
    return next(topic.retention for topic in topics.CATALOGUE if topic.name == name) // topics.DAY


class _Search:
    """Reads the topics about one item into `found`, and names those that this user may not read.

    Topics are read together or, if this user may not read all of them, one by one. Taking a record twice is harmless.
    """

    def __init__(self, settings: Settings, content_id: str, since: datetime | None) -> None:
        self.found = FoundRecords(settings, content_id)
        self.forbidden: list[str] = []
        self._settings = settings
        self._content_id = content_id
        self._since = since

    async def likely_partition(self) -> int:
        """Read the partition of each topic that the id hashes to on content.events, and return its number.

        A topic with fewer partitions has the records of several in one, as stages place their outputs.
        """
        counts = await self._partition_counts(list(KINDS))
        number = kafka.likely_partition(self._content_id, counts.get(topics.EVENTS) or max([1, *counts.values()]))
        names_by_partition: dict[int, list[str]] = defaultdict(list)
        for name, count in counts.items():
            names_by_partition[number % count].append(name)
        for partition, names in names_by_partition.items():
            await self._read(names, partition)
        return number

    async def every_partition(self) -> None:
        """Read all partitions of each topic."""
        self.forbidden.clear()
        await self._read(list(KINDS), None)

    async def _partition_counts(self, names: Sequence[str]) -> dict[str, int]:
        """The number of partitions of each topic that this user may read."""
        try:
            async with kafka.reader(self._settings, names) as client:
                return Counter(tp.topic.removeprefix(self._settings.prefix) for tp in client.assignment())
        except ForbiddenError:
            if len(names) == 1:
                self.forbidden += names
                return {}
        counts: dict[str, int] = {}
        for name in names:
            counts |= await self._partition_counts([name])
        return counts

    async def _read(self, names: Sequence[str], partition: int | None) -> None:
        """Read topics into `found`. What stands may be older than all else, and is read without bound."""
        unbounded = [name for name in names if name == topics.STANDING or self._since is None]
        bounded = [name for name in names if name not in unbounded]
        for group, since in ((unbounded, None), (bounded, self._since)):
            if group:
                await self._read_since(group, partition, since)

    async def _read_since(self, names: Sequence[str], partition: int | None, since: datetime | None) -> None:
        try:
            async with contextlib.aclosing(kafka.read_all(self._settings, names, partition, since=since)) as records:
                async for record in records:
                    self.found.take(record)
        except ForbiddenError:
            if len(names) == 1:
                self.forbidden += names
                return
            for name in names:
                await self._read_since([name], partition, since)
