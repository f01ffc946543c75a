"""Runs a replay: escalates its content until its fixed end.

A runner keeps nothing on disk. After a crash another runner resumes at the last commit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiokafka import TopicPartition

from safeguard_streams.bus import kafka
from safeguard_streams.bus.engine import Engine, Limits
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Replay, ReplayState
from safeguard_streams.prefilter.classifier import Classifier
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
    bus = kafka.KafkaBus(settings, [topics.EVENTS], jobs.group(replay))
    engine = Engine(bus, selector, stage=STAGE, limits=Limits(batch=500, in_flight=2))
    ending = asyncio.Event()
    state: ReplayState = "running"

    async def watch() -> None:
        nonlocal state
        while not stop.is_set():
            on_progress(await jobs.progress(settings, replay))
            current = await jobs.find(settings, replay.replay_id)
            if current.state != "running":
                state = current.state
                return
            # Position first, then idle: what was read is committed once the engine has nothing unfinished.
            if engine.ready and await _passed(bus, replay) and engine.idle:
                owned = {str(tp.partition) for tp in bus.consumer.assignment()}
                if owned >= set(replay.ends):  # otherwise the runner that owns all of them finishes it
                    state = (await jobs.set_state(settings, replay, "escalated")).state
                    on_progress(replay.total)
                return
            await asyncio.sleep(1)

    working, watching = asyncio.create_task(engine.run(ending)), asyncio.create_task(watch())
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        ending.set()
        if working.done():  # the engine ends first only when it failed
            watching.cancel()
        await working
    await watching
    return state


async def _passed(bus: kafka.KafkaBus, replay: Replay) -> bool:
    """Whether all owned partitions are read to their ends. A position moves past transaction markers too."""
    for tp in bus.consumer.assignment():
        end = replay.ends.get(str(tp.partition))
        if end is not None and await bus.consumer.position(TopicPartition(*tp)) < end:
            return False
    return bool(bus.consumer.assignment())
