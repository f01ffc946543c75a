"""Runs a replay: escalates its content until its fixed end.

A runner keeps nothing on disk. After a crash another runner resumes at the last commit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from safeguard_streams.bus import kafka
from safeguard_streams.bus.engine import Engine, Limits
from safeguard_streams.bus.interface import Output, Partition, Record
from safeguard_streams.bus.transform import stateless
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Replay, ReplayState
from safeguard_streams.prefilter.classifier import Classifier
from safeguard_streams.releases.erasures import ErasureList
from safeguard_streams.replay import jobs
from safeguard_streams.replay.selection import ReplaySelector, earlier_decisions
from safeguard_streams.runtime.settings import Settings

STAGE = "replay"


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
    starts = {int(partition): offset for partition, offset in replay.starts.items()}
    await kafka.set_first_positions(settings, jobs.group(replay), topics.EVENTS, starts)
    selector = ReplaySelector(replay, classifier, await earlier_decisions(settings, replay))
    erasures = ErasureList()
    await erasures.read(settings)  # the reasoner follows those that come later

    async def select(records: Sequence[Record]) -> Sequence[Output]:
        kept = erasures.kept(records)
        return await selector(kept) if kept else []

    engine = Engine(
        kafka.KafkaBus(settings, [topics.EVENTS], jobs.group(replay), record_seconds=0),
        stateless(select),
        stage=STAGE,
        limits=Limits(max_batch=500, max_in_flight=2),
    )
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
    state = (await jobs.find(settings, replay.replay_id)).state
    if state == "running":
        state = (await jobs.set_state(settings, replay, "escalated")).state
        on_progress(replay.total)
    return state
