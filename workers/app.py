"""The reasoning worker's process: policies, an inference engine, the bus engine, and a health endpoint."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from typing import Any

import psutil
from aiohttp import web

from streams import topics
from streams.engine import Engine, Limits
from streams.errors import DependencyError
from streams.kafka import KafkaBus
from streams.policy_feed import PolicyFeed
from streams.process import Stop, first_of
from streams.settings import Settings
from workers.inference import Inference
from workers.judge import STAGE, Judge
from workers.vllm_engine import VllmEngine

log = logging.getLogger(__name__)

# Live content comes first, then what was drawn for audit, then replays.
RANKS = {topics.ESCALATIONS_AUDIT: 1, topics.ESCALATIONS_REPLAY: 2}
FEWEST_SLOTS = 4

StartInference = Callable[[Settings], Awaitable[Inference]]


class Worker:
    """Judges what is escalated, many at once and each finished when it is ready."""

    def __init__(self, settings: Settings, start: StartInference) -> None:
        self.settings = settings
        self.feed = PolicyFeed()
        self.engine: Engine | None = None
        self.inference: Inference | None = None
        self._start = start

    def state(self) -> dict[str, Any]:
        """What /health/ready says."""
        return {
            "ready": self.engine is not None and self.engine.ready,
            "model": self.inference.model if self.inference else None,
            "policies": {name: r.policy.version for name, r in self.feed.policies.released.items()},
            "committed": self.engine.committed if self.engine else 0,
        }

    async def run(self, stop: asyncio.Event) -> None:
        """Judge until `stop`. Raises SafeguardError when the process should be started again."""
        caught_up = asyncio.Event()
        await first_of(self.feed.follow(self.settings, caught_up), self._judge(caught_up, stop))

    async def _judge(self, caught_up: asyncio.Event, stop: asyncio.Event) -> None:
        async def prepare() -> None:
            self.inference = await self._start(self.settings)
            log.info("model %s is ready", self.inference.model)
            await caught_up.wait()
            await self.feed.wait_for_any()

        await first_of(prepare(), stop.wait())
        if stop.is_set() or self.inference is None:
            return
        judge = Judge(self.inference, self.feed, self.settings.max_tokens, self.settings.kept_judgements)
        await judge.warm_up()
        slots = self.settings.in_flight
        self.engine = Engine(
            KafkaBus(self.settings, list(topics.LANES.values()), STAGE),
            judge,
            stage=STAGE,
            limits=Limits(
                batch=1,
                in_flight=slots,
                buffer=4 * slots,
                poll=4 * slots,
                stalled=900.0,
                # With few slots all lanes take turns: nothing could be kept free.
                rank={self.settings.prefix + name: rank for name, rank in RANKS.items()}
                if slots >= FEWEST_SLOTS
                else {},
                reserve=slots // 4,
            ),
        )
        try:
            await self.engine.run(stop)
        except DependencyError:
            # A Ctrl-C in a terminal reaches the engine's processes too: then this is no failure.
            if not stop.is_set():
                raise

    async def health(self) -> web.AppRunner:
        """Serve /health/live and /health/ready."""

        async def live(_: web.Request) -> web.Response:
            return web.json_response({"alive": True})

        async def ready(_: web.Request) -> web.Response:
            state = self.state()
            return web.json_response(state, status=200 if state["ready"] else 503)

        server = web.Application()
        server.add_routes([web.get("/health/live", live), web.get("/health/ready", ready)])
        runner = web.AppRunner(server)
        await runner.setup()
        await web.TCPSite(runner, self.settings.host, self.settings.reasoner_port).start()
        return runner


async def run(settings: Settings, start: StartInference = VllmEngine.start) -> None:
    """Serve until SIGTERM or SIGINT, and leave no process of the inference engine behind."""
    worker = Worker(settings, start)
    stop = Stop()
    try:
        with stop:
            runner = await worker.health()
            try:
                await worker.run(stop.event)
            finally:
                await runner.cleanup()
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
