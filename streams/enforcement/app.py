"""The enforcement agent's process: verdicts to actions, exactly once; and actions to a webhook, at least once.

    moderation.verdicts -> Enforcer -> moderation.actions -> Delivery -> webhook
                                        ^ people's decisions

What an agent knows of a partition is the sum of that partition of moderation.actions. It is restored when the partition is
taken over, after any earlier owner was fenced; from then on the agent's own actions are all that is added, and what people
write, which is followed beside.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

from safeguard_streams.bus import kafka
from safeguard_streams.bus.dead_letters import was_requeued
from safeguard_streams.bus.engine import Engine, Limits
from safeguard_streams.bus.interface import Partition
from safeguard_streams.bus.kafka import KafkaBus
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Action, decode
from safeguard_streams.enforcement.delivery import STAGE as DELIVERY
from safeguard_streams.enforcement.delivery import Delivery, key_of
from safeguard_streams.enforcement.rules import Rules, Webhook
from safeguard_streams.enforcement.state import EnforcementState
from safeguard_streams.enforcement.transform import STAGE, Enforcer
from safeguard_streams.errors import ConfigurationError, RecordError
from safeguard_streams.runtime import metrics, telemetry
from safeguard_streams.runtime.health import served
from safeguard_streams.runtime.process import Stop, run_until_first
from safeguard_streams.runtime.settings import Settings

log = logging.getLogger(__name__)

DELIVERIES = 32  # at once


class Agent:
    """Both engines of one process."""

    def __init__(self, settings: Settings, rules: Rules, partitions: int, *, dry_run: bool = False) -> None:
        self.settings = settings
        self.enforcer = Enforcer(rules, partitions, self._restore, dry_run=dry_run)
        self.delivery: Delivery | None = None
        self._dry_run = dry_run
        self._followed = asyncio.Event()
        bus = KafkaBus(settings, [topics.VERDICTS], _group(dry_run=dry_run))
        self._engines = [Engine(bus, self.enforcer, stage=STAGE, limits=Limits(max_batch=500))]

    def state(self) -> dict[str, Any]:
        """What /health/ready says."""
        return {
            "ready": all(engine.ready for engine in self._engines),
            "committed": self._engines[0].committed,
            "held": dict(self._held()),
            "delivered": dict(self.delivery.delivered) if self.delivery else {},
            "webhook": self.delivery.failing if self.delivery else None,
        }

    async def run(self, stop: asyncio.Event) -> None:
        """Enforce until `stop`. Raises SafeguardError when the process should be started again."""
        with metrics.observed({metrics.HELD: self._held_observed}):
            async with self._delivering():
                await run_until_first(self._follow_people(), self._run_engines(stop))

    def _held(self) -> Counter[str]:
        """Actions that wait for a person, by policy, of the partitions that are owned now."""
        total: Counter[str] = Counter()
        for owned in self._engines[0].bus.assignment():
            standing_state = self.enforcer.states.get(owned.partition)
            total.update(standing_state.held() if standing_state else {})
        return total

    def _held_observed(self) -> list[tuple[float, metrics.Attributes]]:
        return [(count, {"policy": policy}) for policy, count in self._held().items()]

    async def _run_engines(self, stop: asyncio.Event) -> None:
        """Both to their ends; when one fails, the other is told to stop."""
        running = [asyncio.create_task(engine.run(stop)) for engine in self._engines]
        try:
            await asyncio.wait(running, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            stop.set()
            await asyncio.gather(*running)

    @contextlib.asynccontextmanager
    async def _delivering(self) -> AsyncIterator[None]:
        webhook = self.enforcer.rules.webhook
        if webhook is None or self._dry_run:
            yield
            return
        key = key_of(self._secret())
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=DELIVERIES)) as http:
            self._engines.append(self._deliver(webhook, key, http))
            yield

    def _secret(self) -> str:
        if self.settings.webhook_secret is None:
            raise ConfigurationError(
                "the rules name a webhook: set SAFEGUARD_WEBHOOK_SECRET, which signs what it is sent"
            )
        return self.settings.webhook_secret.get_secret_value()

    def _deliver(self, webhook: Webhook, key: bytes, http: aiohttp.ClientSession) -> Engine:

        async def restore(partition: Partition) -> EnforcementState:
            return await EnforcementState.restore(self.settings, partition.partition)

        self.delivery = Delivery(webhook, key, http, restore)
        bus = KafkaBus(self.settings, [topics.ACTIONS], DELIVERY)
        # However long the receiver is away, waiting for it is right: nothing here could be mended by a new process.
        limits = Limits(max_batch=1, max_in_flight=DELIVERIES, max_buffered=4 * DELIVERIES, stall_timeout=math.inf)
        return Engine(bus, self.delivery, stage=DELIVERY, limits=limits)

    async def _restore(self, partition: Partition) -> EnforcementState:
        await self._followed.wait()  # else what a person writes in between would be read by neither
        return await EnforcementState.restore(self.settings, partition.partition, dry_run=self._dry_run)

    async def _follow_people(self) -> None:
        """Add what people write to the ledgers; the agent's own actions are in them already."""
        async with kafka.reader(self.settings, [topics.ACTIONS], from_end=True) as consumer:
            for tp in consumer.assignment():
                await consumer.position(tp)
            self._followed.set()
            async for record in consumer:
                with contextlib.suppress(RecordError):
                    action = decode(record.value, Action)
                    standing_state = self.enforcer.states.get(record.partition)
                    if standing_state is not None and (action.human or action.releases) and not was_requeued(record):
                        standing_state.take(action)


def _group(*, dry_run: bool) -> str:
    """The consumer group of verdicts, without the deployment's prefix."""
    return f"{STAGE}-dry-run" if dry_run else STAGE


async def run(settings: Settings, rules: Rules, *, from_now: bool = False, dry_run: bool = False) -> None:
    """Serve until SIGTERM or SIGINT. from_now: where it has not run before, leave out what is there already."""
    with Stop() as stop, telemetry.exported(STAGE):
        await kafka.wait_for_broker(settings)
        partitions = await kafka.partitions_of(settings, topics.VERDICTS)
        if partitions != await kafka.partitions_of(settings, topics.ACTIONS):
            raise ConfigurationError(
                f"{topics.VERDICTS} and {topics.ACTIONS} need the same number of partitions: what is done about a content has "
                "to be found where its verdicts are"
            )
        small = [name for name, cap in {"cap": rules.cap, **rules.caps}.items() if cap.max_actions < len(partitions)]
        if small:
            raise ConfigurationError(
                f"{small[0]}: a cap is shared by the partitions, so let it be {len(partitions)} at least"
            )
        if from_now:
            await kafka.begin_at_end(settings, _group(dry_run=dry_run), topics.VERDICTS)
            if not dry_run:
                await kafka.begin_at_end(settings, DELIVERY, topics.ACTIONS)
        agent = Agent(settings, rules, len(partitions), dry_run=dry_run)
        async with served(settings.host, settings.enforcement_port, agent.state):
            await agent.run(stop.event)
