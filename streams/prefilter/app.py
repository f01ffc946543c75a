"""The prefilter process: a Faust app whose agent is handed batches by a service that owns the Kafka clients.

Faust's own consumer acknowledges what it has not finished, and its producer does not deduplicate; so what crosses
Faust here is a batch of one partition, in memory, and the engine commits when the agent has answered it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import faust
from faust.app.base import BootStrategy
from mode import Service

from safeguard_streams.bus.engine import Engine, Limits
from safeguard_streams.bus.interface import Output, Record
from safeguard_streams.bus.kafka import KafkaBus
from safeguard_streams.contract import topics
from safeguard_streams.prefilter.classifier import SHIPPED, Classifier
from safeguard_streams.prefilter.decision import STAGE, AuditRates, Prefilter
from safeguard_streams.releases.feed import PolicyFeed
from safeguard_streams.runtime import telemetry
from safeguard_streams.runtime.process import END_SECONDS, Stop, collect_by_the_clock, collect_rarely, run_until_first
from safeguard_streams.runtime.settings import Settings

RENEWAL = 0.1  # seconds between looks at the policies in force

log = logging.getLogger(__name__)


class Batch:
    """Records of one partition on their way to the agent, and the outputs on their way back."""

    def __init__(self, records: Sequence[Record]) -> None:
        self.records = records
        self.outputs: asyncio.Future[Sequence[Output]] = asyncio.get_running_loop().create_future()


class _WithoutFaustsKafka(BootStrategy):
    enable_kafka = False


class _App(faust.App):
    BootStrategy = _WithoutFaustsKafka

    def _create_directories(self) -> None:
        """Faust would make a folder for tables, of which there are none."""


class PrefilterApp:
    """The Faust app, its agent, its health pages, and the service that feeds the agent."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.feed = PolicyFeed()
        self.prefilter = Prefilter(
            Classifier(settings.prefilter_model or SHIPPED),
            self.feed,
            AuditRates(settings.audit_rate_near, settings.audit_rate_far),
        )
        self.engine = Engine(
            KafkaBus(settings, [topics.EVENTS], STAGE),
            self.through_agent,
            stage=STAGE,
            limits=Limits(in_flight=4),
            trace_sample_rate=settings.trace_sample_rate,
        )
        self.stop = asyncio.Event()
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.app = _App(
            f"{settings.prefix}safeguard-prefilter",
            broker=[f"kafka://{address}" for address in settings.bootstrap.split(",")],
            topic_disable_leader=True,
            topic_allow_declare=False,
            web_bind=settings.host,
            web_host=settings.host,
            web_port=settings.prefilter_port,
            autodiscover=False,
        )
        self.batches = self.app.channel()
        self._declare()

    def _declare(self) -> None:
        @self.app.agent(self.batches, name=STAGE)
        async def prefilter(stream: Any) -> None:
            async for batch in stream:
                try:
                    batch.outputs.set_result(self.prefilter.decide(batch.records))
                except Exception as error:  # the engine finds the record at fault
                    batch.outputs.set_exception(error)

        @self.app.page("/health/live")
        async def live(web: Any, _: Any) -> Any:
            return web.json({"alive": True})

        @self.app.page("/health/ready")
        async def ready(web: Any, _: Any) -> Any:
            state = self.state()
            return web.json(state, status=200 if state["ready"] else 503)

        @self.app.page("/metrics")
        async def metrics(web: Any, _: Any) -> Any:
            return web.bytes(telemetry.page(), headers={"Content-Type": telemetry.CONTENT_TYPE})

        owner = self

        @self.app.service
        class Pump(Service):
            """Owns the engine, and with it every Kafka client of this process."""

            async def on_start(self) -> None:
                self._pump = asyncio.create_task(owner.pump())

            async def on_stop(self) -> None:
                owner.stop.set()
                await asyncio.wait({self._pump})

    def state(self) -> dict[str, Any]:
        """What /health/ready says."""
        return {
            "ready": self.engine.ready,
            "policies": {name: r.policy.version for name, r in self.feed.policies.released.items()},
            "committed": self.engine.committed,
        }

    async def through_agent(self, records: Sequence[Record]) -> Sequence[Output]:
        """The engine's transform: hand a batch to the agent, wait for its outputs."""
        batch = Batch(records)
        await self.batches.put(batch)
        return await batch.outputs

    async def pump(self) -> None:
        """Follow the policies, run the engine when there are some, end when told."""
        caught_up = asyncio.Event()
        try:
            await run_until_first(
                self.feed.follow(self.settings, caught_up),
                self._renew(),
                self._consume(caught_up),
                collect_by_the_clock(),
            )
        except Exception as error:
            self.ended.set_exception(error)
        else:
            self.ended.set_result(None)

    async def _renew(self) -> None:
        """Make the rules of each release beside the work, so that many terms and patterns cause no pause."""
        while True:
            if not self.prefilter.current:
                await asyncio.to_thread(self.prefilter.renew)
            await asyncio.sleep(RENEWAL)

    async def _consume(self, caught_up: asyncio.Event) -> None:
        async def ready_to_judge() -> None:
            await caught_up.wait()
            await self.feed.wait_for_any()
            while not self.prefilter.current:
                await asyncio.sleep(RENEWAL)

        await run_until_first(ready_to_judge(), self.stop.wait())
        if not self.stop.is_set():
            await self.engine.run(self.stop)


async def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. Raises SafeguardError when the process should be started again."""
    with Stop() as stop, telemetry.exported(STAGE):
        prefilter = PrefilterApp(settings)
        collect_rarely()
        prefilter.stop = stop.event
        await prefilter.app.start()
        prefilter.app.flow_control.resume()  # Faust's own consumer, which is not used, would open its channels
        log.info("health on http://%s:%d/health/ready", settings.host, settings.prefilter_port)
        try:
            await prefilter.ended
        finally:
            try:
                async with asyncio.timeout(END_SECONDS):
                    await prefilter.app.stop()
            except TimeoutError:
                log.warning("Faust did not stop in time")
