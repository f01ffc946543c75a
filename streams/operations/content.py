"""Everything that the topics hold about one content item: texts, verdicts, actions, what stands, dead letters.

Every stage writes to the partition of the event, so one pass over one partition of each topic finds an item whose
producer keys events by content_id. Only if that pass finds nothing are all partitions read. Records of an erased item
are shown without its text and without words that may quote it.
"""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from safeguard_streams.bus import kafka
from safeguard_streams.bus.dead_letters import was_requeued
from safeguard_streams.bus.interface import Record
from safeguard_streams.contract import topics
from safeguard_streams.contract.intake import Received, ReceivedReport, read_event, read_report
from safeguard_streams.contract.records import (
    Action,
    DeadLetter,
    Escalation,
    Lane,
    Message,
    PrefilterResult,
    Rationale,
    Reporter,
    Standing,
    Verdict,
    content_sha256,
    decode,
    origin_of,
    verdict_id,
)
from safeguard_streams.errors import ConfigurationError, ForbiddenError, RecordError
from safeguard_streams.operations.dead_letters import LetterPlace
from safeguard_streams.operations.erasure import is_about
from safeguard_streams.releases.erasures import (
    Erased,
    ErasureList,
    is_about_erased,
    standing_without_words,
    without_words,
)
from safeguard_streams.runtime.settings import Settings

MAX_RECORDS = 200  # of each kind, the newest
T = TypeVar("T")


class TextVersion(msgspec.Struct, frozen=True):
    """One text that was published under the id. text is None if it is erased.

    origin: where the event stands on content.events, as 3@1042. published_at: None if the record's time cannot be true.
    """

    origin: str
    text: str | None
    content_sha256: str
    created_at: datetime
    published_at: datetime | None
    author_id: str | None = None
    surface: str | None = None
    language: str | None = None
    context: tuple[Message, ...] = ()


class ItemVerdict(msgspec.Struct, frozen=True):
    """A verdict on the item and the topic that holds it.

    stands: whether it is the newest under its policy on moderation.verdicts. superseded_by: the verdict that replaced
    it. rationale: what the model wrote; None for users who may not read it, and where there is none.
    """

    verdict: Verdict
    topic: str
    stands: bool
    superseded_by: str | None
    rationale: Rationale | None


class WaitingEscalation(msgspec.Struct, frozen=True):
    """An escalation of the item without a verdict."""

    policy_id: str
    policy_version: str
    lane: Lane
    prefilter: PrefilterResult
    escalated_at: datetime
    origin: str | None
    replay_id: str | None


class ItemLetter(msgspec.Struct, frozen=True):
    """A dead letter about the item: its id for `dead-letters show`, and the place of the record that it holds."""

    letter: str
    origin: str
    stage: str
    reason: str
    attempts: int
    failed_at: datetime


class ItemReport(msgspec.Struct, frozen=True):
    """A report of the item by somebody. reason: None if the item is erased."""

    report_id: str
    reporter: Reporter
    reported_at: datetime
    reason: str | None
    policies: tuple[str, ...]
    content_sha256: str


class ItemRecords(msgspec.Struct, frozen=True):
    """What the topics hold about a content item, each kind of record oldest first.

    read_partition: the only one that was read of each topic; None if all were. cleared: the prefilter's verdicts that
    let it pass. forbidden: topics that this user may not read. dropped: earlier records beyond MAX_RECORDS of a kind.
    """

    content_id: str
    read_partition: int | None
    erased_at: datetime | None
    texts: list[TextVersion]
    cleared: list[Verdict]
    verdicts: list[ItemVerdict]
    waiting: list[WaitingEscalation]
    actions: list[Action]
    standing: Standing | None
    dead_letters: list[ItemLetter]
    forbidden: list[str]
    dropped: int
    reports: list[ItemReport] = []


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
        found.report(erasures.erased), read_partition=partition, erased_at=erased_at, forbidden=search.forbidden
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
        self.found = _Found(settings, content_id)
        self.forbidden: list[str] = []
        self._settings = settings
        self._content_id = content_id
        self._since = since

    async def likely_partition(self) -> int:
        """Read the partition of each topic that the id hashes to on content.events, and return its number.

        A topic with fewer partitions has the records of several in one, as stages place their outputs.
        """
        counts = await self._partition_counts(list(_KINDS))
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
        await self._read(list(_KINDS), None)

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


class _Placed(NamedTuple, Generic[T]):
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


def _judgement(one: Escalation | Verdict) -> Hashable:
    """What an escalation and its verdict share. Live content may be judged by a newer version than it names."""
    version = one.policy_version if one.lane == "replay" else None
    return one.origin, one.policy_id, one.lane, one.replay_id, version


def _of_event(read: Received | Escalation, content_id: str, _: object) -> bool:
    return read.event.content_id == content_id


def _verdict_id(_: Record, read: Verdict) -> Hashable:
    return read.verdict_id


_ESCALATION = _Kind(lambda value: decode(value, Escalation), _of_event, lambda _, read: _judgement(read))
_KINDS: dict[str, _Kind] = {
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


class _Found:
    """The records about one item, as far as they were read: the newest MAX_RECORDS of each topic."""

    def __init__(self, settings: Settings, content_id: str) -> None:
        self._prefix = settings.prefix
        self._content_id = content_id
        self._mention = kafka.Mention(content_id)
        self._by_topic: dict[str, dict[Hashable, _Placed[Any]]] = {topic: {} for topic in _KINDS}
        self._dropped = 0

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
        kind, kept = _KINDS[topic], self._by_topic[topic]
        read = kind.read(record.value)
        repeated = topic == topics.ACTIONS and was_requeued(record)
        if kind.about(read, self._content_id, self._mention) and not repeated:
            kept[kind.key(record, read)] = _Placed(record, read)
            if len(kept) > MAX_RECORDS:
                del kept[next(iter(kept))]
                self._dropped += 1

    def _placed(self, topic: str, _: type[T]) -> list[_Placed[T]]:
        return list(self._by_topic[topic].values())

    def _read(self, topic: str, kind: type[T]) -> list[T]:
        return [read for _, read in self._placed(topic, kind)]

    def report(self, erased: Erased) -> ItemRecords:
        """What was found, without the words about an erased item."""
        standing = self._read(topics.STANDING, Standing)
        return ItemRecords(
            content_id=self._content_id,
            read_partition=None,
            erased_at=None,
            texts=[_text(one, erased) for one in self._placed(topics.EVENTS, Received)],
            cleared=self._read(topics.CLEARED, Verdict),
            verdicts=self._verdicts(erased),
            waiting=self._waiting(),
            actions=[without_words(action, erased) for action in self._read(topics.ACTIONS, Action)],
            standing=standing_without_words(standing[0], erased) if standing else None,
            dead_letters=[_letter(one) for one in self._placed(topics.DEAD_LETTERS, DeadLetter)],
            forbidden=[],
            dropped=self._dropped,
            reports=[_item_report(one, erased) for one in self._placed(topics.REPORTS, ReceivedReport)],
        )

    def _verdicts(self, erased: Erased) -> list[ItemVerdict]:
        live, replayed = self._read(topics.VERDICTS, Verdict), self._read(topics.REPLAYS, Verdict)
        superseded_by = _superseded(live)
        newest = {verdict.policy_id: verdict.verdict_id for verdict in live}
        rationales = {one.verdict_id: one for one in self._read(topics.RATIONALES, Rationale)}
        judged_as = {verdict_id(one.verdict_id, "promote"): one.verdict_id for one in replayed}
        return [
            ItemVerdict(
                verdict=without_words(verdict, erased),
                topic=topic,
                stands=topic == topics.VERDICTS and newest[verdict.policy_id] == verdict.verdict_id,
                superseded_by=superseded_by.get(verdict.verdict_id),
                rationale=None
                if is_about_erased(verdict, erased)
                else rationales.get(judged_as.get(verdict.verdict_id, verdict.verdict_id)),
            )
            for topic, verdicts in ((topics.VERDICTS, live), (topics.REPLAYS, replayed))
            for verdict in verdicts
        ]

    def _waiting(self) -> list[WaitingEscalation]:
        verdicts = [*self._read(topics.VERDICTS, Verdict), *self._read(topics.REPLAYS, Verdict)]
        judged = set(map(_judgement, verdicts))
        escalations = [one for lane in topics.LANES.values() for one in self._read(lane, Escalation)]
        return [
            WaitingEscalation(
                one.policy_id,
                one.policy_version,
                one.lane,
                one.prefilter,
                one.escalated_at,
                one.origin,
                one.replay_id,
            )
            for one in escalations
            if _judgement(one) not in judged
        ]


def _superseded(verdicts: Iterable[Verdict]) -> dict[str, str]:
    """The verdict that replaced each of these, by id: the one that names it or else the next under its policy."""
    superseded_by: dict[str, str] = {}
    newest: dict[str, str] = {}
    for verdict in verdicts:
        previous = newest.get(verdict.policy_id)
        newest[verdict.policy_id] = verdict.verdict_id
        if previous is not None:
            superseded_by.setdefault(previous, verdict.verdict_id)
        if verdict.supersedes is not None:
            superseded_by[verdict.supersedes] = verdict.verdict_id
    return superseded_by


def _text(placed: _Placed[Received], erased: Erased) -> TextVersion:
    record, event = placed.record, placed.read.event
    published = datetime.fromtimestamp(record.timestamp / 1000, UTC) if kafka.plausible(record.timestamp) else None
    version = TextVersion(
        origin_of(record.partition, record.offset), None, content_sha256(event.text), event.created_at, published
    )
    if erased(event.content_id, record.timestamp):
        return version
    return msgspec.structs.replace(
        version,
        text=event.text,
        author_id=event.author_id,
        surface=event.surface,
        language=event.language,
        context=event.context,
    )


def _item_report(placed: _Placed[ReceivedReport], erased: Erased) -> ItemReport:
    record, (report, event) = placed.record, (placed.read.report, placed.read.received.event)
    gone = erased(event.content_id, record.timestamp)
    return ItemReport(
        report.report_id,
        report.reporter,
        report.reported_at,
        None if gone else report.reason,
        report.policies,
        content_sha256(event.text),
    )


def _letter(placed: _Placed[DeadLetter]) -> ItemLetter:
    record, letter = placed
    origin = letter.origin
    return ItemLetter(
        letter=LetterPlace.of(record).id,
        origin=f"{origin.topic}[{origin.partition}]@{origin.offset}",
        stage=letter.stage,
        reason=letter.reason,
        attempts=letter.attempts,
        failed_at=letter.failed_at,
    )
