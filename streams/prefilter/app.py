"""The prefilter process. Batches go from the engine over the Faust bridge to the prefilter, and back.

A second engine escalates what people report: see `reports`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

from safeguard_streams.bus.engine import Engine, Limits
from safeguard_streams.bus.interface import Output, Record
from safeguard_streams.bus.kafka import KafkaBus
from safeguard_streams.bus.transform import stateless
from safeguard_streams.contract import topics
from safeguard_streams.prefilter import reports
from safeguard_streams.prefilter.classifier import SHIPPED, Classifier
from safeguard_streams.prefilter.decision import STAGE, Begun, Prefilter
from safeguard_streams.prefilter.encoder.passages import PassageVectors
from safeguard_streams.prefilter.encoder.threads import EncoderThreads
from safeguard_streams.prefilter.event_batch import NO_VECTORS, AuditRates
from safeguard_streams.prefilter.faust_bridge import BridgeHooks, FaustBridge
from safeguard_streams.prefilter.reports import ReportedTexts, Reports
from safeguard_streams.releases.erasures import ErasureList
from safeguard_streams.releases.feed import PolicyFeed, PolicySet
from safeguard_streams.runtime import telemetry
from safeguard_streams.runtime.process import (
    EventLoopPauses,
    Stop,
    collect_by_the_clock,
    collect_rarely,
    run_until_first,
)
from safeguard_streams.runtime.settings import Settings

RENEWAL_INTERVAL = 0.1  # seconds between looks at the policies in force


async def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. Raises SafeguardError when a supervisor should restart the process."""
    with Stop() as stop, telemetry.exported(STAGE):
        process = PrefilterProcess(settings, stop.event)
        collect_rarely()
        await process.bridge.run()


class PrefilterProcess:
    """The prefilter, its engine, the bridge between them, and the policies that it follows."""

    def __init__(self, settings: Settings, stop: asyncio.Event) -> None:
        self.settings = settings
        self.stop = stop
        self.feed = PolicyFeed()
        self.erasures = ErasureList()
        self.prefilter = Prefilter(
            Classifier(settings.prefilter_model or SHIPPED),
            self.feed,
            AuditRates(settings.audit_rate_near, settings.audit_rate_far),
        )
        self.encoder_threads = EncoderThreads()
        hooks = BridgeHooks(begin=self.prefilter.begin, encode=self._encode, run=self.work, stop=stop, ready=self.state)
        self.bridge = FaustBridge(STAGE, settings, hooks)
        self.engine = Engine(
            KafkaBus(settings, [topics.EVENTS], STAGE),
            stateless(self._process),
            stage=STAGE,
            limits=Limits(max_in_flight=4),
            trace_sample_rate=settings.trace_sample_rate,
        )
        self.reports = Engine(
            KafkaBus(settings, [topics.REPORTS], reports.STAGE),
            Reports(
                self._policies_known,
                self.prefilter.caught,
                self.erasures.erased,
                partial(ReportedTexts.restore, settings),
            ),
            stage=reports.STAGE,
            limits=Limits(max_batch=100, max_in_flight=1),
        )

    async def work(self) -> None:
        """Follow the policies, and run the engine until `stop` is set."""
        policies, erasures = asyncio.Event(), asyncio.Event()
        async with self.encoder_threads:
            await run_until_first(
                self.feed.follow(self.settings, policies),
                self.erasures.follow(self.settings, erasures),
                self._renew(),
                self._consume(policies, erasures),
                collect_by_the_clock(),
                EventLoopPauses(STAGE).measure(),
            )

    def state(self) -> dict[str, Any]:
        """The body of /health/ready."""
        return {
            **self.settings.identity(STAGE),
            "ready": self.engine.ready and self.reports.ready and self.prefilter.in_force,
            "policies": {name: r.policy.version for name, r in self.feed.policies.released.items()},
            "encoder": self.prefilter.encoder,
            "committed": self.engine.committed,
        }

    async def _renew(self) -> None:
        """Compile each new release in a thread: many terms and patterns, or loading the encoder, would pause the event
        loop.
        """
        while True:
            if not self.prefilter.current:
                await asyncio.to_thread(self.prefilter.renew)
            await asyncio.sleep(RENEWAL_INTERVAL)

    async def _consume(self, *caught_up: asyncio.Event) -> None:
        """Run the engine once the erasures are known and the policies in force are compiled."""

        async def policies_compiled() -> None:
            for each in caught_up:
                await each.wait()
            await self._policies_in_force()
            while not self.prefilter.current:
                await asyncio.sleep(RENEWAL_INTERVAL)

        await run_until_first(policies_compiled(), self.stop.wait())
        if not self.stop.is_set():
            collect_rarely()  # again: the compiled policies are many objects, which live long
            await self._run_engines()

    async def _run_engines(self) -> None:
        """Run both engines to their ends. When one fails, the other stops."""
        running = [asyncio.create_task(engine.run(self.stop)) for engine in (self.engine, self.reports)]
        try:
            await asyncio.wait(running, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            self.stop.set()
            await asyncio.gather(*running)

    async def _process(self, records: Sequence[Record]) -> Sequence[Output]:
        """Decide a batch without events of erased items. After the last policy was retired, wait as at the start."""
        await self._policies_in_force()
        kept = self.erasures.kept(records)
        return await self.bridge.process(kept) if kept else []

    async def _encode(self, begun: Begun) -> PassageVectors:
        """The vectors that a part of a batch waits for, made beside the event loop."""
        if begun.encoder is None:
            return NO_VECTORS
        return await self.encoder_threads.encode(begun.encoder, begun.texts)

    async def _policies_in_force(self) -> None:
        """Wait until there are any, and they are compiled. Without a policy, everything would be cleared."""
        while not self.prefilter.in_force:
            await self.feed.wait_for_any()
            await asyncio.sleep(RENEWAL_INTERVAL)

    async def _policies_known(self) -> PolicySet:
        await self._policies_in_force()
        return self.feed.policies
