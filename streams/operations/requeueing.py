"""Dead letters put back into the topics that they came from.

A dead letter names its topic and its stage, and every role may write dead letters. What a letter says is therefore no
reason to write anywhere. A record goes back only to a topic that its stage reads, and to topics that decide about
content only if the original still stands at the place that the letter names. Nothing about an erased item goes back: it
would be new content there.

What was shown is what is done: a plan fixes the letters, and `requeue` writes those and no others.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence

import msgspec
from aiokafka import TopicPartition

from safeguard_streams.bus import kafka
from safeguard_streams.bus.dead_letters import requeued
from safeguard_streams.bus.engine import Engine
from safeguard_streams.bus.interface import Output, Partition, Record
from safeguard_streams.bus.transform import stateless
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import DeadLetter, Origin
from safeguard_streams.errors import RecordError
from safeguard_streams.releases.erasures import ErasureList, content_ids, stated_ids
from safeguard_streams.runtime.aiokafka_patch import StrictConsumer
from safeguard_streams.runtime.process import Stop
from safeguard_streams.runtime.settings import Settings

GROUP = "dead-letters-retry"
# Topics that each stage reads and to which its letters may go back. A replay's end is fixed, so its letters may not.
READ_BY: dict[str, tuple[str, ...]] = {
    "prefilter": (topics.EVENTS,),
    "reasoner": tuple(topics.LANES.values()),
    "enforcement": (topics.VERDICTS, topics.ACTIONS),
    "enforcement-cleared": (topics.CLEARED,),
    "enforcement-actions": (topics.ENFORCEMENT,),
    "enforcement-webhook": (topics.ACTIONS,),
}
# Only what already stands there may be written again.
_ONLY_ORIGINALS = (topics.VERDICTS, topics.CLEARED, topics.ENFORCEMENT, topics.ACTIONS)


class KeptLetter(msgspec.Struct, frozen=True):
    """A dead letter that is not requeued: its place, the place of its original, the stage that it names, and why."""

    letter: str
    origin: str
    stage: str
    why: str


class RequeuePlan(msgspec.Struct, frozen=True):
    """What a retry writes: the letters by place, and their numbers by stage and topic.

    ends: where each partition of the dead letters ended when the plan was made.
    """

    letters: frozenset[tuple[int, int]]
    counts: dict[tuple[str, str], int]
    kept: list[KeptLetter]
    ends: dict[Partition, int]


class _Candidate(msgspec.Struct, frozen=True):
    """A letter that may go back, and a digest of the record that it holds, which may be large."""

    place: tuple[int, int]
    stage: str
    topic: str
    origin: Origin
    digest: bytes


async def plan(settings: Settings) -> RequeuePlan:
    """Read the dead letters that no earlier retry has handled, and decide which to requeue."""
    ends = await kafka.end_offsets(settings, topics.DEAD_LETTERS)
    positions = await kafka.group_positions(settings, GROUP, topics.DEAD_LETTERS, [p.partition for p in ends])
    handled = {Partition(settings.prefix + topics.DEAD_LETTERS, number): at for number, at in positions.items()}
    kept: list[KeptLetter] = []
    counts: Counter[tuple[str, str]] = Counter()
    letters: set[tuple[int, int]] = set()
    unverified: list[_Candidate] = []
    erasures = ErasureList()
    await erasures.read(settings)
    async for record, letter in kafka.read_decoded(settings, [topics.DEAD_LETTERS], DeadLetter, after=handled):
        if record.offset >= ends[Partition(record.topic, record.partition)]:
            continue
        candidate = _candidate(settings, record, letter, erasures)
        if isinstance(candidate, KeptLetter):
            kept.append(candidate)
        elif candidate.topic in _ONLY_ORIGINALS:
            unverified.append(candidate)
        else:
            letters.add(candidate.place)
            counts[candidate.stage, candidate.topic] += 1
    standing = await _standing(settings, unverified)
    for candidate in unverified:
        if candidate.place in standing:
            letters.add(candidate.place)
            counts[candidate.stage, candidate.topic] += 1
        else:
            place = f"{topics.DEAD_LETTERS}[{candidate.place[0]}]@{candidate.place[1]}"
            kept.append(KeptLetter(place, _shown(candidate.origin), candidate.stage, "its original is not there"))
    return RequeuePlan(frozenset(letters), dict(counts), kept, ends)


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
        place = f"{topics.DEAD_LETTERS}[{record.partition}]@{record.offset}"
        return KeptLetter(place, _shown(origin), letter.stage, str(error))
    digest = _digest(written.key, written.value)
    return _Candidate((record.partition, record.offset), letter.stage, topic, origin, digest)


def _digest(key: bytes | None, value: bytes | None) -> bytes:
    return hashlib.sha256(msgspec.msgpack.encode((key, value))).digest()


def _is_erased(written: Output, timestamp: int, erasures: ErasureList) -> bool:
    """Whether a record that was written at a time, in ms since 1970, is about an item that was erased since."""
    names = set() if written.key is None else {written.key.decode(errors="replace")}
    try:
        names |= content_ids(written.value)
    except RecordError:
        names |= stated_ids(written.value)
    return any(erasures.erased(name, timestamp) for name in names)


def _shown(origin: Origin) -> str:
    return f"{origin.topic}[{origin.partition}]@{origin.offset}"


async def _standing(settings: Settings, candidates: Sequence[_Candidate]) -> set[tuple[int, int]]:
    """The places of the letters that hold the record at the place that they name."""
    by_partition: dict[tuple[str, int], list[_Candidate]] = defaultdict(list)
    for candidate in candidates:
        by_partition[candidate.topic, candidate.origin.partition].append(candidate)
    found: set[tuple[int, int]] = set()
    for (topic, partition), there in by_partition.items():
        if partition in await kafka.partitions_of(settings, topic):
            async with kafka.reader(settings, [topic], partition=partition) as client:
                found |= await _compare(client, there)
    return found


async def _compare(client: StrictConsumer, candidates: Sequence[_Candidate]) -> set[tuple[int, int]]:
    """The places of the letters, all of one partition, that hold what stands there."""
    (tp,) = client.assignment()
    first, end = (await client.beginning_offsets([tp]))[tp], (await client.end_offsets([tp]))[tp]
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


async def requeue(settings: Settings, planned: RequeuePlan) -> int:
    """Requeue the letters of a plan, each exactly once, and pass the others by. Returns the number requeued."""
    count = 0

    async def write(records: Sequence[Record]) -> list[Output]:
        nonlocal count
        outputs = [
            requeued(record, settings.prefix)
            for record in records
            if (record.partition, record.offset) in planned.letters
        ]
        count += len(outputs)
        return outputs

    bus = kafka.KafkaBus(settings, [topics.DEAD_LETTERS], GROUP, record_seconds=0)
    with Stop() as stop:
        await Engine(bus, stateless(write), stage=GROUP).run(stop.event, until=planned.ends)
    return count
