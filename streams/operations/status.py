"""The state of a deployment on one page: what runs, what waits, what is in force, and what needs a person.

Every part is read on its own and within PART_SECONDS. A part that cannot be read says why, and hides no other.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any, TypeVar

import msgspec
from aiokafka.errors import KafkaError

from safeguard_streams.bus import kafka
from safeguard_streams.bus.kafka.clients import FORBIDDEN_ERRORS, forbidden
from safeguard_streams.contract import topics
from safeguard_streams.errors import BusError, SafeguardError
from safeguard_streams.operations import cluster, dead_letters
from safeguard_streams.operations.health_pages import HealthPage, own_health_page
from safeguard_streams.releases import operator
from safeguard_streams.runtime.settings import Settings

PART_SECONDS = 6.0
MINUTES = 5  # over which verdicts are counted
COUNTED = 20_000

T = TypeVar("T")
CountHeld = Callable[[Settings], Awaitable[dict[str, int]]]


class TopicSummary(msgspec.Struct, frozen=True):
    """The topics of the contract. differing: what the cluster has instead, by topic and setting.

    forbidden: topics that this user may not see. settings_read: whether the broker told the settings of the others.
    """

    expected: int
    missing: list[str]
    forbidden: list[str]
    differing: dict[str, dict[str, str]]
    offline_partitions: int
    under_replicated_partitions: int
    settings_read: bool


class InForce(msgspec.Struct, frozen=True):
    """A policy in force or in shadow."""

    policy_id: str
    version: str
    revision: int
    shadow: float | None


class Letters(msgspec.Struct, frozen=True):
    """Dead letters that wait, by stage."""

    waiting: int
    by_stage: dict[str, int]


class Webhook(msgspec.Struct, frozen=True):
    """The delivery of actions. problem: the receiver's last answer, as the agent on this host tells it.

    It is None if there is no agent here, or none of its messages fails.
    """

    configured: bool
    waiting: int
    oldest_seconds: float | None
    refused: int
    problem: str | None


class Status(msgspec.Struct, frozen=True):
    """The whole state. A part that is None could not be read: `unread` says why, by its name."""

    bootstrap: str
    prefix: str
    brokers: cluster.Brokers | None
    topics: TopicSummary | None
    processes: dict[str, cluster.Group] | None
    lag: list[cluster.Lag] | None
    policies: list[InForce] | None
    verdicts_per_minute: float | None
    held: dict[str, int] | None
    dead_letters: Letters | None
    webhook: Webhook | None
    unread: dict[str, str]


async def read(settings: Settings, count_held: CountHeld) -> Status:
    """Read everything, the topics first and the rest at once. Raises BusError if no broker answers."""
    await kafka.wait_for_broker(settings, timeout=kafka.COMMAND_SECONDS)
    parts = _Parts()
    with quiet_clients():
        states = await parts.read("topics", lambda: with_admin(settings, partial(cluster.topic_states, settings)))
        parts.missing = {name for name, state in (states or {}).items() if state.missing}
        async with asyncio.TaskGroup() as tasks:
            start = tasks.create_task
            brokers = start(parts.read("brokers", lambda: with_admin(settings, cluster.brokers)))
            groups = start(parts.read("processes", lambda: with_admin(settings, partial(cluster.groups, settings))))
            lag = start(parts.read("lag", lambda: _lag(settings, states)))
            policies = start(
                parts.read("policies", lambda: _policies(settings), topics.POLICIES, topics.POLICIES_HISTORY)
            )
            count = partial(cluster.verdicts_per_minute, settings, MINUTES, COUNTED)
            rate = start(parts.read("verdicts_per_minute", count, topics.VERDICTS))
            held = start(parts.read("held", lambda: count_held(settings), topics.STANDING))
            letters = start(
                parts.read(
                    "dead_letters", lambda: waiting_letters(settings), topics.DEAD_LETTERS, topics.DEAD_LETTERS_HANDLED
                )
            )
            agent = start(own_health_page(settings, "enforcement", settings.enforcement_port))
    return Status(
        settings.bootstrap,
        settings.prefix,
        brokers.result(),
        None if states is None else _summary(settings, states),
        groups.result(),
        lag.result(),
        policies.result(),
        rate.result(),
        held.result(),
        letters.result(),
        _webhook(lag.result(), letters.result(), agent.result(), parts.unread),
        parts.unread,
    )


class _Parts:
    """Reads parts, and notes in `unread` why one could not be read.

    missing: topics that do not exist. They are not read, because some brokers would create them.
    """

    def __init__(self) -> None:
        self.unread: dict[str, str] = {}
        self.missing: set[str] = set()

    async def read(self, name: str, reading: Callable[[], Awaitable[T]], *needed: str) -> T | None:
        if absent := self.missing.intersection(needed):
            self.unread[name] = f"no topic {', '.join(sorted(absent))}; run: safeguard topics create"
            return None
        try:
            async with asyncio.timeout(PART_SECONDS):
                return await reading()
        except TimeoutError:
            self.unread[name] = f"no answer within {PART_SECONDS:.0f} s"
        except FORBIDDEN_ERRORS as error:
            self.unread[name] = str(forbidden(error))
        except (SafeguardError, KafkaError) as error:
            self.unread[name] = str(error) or type(error).__name__
        return None


@contextlib.contextmanager
def quiet_clients() -> Iterator[None]:
    """Leave the errors of single requests out of the log: the part that needed them says what failed."""
    log = logging.getLogger("aiokafka")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)


async def with_admin(settings: Settings, ask: Callable[[Any], Awaitable[T]]) -> T:
    async with cluster.admin(settings) as client:
        return await ask(client)


async def _lag(settings: Settings, states: dict[str, cluster.TopicState] | None) -> list[cluster.Lag]:
    if states is None:
        raise BusError("the topics could not be read")
    return await with_admin(settings, partial(cluster.lags, settings, states))


def _summary(settings: Settings, states: dict[str, cluster.TopicState]) -> TopicSummary:
    contracts = {topic.name: topic for topic in settings.catalogue}
    differing = {
        name: {setting: present for setting, (present, _) in state.differences(contracts[name]).items()}
        for name, state in states.items()
    }
    present = [state for state in states.values() if state.partitions]
    return TopicSummary(
        len(states),
        [name for name, state in states.items() if state.missing],
        [name for name, state in states.items() if state.forbidden],
        {name: changed for name, changed in differing.items() if changed},
        sum(state.offline for state in present),
        sum(state.under_replicated for state in present),
        all(state.config is not None for state in present),
    )


async def _policies(settings: Settings) -> list[InForce]:
    history = await operator.history(settings)
    releases = [*history.in_force.values(), *history.shadows.values()]
    return [InForce(one.policy_id, one.version, one.revision, one.shadow) for one in releases]


async def waiting_letters(settings: Settings) -> Letters:
    """Count the dead letters that wait. Raises BusError or ForbiddenError."""
    by_stage: Counter[str] = Counter()
    async for letter in dead_letters.read(settings, dead_letters.LetterFilter(state="waiting")):
        by_stage[letter.letter.stage] += 1
    return Letters(by_stage.total(), dict(by_stage))


def _webhook(
    lag: list[cluster.Lag] | None, letters: Letters | None, agent: HealthPage | None, unread: dict[str, str]
) -> Webhook | None:
    if lag is None or letters is None:
        unread["webhook"] = unread.get("lag") or unread["dead_letters"]
        return None
    queue = next((one for one in lag if one.queue == "webhook" and one.started), None)
    problem = agent.webhook if agent else None
    refused = letters.by_stage.get("enforcement-webhook", 0)
    if queue is None:  # no agent has delivered anything yet
        return Webhook(bool(agent and agent.undelivered), 0, None, refused, problem)
    return Webhook(True, queue.records, queue.seconds, refused, problem)
