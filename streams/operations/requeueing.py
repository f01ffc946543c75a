"""Dead letters put back into the topics that they came from.

A dead letter names its topic and its stage, and every role may write dead letters. What a letter says is therefore no
reason to write anywhere. A record goes back only to a topic that its stage reads, and to topics that decide about
content only if the original still stands at the place that the letter names. Nothing about an erased item goes back: it
would be new content there.

What was shown is what is done: a plan fixes the letters, and `requeue` writes those and no others. The record goes back
in one transaction with the note that it did, and the holder of one name writes both. A letter is therefore requeued
once, however many operators try.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Collection, Sequence

import msgspec
from aiokafka import TopicPartition

from safeguard_streams.bus import kafka
from safeguard_streams.bus.dead_letters import requeued
from safeguard_streams.bus.interface import Output, Record
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import DeadLetter, Origin
from safeguard_streams.errors import RecordError
from safeguard_streams.operations import dead_letters
from safeguard_streams.operations.dead_letters import (
    READ_BY,
    Handled,
    LetterFilter,
    LetterPlace,
    check_found,
    handled_record,
)
from safeguard_streams.releases.erasures import ErasureList, named_ids
from safeguard_streams.releases.operator import ChangedBy
from safeguard_streams.runtime.aiokafka_patch import StrictConsumer
from safeguard_streams.runtime.settings import Settings

# Only what already stands there may be written again.
_ONLY_ORIGINALS = (
    topics.VERDICTS,
    topics.CLEARED,
    topics.ENFORCEMENT,
    topics.ACTIONS,
    topics.STRIKES,
    topics.AUTHOR_ACTIONS,
    topics.AUTHOR_POSTS,
)
# Of one transaction, at most.
_CHUNK = 500  # letters
_CHUNK_BYTES = 16 * topics.MiB  # of letters, unless one alone is larger


class KeptLetter(msgspec.Struct, frozen=True):
    """A dead letter that is not requeued: its place, the place of its original, the stage that it names, and why."""

    letter: str
    origin: str
    stage: str
    why: str


class RequeuePlan(msgspec.Struct, frozen=True):
    """What a retry writes: the letters by place, and their numbers by stage and topic."""

    letters: frozenset[LetterPlace]
    counts: dict[tuple[str, str], int]
    kept: list[KeptLetter]


class _Candidate(msgspec.Struct, frozen=True):
    """A letter that may go back, and a digest of the record that it holds, which may be large."""

    place: LetterPlace
    stage: str
    topic: str
    origin: Origin
    digest: bytes


async def plan(settings: Settings, wanted: LetterFilter) -> RequeuePlan:
    """Read the dead letters that wait and are meant, and decide which to requeue.

    Raises ConfigurationError for an id at which no letter waits.
    """
    wanted = msgspec.structs.replace(wanted, state="waiting")
    kept: list[KeptLetter] = []
    candidates: list[_Candidate] = []
    erasures = ErasureList()
    await erasures.read(settings)
    async for found in dead_letters.read(settings, wanted):
        candidate = _candidate(settings, found.record, found.letter, erasures)
        if isinstance(candidate, KeptLetter):
            kept.append(candidate)
        else:
            candidates.append(candidate)
    check_found(wanted, {one.letter for one in kept} | {one.place.id for one in candidates})
    unverified = [one for one in candidates if one.topic in _ONLY_ORIGINALS]
    forged = {one.place for one in unverified} - await _standing(settings, unverified)
    kept += [
        KeptLetter(one.place.id, _shown(one.origin), one.stage, "its original is not there")
        for one in unverified
        if one.place in forged
    ]
    letters = [one for one in candidates if one.place not in forged]
    counts = Counter((one.stage, one.topic) for one in letters)
    return RequeuePlan(frozenset(one.place for one in letters), dict(counts), kept)


def _candidate(
    settings: Settings, record: Record, letter: DeadLetter, erasures: ErasureList
) -> _Candidate | KeptLetter:
    origin = letter.origin
    topic = origin.topic.removeprefix(settings.prefix)
    try:
        if not origin.topic.startswith(settings.prefix) or topic not in READ_BY.get(letter.stage, ()):
            raise RecordError("origin", f"the stage {letter.stage} reads no such topic")
        written = requeued(record, settings.prefix)
        if _is_erased(written, origin.timestamp, erasures):
            raise RecordError("value", "its item was erased")
    except RecordError as error:
        return KeptLetter(LetterPlace.of(record).id, _shown(origin), letter.stage, str(error))
    digest = _digest(written.key, written.value)
    return _Candidate(LetterPlace.of(record), letter.stage, topic, origin, digest)


def _digest(key: bytes | None, value: bytes | None) -> bytes:
    return hashlib.sha256(msgspec.msgpack.encode((key, value))).digest()


def _is_erased(written: Output, timestamp: int, erasures: ErasureList) -> bool:
    """Whether a record that was written at a time, in ms since 1970, is about an item that was erased since."""
    return any(erasures.erased(name, timestamp) for name in named_ids(written.key, written.value))


def _shown(origin: Origin) -> str:
    return f"{origin.topic}[{origin.partition}]@{origin.offset}"


async def _standing(settings: Settings, candidates: Sequence[_Candidate]) -> set[LetterPlace]:
    """The places of the letters that hold the record at the place that they name."""
    by_partition: dict[tuple[str, int], list[_Candidate]] = defaultdict(list)
    for candidate in candidates:
        by_partition[candidate.topic, candidate.origin.partition].append(candidate)
    found: set[LetterPlace] = set()
    for (topic, partition), there in by_partition.items():
        if partition in await kafka.partitions_of(settings, topic):
            async with kafka.reader(settings, [topic], partition=partition) as client:
                found |= await _compare(client, there)
    return found


async def _compare(client: StrictConsumer, candidates: Sequence[_Candidate]) -> set[LetterPlace]:
    """The places of the letters, all of one partition, that hold what stands there."""
    (tp,) = client.assignment()
    first = (await client.beginning_offsets([tp]))[tp]
    (end,) = (await (await kafka.EndOffsets.now(client)).resolve()).values()
    found = set()
    for candidate in sorted(candidates, key=lambda one: one.origin.offset):
        offset = candidate.origin.offset
        if first <= offset < end:
            record = await _next_record(client, tp, offset)
            if record and record.offset == offset and _digest(record.key, record.value) == candidate.digest:
                found.add(candidate.place)
    return found


async def _next_record(client: StrictConsumer, tp: TopicPartition, offset: int) -> Record | None:
    """The record at an offset or, if none is there, the one after it; None at the end."""
    client.seek(tp, offset)
    while await client.position(tp) <= offset:
        records: Sequence[Record] = (await client.getmany(tp, timeout_ms=500, max_records=1)).get(tp, ())
        if records:
            return records[0]
    return None


async def requeue(settings: Settings, planned: RequeuePlan, changed_by: ChangedBy) -> int:
    """Requeue the letters of a plan that still wait, each exactly once on a broker with transactions.

    Returns the number requeued. Raises BusError when another operator handles dead letters at the same time.
    """
    count = 0
    sizes: dict[str, int] = {}  # partitions by topic
    async with kafka.exclusive_writer(settings, dead_letters.WRITER) as write:
        handled = await Handled.read(settings)
        waiting = {place for place in planned.letters if handled.of(place) is None}
        async for records in _chunks(settings, waiting):
            originals = [requeued(record, settings.prefix) for record in records]
            for topic in {output.topic for output in originals} - set(sizes):
                sizes[topic] = len(await kafka.partitions_of(settings, topic))
            notes = [handled_record(LetterPlace.of(record), "requeued", changed_by) for record in records]
            # A letter stands in the partition of its original's number.
            numbers = [
                record.partition % sizes[output.topic] for record, output in zip(records, originals, strict=True)
            ]
            await write([*originals, *notes], numbers)
            count += len(records)
    return count


async def _chunks(settings: Settings, places: Collection[LetterPlace]) -> AsyncGenerator[list[Record], None]:
    """The records of these letters, a bounded number and size at a time."""
    chunk: list[Record] = []
    size = 0
    async for record in kafka.read_all(settings, [topics.DEAD_LETTERS]):
        if LetterPlace.of(record) in places:
            chunk.append(record)
            size += len(record.value or b"")
        if len(chunk) >= _CHUNK or size >= _CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
