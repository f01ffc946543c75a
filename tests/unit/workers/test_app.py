"""The reasoning worker: its lanes, its limits, its end, and its warning about policies foreign to the small model."""

import asyncio

import msgspec
import pytest

from safeguard_streams.bus.admission import PriorityAdmission
from safeguard_streams.errors import ConfigurationError, DependencyError
from safeguard_streams.policies import small_model
from safeguard_streams.policies.files import load_library
from safeguard_streams.releases.feed import PolicySet, Released
from safeguard_streams.runtime import settings
from safeguard_streams.workers import app
from safeguard_streams.workers.app import Worker, start_backend, warn_of_unlearned
from safeguard_streams.workers.judging.reasoner import _admission
from tests.conftest import TIMEOUT

POLICY = load_library()["fraud-spam"]
FOREIGN = msgspec.structs.replace(POLICY, id="my-own", text=POLICY.text.replace("FS1", "FS6"))
SMALL = small_model.learned().model


@pytest.mark.parametrize(
    ("model", "policies", "warned"),
    [
        (SMALL, [POLICY], False),
        (SMALL, [POLICY, FOREIGN], True),
        ("gpt-oss-safeguard-20b", [FOREIGN], False),
        (SMALL, [], False),
    ],
)
def test_a_worker_with_the_small_model_names_the_policies_that_it_has_not_learned(caplog, model, policies, warned):
    warn_of_unlearned(model, PolicySet({policy.id: Released(policy, 1) for policy in policies}))
    assert ("policies=my-own (not a policy of the package)" in caplog.text) is warned
    assert bool(caplog.records) is warned


def test_a_worker_names_the_policies_of_its_guard_that_are_not_in_force(caplog):
    in_force = PolicySet({POLICY.id: Released(POLICY, 1)})
    app.warn_of_unknown([POLICY.id], in_force)
    assert not caplog.records
    app.warn_of_unknown(["hate-harasment", POLICY.id], in_force)
    assert caplog.messages[0].endswith("policies=hate-harasment")


@pytest.mark.parametrize("failure", [None, KeyError])
async def test_a_worker_closes_its_backend_however_it_ends(monkeypatch, failure):
    closed = []

    class Backend:
        async def close(self):
            closed.append(self)

    async def ended(*tasks):
        for task in tasks:
            task.close()
        if failure:
            raise failure

    monkeypatch.setattr(app, "run_until_first", ended)
    worker = app.Worker(settings.load(), start=None)
    worker.backend = Backend()
    outcome = (await asyncio.gather(worker.run(asyncio.Event()), return_exceptions=True))[0]
    assert type(outcome) is (failure or type(None))
    assert closed == [worker.backend]


async def test_a_worker_starts_a_first_judge_beside_its_model_and_closes_both(monkeypatch):
    closed = []

    class Started:
        revision = None

        def __init__(self, model):
            self.model = model

        async def close(self):
            closed.append(self.model)

    async def start_first(_):
        return Started("first")

    async def start(_):
        return Started("main")

    async def no_records(*_):
        await asyncio.Event().wait()

    monkeypatch.setattr(app, "start_first", start_first)
    for source in ("feed", "erasures", "paused"):
        monkeypatch.setattr(f"safeguard_streams.workers.app.{SOURCES[source]}.follow", no_records)
    worker, stop = Worker(settings.load(), start), asyncio.Event()
    running = asyncio.create_task(worker.run(stop))
    while worker.first is None:
        await asyncio.sleep(0)
    assert worker.state()["model"] == "main"
    assert worker.state()["first"] == "first"
    stop.set()
    await asyncio.wait_for(running, TIMEOUT)
    assert closed == ["main", "first"]


SOURCES = {"feed": "PolicyFeed", "erasures": "ErasureList", "paused": "PausedReplays"}


class Backend:
    concurrency = 64
    cache_tokens = 1000


@pytest.mark.parametrize(
    ("lanes", "groups"),
    [
        ("live", {"eu.reasoner"}),
        ("shadow,replay", {"eu.reasoner-shadow", "eu.reasoner-replay"}),
        ("live,audit,shadow,replay", {"eu.reasoner", "eu.reasoner-audit", "eu.reasoner-shadow", "eu.reasoner-replay"}),
    ],
)
def test_each_lane_is_read_in_a_group_of_its_own_and_all_share_the_calls_in_flight(lanes, groups):
    worker = Worker(settings.load(lanes=lanes, prefix="eu."), None)
    engines = worker._engines(Backend(), None)
    assert {engine.bus.group for engine in engines} == groups
    assert len({id(engine.admission) for engine in engines}) == 1
    engines[0].admission.owners += 3
    assert engines[-1].admission.owners == 3


class Lane:
    """An engine that fails by itself, or when it stops, or not at all."""

    def __init__(self, failure=None, at_stop=None):
        self.committed, self._failure, self._at_stop = False, failure, at_stop

    async def run(self, stop):
        if self._failure:
            raise self._failure
        await stop.wait()
        await asyncio.sleep(0)
        self.committed = True
        if self._at_stop:
            raise self._at_stop


async def test_an_engine_that_fails_stops_the_others_which_commit_first_and_names_the_cause():
    worker = Worker(settings.load(), None)
    others = [Lane(at_stop=DependencyError("a consequence")), Lane()]
    worker.engines = [others[0], Lane(ConfigurationError("the cause")), others[1]]
    with pytest.raises(ConfigurationError, match="the cause"):
        await asyncio.wait_for(worker._run_engines(asyncio.Event()), TIMEOUT)
    assert [lane.committed for lane in others] == [True, True]


@pytest.mark.parametrize(("failure", "raised"), [(DependencyError("the server ended"), False), (KeyError("x"), True)])
async def test_after_ctrl_c_the_end_of_the_backend_is_no_failure(failure, raised):
    worker, stop = Worker(settings.load(), None), asyncio.Event()
    worker.engines = [Lane(at_stop=failure), Lane()]
    stop.set()
    outcome = (await asyncio.gather(worker._run_engines(stop), return_exceptions=True))[0]
    assert (outcome is failure) is raised
    assert (outcome is None) is not raised
    assert all(lane.committed for lane in worker.engines)


async def test_a_pool_without_live_content_keeps_nothing_free_for_it():
    for lanes, free in (("shadow,replay", 0), ("live,replay", 32)):
        worker = Worker(settings.load(lanes=lanes), None)
        limits = worker._limits(Backend())
        assert limits.max_in_flight == 80
        assert limits.reserve == free
        assert (limits.max_background is None) == (free == 0)
        tokens = _admission(worker._budget(Backend()))
        assert tokens._reserve == (250 if free else 0)


def test_judgements_in_progress_get_half_a_session_when_partitions_move():
    for session, seconds in ((6000, 3.0), (10_000, 5.0), (30_000, 6.0)):
        current = settings.load(session_timeout_ms=session, commit_interval=1.5)
        limits = Worker(current, None)._limits(Backend())
        assert (limits.drain_timeout, limits.commit_interval) == (seconds, 1.5)


@pytest.mark.parametrize("concurrency", [1, 2, 3, 4, 5, 6, 7, 8, 16, 32, 64, 128, 256])
async def test_live_content_finds_a_quarter_of_the_backend_free_beside_a_replay(concurrency):
    class Backend:
        pass

    Backend.concurrency = concurrency
    limits = Worker(settings.load(), start_backend)._limits(Backend())
    ranks = max(limits.ranks.values(), default=0) + 1
    admission = PriorityAdmission(limits.max_in_flight, ranks, limits.reserve, limits.max_background)
    if ranks == 1:
        assert concurrency < 4
        return
    replayed = [asyncio.create_task(admission.acquire(ranks - 1)) for _ in range(2 * limits.max_in_flight)]
    await asyncio.sleep(0)
    taken = sum(task.done() for task in replayed)
    assert 1 <= taken <= concurrency - concurrency // 4
    live = [asyncio.create_task(admission.acquire(0)) for _ in range(concurrency // 4)]
    await asyncio.sleep(0)
    assert all(task.done() for task in live)
    assert taken + len(live) <= concurrency, "none of them waits in the backend's own queue"
    for task in replayed:
        task.cancel()
    await asyncio.gather(*replayed, return_exceptions=True)
