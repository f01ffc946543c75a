"""Content of the past, judged again by another version of a policy: what is chosen, and who runs it.

A replay is a record on moderation.replays.jobs; how far it is, is the position of a consumer group of its own on
content.events, committed with what was escalated. Nothing of it is on a disk: a runner that is killed is followed by
another, which goes on where the last commit was.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

import msgspec
import numpy as np
from aiokafka import TopicPartition

from safeguard_streams.bus import kafka
from safeguard_streams.bus.engine import Engine, Limits
from safeguard_streams.bus.interface import Output, Record
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import (
    REPLAYED,
    ContentEvent,
    Decision,
    Escalation,
    PolicyRelease,
    Replay,
    Replayed,
    ReplayState,
    Verdict,
    carried,
    decode,
    encode,
    now,
    policy_key,
    schema_header,
)
from safeguard_streams.errors import ConfigurationError, RecordError
from safeguard_streams.policies.document import Policy
from safeguard_streams.prefilter.classifier import Classifier
from safeguard_streams.prefilter.decision import AuditRates, EscalationReason, Prefilter
from safeguard_streams.prefilter.sampling import drawn, hashed
from safeguard_streams.releases import operator
from safeguard_streams.releases.feed import PolicyFeed
from safeguard_streams.runtime.settings import Settings

STAGE = "replay"
_WRITER = "replay-jobs"
_ESCALATION = schema_header(Escalation)


class ReplayRequest(msgspec.Struct, frozen=True):
    """What is to be replayed. since and until bound the time at which events were written to the topic; first and last
    their offsets in each partition, both included. Shares are 0 to 1.
    """

    policies: Sequence[Policy]
    since: datetime | None = None
    until: datetime | None = None
    first: int | None = None
    last: int | None = None
    sample: float = 1.0
    noise: float = 0.1
    surfaces: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    decisions: tuple[Decision, ...] = ()


async def create(settings: Settings, wanted: ReplayRequest, author: operator.Author) -> Replay:
    """Fix what is replayed, and tell the reasoners the versions to judge by. Nothing is replayed yet."""
    known = await operator.past(settings)
    starts, ends = await _bounds(settings, wanted)
    replay = Replay(
        replay_id=f"{now():%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:4]}",
        policies=tuple(_replayed(policy, known.in_force.get(policy.id)) for policy in wanted.policies),
        starts=starts,
        ends=ends,
        state="running",
        created_at=now(),
        created_by=author.by,
        why=author.why,
        sample=wanted.sample,
        noise=wanted.noise,
        surfaces=wanted.surfaces,
        languages=wanted.languages,
        decisions=wanted.decisions,
    )
    if not replay.total:
        raise ConfigurationError("no event lies between these bounds; see --since, --until, --first, --last")
    async with kafka.exclusive_writer(settings, _WRITER) as write:
        await write([*_versions(replay, author), _job(replay)])
    return replay


def _replayed(policy: Policy, before: PolicyRelease | None) -> Replayed:
    return Replayed(
        policy.id,
        policy.version,
        policy.document,
        policy.distilled_file,
        before.version if before else None,
        before.document if before else None,
        before.distilled if before else None,
    )


def _versions(replay: Replay, author: operator.Author) -> list[Output]:
    """Records that tell reasoners the versions of a replay, those before included: they may be out of force when it runs."""
    outputs = []
    for one in replay.policies:
        versions = [(one.version, one.document, one.distilled)]
        if one.before_version and one.before_document:
            versions.append((one.before_version, one.before_document, one.before_distilled))
        for version, document, distilled in versions:
            release = PolicyRelease(
                one.policy_id, version, 0, document, now(), author.by, author.why, distilled, replay=True
            )
            outputs.append(Output(topics.POLICIES, release.key, encode(release), [schema_header(PolicyRelease)]))
    return outputs


def _job(replay: Replay) -> Output:
    return Output(topics.REPLAY_JOBS, replay.replay_id.encode(), encode(replay), [schema_header(Replay)])


async def _bounds(settings: Settings, wanted: ReplayRequest) -> tuple[dict[str, int], dict[str, int]]:
    async with kafka.reader(settings, [topics.EVENTS]) as consumer:
        partitions = sorted(consumer.assignment())
        begins = await consumer.beginning_offsets(partitions)
        ends = await (await kafka.EndOffsets.now(consumer)).resolve()
        if wanted.since:
            found = await consumer.offsets_for_times(dict.fromkeys(partitions, _milliseconds(wanted.since)))
            begins = {tp: found[tp].offset if found[tp] else ends[tp] for tp in partitions}
        if wanted.until:
            found = await consumer.offsets_for_times(dict.fromkeys(partitions, _milliseconds(wanted.until)))
            ends = {tp: found[tp].offset if found[tp] else ends[tp] for tp in partitions}
    if wanted.first is not None:
        begins = {tp: max(begin, wanted.first) for tp, begin in begins.items()}
    if wanted.last is not None:
        ends = {tp: min(end, wanted.last + 1) for tp, end in ends.items()}
    kept = [tp for tp in partitions if begins[tp] < ends[tp]]
    return {str(tp.partition): begins[tp] for tp in kept}, {str(tp.partition): ends[tp] for tp in kept}


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


async def jobs(settings: Settings) -> dict[str, Replay]:
    """All replays, by id, oldest first."""
    found: dict[str, Replay] = {}
    async for record in kafka.read_all(settings, [topics.REPLAY_JOBS]):
        with contextlib.suppress(RecordError):
            replay = decode(record.value, Replay)
            found[replay.replay_id] = replay
    return dict(sorted(found.items()))


async def job(settings: Settings, replay_id: str) -> Replay:
    """A replay by its id, or by the beginning of it. Raises ConfigurationError when it is not one."""
    known = await jobs(settings)
    found = [replay for name, replay in known.items() if name.startswith(replay_id)]
    if len(found) != 1:
        raise ConfigurationError(
            f"{len(found)} replays begin with {replay_id!r}; there are: {', '.join(known) or 'none'}"
        )
    return found[0]


async def set_state(settings: Settings, replay: Replay, state: ReplayState) -> Replay:
    """Pause, resume, cancel or end. A runner notices within seconds. Raises ConfigurationError for one that has ended."""
    async with kafka.exclusive_writer(settings, _WRITER) as write:
        known = await jobs(settings)
        current = known[replay.replay_id]
        over = current.state == "cancelled" or (current.state == "escalated" and state != "cancelled")
        if over and current.state != state:
            raise ConfigurationError(f"replay {current.replay_id} is {current.state}: start another one")
        changed = msgspec.structs.replace(current, state=state)
        ended = _ended_versions(changed, known.values()) if state == "cancelled" else []
        await write([_job(changed), *ended])
    return changed


def _ended_versions(cancelled: Replay, known: Iterable[Replay]) -> list[Output]:
    """Tombstones for the versions that only a cancelled replay needs: what waits under them is then answered at once."""
    needed = {
        key
        for other in known
        if other.replay_id != cancelled.replay_id and other.state != "cancelled"
        for key in _keys(other)
    }
    return [Output(topics.POLICIES, key, None) for key in sorted(_keys(cancelled) - needed)]


def _keys(replay: Replay) -> set[bytes]:
    versions = [(one.policy_id, v) for one in replay.policies for v in (one.version, one.before_version) if v]
    return {policy_key(policy_id, REPLAYED + version) for policy_id, version in versions}


class _OfReplay(msgspec.Struct, frozen=True):
    """What escalations and verdicts of replays have in common."""

    replay_id: str | None = None


class ReplaySelector:
    """The transform of a replay: which events are escalated again, and under which versions."""

    def __init__(self, replay: Replay, classifier: Classifier, earlier: dict[tuple[str, str], Decision]) -> None:
        self._replay = replay
        self._earlier = earlier
        feed = PolicyFeed()
        for one in replay.policies:
            if one.before_version and one.before_document:
                _take(feed, one.policy_id, one.before_version, one.before_document, one.before_distilled, None)
            _take(feed, one.policy_id, one.version, one.document, one.distilled, 1.0)
        # The version before is in force, the new one its shadow: each wants what either's gates want.
        self._prefilter = Prefilter(classifier, feed, AuditRates(0.0, 0.0))
        # Where only the gate changes, both versions are one text, and judging it is a measure of the noise by itself.
        self._before = {one.policy_id for one in replay.policies if one.before_version != one.version}
        self._seed = np.array([hashed(f"{replay.replay_id} sample")], dtype=np.uint64)
        self._noise = np.array([hashed(f"{replay.replay_id} noise")], dtype=np.uint64)

    async def __call__(self, records: Sequence[Record]) -> list[Output]:
        replay = self._replay
        kept: list[tuple[Record, ContentEvent]] = []
        for record in records:
            partition = str(record.partition)
            if replay.starts.get(partition, 0) <= record.offset < replay.ends.get(partition, 0):
                with contextlib.suppress(RecordError):  # it is among the dead letters
                    event = decode(record.value, ContentEvent)
                    if self._chosen(event):
                        kept.append((record, event))
        if not kept:
            return []
        contents = np.array([hashed(event.content_id) for _, event in kept], dtype=np.uint64)
        in_sample = drawn(contents, self._seed)[:, 0] < replay.sample
        again = drawn(contents, self._noise)[:, 0] < replay.noise
        reasons, released = self._prefilter.reasons([event for _, event in kept])
        outputs = []
        for number, (record, event) in enumerate(kept):
            if in_sample[number]:
                for why in reasons.get(number, ()):
                    policy = released[why.column].policy
                    wanted = why.lane == "shadow" or (again[number] and policy.id in self._before)
                    if wanted and self._earlier_fits(event, policy.id):
                        outputs.append(self._escalated(record, event, policy, why))
        return outputs

    def _chosen(self, event: ContentEvent) -> bool:
        replay = self._replay
        return (not replay.surfaces or event.surface in replay.surfaces) and (
            not replay.languages or event.language in replay.languages
        )

    def _earlier_fits(self, event: ContentEvent, policy_id: str) -> bool:
        return not self._replay.decisions or self._earlier.get((event.content_id, policy_id)) in self._replay.decisions

    def _escalated(self, record: Record, event: ContentEvent, policy: Policy, why: EscalationReason) -> Output:
        escalation = Escalation(
            event=event,
            policy_id=policy.id,
            policy_version=policy.version,
            policy_revision=0,
            prefilter=why.result,
            lane="replay",
            escalated_at=now(),
            replay_id=self._replay.replay_id,
        )
        return Output(
            topics.ESCALATIONS_REPLAY, record.key, encode(escalation), [_ESCALATION, *carried(record.headers)]
        )


def _take(
    feed: PolicyFeed, policy_id: str, version: str, document: str, distilled: str | None, shadow: float | None
) -> None:
    release = PolicyRelease(policy_id, version, 1, document, now(), "replay", "", distilled, shadow)
    feed.take(release.key, encode(release))


async def earlier_decisions(settings: Settings, replay: Replay) -> dict[tuple[str, str], Decision]:
    """The last decision on each content under the policies of a replay, where it chooses by them."""
    found: dict[tuple[str, str], Decision] = {}
    if replay.decisions:
        wanted = {one.policy_id for one in replay.policies}
        async for record in kafka.read_all(settings, [topics.VERDICTS]):
            verdict = decode(record.value, Verdict)
            if verdict.policy_id in wanted:
                found[verdict.content_id, verdict.policy_id] = verdict.decision
    return found


def group(replay: Replay) -> str:
    """The consumer group of a replay, without the deployment's prefix."""
    return f"replay-{replay.replay_id}"


async def progress(settings: Settings, replay: Replay) -> int:
    """How many offsets of a replay are behind its group's position."""
    if replay.state == "escalated":
        return replay.total
    positions = await kafka.group_positions(settings, group(replay), topics.EVENTS, map(int, replay.ends))
    done = 0
    for partition, end in replay.ends.items():
        start = replay.starts[partition]
        done += min(max(positions.get(int(partition), start), start), end) - start
    return done


async def counts(settings: Settings, replays: set[str]) -> dict[str, tuple[int, int]]:
    """Of each replay, how many escalations and how many verdicts are written."""
    found = dict.fromkeys(replays, (0, 0))
    async for record in kafka.read_all(settings, [topics.ESCALATIONS_REPLAY]):
        with contextlib.suppress(RecordError):
            name = decode(record.value, _OfReplay).replay_id
            if name in found:
                found[name] = (found[name][0] + 1, found[name][1])
    async for record in kafka.read_all(settings, [topics.REPLAYS]):
        with contextlib.suppress(RecordError):
            name = decode(record.value, _OfReplay).replay_id
            if name in found:
                found[name] = (found[name][0], found[name][1] + 1)
    return found


async def run(
    settings: Settings,
    replay: Replay,
    classifier: Classifier,
    stop: asyncio.Event,
    on_progress: Callable[[int], None] = lambda done: None,
) -> ReplayState:
    """Escalate what a replay chooses, from where it is to its end. told gets how many offsets are done, again and again.

    Returns the state in which it ended: escalated, or paused or cancelled by somebody, or running when `stop` was set.
    """
    starts = {int(partition): offset for partition, offset in replay.starts.items()}
    await kafka.set_first_positions(settings, group(replay), topics.EVENTS, starts)
    chooser = ReplaySelector(replay, classifier, await earlier_decisions(settings, replay))
    bus = kafka.KafkaBus(settings, [topics.EVENTS], group(replay))
    engine = Engine(bus, chooser, stage=STAGE, limits=Limits(batch=500, in_flight=2))
    ending = asyncio.Event()
    state: ReplayState = "running"

    async def watch() -> None:
        nonlocal state
        while not stop.is_set():
            on_progress(await progress(settings, replay))
            current = await job(settings, replay.replay_id)
            if current.state != "running":
                state = current.state
                return
            # In this order: what was read to the end by then is committed, if nothing is unfinished after that.
            if engine.ready and await _passed(bus, replay) and engine.idle:
                owned = {str(tp.partition) for tp in bus.consumer.assignment()}
                if owned >= set(replay.ends):  # else another runner has the rest, and ends it when it has all
                    state = (await set_state(settings, replay, "escalated")).state
                    on_progress(replay.total)
                return
            await asyncio.sleep(1)

    working, watching = asyncio.create_task(engine.run(ending)), asyncio.create_task(watch())
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        ending.set()
        if working.done():  # it ends by itself only when it failed
            watching.cancel()
        await working
    await watching
    return state


async def _passed(bus: kafka.KafkaBus, replay: Replay) -> bool:
    """Whether all partitions are read to their ends; a position passes markers of transactions too."""
    for tp in bus.consumer.assignment():
        end = replay.ends.get(str(tp.partition))
        if end is not None and await bus.consumer.position(TopicPartition(*tp)) < end:
            return False
    return bool(bus.consumer.assignment())


def policy_of(replay: Replay, policy_id: str | None) -> Replayed:
    """The policy of a replay that is meant. Raises ConfigurationError when it has several and none is named."""
    found = [one for one in replay.policies if policy_id in (None, one.policy_id)]
    if len(found) != 1:
        names = ", ".join(one.policy_id for one in replay.policies)
        raise ConfigurationError(f"name one of the replay's policies with --policy: {names}")
    return found[0]
