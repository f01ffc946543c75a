"""Dead letters with what became of each: it waits, was requeued, or was discarded.

A letter's id is its place on moderation.dead-letters, PARTITION@OFFSET. Letters stay on their topic until it expires.
What operators do with one is a record of its own, on moderation.dead-letters.handled. Nothing is lost silently: a
letter without such a record waits.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncGenerator, Collection, Iterable, Sequence
from datetime import datetime
from typing import Literal, NamedTuple, get_args

import msgspec

from safeguard_streams.bus import kafka
from safeguard_streams.bus.interface import Output, Partition, Record
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import (
    DeadLetter,
    HandledLetter,
    HandledState,
    aware,
    decode,
    encode,
    now,
    origin_of,
    schema_header,
)
from safeguard_streams.errors import ConfigurationError, RecordError
from safeguard_streams.releases.erasures import named_ids
from safeguard_streams.releases.operator import ChangedBy
from safeguard_streams.runtime.settings import Settings

LetterState = Literal["waiting", "requeued", "discarded"]
WRITER = "dead-letters"  # the exclusive name of those who handle letters
# Topics that each stage reads and to which its letters may go back. A replay's end is fixed, so its letters may not.
# Those of authors-posts are letters of the prefilter, too, which go back once.
READ_BY: dict[str, tuple[str, ...]] = {
    "prefilter": (topics.EVENTS,),
    "prefilter-reports": (topics.REPORTS,),
    "reasoner": tuple(topics.LANES.values()),
    "enforcement": (topics.VERDICTS, topics.ACTIONS, topics.APPEALS),
    "enforcement-cleared": (topics.CLEARED,),
    "enforcement-actions": (topics.ENFORCEMENT,),
    "enforcement-webhook": (topics.ACTIONS,),
    "authors": (topics.STRIKES,),
    "authors-webhook": (topics.AUTHOR_ACTIONS,),
    "authors-rates": (topics.AUTHOR_POSTS,),
}
STAGES = (*READ_BY, "authors-posts", "replay")
_ID = re.compile(r"[0-9]{1,9}@[0-9]{1,18}")


class LetterFilter(msgspec.Struct, frozen=True):
    """Which letters are meant; a field that is None or empty accepts all. reason: a part of the reason, in any case."""

    ids: frozenset[str] = frozenset()
    state: LetterState | None = None
    stage: str | None = None
    reason: str | None = None
    since: datetime | None = None
    content_id: str | None = None

    def accepts(self, found: FoundLetter) -> bool:
        letter = found.letter
        return (
            (not self.ids or found.place.id in self.ids)
            and self.state in {None, found.state}
            and self.stage in {None, letter.stage}
            and (self.reason is None or self.reason.casefold() in f"{letter.error}: {letter.reason}".casefold())
            and (self.since is None or aware(letter.failed_at) >= self.since)
            and (self.content_id is None or self.content_id in content_ids_of(letter))
        )


class LetterPlace(NamedTuple):
    """Where a letter stands, and the timestamp of its record in ms since 1970. A letter that stands there after the
    topic was created again has another timestamp.
    """

    id: str
    timestamp: int

    @classmethod
    def of(cls, record: Record) -> LetterPlace:
        return cls(origin_of(record.partition, record.offset), record.timestamp)


class FoundLetter(msgspec.Struct, frozen=True):
    """A dead letter, its place and its record, and what was done with it; None while it waits."""

    place: LetterPlace
    record: Record
    letter: DeadLetter
    handled: HandledLetter | None

    @property
    def state(self) -> LetterState:
        return "waiting" if self.handled is None else self.handled.state


def letter_filter(
    ids: Sequence[str] = (),
    *,
    state: str | None = None,
    stage: str | None = None,
    reason: str | None = None,
    since: datetime | None = None,
    content_id: str | None = None,
) -> LetterFilter:
    """A filter of what a person wrote. Raises ConfigurationError for what is no id, no state or no stage."""
    if wrong := [one for one in ids if not _ID.fullmatch(one)]:
        raise ConfigurationError(f"{wrong[0]!r} is no dead letter's id: write PARTITION@OFFSET, such as 0@17")
    if stage is not None and stage not in STAGES:
        raise ConfigurationError(f"--stage: one of {', '.join(STAGES)}, not {stage}")
    known = next((one for one in get_args(LetterState) if one == state), None)
    if state is not None and known is None:
        raise ConfigurationError(f"--state: {', '.join(get_args(LetterState))} or all, not {state}")
    return LetterFilter(frozenset(ids), known, stage, reason, since, content_id)


def content_ids_of(letter: DeadLetter) -> set[str]:
    """The ids of the content items that a letter may be about: its key, and those that its value names."""
    try:
        key, value, _ = letter.original()
    except RecordError:
        return set()
    return named_ids(key, value)


async def read(settings: Settings, wanted: LetterFilter) -> AsyncGenerator[FoundLetter, None]:
    """The letters that are meant, oldest first in each partition. Raises only the errors of the broker."""
    handled = await Handled.read(settings)
    async for record, letter in kafka.read_decoded(settings, [topics.DEAD_LETTERS], DeadLetter):
        place = LetterPlace.of(record)
        found = FoundLetter(place, record, letter, handled.of(place))
        if wanted.accepts(found):
            yield found


class Handled:
    """What was done with letters."""

    def __init__(self, records: Iterable[HandledLetter]) -> None:
        self._by_place = {LetterPlace(one.letter, one.letter_timestamp): one for one in records}

    @classmethod
    async def read(cls, settings: Settings) -> Handled:
        return cls((await kafka.read_table(settings, topics.DEAD_LETTERS_HANDLED, HandledLetter)).values())

    def of(self, place: LetterPlace) -> HandledLetter | None:
        """What was done with a letter; None while it waits."""
        return self._by_place.get(place)


async def find(settings: Settings, letter_id: str) -> FoundLetter:
    """The letter at a place. Raises ConfigurationError if there is none."""
    number, _, offset = letter_id.partition("@")
    partition = Partition(settings.prefix + topics.DEAD_LETTERS, int(number))
    if partition.partition in await kafka.partitions_of(settings, topics.DEAD_LETTERS):
        reading = kafka.read_all(settings, [topics.DEAD_LETTERS], partition.partition, after={partition: int(offset)})
        async with contextlib.aclosing(reading) as records:
            async for record in records:
                place = LetterPlace.of(record)
                if place.id != letter_id:
                    break
                with contextlib.suppress(RecordError):
                    letter = decode(record.value, DeadLetter)
                    return FoundLetter(place, record, letter, (await Handled.read(settings)).of(place))
    raise _absent([letter_id], None)


async def places(settings: Settings, wanted: LetterFilter) -> list[tuple[LetterPlace, str]]:
    """The places and stages of the letters that wait and are meant.

    Raises ConfigurationError for an id at which no letter waits.
    """
    wanted = msgspec.structs.replace(wanted, state="waiting")
    found = [(one.place, one.letter.stage) async for one in read(settings, wanted)]
    check_found(wanted, {place.id for place, _ in found})
    return found


def check_found(wanted: LetterFilter, found: Collection[str]) -> None:
    """Raise ConfigurationError for ids that no letter of this state has."""
    if absent := sorted(wanted.ids - set(found)):
        raise _absent(absent, wanted.state)


def _absent(ids: Sequence[str], state: LetterState | None) -> ConfigurationError:
    meant = f" that is {state}" if state else ""
    return ConfigurationError(
        f"no dead letter{meant} is at {', '.join(ids)}; see: safeguard dead-letters list --state all"
    )


def handled_record(place: LetterPlace, state: HandledState, changed_by: ChangedBy) -> Output:
    """The record of what is done with a letter now."""
    done = HandledLetter(place.id, place.timestamp, state, now(), changed_by.by, changed_by.why)
    return Output(topics.DEAD_LETTERS_HANDLED, place.id.encode(), encode(done), [schema_header(HandledLetter)])


async def discard(settings: Settings, letters: Sequence[LetterPlace], changed_by: ChangedBy) -> int:
    """Give letters up, on record. Returns how many waited until now: another operator may have been faster."""
    async with kafka.exclusive_writer(settings, WRITER) as write:
        handled = await Handled.read(settings)
        waiting = [place for place in letters if handled.of(place) is None]
        for start in range(0, len(waiting), 1000):
            await write([handled_record(place, "discarded", changed_by) for place in waiting[start : start + 1000]])
    return len(waiting)
