"""Which records of which topics are about one content item, and those that were found."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from safeguard_streams.bus import kafka
from safeguard_streams.bus.dead_letters import was_requeued
from safeguard_streams.bus.interface import Record
from safeguard_streams.contract import topics
from safeguard_streams.contract.intake import Received, read_event, read_report
from safeguard_streams.contract.records import Action, DeadLetter, Escalation, Rationale, Standing, Verdict, decode
from safeguard_streams.errors import RecordError
from safeguard_streams.operations.erasure import is_about
from safeguard_streams.runtime.settings import Settings

MAX_RECORDS = 200  # of each kind, the newest
T = TypeVar("T")


class Placed(NamedTuple, Generic[T]):
    """What was read from a record, and the record."""

    record: Record
    read: T


class _Kind(NamedTuple):
    """How records of a topic are read: the decoder, whether one is about an item, and a key that copies share."""

    read: Callable[[bytes | None], Any]
    about: Callable[[Any, str, kafka.Mention], bool]
    key: Callable[[Record, Any], Hashable]


def _place(record: Record, _: object) -> Hashable:
    return record.partition, record.offset


def _key(record: Record, _: object) -> Hashable:
    return record.key


def _of(kind: type[msgspec.Struct], key: Callable[[Record, Any], Hashable]) -> _Kind:
    """A kind of record with a content_id."""
    return _Kind(lambda value: decode(value, kind), lambda read, content_id, _: read.content_id == content_id, key)


def judgement(one: Escalation | Verdict) -> Hashable:
    """What an escalation and its verdict share. Live content may be judged by a newer version than it names."""
    version = one.policy_version if one.lane == "replay" else None
    return one.origin, one.policy_id, one.lane, one.replay_id, version


def _of_event(read: Received | Escalation, content_id: str, _: object) -> bool:
    return read.event.content_id == content_id


def _verdict_id(_: Record, read: Verdict) -> Hashable:
    return read.verdict_id


_ESCALATION = _Kind(lambda value: decode(value, Escalation), _of_event, lambda _, read: judgement(read))
KINDS: dict[str, _Kind] = {
    topics.EVENTS: _Kind(read_event, _of_event, _place),
    **dict.fromkeys(topics.LANES.values(), _ESCALATION),
    topics.REPORTS: _Kind(read_report, lambda read, content_id, _: _of_event(read.received, content_id, _), _place),
    topics.CLEARED: _of(Verdict, _verdict_id),
    topics.VERDICTS: _of(Verdict, _verdict_id),
    topics.REPLAYS: _of(Verdict, _verdict_id),
    topics.RATIONALES: _of(Rationale, _key),
    topics.ACTIONS: _of(Action, lambda _, read: read.action_id),
    topics.STANDING: _of(Standing, _key),
    topics.DEAD_LETTERS: _Kind(lambda value: decode(value, DeadLetter), is_about, _place),
}


class FoundRecords:
    """The records about one item, as far as they were read: the newest MAX_RECORDS of each topic.

    dropped: earlier records beyond these.
    """

    def __init__(self, settings: Settings, content_id: str) -> None:
        self._prefix = settings.prefix
        self.content_id = content_id
        self._mention = kafka.Mention(content_id)
        self._by_topic: dict[str, dict[Hashable, Placed[Any]]] = {topic: {} for topic in KINDS}
        self.dropped = 0

    @property
    def empty(self) -> bool:
        """Whether no record is about the item."""
        return not any(self._by_topic.values())

    def take(self, record: Record) -> None:
        """Keep a record if it is about the item. A tombstone ends the record of its key."""
        topic = record.topic.removeprefix(self._prefix)
        if record.value is None:
            self._by_topic[topic].pop(record.key, None)
        elif topic == topics.DEAD_LETTERS or self._mention.possible(record.key, record.value):
            with contextlib.suppress(RecordError):  # what cannot be read is about nothing
                self._keep(topic, record)

    def _keep(self, topic: str, record: Record) -> None:
        kind, kept = KINDS[topic], self._by_topic[topic]
        read = kind.read(record.value)
        repeated = topic == topics.ACTIONS and was_requeued(record)
        if kind.about(read, self.content_id, self._mention) and not repeated:
            kept[kind.key(record, read)] = Placed(record, read)
            if len(kept) > MAX_RECORDS:
                del kept[next(iter(kept))]
                self.dropped += 1

    def placed(self, topic: str, _: type[T]) -> list[Placed[T]]:
        """The records of a topic in the order in which they stand there, each with what was read of it."""
        return list(self._by_topic[topic].values())

    def read(self, topic: str, kind: type[T]) -> list[T]:
        """What was read of the records of a topic."""
        return [read for _, read in self.placed(topic, kind)]
