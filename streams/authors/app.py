"""The ledger's process: strikes to standings and actions exactly once, and these actions to the webhook in order.

    moderation.strikes -> Ledger -+-> moderation.author-standing
      ^ ^ the clock               +-> moderation.statements
      |                           +-> moderation.author-actions -> AuthorDelivery
      |
      Rates <- moderation.author-posts <- Posts <- content.events

Posts and Rates run only where the rules have rates. Each stage writes the outputs of a partition in one transaction
with its position. The next owner restores the Ledger's state from moderation.author-standing, and that of Rates from
the records before its position.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shlex
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any

from safeguard_streams.authors import clock, posts, rates
from safeguard_streams.authors.delivery import AuthorDelivery
from safeguard_streams.authors.posts import Posts
from safeguard_streams.authors.rates import Rates
from safeguard_streams.authors.standings import partitions_of, standing_of
from safeguard_streams.authors.state import AuthorsState
from safeguard_streams.authors.statements import AccountStatements
from safeguard_streams.authors.transform import DELIVERING, STAGE, Ledger
from safeguard_streams.authors.windows import Windows
from safeguard_streams.bus import kafka
from safeguard_streams.bus.engine import Engine, Limits
from safeguard_streams.bus.interface import Partition
from safeguard_streams.bus.kafka import KafkaBus
from safeguard_streams.bus.transform import stateless
from safeguard_streams.contract import topics
from safeguard_streams.enforcement.delivery import Delivery, authorization, begin, configured_key, receiver_session
from safeguard_streams.enforcement.policy_words import KnownPolicies
from safeguard_streams.enforcement.rules import EnforcementRules
from safeguard_streams.releases.erasures import ErasureList
from safeguard_streams.runtime import telemetry
from safeguard_streams.runtime.health import served
from safeguard_streams.runtime.process import EventLoopPauses, Stop, run_until_first
from safeguard_streams.runtime.settings import Settings

log = logging.getLogger(__name__)

MAX_DELIVERIES = 1024  # messages that are being sent or wait for their next attempt


class LedgerProcess:
    """The engines of one process. partitions is the number of partitions of the topics. file: name of that of rules."""

    def __init__(self, settings: Settings, rules: EnforcementRules, partitions: int, file: str = "RULES") -> None:
        self.settings = settings
        self._file = file
        self._has_told = False  # of what stands by other thresholds
        self._policies = KnownPolicies()
        statements = AccountStatements(settings, rules, self._policies)
        self.ledger = Ledger(rules.authors, self._restore, statements)
        self.delivery: Delivery | None = None
        self._rules = rules
        self._partitions = partitions
        following = KafkaBus(settings, [topics.STRIKES], STAGE)
        self._engines = [Engine(following, self.ledger, stage=STAGE, limits=Limits(max_batch=500))]
        self._erasures = ErasureList()
        self.rates = Rates(rules.authors, self._restore_windows)
        if rules.authors.rate:
            arriving = KafkaBus(settings, [topics.EVENTS], posts.STAGE)
            counting = KafkaBus(settings, [topics.AUTHOR_POSTS], rates.STAGE)
            self._engines += [
                Engine(arriving, stateless(Posts(self._erasures.kept).process), stage=posts.STAGE),
                Engine(counting, self.rates, stage=rates.STAGE),
            ]

    def state(self) -> dict[str, Any]:
        """The body of /health/ready."""
        delivery = self.delivery
        return {
            **self.settings.identity(STAGE),
            "ready": all(engine.ready for engine in self._engines),
            "committed": self._engines[0].committed,
            "authors": sum(map(len, list(self.ledger.states.values()))),
            "posts": sum(map(len, list(self.rates.windows.values()))),
            "delivered": dict(delivery.delivered) if delivery else {},
            "rejected": delivery.rejected if delivery else 0,
            "undelivered": {"messages": delivery.undelivered, "oldest_seconds": round(delivery.oldest)}
            if delivery
            else None,
            "webhook": delivery.failing if delivery else None,
        }

    async def run(self, stop: asyncio.Event) -> None:
        """Follow strikes until `stop`. Raises SafeguardError when the process has to be restarted."""
        async with self._delivering():
            known = [asyncio.Event(), asyncio.Event()]
            await run_until_first(
                self._policies.follow(self.settings, known[0]),
                self._erasures.follow(self.settings, known[1]),
                self._run_when(known, stop),
                EventLoopPauses(STAGE).measure(),
            )

    async def _run_when(self, known: Sequence[asyncio.Event], stop: asyncio.Event) -> None:
        """Run the engines once policies and erased items are known."""
        if self._rules.authors.rate:
            await posts.begin(self.settings)
        for one in known:
            await run_until_first(one.wait(), stop.wait())
        await self._run_engines(stop)

    async def _run_engines(self, stop: asyncio.Event) -> None:
        """Run the engines and the clock to their ends. When one fails, the others stop."""
        running: list[asyncio.Task[Any]] = [asyncio.create_task(engine.run(stop)) for engine in self._engines]
        running.append(asyncio.create_task(clock.run(self.settings, self.ledger.states, stop)))
        if not self._rules.authors.rate:
            running.append(asyncio.create_task(posts.end(self.settings, stop)))
        try:
            await asyncio.wait(running, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            stop.set()
            await asyncio.gather(*running)

    @contextlib.asynccontextmanager
    async def _delivering(self) -> AsyncIterator[None]:
        webhook = self._rules.webhook
        if webhook is None:
            yield
            return
        key, header = configured_key(self.settings), authorization(self.settings)
        async with receiver_session() as http:
            self.delivery = Delivery(webhook, key, http, authorization=header)
            sending = AuthorDelivery(self.delivery, partial(standing_of, self.settings))
            bus = KafkaBus(self.settings, [topics.AUTHOR_ACTIONS], DELIVERING)
            limits = Limits(max_batch=1, max_in_flight=MAX_DELIVERIES, max_buffered=4 * MAX_DELIVERIES)
            self._engines.append(Engine(bus, stateless(sending.process), stage=DELIVERING, limits=limits))
            yield

    async def _restore(self, partition: Partition) -> AuthorsState:
        state = await AuthorsState.restore(self.settings, partition.partition, self._partitions)
        others = state.restored_by.total() - state.restored_by[self._rules.authors.digest]
        if others and not self._has_told:
            self._has_told = True
            log.warning(
                "thresholds have changed, what stands on authors changes with their next strike; to count all strikes "
                "again run: safeguard authors recount %s",
                shlex.quote(self._file),
            )
        return state

    async def _restore_windows(self, partition: Partition) -> Windows:
        return await rates.restored(self.settings, self._rules.authors.rate, self._erasures.erased, partition.partition)


async def run(settings: Settings, rules: EnforcementRules, file: str = "RULES") -> None:
    """Follow strikes until SIGTERM or SIGINT. file: name of the file that the rules are from.

    Raises ConfigurationError when the topics have different numbers of partitions, or a secret is missing.
    """
    with Stop() as stop, telemetry.exported(STAGE):
        await kafka.wait_for_broker(settings)
        partitions = await partitions_of(settings, rates=bool(rules.authors.rate))
        if rules.webhook is not None:
            await begin(settings, DELIVERING, topics.AUTHOR_ACTIONS)
        process = LedgerProcess(settings, rules, partitions, file)
        async with served(settings.host, settings.authors_port, process.state):
            await process.run(stop.event)
