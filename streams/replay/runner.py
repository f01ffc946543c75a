"""Runs a replay: escalates its content until its fixed end.

A runner keeps nothing on disk. After a crash another runner resumes at the last commit. What a runner has done in a
partition is counted in a record that is committed with its escalations, and hence counted once despite crashes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from safeguard_streams.bus import kafka
from safeguard_streams.bus.engine import Engine, Limits
from safeguard_streams.bus.interface import Output, Partition, Record
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Replay, ReplayProgress, ReplayState, encode, schema_header
from safeguard_streams.prefilter.classifier import Classifier
from safeguard_streams.releases.erasures import ErasureList
from safeguard_streams.replay import jobs
from safeguard_streams.replay.selection import ReplaySelector, earlier_decisions
from safeguard_streams.runtime.process import unless_stopped
from safeguard_streams.runtime.settings import Settings

STAGE = "replay"
_PROGRESS = schema_header(ReplayProgress)


class ReplayTransform:
    """The transform of a replay: escalations, and with each batch the partition's progress."""

    def __init__(self, settings: Settings, replay: Replay, select: ReplaySelector, erasures: ErasureList) -> None:
        self._settings = settings
        self._replay = replay
        self._select = select
        self._erasures = erasures
        self._progress: dict[int, ReplayProgress] = {}

    async def opened(self, partition: Partition) -> None:
        """Take the progress that earlier runners committed."""
        number = partition.partition
        start = self._replay.starts.get(str(number), 0)
        progress = ReplayProgress(self._replay.replay_id, number, start)
        since = self._replay.created_at - jobs.CLOCK_SKEW
        read = kafka.read_decoded(self._settings, [topics.REPLAY_PROGRESS], ReplayProgress, since=since)
        async for _, one in read:
            if (one.replay_id, one.partition) == (progress.replay_id, number):
                progress = one
        self._progress[number] = progress

    async def process(self, records: Sequence[Record]) -> Sequence[Output]:
        """The escalations of a batch, and the progress behind it.

        Without transactions, records that were counted may come again: they are escalated again, and not counted.
        """
        before = self._progress[records[0].partition]
        counted = [record for record in records if record.offset < before.position]
        again = await self._select(self._erasures.kept(counted))
        new = await self._select(self._erasures.kept(records[len(counted) :]))
        progress = ReplayProgress(
            before.replay_id,
            before.partition,
            max(before.position, records[-1].offset + 1),
            before.items + new.items,
            before.unreadable + new.unreadable,
            before.escalated + len(new.outputs),
        )
        self._progress[before.partition] = progress
        noted = Output(topics.REPLAY_PROGRESS, progress.key, encode(progress), [_PROGRESS])
        return [*again.outputs, *new.outputs, noted]

    def closed(self, partition: Partition) -> None:
        """Drop the progress of a partition, which another runner may move."""
        self._progress.pop(partition.partition, None)


async def run(
    settings: Settings,
    replay: Replay,
    classifier: Classifier,
    stop: asyncio.Event,
    on_progress: Callable[[int], None] = lambda done: None,
) -> ReplayState:
    """Escalate a replay's content from its last commit to its end.

    on_progress gets the number of committed offsets about once a second. Returns the replay's state at the end:
    escalated; paused or cancelled, by an operator; or running, when `stop` was set.
    """
    engine = await unless_stopped(_prepared(settings, replay, classifier), stop)
    if engine is None:
        return "running"
    topic = settings.prefix + topics.EVENTS
    ends = {Partition(topic, int(partition)): end for partition, end in replay.ends.items()}
    ending = asyncio.Event()

    async def until_changed() -> ReplayState:
        while True:
            on_progress(await jobs.progress(settings, replay))
            state = (await jobs.find(settings, replay.replay_id)).state
            if state != "running":
                return state
            await asyncio.sleep(1)

    working = asyncio.create_task(engine.run(ending, until=ends))
    watching, stopping = asyncio.create_task(until_changed()), asyncio.create_task(stop.wait())
    try:
        done, _ = await asyncio.wait({working, watching, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        watching.cancel()
        stopping.cancel()
        ending.set()
        await asyncio.wait({working, watching, stopping})
    finished = working.result()
    if watching in done:
        return watching.result()
    # Stopped, another runner owns the rest and ends the replay, or the last commit failed: to be resumed.
    if not ends.keys() <= finished or not await jobs.is_committed(settings, replay):
        return "running"
    state = (await jobs.finish(settings, replay)).state
    if state == "escalated":
        on_progress(replay.total)
    return state


async def _prepared(settings: Settings, replay: Replay, classifier: Classifier) -> Engine:
    """The engine of a runner, once what it has to know before it starts is read."""
    starts = {int(partition): offset for partition, offset in replay.starts.items()}
    await kafka.set_first_positions(settings, jobs.group(replay), topics.EVENTS, starts)
    earlier = await earlier_decisions(settings, replay)
    selector = await asyncio.to_thread(ReplaySelector, replay, classifier, earlier)  # it may load the encoder
    erasures = ErasureList()
    await erasures.read(settings)  # the reasoner follows those that come later
    return Engine(
        kafka.KafkaBus(settings, [topics.EVENTS], jobs.group(replay), record_seconds=0),
        ReplayTransform(settings, replay, selector, erasures),
        stage=STAGE,
        limits=Limits(max_batch=500, max_in_flight=2),
    )
