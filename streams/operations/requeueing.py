"""Dead letters put back into the topics that they came from.

A dead letter names its topic and its stage, and every role may write dead letters. What a letter says is therefore no
reason to write anywhere. A record goes back only to a topic that its stage reads, and to topics that decide about
content only if the original still stands at the place that the letter names.

What was shown is what is done: a plan fixes the letters, and `requeue` writes those and no others.
"""

from __future__ import annotations

from collections import Counter
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
from safeguard_streams.runtime.process import Stop
from safeguard_streams.runtime.settings import Settings

GROUP = "dead-letters-retry"
# Topics that each stage reads and to which its letters may go back. A replay's end is fixed, so its letters may not.
READ_BY: dict[str, tuple[str, ...]] = {
    "prefilter": (topics.EVENTS,),
    "reasoner": tuple(topics.LANES.values()),
    "enforcement": (topics.VERDICTS, topics.ACTIONS),
    "enforcement-actions": (topics.ENFORCEMENT,),
    "enforcement-webhook": (topics.ACTIONS,),
}
# Only what already stands there may be written again.
_ONLY_ORIGINALS = (topics.VERDICTS, topics.ENFORCEMENT, topics.ACTIONS)


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
    place: tuple[int, int]
    stage: str
    topic: str
    origin: Origin
    written: Output


async def plan(settings: Settings) -> RequeuePlan:
    """Read the dead letters that no earlier retry has handled, and decide which to requeue."""
    ends = await kafka.end_offsets(settings, topics.DEAD_LETTERS)
    positions = await kafka.group_positions(settings, GROUP, topics.DEAD_LETTERS, [p.partition for p in ends])
    handled = {Partition(settings.prefix + topics.DEAD_LETTERS, number): at for number, at in positions.items()}
    kept: list[KeptLetter] = []
    counts: Counter[tuple[str, str]] = Counter()
    letters: set[tuple[int, int]] = set()
    unverified: list[_Candidate] = []
    async for record, letter in kafka.read_decoded(settings, [topics.DEAD_LETTERS], DeadLetter, after=handled):
        if record.offset >= ends[Partition(record.topic, record.partition)]:
            continue
        candidate = _candidate(settings, record, letter)
        if isinstance(candidate, KeptLetter):
            kept.append(candidate)
        elif candidate.topic in _ONLY_ORIGINALS:
            unverified.append(candidate)
        else:
            letters.add(candidate.place)
            counts[candidate.stage, candidate.topic] += 1
    for candidate in unverified:
        if await _stands(settings, candidate):
            letters.add(candidate.place)
            counts[candidate.stage, candidate.topic] += 1
        else:
            place = f"{topics.DEAD_LETTERS}[{candidate.place[0]}]@{candidate.place[1]}"
            kept.append(KeptLetter(place, _shown(candidate.origin), candidate.stage, "its original is not there"))
    return RequeuePlan(frozenset(letters), dict(counts), kept, ends)


def _candidate(settings: Settings, record: Record, letter: DeadLetter) -> _Candidate | KeptLetter:
    origin = letter.origin
    topic = origin.topic.removeprefix(settings.prefix)
    why = None
    if not origin.topic.startswith(settings.prefix) or topic not in READ_BY.get(letter.stage, ()):
        why = f"the stage {letter.stage} reads no such topic"
    else:
        try:
            written = requeued(record, settings.prefix)
        except RecordError as error:
            why = str(error)
    if why is not None:
        place = f"{topics.DEAD_LETTERS}[{record.partition}]@{record.offset}"
        return KeptLetter(place, _shown(origin), letter.stage, why)
    return _Candidate((record.partition, record.offset), letter.stage, topic, origin, written)


def _shown(origin: Origin) -> str:
    return f"{origin.topic}[{origin.partition}]@{origin.offset}"


async def _stands(settings: Settings, candidate: _Candidate) -> bool:
    """Whether the record at the place that a letter names is the one that the letter holds."""
    if candidate.origin.partition not in await kafka.partitions_of(settings, candidate.topic):
        return False
    async with kafka.reader(settings, [candidate.topic], partition=candidate.origin.partition) as client:
        tp = TopicPartition(candidate.origin.topic, candidate.origin.partition)
        first = (await client.beginning_offsets([tp]))[tp]
        end = (await client.end_offsets([tp]))[tp]
        if not first <= candidate.origin.offset < end:
            return False
        client.seek(tp, candidate.origin.offset)
        while await client.position(tp) <= candidate.origin.offset:
            for record in (await client.getmany(tp, timeout_ms=500, max_records=1)).get(tp, ()):
                there = record.offset, record.key, record.value
                return there == (candidate.origin.offset, candidate.written.key, candidate.written.value)
    return False


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
