"""The content items that operators erased, followed on moderation.erasures without a restart.

Kafka cannot remove the events of an item at once, and whatever is still on its way would be judged and written about
again. Every stage therefore asks this list. It holds ids and times, never content.

An erasure covers what was written until then. A record that repeats a reason later, such as the release of a held
action, goes by the time of what it repeats.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import TypeVar

import msgspec

from safeguard_streams.bus import kafka
from safeguard_streams.bus.interface import Record
from safeguard_streams.contract import topics
from safeguard_streams.contract.intake import read_event
from safeguard_streams.contract.records import Action, ErasureRequest, ModeratorDecision, Standing, Verdict, decode
from safeguard_streams.errors import RecordError
from safeguard_streams.runtime.settings import Settings

log = logging.getLogger(__name__)

T = TypeVar("T", Verdict, Action)
# Whether an item was erased, by its content id and the time of what was written about it in ms since 1970.
Erased = Callable[[str, int], bool]


def never(_content_id: str, _timestamp: int) -> bool:
    """No item was erased."""
    return False


def is_about_erased(record: Verdict | Action, erased: Erased) -> bool:
    """Whether a verdict or an action is about an item that was erased since."""
    written = record.decided_at if isinstance(record, Verdict) else record.acted_at
    return erased(record.content_id, _in_ms(written))


def _in_ms(date: datetime) -> int:
    """Milliseconds since 1970. A date without an offset is taken as UTC."""
    return round((date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() * 1000)


def without_words(record: T, erased: Erased) -> T:
    """A verdict or an action as it is or, about an erased item, without its author and reasons that may quote it."""
    if not is_about_erased(record, erased):
        return record
    if isinstance(record, Action):
        return msgspec.structs.replace(record, reason=None, why="", author_id=None, account_age=None)
    return msgspec.structs.replace(record, reason=None, author_id=None, account_age=None)


def standing_without_words(standing: Standing, erased: Erased) -> Standing:
    """What stands on an item as it is or, on an erased item, without its author and reasons that may quote it."""
    written = [one.at for one in (*standing.policies, standing.decision) if one is not None and one.at is not None]
    gone = bool(written) and erased(standing.content_id, max(map(_in_ms, written)))
    standing = msgspec.structs.replace(
        standing,
        decision=standing.decision and _decision_without_words(standing.content_id, standing.decision, erased),
        replaced=tuple(_decision_without_words(standing.content_id, one, erased) for one in standing.replaced),
        author_id=None if gone else standing.author_id,
    )
    policies = tuple(
        policy if policy.held is None else msgspec.structs.replace(policy, held=without_words(policy.held, erased))
        for policy in standing.policies
    )
    return msgspec.structs.replace(standing, policies=policies)


def _decision_without_words(content_id: str, decision: ModeratorDecision, erased: Erased) -> ModeratorDecision:
    return msgspec.structs.replace(decision, why="") if erased(content_id, _in_ms(decision.at)) else decision


class _Item(msgspec.Struct, frozen=True):
    content_id: str


class _Named(msgspec.Struct, frozen=True):
    """The places of ids in the records of all topics."""

    content_id: str | None = None
    event: _Item | None = None
    verdict: _Item | None = None
    action: _Item | None = None
    appeal: _Item | None = None


_STATED = re.compile(rb'"content_id"\s*:\s*("(?:[^"\\]|\\.)*")', re.DOTALL)


def content_ids(value: bytes | None) -> set[str]:
    """The ids of the content items that a record of any topic is about. Raises RecordError if it cannot be read."""
    try:
        named = decode(value, _Named)
    except RecordError:
        return {_content_id(value)}
    inner = {part.content_id for part in (named.event, named.verdict, named.action, named.appeal) if part is not None}
    return inner if named.content_id is None else inner | {named.content_id}


def stated_ids(value: bytes | None) -> set[str]:
    """The ids that the bytes of a record state, although it cannot be read: its end may be missing."""
    ids = set()
    for stated in _STATED.findall(value or b""):
        with contextlib.suppress(ValueError):
            ids.add(json.loads(stated.decode(errors="replace"), strict=False))
    return ids


def named_ids(key: bytes | None, value: bytes | None) -> set[str]:
    """The ids of the items that a record of any form may be about: its key, and what its value names or states."""
    names = set() if key is None else {key.decode(errors="replace")}
    try:
        return names | content_ids(value)
    except RecordError:
        return names | stated_ids(value)


def _content_id(value: bytes | None) -> str:
    """The id of an event, which may need the repairs of the intake. Raises RecordError."""
    try:
        return decode(value, _Item).content_id
    except RecordError:
        return read_event(value).event.content_id


class ErasureList:
    """When each item was erased last. A broken record is logged and changes nothing."""

    def __init__(self, on_erased: Callable[[str], None] = lambda content_id: None) -> None:
        """on_erased: called with the id of each item as it is erased, to empty caches."""
        self._times: dict[str, int] = {}  # content ids to ms since 1970
        self._on_erased = on_erased

    def take(self, record: Record) -> None:
        """Apply one record of moderation.erasures; a time without an offset is UTC. A tombstone ends an erasure.

        Never raises.
        """
        if record.value is None:
            self._times.pop((record.key or b"").decode(errors="replace"), None)
            return
        try:
            request = decode(record.value, ErasureRequest)
        except RecordError as error:
            message = "record of moderation.erasures ignored offset=%d error=%s"
            log.error(message, record.offset, error)  # noqa: TRY400  (the error says it all)
            return
        self._times[request.content_id] = max(_in_ms(request.erased_at), self._times.get(request.content_id, 0))
        self._on_erased(request.content_id)

    def erased(self, content_id: str, timestamp: int) -> bool:
        """Whether an item's event is erased. timestamp: when it was written, in ms since 1970.

        Events that were written after the erasure are new content. One whose time cannot be true is taken as erased.
        """
        erased_at = self._times.get(content_id)
        return erased_at is not None and (timestamp <= erased_at or not kafka.plausible(timestamp))

    def erased_at(self, content_id: str) -> datetime | None:
        """When an item was erased last; None if it was not."""
        erased_at = self._times.get(content_id)
        return None if erased_at is None else datetime.fromtimestamp(erased_at / 1000, UTC)

    def kept(self, events: Iterable[Record]) -> list[Record]:
        """The records of content.events that are not about an erased item. An unreadable one may state its id."""
        records = list(events)
        if not self._times:
            return records
        kept = [record for record in records if not self._is_erased(record)]
        if len(kept) < len(records):
            log.info("events of erased items left out count=%d", len(records) - len(kept))
        return kept

    def _is_erased(self, event: Record) -> bool:
        try:
            return self.erased(_content_id(event.value), event.timestamp)
        except RecordError:
            return any(self.erased(name, event.timestamp) for name in stated_ids(event.value))

    async def read(self, settings: Settings) -> None:
        """Take what the topic holds now."""
        async for record in kafka.read_all(settings, [topics.ERASURES]):
            self.take(record)

    async def follow(self, settings: Settings, caught_up: asyncio.Event) -> None:
        """Read the topic from its beginning until cancelled. Sets `caught_up` at the end offsets found at the start."""
        await kafka.follow(settings, topics.ERASURES, self.take, caught_up)
