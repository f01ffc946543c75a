"""The enforcement agent's process: it turns verdicts into actions exactly once, and delivers actions at least once.

    moderation.verdicts -> Enforcer -> moderation.actions -> Delivery -> webhook
                              ^            |     ^
                              +------------+     |
                       decisions and releases    moderators

Each transform has its own state for each of its partitions, and both states are restored from moderation.actions.
The two engines belong to different consumer groups: this process may own partition 3 of the verdicts without owning
partition 3 of the actions. The states also differ. The enforcer's state includes an action as soon as it is chosen,
before the commit, and in a dry run only the dry run's actions. The delivery's state includes committed actions, in the
order in which they are read.

The enforcer's state is restored when the partition is taken over, after earlier owners are fenced. From then on two
sources add to it: the agent's own actions, and moderators' decisions and releases, which the agent follows on
moderation.actions.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
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
from safeguard_streams.enforcement.delivery import Delivery, signing_key
from safeguard_streams.enforcement.rules import EnforcementRules, Webhook
from safeguard_streams.enforcement.state import EnforcementState
from safeguard_streams.enforcement.transform import STAGE, Enforcer
from safeguard_streams.errors import ConfigurationError, RecordError
from safeguard_streams.runtime import metrics, telemetry
from safeguard_streams.runtime.health import served
from safeguard_streams.runtime.process import Stop, run_until_first
from safeguard_streams.runtime.settings import Settings

log = logging.getLogger(__name__)

MAX_DELIVERIES = 32  # in flight


class EnforcementAgent:
    """Both engines of one process. partitions is the number of partitions of moderation.verdicts."""

    def __init__(self, settings: Settings, rules: EnforcementRules, partitions: int, *, dry_run: bool = False) -> None:
        self.settings = settings
        self.enforcer = Enforcer(rules, partitions, self._restore, dry_run=dry_run)
        self.delivery: Delivery | None = None
        self._dry_run = dry_run
        self._following = asyncio.Event()
        self._restoring: set[_Restoring] = set()
        bus = KafkaBus(settings, [topics.VERDICTS], _group(dry_run=dry_run))
        self._engines = [Engine(bus, self.enforcer, stage=STAGE, limits=Limits(max_batch=500))]

    def state(self) -> dict[str, Any]:
        """The body of /health/ready."""
        return {
            "ready": all(engine.ready for engine in self._engines),
            "committed": self._engines[0].committed,
            "held": dict(self._held()),
            "delivered": dict(self.delivery.delivered) if self.delivery else {},
            "webhook": self.delivery.failing if self.delivery else None,
        }

    async def run(self, stop: asyncio.Event) -> None:
        """Enforce until `stop`. Raises SafeguardError when the process has to be restarted."""
        with metrics.observed({metrics.HELD: self._held_observed}):
            async with self._delivering():
                await run_until_first(self._follow_moderators(), self._run_engines(stop))

    def _held(self) -> Counter[str]:
        """The number of actions that wait for a moderator in the partitions owned now, by policy id."""
        total: Counter[str] = Counter()
        for owned in self._engines[0].bus.assignment():
            state = self.enforcer.states.get(owned.partition)
            if state is not None:
                total.update(state.held())
        return total

    def _held_observed(self) -> list[tuple[float, metrics.Attributes]]:
        return [(count, {"policy": policy}) for policy, count in self._held().items()]

    async def _run_engines(self, stop: asyncio.Event) -> None:
        """Run both engines to their ends. When one fails, the other stops."""
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
        key = signing_key(self._secret())
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=MAX_DELIVERIES)) as http:
            self._engines.append(self._deliver(webhook, key, http))
            yield

    def _secret(self) -> str:
        if self.settings.webhook_secret is None:
            raise ConfigurationError(
                "the rules name a webhook: set SAFEGUARD_WEBHOOK_SECRET, the secret that signs its messages"
            )
        return self.settings.webhook_secret.get_secret_value()

    def _deliver(self, webhook: Webhook, key: bytes, http: aiohttp.ClientSession) -> Engine:
        async def restore(partition: Partition) -> EnforcementState:
            return await EnforcementState.restore(self.settings, partition.partition)

        self.delivery = Delivery(webhook, key, http, restore)
        bus = KafkaBus(self.settings, [topics.ACTIONS], DELIVERY)
        limits = Limits(max_batch=1, max_in_flight=MAX_DELIVERIES, max_buffered=4 * MAX_DELIVERIES)
        return Engine(bus, self.delivery, stage=DELIVERY, limits=limits)

    async def _restore(self, partition: Partition) -> EnforcementState:
        await self._following.wait()  # otherwise neither would read what moderators write in between
        restoring = _Restoring(partition.partition)
        self._restoring.add(restoring)
        try:
            state = await EnforcementState.restore(self.settings, partition.partition, dry_run=self._dry_run)
        finally:
            self._restoring.remove(restoring)
        for offset, action in restoring.followed:
            if offset >= state.restored:
                state.apply(action)
        return state

    async def _follow_moderators(self) -> None:
        """Add moderators' decisions and releases to the states, which already include the agent's own actions."""
        async with kafka.reader(self.settings, [topics.ACTIONS], from_end=True) as consumer:
            for tp in consumer.assignment():
                await consumer.position(tp)
            self._following.set()
            async for record in consumer:
                with contextlib.suppress(RecordError):
                    action = decode(record.value, Action)
                    if (action.human or action.releases) and not was_requeued(record):
                        self._add(record.partition, record.offset, action)

    def _add(self, partition: int, offset: int, action: Action) -> None:
        """Add a moderator's action to the state of its partition, also to one that is being restored."""
        state = self.enforcer.states.get(partition)
        if state is not None:
            state.apply(action)
        for restoring in self._restoring:
            if restoring.partition == partition:
                restoring.followed.append((offset, action))


class _Restoring:
    """A state that is being restored, and what moderators wrote meanwhile, with its offsets: the reading may end before
    it.
    """

    def __init__(self, partition: int) -> None:
        self.partition = partition
        self.followed: list[tuple[int, Action]] = []


def _group(*, dry_run: bool) -> str:
    """The consumer group on moderation.verdicts, without the deployment's prefix."""
    return f"{STAGE}-dry-run" if dry_run else STAGE


async def run(settings: Settings, rules: EnforcementRules, *, from_now: bool = False, dry_run: bool = False) -> None:
    """Enforce until SIGTERM or SIGINT. from_now: a group without committed offsets begins at the end of its topic.

    Raises ConfigurationError when the topics or the caps do not fit the number of partitions.
    """
    with Stop() as stop, telemetry.exported(STAGE):
        await kafka.wait_for_broker(settings)
        partitions = await kafka.partitions_of(settings, topics.VERDICTS)
        if partitions != await kafka.partitions_of(settings, topics.ACTIONS):
            raise ConfigurationError(
                f"{topics.VERDICTS} and {topics.ACTIONS} need the same number of partitions, because the actions on a "
                "content item are in the partition of its verdicts: recreate one of the topics"
            )
        _check_caps(rules, len(partitions))
        if from_now:
            await kafka.begin_at_end(settings, _group(dry_run=dry_run), topics.VERDICTS)
            if not dry_run:
                await kafka.begin_at_end(settings, DELIVERY, topics.ACTIONS)
        agent = EnforcementAgent(settings, rules, len(partitions), dry_run=dry_run)
        async with served(settings.host, settings.enforcement_port, agent.state):
            await agent.run(stop.event)


def _check_caps(rules: EnforcementRules, partitions: int) -> None:
    """Raise ConfigurationError for a cap that leaves a partition without a share."""
    for name, cap in {"cap": rules.cap, **rules.caps}.items():
        if cap.max_actions < partitions:
            raise ConfigurationError(
                f"{name}: the partitions share a cap: set max_actions to {partitions} or more, one for each partition"
            )
