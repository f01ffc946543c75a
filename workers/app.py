"""The reasoning worker's process: policies, an inference engine, the bus engine, and a health endpoint."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from typing import Any

import psutil

from safeguard_streams.bus.engine import Engine, Limits
from safeguard_streams.bus.kafka import KafkaBus
from safeguard_streams.bus.transform import stateless
from safeguard_streams.contract import topics
from safeguard_streams.errors import DependencyError
from safeguard_streams.releases.feed import PolicyFeed
from safeguard_streams.runtime import telemetry
from safeguard_streams.runtime.health import served
from safeguard_streams.runtime.process import Stop, run_until_first
from safeguard_streams.runtime.settings import Settings
from safeguard_streams.workers.inference.interface import Inference
from safeguard_streams.workers.inference.remote import RemoteEngine
from safeguard_streams.workers.inference.vllm import VllmEngine
from safeguard_streams.workers.judging.judge import RANKS, STAGE, Judge
from safeguard_streams.workers.judging.reasoner import InferenceBudget

log = logging.getLogger(__name__)

FEWEST_SLOTS = 4
# Seconds under load. A judgement takes longer than that, and each commit takes processor time from what judges.
COMMIT_INTERVAL = 0.25

StartInference = Callable[[Settings], Awaitable[Inference]]


async def start_engine(settings: Settings) -> Inference:
    """The servers that the settings name, or else vLLM in this process."""
    return await (RemoteEngine.start(settings) if settings.servers else VllmEngine.start(settings))


class Worker:
    """Judges what is escalated, many at once and each finished when it is ready."""

    def __init__(self, settings: Settings, start: StartInference) -> None:
        self.settings = settings
        self.feed = PolicyFeed()
        self.engine: Engine | None = None
        self.inference: Inference | None = None
        self.judge: Judge | None = None
        self._start = start

    def state(self) -> dict[str, Any]:
        """What /health/ready says."""
        return {
            "ready": self.engine is not None
            and self.engine.ready
            and self.inference is not None
            and self.inference.healthy,
            "model": self.inference.model if self.inference else None,
            "policies": {name: r.policy.version for name, r in self.feed.policies.released.items()},
            "committed": self.engine.committed if self.engine else 0,
            "malformed": dict(self.judge.reasoner.malformed) if self.judge else {},
        }

    async def run(self, stop: asyncio.Event) -> None:
        """Judge until `stop`. Raises SafeguardError when the process should be started again."""
        caught_up = asyncio.Event()
        await run_until_first(self.feed.follow(self.settings, caught_up), self._judge(caught_up, stop))

    async def _judge(self, caught_up: asyncio.Event, stop: asyncio.Event) -> None:
        async def prepare() -> None:
            self.inference = await self._start(self.settings)
            log.info("model %s is ready", self.inference.model)
            await caught_up.wait()
            await self.feed.wait_for_any()

        await run_until_first(prepare(), stop.wait())
        if stop.is_set() or self.inference is None:
            return
        current = self.settings
        # Some more than the engine takes at once: when one is finished, the next is already there.
        slots = self.inference.slots + self.inference.slots // 4
        economy = InferenceBudget(
            longest_answer=current.max_tokens,
            kept=current.judgement_cache_size,
            in_flight=current.max_tokens_in_flight or self.inference.capacity,
            background=current.background_share,
            effort_by_lag=current.effort_by_lag,
        )
        self.judge = Judge(self.inference, self.feed, economy)
        await self.judge.warm_up()
        self.engine = Engine(
            KafkaBus(current, list(topics.LANES.values()), STAGE),
            stateless(self.judge),
            stage=STAGE,
            limits=Limits(
                max_batch=1,
                max_in_flight=slots,
                max_buffered=4 * slots,
                max_poll_records=4 * slots,
                stall_timeout=900.0,
                commit_interval=COMMIT_INTERVAL,
                # With few slots all lanes take turns: nothing could be kept free.
                ranks={current.prefix + topics.LANES[lane]: rank for lane, rank in RANKS.items() if rank}
                if slots >= FEWEST_SLOTS
                else {},
                reserve=slots // 4,
                max_background=round(slots * current.background_share),
            ),
        )
        try:
            await self.engine.run(stop)
        except DependencyError:
            # A Ctrl-C in a terminal reaches the engine's processes too: then this is no failure.
            if not stop.is_set():
                raise


async def run(settings: Settings, start: StartInference = start_engine) -> None:
    """Serve until SIGTERM or SIGINT, and leave no process of the inference engine behind."""
    worker = Worker(settings, start)
    stop = Stop()
    try:
        with stop, telemetry.exported(STAGE):
            async with served(settings.host, settings.reasoner_port, worker.state):
                await worker.run(stop.event)
    finally:
        _end_children()
        if stop.event.is_set() and worker.inference is None:
            logging.shutdown()
            os._exit(0)  # told to stop while a model was loading: its thread cannot be ended otherwise


def _end_children() -> None:
    """End the inference engine's processes; they have no state of their own."""
    children = psutil.Process().children(recursive=True)
    for child in children:
        child.terminate()
    _, alive = psutil.wait_procs(children, timeout=2)
    for child in alive:
        child.kill()
