"""The enforcement agent's process: it turns verdicts into actions exactly once, and delivers actions at least once.

    moderation.verdicts -+
    moderators' records -+
    appeals -------------+-> intake -> moderation.enforcement -> Enforcer -+-> moderation.standing
    moderation.cleared ------> cleared texts ---^                          +-> moderation.statements
                                                                           +-> moderation.actions -> Delivery

Moderators write to moderation.actions, from where the intake takes what the agent has not followed yet. Of the cleared
verdicts, only those of items on which something stands pass. Each engine is a consumer group of its own. The Enforcer
writes a partition's actions and what stands in one transaction, and the next owner restores its state from
moderation.standing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from safeguard_streams.bus import kafka
from safeguard_streams.bus.engine import Engine, Limits
from safeguard_streams.bus.interface import Partition
from safeguard_streams.bus.kafka import KafkaBus
from safeguard_streams.bus.transform import stateless
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import ContentEvent, now
from safeguard_streams.enforcement import cleared, intake
from safeguard_streams.enforcement.cleared import ClearedTexts
from safeguard_streams.enforcement.delivery import Delivery, authorization, begin, configured_key, receiver_session
from safeguard_streams.enforcement.known_authors import KnownAuthors
from safeguard_streams.enforcement.policy_words import KnownPolicies
from safeguard_streams.enforcement.repartition import check_recorded, partitions_of
from safeguard_streams.enforcement.rules import EnforcementRules
from safeguard_streams.enforcement.signing import Signer
from safeguard_streams.enforcement.stages import ACTING, DELIVERING, STAGE
from safeguard_streams.enforcement.state import EnforcementState
from safeguard_streams.enforcement.statements import Statements
from safeguard_streams.enforcement.transform import Enforcer, Lookups
from safeguard_streams.errors import BusError, ConfigurationError, DependencyError
from safeguard_streams.releases.erasures import Erased, ErasureList
from safeguard_streams.releases.texts import TextPlace, events_at
from safeguard_streams.runtime import metrics, telemetry
from safeguard_streams.runtime.health import served
from safeguard_streams.runtime.process import EventLoopPauses, Stop, run_until_first
from safeguard_streams.runtime.settings import Settings

MAX_DELIVERIES = 1024  # messages that are being sent or wait for their next attempt; the delivery bounds requests


class EnforcementAgent:
    """The engines of one process. partitions is the number of partitions of the topics."""

    def __init__(self, settings: Settings, rules: EnforcementRules, partitions: int, *, dry_run: bool = False) -> None:
        self.settings = settings
        self._erasures, self._authors = ErasureList(), KnownAuthors()
        erased = self._erasures.erased
        self._policies = KnownPolicies()
        self._signer = None if settings.webhook_secret is None else Signer(configured_key(settings), settings.prefix)
        statements = None if dry_run else Statements(settings, rules.statements, self._policies)
        lookups = Lookups(erased, partial(_evidence, settings, erased), self._authors.strikes)
        self.enforcer = Enforcer(
            rules,
            partitions,
            self._restore,
            dry_run=dry_run,
            lookups=lookups,
            statements=statements,
            signer=self._signer,
        )
        self.delivery: Delivery | None = None
        self._cleared = ClearedTexts(partial(cleared.kafka_logs, settings), erased)
        self._partitions = partitions
        self._dry_run = dry_run
        limits = Limits(max_batch=500)
        if dry_run:
            bus = KafkaBus(settings, [topics.VERDICTS], _group(dry_run=True))
            self._engines = [Engine(bus, self.enforcer, stage=STAGE, limits=limits)]
        else:
            taking = KafkaBus(settings, [topics.VERDICTS, topics.ACTIONS, topics.APPEALS], _group(dry_run=False))
            acting = KafkaBus(settings, [topics.ENFORCEMENT], ACTING)
            clearing = KafkaBus(settings, [topics.CLEARED], cleared.STAGE)
            self._engines = [
                Engine(acting, self.enforcer, stage=ACTING, limits=limits),
                Engine(
                    taking,
                    stateless(partial(intake.collect, erased=erased, signer=None if rules.webhook else self._signer)),
                    stage=STAGE,
                    limits=limits,
                ),
                Engine(clearing, self._cleared, stage=cleared.STAGE),
            ]

    def state(self) -> dict[str, Any]:
        """The body of /health/ready."""
        delivery = self.delivery
        return {
            **self.settings.identity(STAGE),
            "ready": all(engine.ready for engine in self._engines),
            "committed": self._engines[0].committed,
            "held": dict(self._held()),
            "appeals": {"open": self._appeals().total(), "overdue": self._appeals()[True]},
            "delivered": dict(delivery.delivered) if delivery else {},
            "rejected": delivery.rejected if delivery else 0,
            "undelivered": {"messages": delivery.undelivered, "oldest_seconds": round(delivery.oldest)}
            if delivery
            else None,
            "webhook": delivery.failing if delivery else None,
        }

    async def run(self, stop: asyncio.Event) -> None:
        """Enforce until `stop`. Raises SafeguardError when the process has to be restarted."""
        observed = {
            metrics.HELD: self._held_observed,
            metrics.UNDELIVERED: self._undelivered_observed,
            metrics.APPEALS_OPEN: self._appeals_observed,
        }
        with metrics.observed(observed):
            async with self._delivering():
                known = {name: asyncio.Event() for name in ("erasures", "policies", "authors")}
                following = [
                    self._erasures.follow(self.settings, known["erasures"]),
                    self._policies.follow(self.settings, known["policies"]),
                ]
                if self.enforcer.rules.look_at_strikes:
                    following.append(self._authors.follow(self.settings, known["authors"]))
                else:
                    known["authors"].set()
                await run_until_first(
                    *following, self._run_when(known.values(), stop), EventLoopPauses(STAGE).measure()
                )

    def _held(self) -> Counter[str]:
        """The number of actions that wait for a moderator in the partitions owned now, by policy id."""
        total: Counter[str] = Counter()
        for state in list(self.enforcer.states.values()):
            total.update(state.held())
        return total

    def _held_observed(self) -> list[tuple[float, metrics.Attributes]]:
        return [(count, {"policy": policy}) for policy, count in self._held().items()]

    def _appeals(self) -> Counter[bool]:
        """The number of open appeals in the partitions owned now, by whether they are overdue."""
        total: Counter[bool] = Counter()
        for state in list(self.enforcer.states.values()):
            total.update(state.overdue(now()))
        return total

    def _appeals_observed(self) -> list[tuple[float, metrics.Attributes]]:
        counts = self._appeals()
        return [(counts[True], {"overdue": "yes"}), (counts[False], {"overdue": "no"})]

    def _undelivered_observed(self) -> list[tuple[float, metrics.Attributes]]:
        return [(self.delivery.oldest, {})] if self.delivery else []

    async def _run_when(self, known: Iterable[asyncio.Event], stop: asyncio.Event) -> None:
        """Run the engines once the erased items and the policies are known and, if rules look at them, the strikes."""
        for event in known:
            await run_until_first(event.wait(), stop.wait())
        await self._run_engines(stop)

    async def _run_engines(self, stop: asyncio.Event) -> None:
        """Run all engines to their ends. When one fails, or what stands cannot be followed, the others stop."""
        running: list[asyncio.Task[Any]] = [asyncio.create_task(engine.run(stop)) for engine in self._engines]
        running.append(asyncio.create_task(self._cleared.watch(stop)))
        try:
            await asyncio.wait(running, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            stop.set()
            await asyncio.gather(*running)
            await self._cleared.aclose()

    @contextlib.asynccontextmanager
    async def _delivering(self) -> AsyncIterator[None]:
        webhook = self.enforcer.rules.webhook
        if webhook is None or self._dry_run:
            yield
            return
        key, header = configured_key(self.settings), authorization(self.settings)
        async with receiver_session() as http:
            erased = self._erasures.erased
            self.delivery = Delivery(webhook, key, http, authorization=header, erased=erased, signer=self._signer)
            self._engines.append(self._deliver(self.delivery))
            yield

    def _deliver(self, delivery: Delivery) -> Engine:
        bus = KafkaBus(self.settings, [topics.ACTIONS], DELIVERING)
        limits = Limits(max_batch=1, max_in_flight=MAX_DELIVERIES, max_buffered=4 * MAX_DELIVERIES)
        return Engine(bus, stateless(delivery.process), stage=DELIVERING, limits=limits)

    async def _restore(self, partition: Partition) -> EnforcementState:
        place = (self.settings, partition.partition, self._partitions)
        if self._dry_run:
            return await EnforcementState.of_decisions(*place)
        return await EnforcementState.restore(*place, self.enforcer.rules.longest_window, self._signer)


async def _evidence(
    settings: Settings, erased: Erased, places: Sequence[TextPlace]
) -> Mapping[TextPlace, ContentEvent]:
    """The events of texts that rules refer. Raises DependencyError where they could be there and cannot be read."""
    with kafka.watched(kafka.Reading()) as reading:
        try:
            found = await events_at(settings, places, erased)
        except BusError as error:
            raise DependencyError(f"texts that rules refer cannot be read: {error}") from error
    if reading.left_out:
        raise DependencyError(f"rules refer content: let this user read {settings.prefix}{topics.EVENTS}")
    return found


def _group(*, dry_run: bool) -> str:
    """The consumer group on moderation.verdicts, without the deployment's prefix."""
    return f"{STAGE}-dry-run" if dry_run else STAGE


async def run(settings: Settings, rules: EnforcementRules, *, from_now: bool = False, dry_run: bool = False) -> None:
    """Enforce until SIGTERM or SIGINT. from_now: a group without committed offsets begins at the end of its topic.

    Raises ConfigurationError when the topics or the caps do not fit the number of partitions.
    """
    with Stop() as stop, telemetry.exported(STAGE):
        await kafka.wait_for_broker(settings)
        partitions = await partitions_of(settings)
        _check_caps(rules, partitions)
        await check_recorded(settings, partitions)
        if from_now:
            await kafka.begin_at_end(settings, _group(dry_run=dry_run), topics.VERDICTS)
            if not dry_run:
                await kafka.begin_at_end(settings, cleared.STAGE, topics.CLEARED)
        if rules.webhook is not None and not dry_run:
            await begin(settings, DELIVERING, topics.ACTIONS)
        agent = EnforcementAgent(settings, rules, partitions, dry_run=dry_run)
        async with served(settings.host, settings.enforcement_port, agent.state):
            await agent.run(stop.event)


def _check_caps(rules: EnforcementRules, partitions: int) -> None:
    """Raise ConfigurationError for a cap that leaves a partition without a share."""
    for name, cap in {"cap": rules.cap, **rules.caps}.items():
        if cap.max_actions < partitions:
            raise ConfigurationError(
                f"{name}: the partitions share a cap: set max_actions to {partitions} or more, one for each partition"
            )
