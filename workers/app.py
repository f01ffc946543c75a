"""The process of the reasoning worker: policies, an inference backend, an engine for each lane, a health endpoint.

Each lane has a consumer group of its own, whichever workers judge it. A lane that moves to other workers therefore goes
on from its positions, and a worker of one lane that comes or goes does not interrupt another lane. The engines of a
worker share one admission, which puts live content first.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from safeguard_streams.bus.engine import Engine, Limits, admission_of
from safeguard_streams.bus.interface import Bus, Partition
from safeguard_streams.bus.kafka import KafkaBus, begin_where_another_stands
from safeguard_streams.bus.transform import stateless
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Lane
from safeguard_streams.errors import ConfigurationError, DependencyError, SafeguardError
from safeguard_streams.policies import small_model
from safeguard_streams.releases.erasures import ErasureList
from safeguard_streams.releases.feed import PolicyFeed, PolicySet
from safeguard_streams.replay.paused import HoldingBus, PausedReplays
from safeguard_streams.runtime import telemetry
from safeguard_streams.runtime.health import served
from safeguard_streams.runtime.process import EventLoopPauses, Stop, end_children, leave, run_until_first
from safeguard_streams.runtime.settings import Settings
from safeguard_streams.workers.inference.dialects import dialect_of
from safeguard_streams.workers.inference.interface import InferenceBackend
from safeguard_streams.workers.inference.remote import ServerBackend, ServersAwayError
from safeguard_streams.workers.inference.vllm import VllmBackend
from safeguard_streams.workers.judging.arrangement import (
    arranged,
    dialect_spoken,
    require_policies_followed,
    start_first,
)
from safeguard_streams.workers.judging.judge import RANKS, STAGE, Judge
from safeguard_streams.workers.judging.reasoner import InferenceBudget
from safeguard_streams.workers.judging.warming import PrefixWarmer

log = logging.getLogger(__name__)

MIN_CALLS_FOR_RANKS = 4  # with fewer calls in flight, no call can be reserved for live content
MAX_DRAIN = 6.0  # seconds for judgements in progress when partitions are given up
FIRST_PAUSE = 10.0  # seconds before a first judge that could not be started is tried again

StartBackend = Callable[[Settings], Awaitable[InferenceBackend]]


async def start_backend(settings: Settings) -> InferenceBackend:
    """The inference servers that the settings name, or else vLLM in this process.

    Raises ConfigurationError for a dialect that does not exist, or that needs a server.
    """
    dialect = dialect_of(settings.model, settings.dialect)
    if settings.servers:
        return await ServerBackend.start(settings)
    if dialect is not None:
        raise ConfigurationError(
            f"{settings.model} speaks the dialect {dialect.name}: serve it, as with `vllm serve`, and name the server "
            "with --server"
        )
    return await VllmBackend.start(settings)


async def run(settings: Settings, start: StartBackend = start_backend) -> None:
    """Serve until SIGTERM or SIGINT. Leaves no process of the inference backend behind."""
    await serve(Worker(settings, start), settings.reasoner_port)


async def serve(worker: Worker, port: int) -> None:
    """Run a worker, with its health endpoint at a port, as `run` does."""
    stop = Stop()
    try:
        with stop, telemetry.exported(worker.stage):
            async with served(worker.settings.host, port, worker.state):
                await worker.run(stop.event)
    finally:
        end_children()
        if stop.event.is_set() and worker.backend is None:
            leave(0)  # stopped while a model was loading: nothing else ends the thread that loads it


class Worker:
    """Judges escalations, many at once. Each finishes as soon as it is ready."""

    stage = STAGE

    def __init__(self, settings: Settings, start: StartBackend) -> None:
        self.settings = settings
        self.feed = PolicyFeed()
        self.erasures = ErasureList(self._forget)
        self.paused = PausedReplays()
        self.backend: InferenceBackend | None = None
        self.first: ServerBackend | None = None
        self.judge: Judge | None = None
        self.engines: list[Engine] = []
        self._start = start
        self._started_at = time.monotonic()

    def state(self) -> dict[str, Any]:
        """The body of /health/ready."""
        ready = bool(self.engines) and all(engine.ready for engine in self.engines)
        return {
            **self.settings.identity(self.stage),
            "started": self.backend is not None,
            "ready": ready and self.backend is not None and self.backend.healthy,
            "model": self.backend.model if self.backend else None,
            "model_revision": self.backend.revision if self.backend else None,
            "first": self.first.model if self.first else None,
            "policies": {name: r.policy.version for name, r in self.feed.policies.released.items()},
            "lanes": self.settings.lanes,
            "committed": sum(engine.committed for engine in self.engines),
            "malformed": dict(self.judge.reasoner.outputs.malformed) if self.judge else {},
        }

    async def run(self, stop: asyncio.Event) -> None:
        """Judge until `stop` is set. Raises SafeguardError when the process should be restarted."""
        followed = [self.feed.follow, self.erasures.follow]
        if "replay" in self.settings.lanes:
            followed.append(self.paused.follow)
        caught_up = [asyncio.Event() for _ in followed]
        try:
            await run_until_first(
                *(follow(self.settings, event) for follow, event in zip(followed, caught_up, strict=True)),
                self._judge(stop, *caught_up),
                EventLoopPauses(self.stage).measure(),
            )
        finally:
            for backend in (self.backend, self.first):
                if backend is not None:
                    await backend.close()

    def _forget(self, content_id: str) -> None:
        if self.judge is not None:
            self.judge.forget(content_id)

    async def _judge(self, stop: asyncio.Event, *caught_up: asyncio.Event) -> None:
        """Load the model, wait for policies and erasures, warm up the cache, then run the engine."""
        await run_until_first(self._prepare(caught_up), stop.wait())
        if stop.is_set() or self.backend is None:
            return
        self.judge = self._new_judge(self.backend)
        warn_of_unlearned(self.backend.model, self.feed.policies)
        warn_of_unknown(self.settings.first_classes, self.feed.policies)
        warmer = PrefixWarmer(self.backend, self.feed, self.settings.effort_by_lag)
        if dialect_spoken(self.backend) is None:
            await warmer.warm_up()
        await self._set_positions()
        self.engines = self._engines(self.backend, self.judge)
        warming = warmer.follow() if dialect_spoken(self.backend) is None else asyncio.Event().wait()
        await run_until_first(self._run_engines(stop), warming, self._join_first(self.backend, self.judge))

    def _new_judge(self, backend: InferenceBackend) -> Judge:
        arrange = arranged(self.settings, backend, self.first)
        return Judge(backend, self.feed, self._budget(backend), self.erasures.erased, arrange)

    async def _set_positions(self) -> None:
        """Let each lane's group begin where the group of all lanes stands, which earlier versions had."""
        for lane in self.settings.lanes:
            if topics.LANE_GROUPS[lane] != STAGE:
                await begin_where_another_stands(self.settings, topics.LANE_GROUPS[lane], STAGE, topics.LANES[lane])

    def _engines(self, backend: InferenceBackend, judge: Judge) -> list[Engine]:
        """One engine for each lane, in the lane's own consumer group. They share the calls in flight by rank."""
        limits = self._limits(backend)
        admission = admission_of(limits)
        return [
            Engine(self._bus(lane), stateless(judge), stage=self.stage, limits=limits, admission=admission)
            for lane in self.settings.lanes
        ]

    def _bus(self, lane: Lane) -> Bus:
        topic = topics.LANES[lane]
        bus = self._member(topic, topics.LANE_GROUPS[lane])
        return HoldingBus(bus, [self.settings.prefix + topic], self.paused) if lane == "replay" else bus

    def _member(self, topic: str, group: str) -> KafkaBus:
        """A member of a group on a topic, which knows how long a restart of this process takes."""
        return KafkaBus(self.settings, [topic], group, restart_seconds=time.monotonic() - self._started_at)

    async def _run_engines(self, stop: asyncio.Event) -> None:
        """Run all engines to their ends. When one fails, the others stop, and its failure is the worker's."""
        running = [asyncio.create_task(engine.run(stop)) for engine in self.engines]
        stopped = False
        first: set[asyncio.Task[frozenset[Partition]]] = set()
        try:
            first, _ = await asyncio.wait(running, return_when=asyncio.FIRST_EXCEPTION)
            stopped = stop.is_set()
        finally:
            stop.set()
            await asyncio.gather(*running, return_exceptions=True)
        for failure in (engine.exception() for engine in sorted(running, key=lambda engine: engine not in first)):
            # Ctrl-C in a terminal also reaches the backend's processes: their end is then no failure.
            if failure is not None and not (stopped and isinstance(failure, DependencyError)):
                raise failure

    async def _prepare(self, caught_up: Iterable[asyncio.Event]) -> None:
        self.backend = await self._start(self.settings)
        log.info("inference backend started model=%s", self.backend.model)
        require_policies_followed(self.backend)
        try:
            self.first = await start_first(self.settings)
        except ServersAwayError as away:  # no content waits for a first judge
            log.warning("started without %s", away)
        for each in caught_up:
            await each.wait()
        await self.feed.wait_for_any()

    async def _join_first(self, backend: InferenceBackend, judge: Judge) -> None:
        """Put the first judge in front once its servers answer, if they were away at the start."""
        logged = ""
        while self.settings.first_servers and self.first is None:
            try:
                self.first = await start_first(self.settings)
            except SafeguardError as error:
                if str(error) != logged:
                    log.warning("judging without %s", error)
                logged = str(error)
                await asyncio.sleep(FIRST_PAUSE)
            else:
                judge.arrange(arranged(self.settings, backend, self.first))
                log.info("the first judge joined")
        await asyncio.Event().wait()

    def _budget(self, backend: InferenceBackend) -> InferenceBudget:
        settings = self.settings
        return InferenceBudget(
            max_answer_tokens=settings.max_tokens,
            cache_size=settings.judgement_cache_size,
            content_seconds=settings.content_timeout,
            content_tokens=settings.content_tokens,
            max_tokens_in_flight=settings.max_tokens_in_flight or backend.cache_tokens,
            background_share=settings.background_share,
            live="live" in settings.lanes,
            effort_by_lag=settings.effort_by_lag,
        )

    def _limits(self, backend: InferenceBackend) -> Limits:
        # A quarter more than the backend serves at once: when a request finishes, the next is already there.
        calls = backend.concurrency + backend.concurrency // 4
        live = "live" in self.settings.lanes  # else nothing has to be kept free
        later_lanes = {lane: rank for lane, rank in RANKS.items() if rank} if calls >= MIN_CALLS_FOR_RANKS else {}
        return Limits(
            max_batch=1,
            max_in_flight=calls,
            max_buffered=4 * calls,
            max_poll_records=4 * calls,
            stall_timeout=900.0,
            commit_interval=self.settings.commit_interval,
            drain_timeout=min(MAX_DRAIN, self.settings.session_timeout_ms / 2000),
            ranks={self.settings.prefix + topics.LANES[lane]: rank for lane, rank in later_lanes.items()},
            # Beside the calls that wait at the backend, a quarter of those that it serves stays free for live content.
            reserve=2 * (backend.concurrency // 4) if live else 0,
            max_background=round(calls * self.settings.background_share) if live else None,
        )


def warn_of_unknown(policy_ids: Iterable[str], policies: PolicySet) -> None:
    """Log the policies that a first judge has classes for and that are not in force: it judges under none of them."""
    if names := sorted(set(policy_ids) - set(policies.released)):
        log.warning("SAFEGUARD_FIRST_CLASSES names policies that are not in force policies=%s", ", ".join(names))


def warn_of_unlearned(model: str, policies: PolicySet) -> None:
    """Log the policies in force that the small model has not learned, if it is the one that judges."""
    names = small_model.unlearned(released.policy for released in policies.released.values())
    if names and small_model.is_small(model):
        log.warning("small model has not learned policies, verdicts mean nothing policies=%s", ", ".join(names))
