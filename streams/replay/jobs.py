"""Replay jobs: creating and finding them, changing their state, and the positions of their consumer groups.

A job is a record on moderation.replays.jobs. The committed offsets of its own consumer group on content.events say
where its runner goes on.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import msgspec

from safeguard_streams.bus import kafka
from safeguard_streams.bus.interface import Output, Partition, Record
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import (
    REPLAYED,
    Decision,
    PolicyRelease,
    Publication,
    Replay,
    Replayed,
    ReplayState,
    encode,
    now,
    policy_key,
    schema_header,
)
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.policies.document import Policy
from safeguard_streams.policies.parsing import parse
from safeguard_streams.releases import operator
from safeguard_streams.runtime.settings import Settings

CLOCK_SKEW = timedelta(hours=1)  # how far the clocks of hosts may differ
_WRITER = "replay-jobs"
_NAMED = 5  # replays that an error names


class ReplayScope(msgspec.Struct, frozen=True, kw_only=True):
    """The content to replay.

    since and until bound the time at which events were written to the topic. first and last bound the offsets in each
    partition, both included. sample is the share of content to replay. noise is the share of it that the version in
    force judges again. Both are 0 to 1. surfaces, languages, authors and decisions (the earlier ones) filter content,
    and empty means all.
    """

    since: datetime | None = None
    until: datetime | None = None
    first: int | None = None
    last: int | None = None
    sample: float = 1.0
    noise: float = 0.1
    surfaces: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    decisions: tuple[Decision, ...] = ()
    authors: tuple[str, ...] = ()


class ReplayRequest(ReplayScope, frozen=True):
    """The content to replay and the policies to judge it by."""

    policies: Sequence[Policy]


class _Bounds(NamedTuple):
    """Offsets by partition, the end excluded. Partitions without events between them are left out."""

    starts: dict[str, int]
    ends: dict[str, int]


def group(replay: Replay) -> str:
    """The consumer group of a replay, without the deployment's prefix."""
    return f"replay-{replay.replay_id}"


async def plan(settings: Settings, request: ReplayRequest, changed_by: operator.ChangedBy) -> Replay:
    """A job with fixed bounds, which is not written yet.

    Raises ConfigurationError when no event lies between the bounds.
    """
    history = await operator.history(settings)
    bounds = await _bounds(settings, request)
    replay = Replay(
        replay_id=f"{now():%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:4]}",
        policies=tuple(_replayed(policy, history.in_force.get(policy.id)) for policy in request.policies),
        starts=bounds.starts,
        ends=bounds.ends,
        state="running",
        created_at=now(),
        created_by=changed_by.by,
        why=changed_by.why,
        sample=request.sample,
        noise=request.noise,
        surfaces=request.surfaces,
        languages=request.languages,
        decisions=request.decisions,
        authors=request.authors,
    )
    if not replay.total:
        raise ConfigurationError("no event lies between these bounds; change --since, --until, --first or --last")
    return replay


async def create(settings: Settings, replay: Replay) -> None:
    """Write a job, and send its policy versions to the reasoning workers. Replays nothing yet.

    A job that is there already stays as it is.
    """
    changed_by = operator.ChangedBy(replay.why, replay.created_by)
    async with kafka.exclusive_writer(settings, _WRITER) as write:
        if replay.replay_id not in await read_all(settings):
            await write([*_versions(replay, changed_by), _job(replay)])


async def released(settings: Settings, policy_id: str, version: str) -> Policy:
    """A policy in a version that was released, shadows included. Raises ConfigurationError where there is none."""
    release = (await operator.history(settings)).find(policy_id, version)
    return parse(release.document, f"policy {policy_id}", release.distilled)


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


def _versions(replay: Replay, changed_by: operator.ChangedBy) -> list[Output]:
    """Release records with every version of a replay, for the reasoning workers.

    They include the versions before, which may be out of force by the time that the replay runs.
    """
    outputs = []
    for one in replay.policies:
        versions = [(one.version, one.document, one.distilled)]
        if one.before_version and one.before_document:
            versions.append((one.before_version, one.before_document, one.before_distilled))
        for version, document, distilled in versions:
            release = PolicyRelease(
                one.policy_id, version, 0, document, now(), changed_by.by, changed_by.why, distilled, replay=True
            )
            outputs.append(Output(topics.POLICIES, release.key, encode(release), [schema_header(PolicyRelease)]))
    return outputs


def _job(replay: Replay) -> Output:
    return Output(topics.REPLAY_JOBS, replay.replay_id.encode(), encode(replay), [schema_header(Replay)])


async def _bounds(settings: Settings, request: ReplayRequest) -> _Bounds:
    async with kafka.reader(settings, [topics.EVENTS]) as consumer:
        partitions = sorted(consumer.assignment())
        first = await consumer.beginning_offsets(partitions)
        known = await (await kafka.EndOffsets.now(consumer)).resolve()
        last = {tp: known[Partition(*tp)] for tp in partitions}
        starts = await kafka.offsets_at(consumer, request.since, first, last) if request.since else first
        ends = await kafka.offsets_at(consumer, request.until, first, last) if request.until else last
    if request.first is not None:
        starts = {tp: max(start, request.first) for tp, start in starts.items()}
    if request.last is not None:
        ends = {tp: min(end, request.last + 1) for tp, end in ends.items()}
    kept = [tp for tp in partitions if starts[tp] < ends[tp]]
    return _Bounds({str(tp.partition): starts[tp] for tp in kept}, {str(tp.partition): ends[tp] for tp in kept})


async def first_event_at(settings: Settings, replay: Replay) -> datetime | None:
    """When the first event of a replay was written: no verdict that it led to is older.

    None if the events' timestamps do not tell. An hour is left for clocks that differ.
    """
    firsts = [await _first_from(settings, int(number), start) for number, start in replay.starts.items()]
    times = [record.timestamp for record in firsts if record is not None]
    if not times or not all(map(kafka.plausible, times)):
        return None
    return datetime.fromtimestamp(min(times) / 1000, UTC) - CLOCK_SKEW


async def read_all(settings: Settings) -> dict[str, Replay]:
    """All replays by id, oldest first."""
    replays = (await kafka.read_table(settings, topics.REPLAY_JOBS, Replay)).values()
    return {replay.replay_id: replay for replay in sorted(replays, key=lambda replay: replay.replay_id)}


async def find(settings: Settings, replay_id: str) -> Replay:
    """A replay by its id or its first characters. Raises ConfigurationError unless exactly one matches."""
    replays = await read_all(settings)
    matches = [replay for name, replay in replays.items() if name.startswith(replay_id)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        names = _newest([replay.replay_id for replay in matches])
        raise ConfigurationError(f"{len(matches)} replays begin with {replay_id!r}, name one: {names}")
    raise ConfigurationError(f"there is no replay {replay_id!r}; there are: {_newest(list(replays))}")


def _newest(names: Sequence[str]) -> str:
    earlier = len(names) - _NAMED
    shown = ", ".join(reversed(names[-_NAMED:])) or "none"
    return shown if earlier <= 0 else f"{shown} and {earlier} earlier ones, see: safeguard replay list"


def policy_of(replay: Replay, policy_id: str | None) -> Replayed:
    """The named policy of a replay, or its only one. Raises ConfigurationError when none or several match."""
    names = ", ".join(one.policy_id for one in replay.policies)
    matches = [one for one in replay.policies if policy_id in (None, one.policy_id)]
    if not matches:
        raise ConfigurationError(f"--policy: replay {replay.replay_id} has no policy {policy_id!r}; it has: {names}")
    if len(matches) > 1:
        raise ConfigurationError(f"replay {replay.replay_id} has several policies, name one with --policy: {names}")
    return matches[0]


async def pause(settings: Settings, replay: Replay) -> Replay:
    """Pause a replay: its runner ends within seconds, and reasoning workers begin none of its judgements.

    Raises ConfigurationError for a replay that is cancelled or was published.
    """
    return await _change(settings, replay, lambda current: _with_state(current, "paused"))


async def resume(settings: Settings, replay: Replay) -> Replay:
    """Let a replay go on. Its state is then running if a runner has items left to escalate, or else escalated.

    Raises ConfigurationError for a replay that is cancelled, was published, or has nothing to resume.
    """

    def change(current: Replay) -> Replay:
        if current.state == "escalated":
            raise ConfigurationError(
                f"replay {current.replay_id} was neither paused nor stopped; see: "
                f"safeguard replay show {current.replay_id}"
            )
        return _with_state(current, "escalated" if current.escalated_at else "running")

    return await _change(settings, replay, change)


async def cancel(settings: Settings, replay: Replay) -> Replay:
    """End a replay for good. Its waiting items get undetermined verdicts without a call to the model.

    Raises ConfigurationError for a replay that was published.
    """
    return await _change(settings, replay, lambda current: _with_state(current, "cancelled"))


async def finish(settings: Settings, replay: Replay) -> Replay:
    """Note that all items of a replay are escalated. What an operator did meanwhile stands."""

    def change(current: Replay) -> Replay:
        state: ReplayState = "escalated" if current.state == "running" else current.state
        return msgspec.structs.replace(current, state=state, escalated_at=current.escalated_at or now())

    return await _change(settings, replay, change)


async def note(settings: Settings, replay: Replay, publication: Publication) -> Replay:
    """Add a promotion or a reversion to the record of a replay.

    Raises ConfigurationError unless its items are escalated: a replay that was paused meanwhile could not go on.
    """

    def change(current: Replay) -> Replay:
        if current.state != "escalated":
            raise ConfigurationError(f"replay {replay.replay_id} is {current.state} meanwhile; nothing was written")
        return msgspec.structs.replace(current, publications=(*current.publications, publication))

    return await _change(settings, replay, change)


def _with_state(replay: Replay, state: ReplayState) -> Replay:
    if replay.state == "cancelled" and state != "cancelled":
        raise ConfigurationError(f"replay {replay.replay_id} is cancelled: start another one")
    if replay.publications:
        done = "promoted" if replay.publications[-1].direction == "promote" else "reverted"
        raise ConfigurationError(f"replay {replay.replay_id} was {done}: only promote and revert apply to it")
    return msgspec.structs.replace(replay, state=state)


async def _change(settings: Settings, replay: Replay, change: Callable[[Replay], Replay]) -> Replay:
    """Read a job, change it and write it. On a broker with transactions, only one operator does so at a time."""
    async with kafka.exclusive_writer(settings, _WRITER) as write:
        replays = await read_all(settings)
        changed = change(replays[replay.replay_id])
        tombstones = _unneeded_versions(changed, replays.values()) if changed.state == "cancelled" else []
        await write([_job(changed), *tombstones])
    return changed


def _unneeded_versions(cancelled: Replay, replays: Iterable[Replay]) -> list[Output]:
    """Tombstones for the versions that only a cancelled replay needs.

    Reasoning workers then answer the replay's waiting escalations as undetermined, without a call to the model.
    """
    needed = {
        key
        for other in replays
        if other.replay_id != cancelled.replay_id and other.state != "cancelled"
        for key in _keys(other)
    }
    return [Output(topics.POLICIES, key, None) for key in sorted(_keys(cancelled) - needed)]


def _keys(replay: Replay) -> set[bytes]:
    versions = [(one.policy_id, v) for one in replay.policies for v in (one.version, one.before_version) if v]
    return {policy_key(policy_id, REPLAYED + version) for policy_id, version in versions}


async def progress(settings: Settings, replay: Replay) -> int:
    """How many of a replay's offsets its consumer group has committed, 0 to replay.total."""
    if replay.escalated_at:
        return replay.total
    positions = await _positions(settings, replay)
    return sum(positions[int(number)] - replay.starts[number] for number in replay.ends)


async def _positions(settings: Settings, replay: Replay) -> dict[int, int]:
    """The next offset to read in each partition, within the replay's bounds."""
    found = await kafka.group_positions(settings, group(replay), topics.EVENTS, map(int, replay.ends))
    bounds = {int(number): (replay.starts[number], end) for number, end in replay.ends.items()}
    return {number: min(max(found.get(number, start), start), end) for number, (start, end) in bounds.items()}


async def is_committed(settings: Settings, replay: Replay) -> bool:
    """Whether every event of a replay is committed.

    A position may stay below the end, where only the markers of transactions follow.
    """
    for number, position in (await _positions(settings, replay)).items():
        if position < replay.ends[str(number)]:
            record = await _first_from(settings, number, position)
            if record is not None and record.offset < replay.ends[str(number)]:
                return False
    return True


async def _first_from(settings: Settings, number: int, offset: int) -> Record | None:
    """The first record of a partition of content.events at an offset or behind it."""
    after = {Partition(settings.prefix + topics.EVENTS, number): offset}
    records = kafka.read_all(settings, [topics.EVENTS], number, after=after)
    with kafka.watched(kafka.Reading()):  # one record is no reading to show
        async with contextlib.aclosing(records):
            async for record in records:
                return record
    return None
