"""Erasure of a content item: nothing is done with it any more, rationales are erased, and every other place is named.

An erasure has these parts, in this order:

1. A record on moderation.erasures. From then on no stage works on the item's earlier events, delivers what was written
   about them, or keeps them in its caches.
2. Tombstones for the model's rationales. Kafka erases single records in compacted topics only; the rationales have one
   for this reason, keyed by verdict.
3. Tombstones for referrals to authorities whose legal hold was released. Those under hold stay, and are named.
4. A search for the records that remain until the retention of their topic ends. Records are found by the content_id in
   their value, because producers may key them by anything.
"""

from __future__ import annotations

import base64
import contextlib
import re
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta

import msgspec

from safeguard_streams.bus import kafka
from safeguard_streams.bus.interface import Output, Record
from safeguard_streams.contract import topics
from safeguard_streams.contract.intake import read_event, read_report
from safeguard_streams.contract.records import (
    Action,
    Appeal,
    AuthorAction,
    AuthorPost,
    AuthorStanding,
    ContentEvent,
    DeadLetter,
    EnforcementInput,
    ErasureRequest,
    Escalation,
    Rationale,
    ReportedText,
    Standing,
    StatementOfReasons,
    Strike,
    Verdict,
    decode,
    encode,
    now,
    schema_header,
)
from safeguard_streams.errors import ForbiddenError, RecordError
from safeguard_streams.operations.referrals import erase_released
from safeguard_streams.releases.erasures import content_ids
from safeguard_streams.releases.operator import ChangedBy
from safeguard_streams.runtime.settings import Settings

_WRITER = "policy-releases"  # a transactional id that operators may use
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)
# What no search of topics finds, and what to do about it.
ELSEWHERE = (
    "the application that published the item: its stores, and clients that may publish it again",
    "consumers of moderation.verdicts and moderation.actions, and the webhook's receiver: what they stored or showed",
    "segments on the brokers' disks: Kafka deletes or compacts them some time after the dates above",
    "other items whose context holds the item's text: erase them by their own ids",
    "dead letters of records that no codec could read, which hold their bytes; reasons typed for policies and replays",
    "databases of other consoles: their projectors remove its words when they read the erasure; backups of databases",
    "memory: caches of reasoners forget the item now, prefix caches of inference servers when they are full",
    "files that commands wrote: exports, pages and Parquet files of replays, training data, output with texts",
    "folders safeguard-diff-* for temporary files, which only a replay diff that was killed leaves behind",
    "backups and mirrors of the cluster, and inference servers or proxies that log prompts",
    "moderation.erasures: the id of the item, for as long as the erasure is to hold",
)


class RemainingRecords(msgspec.Struct, frozen=True):
    """Records about a content item in a topic.

    text: whether they hold its text. quotes: fields that may quote it. until: when the last is gone. It is
    None where that is unknown: in a compacted topic, and if the timestamp of a record cannot be true. author: whether
    they name its author, or may.
    """

    topic: str
    records: int
    text: bool
    quotes: tuple[str, ...]
    until: datetime | None
    author: bool


class HeldReferral(msgspec.Struct, frozen=True):
    """A referral that a legal hold keeps: since when, and whether it holds the item's text and names its author."""

    referral_id: str
    since: datetime
    text: bool
    author: bool


class Erasure(msgspec.Struct, frozen=True):
    """The result of an erasure. Events that were written by erased_at are erased.

    rationales: the number erased. by: when compaction has removed them from the brokers' disks. all_rationales: whether
    rationales were searched, too; this user may not read them otherwise, and those whose verdict has expired stay until
    their own retention ends. remains: the records that stay until retention ends. referrals: the number erased; held:
    those under a legal hold, which stay. all_referrals: whether this user may read and erase them. elsewhere: places
    outside the topics.
    """

    content_id: str
    erased_at: datetime
    rationales: int
    by: datetime
    all_rationales: bool
    remains: list[RemainingRecords]
    referrals: int = 0
    held: list[HeldReferral] = []
    all_referrals: bool = True
    elsewhere: tuple[str, ...] = ELSEWHERE


class Search(msgspec.Struct, frozen=True):
    """Bounds of the search for remaining records.

    since: when the first record about the item was written, at the earliest. by_key: whether its producer keys events
    by content_id with the default partitioner; only one partition of each topic is read then.
    """

    since: datetime | None = None
    by_key: bool = False


class _Found(msgspec.Struct):
    """What was found in one topic."""

    records: int = 0
    text: bool = False
    author: bool = False
    quotes: set[str] = msgspec.field(default_factory=set)
    timestamps: list[int] = msgspec.field(default_factory=list)


class _Place(msgspec.Struct, frozen=True):
    """What a record about an item holds: text, fields that may quote it, author. verdict_id: that it is about."""

    text: bool = False
    quotes: tuple[str, ...] = ()
    verdict_id: str | None = None
    author: bool = False


async def erase(settings: Settings, content_id: str, operator: ChangedBy, search: Search | None = None) -> Erasure:
    """Erase a content item. Repeat it to find records that were on their way."""
    bounds = search or Search()
    request = ErasureRequest(content_id, now(), operator.by)
    async with kafka.exclusive_writer(settings, _WRITER) as write:
        await write([Output(topics.ERASURES, content_id.encode(), encode(request), [schema_header(ErasureRequest)])])
    found: dict[str, _Found] = {}
    partitions: dict[str, int] = {}  # verdict ids to the verdict's partition, where its rationale is too
    for topic in _SEARCHED:
        async for record, place in _about(settings, topic, content_id, bounds):
            there = found.setdefault(topic, _Found())
            there.records += 1
            there.text |= place.text
            there.author |= place.author
            there.quotes |= set(place.quotes)
            there.timestamps.append(record.timestamp)
            if place.verdict_id is not None:
                partitions[place.verdict_id] = record.partition
    all_rationales = True
    try:
        async for record, place in _about(settings, topics.RATIONALES, content_id, bounds):
            if place.verdict_id is not None:
                partitions[place.verdict_id] = record.partition
    except ForbiddenError:
        all_rationales = False
    if partitions:
        async with kafka.exclusive_writer(settings, _WRITER) as write:
            tombstones = [Output(topics.RATIONALES, name.encode(), None) for name in partitions]
            await write(tombstones, list(partitions.values()))
    erased, held, all_referrals = await _referrals(settings, content_id, bounds)
    # Records of a compacted topic stay as long as something stands on the item.
    kept = {topic.name: topic.retention for topic in settings.catalogue if topic.cleanup != "compact"}
    return Erasure(
        content_id,
        request.erased_at,
        len(partitions),
        now() + timedelta(milliseconds=topics.COMPACTION_LAG),
        all_rationales,
        [
            RemainingRecords(
                *(topic, one.records, one.text, tuple(sorted(one.quotes))),
                _until(kept.get(topic, topics.FOREVER), one.timestamps),
                author=one.author,
            )
            for topic, one in found.items()
        ],
        erased,
        held,
        all_referrals,
    )


async def _referrals(settings: Settings, content_id: str, bounds: Search) -> tuple[int, list[HeldReferral], bool]:
    """Erase the referrals of an item that no legal hold keeps. Returns their number, those under hold, and whether this
    user may read referrals.
    """
    try:
        partition = await _partition(settings, topics.REFERRALS, content_id, bounds)
        released, held = await erase_released(settings, content_id, partition)
    except ForbiddenError:
        return 0, [], False
    return (
        len(released),
        [
            HeldReferral(one.referral_id, one.held_at or one.referred_at, one.text is not None, bool(one.author_id))
            for one in held
        ],
        True,
    )


def _until(kept: int, timestamps: list[int]) -> datetime | None:
    """When the last of some records expires, if it does. kept: the retention of their topic."""
    if kept == topics.FOREVER or not all(map(kafka.plausible, timestamps)):
        return None
    return datetime.fromtimestamp((max(timestamps) + kept) / 1000, UTC)


# ---------------------------------------------------------------------- search


async def _about(
    settings: Settings, topic: str, content_id: str, bounds: Search
) -> AsyncIterator[tuple[Record, _Place]]:
    """The records of a topic about an item, and what each holds of it."""
    partition = await _partition(settings, topic, content_id, bounds)
    mention, place_of = kafka.Mention(content_id), _SEARCHED.get(topic, _rationale)
    async with contextlib.aclosing(kafka.read_all(settings, [topic], partition, since=bounds.since)) as records:
        async for record in records:
            if record.value is not None and (topic in _ENCODED or mention.possible(record.key, record.value)):
                # A record that cannot be read counts by its key, and may hold anything.
                holds = topic in _HOLDS_TEXT
                place = _Place(text=holds, author=holds) if record.key == mention.key else None
                with contextlib.suppress(RecordError):
                    place = place_of(record.value, content_id, mention) or place
                if place is not None:
                    yield record, place


async def _partition(settings: Settings, topic: str, content_id: str, bounds: Search) -> int | None:
    """The one partition of a topic to search; None for all."""
    if not bounds.by_key or topic in _BY_AUTHOR:
        return None
    events = len(await kafka.partitions_of(settings, topics.EVENTS))
    return kafka.likely_partition(content_id, events) % len(await kafka.partitions_of(settings, topic))


def _event(value: bytes, content_id: str, _: kafka.Mention) -> _Place | None:
    return _of_event(read_event(value).event, content_id)


def _escalation(value: bytes, content_id: str, _: kafka.Mention) -> _Place | None:
    return _of_event(decode(value, Escalation).event, content_id)


def _report(value: bytes, content_id: str, _: kafka.Mention) -> _Place | None:
    read = read_report(value)
    place = _of_event(read.received.event, content_id)
    return place and msgspec.structs.replace(place, quotes=("reason",) if read.report.reason else ())


def _reported(value: bytes, content_id: str, _: kafka.Mention) -> _Place | None:
    return _Place() if decode(value, ReportedText).content_id == content_id else None


def _of_event(event: ContentEvent, content_id: str) -> _Place | None:
    return _Place(text=True, author=bool(event.author_id)) if event.content_id == content_id else None


def _verdict(value: bytes, content_id: str, _: kafka.Mention) -> _Place | None:
    verdict = decode(value, Verdict)
    if verdict.content_id != content_id:
        return None
    quotes = ("reason",) if verdict.reason else ()
    return _Place(quotes=quotes, verdict_id=verdict.verdict_id, author=bool(verdict.author_id))


def _cleared(value: bytes, content_id: str, _: kafka.Mention) -> _Place | None:
    verdict = decode(value, Verdict)
    return _Place(author=bool(verdict.author_id)) if verdict.content_id == content_id else None


def _action(value: bytes, content_id: str, _: kafka.Mention) -> _Place | None:
    action = decode(value, Action)
    if action.content_id != content_id:
        return None
    quotes = tuple(name for name in ("reason", "why") if getattr(action, name))
    return _Place(quotes=quotes, author=bool(action.author_id))


def _input(value: bytes, content_id: str, _: kafka.Mention) -> _Place | None:
    read = decode(value, EnforcementInput)
    if content_id not in {part.content_id for part in (read.verdict, read.action, read.appeal) if part is not None}:
        return None
    said = {
        "reason": (read.verdict and read.verdict.reason) or (read.action and read.action.reason),
        "why": read.action and read.action.why,
    }
    author = any(part is not None and part.author_id for part in (read.verdict, read.action))
    return _Place(quotes=tuple(name for name, words in said.items() if words), author=author)


def _appeal(value: bytes, content_id: str, _: kafka.Mention) -> _Place | None:
    appeal = decode(value, Appeal)
    quotes = tuple(name for name in ("reason", "new_context") if getattr(appeal, name))
    return _Place(quotes=quotes) if appeal.content_id == content_id else None


def _standing(value: bytes, content_id: str, _: kafka.Mention) -> _Place | None:
    standing = decode(value, Standing)
    if standing.content_id != content_id:
        return None
    held = any(policy.held is not None and policy.held.reason for policy in standing.policies)
    decided = standing.decision is not None and standing.decision.why
    quotes = tuple(name for name, words in (("reason", held), ("why", decided)) if words)
    said = (*standing.policies, standing.decision, *standing.replaced)
    violated = any(one is not None and one.violation is not None for one in said)
    return _Place(quotes=quotes, author=bool(standing.author_id) or violated)


def _statement(value: bytes, content_id: str, _: kafka.Mention) -> _Place | None:
    said = decode(value, StatementOfReasons)
    return _Place(author=bool(said.author_id)) if said.content_id == content_id else None


def _strike(value: bytes, content_id: str, _: kafka.Mention) -> _Place | None:
    strike = decode(value, Strike)
    return _Place(author=True) if strike.content_id == content_id else None


def _author_action(value: bytes, content_id: str, _: kafka.Mention) -> _Place | None:
    return _Place(author=True) if decode(value, AuthorAction).content_id == content_id else None


def _author_post(value: bytes, content_id: str, _: kafka.Mention) -> _Place | None:
    return _Place(quotes=("sketch",), author=True) if decode(value, AuthorPost).content_id == content_id else None


def _author_standing(value: bytes, content_id: str, _: kafka.Mention) -> _Place | None:
    strikes = decode(value, AuthorStanding).strikes
    return _Place(author=True) if any(one.content_id == content_id for one in strikes) else None


def _rationale(value: bytes, content_id: str, _: kafka.Mention) -> _Place | None:
    rationale = decode(value, Rationale)
    return _Place(verdict_id=rationale.verdict_id) if rationale.content_id == content_id else None


def _dead_letter(value: bytes, content_id: str, mention: kafka.Mention) -> _Place | None:
    return _Place(text=True, author=True) if is_about(decode(value, DeadLetter), content_id, mention) else None


def is_about(letter: DeadLetter, content_id: str, mention: kafka.Mention) -> bool:
    """Whether a dead letter is about an item. Its record may be anything: it counts if it is about the id or has it as
    its key or, where it cannot be read, if it holds the id.
    """
    try:
        key, held = (None if part is None else base64.b64decode(part) for part in (letter.key, letter.value))
    except ValueError:
        return False
    return key == mention.key or (held is not None and _holds(held, content_id))


def _holds(value: bytes, content_id: str) -> bool:
    """Whether the bytes of a record are about an id or, if they cannot be read, hold it in any notation of JSON."""
    with contextlib.suppress(RecordError):
        return content_id in content_ids(value)
    text = value.decode(errors="replace")
    plain = _ESCAPE.sub(lambda escape: chr(int(escape[1], 16)) if escape[1] else escape[2], text)
    return content_id in text or content_id in plain.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


_PlaceOf = Callable[[bytes, str, kafka.Mention], _Place | None]
_SEARCHED: dict[str, _PlaceOf] = {
    topics.EVENTS: _event,
    topics.REPORTS: _report,
    topics.REPORTED: _reported,
    **dict.fromkeys(topics.LANES.values(), _escalation),
    topics.CLEARED: _cleared,
    topics.VERDICTS: _verdict,
    topics.REPLAYS: _verdict,
    topics.ENFORCEMENT: _input,
    topics.STANDING: _standing,
    topics.ACTIONS: _action,
    topics.STATEMENTS: _statement,
    topics.APPEALS: _appeal,
    topics.STRIKES: _strike,
    topics.AUTHOR_ACTIONS: _author_action,
    topics.AUTHOR_STANDING: _author_standing,
    topics.AUTHOR_POSTS: _author_post,
    topics.DEAD_LETTERS: _dead_letter,
}
_HOLDS_TEXT = (topics.EVENTS, topics.REPORTS, *topics.LANES.values(), topics.DEAD_LETTERS)
# Whatever the key of the item:
_BY_AUTHOR = (topics.STRIKES, topics.AUTHOR_ACTIONS, topics.AUTHOR_STANDING, topics.AUTHOR_POSTS)
_ENCODED = (topics.DEAD_LETTERS,)  # in base64, in which an id does not show
