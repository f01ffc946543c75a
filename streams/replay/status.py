"""What replays are doing, and how far they have come.

A replay escalates its items, its items are judged, and an operator may promote its verdicts or take them back. The job
record tells what operators and runners did. The rest is counted: what the runners committed on
moderation.replays.progress, the verdicts on moderation.replays, and the escalations that became dead letters.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import datetime
from typing import Literal, NamedTuple, TypeVar

import msgspec

from safeguard_streams.bus import kafka
from safeguard_streams.bus.interface import Partition, Record
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import DeadLetter, Replay, ReplayProgress, decode, now
from safeguard_streams.errors import ConfigurationError, ForbiddenError, RecordError
from safeguard_streams.replay import jobs
from safeguard_streams.runtime.settings import Settings

State = Literal["escalating", "judging", "judged", "promoted", "reverted", "paused", "cancelled"]
JUDGED: frozenset[State] = frozenset({"judged", "promoted", "reverted"})
T = TypeVar("T", bound=msgspec.Struct)
_LOOK_SECONDS = 1.0


class ReplayCounts(NamedTuple):
    """Records of a replay: its escalations, its verdicts, and the escalations that are dead letters instead."""

    escalated: int
    judged: int
    failed: int

    @property
    def done(self) -> int:
        """Escalations that have a verdict or a dead letter."""
        return min(self.escalated, self.judged + self.failed)


class ReplayStatus(msgspec.Struct, frozen=True):
    """A replay and how far it has come.

    read: offsets of content.events that its runners have committed, out of replay.total. items: events that it covers.
    unreadable: events between its bounds that are dead letters.
    """

    replay: Replay
    read: int
    items: int
    unreadable: int
    counts: ReplayCounts

    @property
    def state(self) -> State:
        """What it is doing. A replay is promoted while the verdicts of one of its policies are."""
        replay = self.replay
        if replay.state in ("paused", "cancelled"):
            return replay.state
        if replay.publications:
            last = {publication.policy_id: publication.direction for publication in replay.publications}
            return "promoted" if "promote" in last.values() else "reverted"
        if replay.escalated_at is None:
            return "escalating"
        return "judging" if self.counts.done < self.counts.escalated else "judged"


class ReplayWatch:
    """Follows replays by counting records. Each look reads only what was written since the one before."""

    def __init__(self, settings: Settings, since: datetime) -> None:
        """since: when the first of the replays was created."""
        self._settings = settings
        self._since = since - jobs.CLOCK_SKEW
        self._read: dict[Partition, int] = {}
        self._progress: dict[str, dict[int, ReplayProgress]] = defaultdict(dict)
        self._judged: Counter[str] = Counter()
        self._failed: set[_Judgement] = set()

    async def look(self, replays: Sequence[Replay]) -> list[ReplayStatus]:
        """The status of these replays now."""
        async for _, progress in self._new(topics.REPLAY_PROGRESS, ReplayProgress):
            self._progress[progress.replay_id][progress.partition] = progress
        try:
            async for _, letter in self._new(topics.DEAD_LETTERS, DeadLetter):
                self._add_letter(letter)
        except ForbiddenError:  # auditors may not read dead letters
            self._failed.clear()
        async for _, verdict in self._new(topics.REPLAYS, _Verdict):
            if verdict.replay_id is not None:
                self._judged[verdict.replay_id] += 1
                # A dead letter that was requeued is judged.
                self._failed.discard(_Judgement(verdict.replay_id, verdict.policy_version, verdict.content_id))
        return [self._status(replay) for replay in replays]

    def _status(self, replay: Replay) -> ReplayStatus:
        parts = self._progress[replay.replay_id].values()
        read = sum(part.position - replay.starts.get(str(part.partition), part.position) for part in parts)
        escalated = sum(part.escalated for part in parts)
        judged = min(escalated, self._judged[replay.replay_id])  # without transactions, verdicts may be repeated
        failed = sum(one.replay_id == replay.replay_id for one in self._failed)
        return ReplayStatus(
            replay,
            replay.total if replay.escalated_at else read,
            sum(part.items for part in parts),
            sum(part.unreadable for part in parts),
            ReplayCounts(escalated, judged, failed),
        )

    def _add_letter(self, letter: DeadLetter) -> None:
        if letter.origin.topic == self._settings.prefix + topics.ESCALATIONS_REPLAY:
            try:
                one = decode(letter.original().value, _Escalation)
            except RecordError:  # it does not tell whose it is
                return
            if one.replay_id is not None:
                self._failed.add(_Judgement(one.replay_id, one.policy_version, one.event.content_id))

    async def _new(self, topic: str, kind: type[T]) -> AsyncIterator[tuple[Record, T]]:
        async for record, one in kafka.read_decoded(self._settings, [topic], kind, since=self._since, after=self._read):
            self._read[Partition(record.topic, record.partition)] = record.offset + 1
            yield record, one


class _Judgement(NamedTuple):
    replay_id: str
    version: str
    content_id: str


class _Verdict(msgspec.Struct, frozen=True):
    content_id: str
    policy_version: str
    replay_id: str | None = None


class _Item(msgspec.Struct, frozen=True):
    content_id: str


class _Escalation(msgspec.Struct, frozen=True):
    event: _Item
    policy_version: str
    replay_id: str | None = None


async def statuses(settings: Settings, replay_id: str | None = None) -> list[ReplayStatus]:
    """The status of all replays, oldest first, or of the one with this id. Raises ConfigurationError as `find` does."""
    replays = [await jobs.find(settings, replay_id)] if replay_id else list((await jobs.read_all(settings)).values())
    return await ReplayWatch(settings, min((replay.created_at for replay in replays), default=now())).look(replays)


async def change(
    settings: Settings, replay_id: str, changed: Callable[[Settings, Replay], Awaitable[Replay]]
) -> ReplayStatus:
    """Pause, resume or cancel a replay by that function of `jobs`, and return what it is doing then.

    Raises ConfigurationError where the replay cannot be changed so.
    """
    (status,) = await statuses(settings, replay_id)
    if status.state == "judged" and changed is jobs.pause:
        raise ConfigurationError(f"replay {status.replay.replay_id} is judged: nothing is left to pause")
    return msgspec.structs.replace(status, replay=await changed(settings, status.replay))


async def counts(settings: Settings, replay: Replay) -> ReplayCounts:
    """How many escalations, verdicts and dead letters a replay has."""
    (status,) = await ReplayWatch(settings, replay.created_at).look([replay])
    return status.counts


async def wait(
    settings: Settings, replay: Replay, stop: asyncio.Event, on_progress: Callable[[ReplayStatus], None]
) -> ReplayStatus:
    """Follow a replay until it is judged, published or cancelled, or until `stop` is set. Returns its last status."""
    watch = ReplayWatch(settings, replay.created_at)
    with kafka.watched(kafka.Reading()):  # each look is a reading, which is not to be shown
        while True:
            (status,) = await watch.look([await jobs.find(settings, replay.replay_id)])
            on_progress(status)
            if status.state in JUDGED or status.state == "cancelled" or stop.is_set():
                return status
            try:
                async with asyncio.timeout(_LOOK_SECONDS):
                    await stop.wait()
            except TimeoutError:
                continue
