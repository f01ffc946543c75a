"""Pools of workers: a lane that moves to other workers goes on where it was, and lanes do not interrupt each other."""

import asyncio
import contextlib
from collections import Counter

import pytest

from safeguard_streams.bus import kafka as kafka_bus
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Verdict, decode
from safeguard_streams.operations import cluster
from safeguard_streams.releases import operator
from safeguard_streams.releases.operator import ChangedBy
from safeguard_streams.workers.app import Worker
from safeguard_streams.workers.bench.items import escalations, policies
from safeguard_streams.workers.inference.interface import Completion
from safeguard_streams.workers.inference.script import Script
from tests.conftest import until
from tests.stand_in_model import StandIn


@pytest.fixture
def broker(request, broker, patient):
    """A member that is taken for gone gives up its partitions, and its judgements are repeated."""
    return patient(broker) if request.node.callspec.params["broker_address"] == "kafka" else broker


LANES = {"live": topics.VERDICTS, "audit": topics.VERDICTS, "replay": topics.REPLAYS}


class Model(StandIn):
    """Answers after a moment that nothing violates, and counts how often each prompt was judged."""

    def __init__(self):
        self.calls = Counter()
        self._script = Script({"FS1": ["bitcoin"]})

    async def generate(self, question):
        if question.user:
            self.calls[tuple(question.user)] += 1
            await asyncio.sleep(0.02)
        return Completion(self._script.answer(question.policy_text, "").tokens, 100, 0)


@contextlib.asynccontextmanager
async def pool(current, model, *lanes):
    """A worker of some lanes in this process."""

    async def start(_):
        return model

    stop = asyncio.Event()
    worker = Worker(current.model_copy(update={"lanes": lanes, "judgement_cache_size": 0}), start)
    running = asyncio.create_task(worker.run(stop))
    try:
        yield worker
    finally:
        stop.set()
        await running


async def publish(current, lane, count, name):
    records = escalations([f"{name} number {n} in {lane}" for n in range(count)], lane, f"{lane}-{name}")
    async with kafka_bus.producer(current) as producer:
        for record in records:
            await producer.send(current.prefix + topics.LANES[lane], key=record.key, value=record.value)
        await producer.flush()


async def judged(current):
    """How many verdicts there are, by lane and content id."""
    reading = kafka_bus.read_all(current, [topics.VERDICTS, topics.REPLAYS])
    verdicts = [decode(record.value, Verdict) async for record in reading]
    return Counter((verdict.lane, verdict.content_id) for verdict in verdicts)


@pytest.mark.slow
async def test_lanes_that_move_between_pools_lose_nothing_and_repeat_nothing(broker):
    await kafka_bus.create_topics(broker)
    await operator.release(broker, policies(), ChangedBy("test"))
    model = Model()
    for lane in LANES:
        await publish(broker, lane, 40, "first")
    async with pool(broker, model, "live", "audit", "replay"):
        await until(lambda: sum(model.calls.values()) > 30)
    for lane in LANES:
        await publish(broker, lane, 20, "second")
    async with pool(broker, model, "replay"), pool(broker, model, "live", "audit") as live:
        await until(lambda: live.state()["ready"])
        assert set(live.state()["lanes"]) == {"live", "audit"}

        async def all_judged():
            return len(await judged(broker)) == 60 * len(LANES)

        await until(all_judged)
        async with cluster.admin(broker) as client:
            groups = await cluster.groups(broker, client)
            states = await cluster.topic_states(broker, client)
            lags = {lag.queue: lag for lag in await cluster.lags(broker, states, client) if lag.stage == "reasoner"}
        hosts = {lane: len(groups[group].hosts) for lane, group in topics.LANE_GROUPS.items()}
        assert hosts == {"live": 1, "audit": 1, "shadow": 0, "replay": 1}
        assert {lane: lags[lane].started for lane in LANES} == dict.fromkeys(LANES, True)
        assert not lags["shadow"].started
    assert set((await judged(broker)).values()) == {1}
    assert set(model.calls.values()) == {1}, "the first pool committed what it had judged"


@pytest.mark.slow
async def test_a_worker_of_another_lane_interrupts_no_live_content(broker):
    await kafka_bus.create_topics(broker)
    await operator.release(broker, policies(), ChangedBy("test"))
    model = Model()
    async with pool(broker, model, "live") as live:
        await until(lambda: live.state()["ready"])
        (engine,) = live.engines
        workers = dict(engine._workers)
        for _ in range(2):
            async with pool(broker, model, "replay") as other:
                await until(lambda other=other: other.state()["ready"])
                await publish(broker, "replay", 5, "more")
                await until(lambda other=other: other.state()["committed"] == 5)
        assert dict(engine._workers) == workers, "no partition was given up"


def of_all_lanes(lanes=tuple(topics.LANES)):
    """Groups of an earlier version, in which one group read all lanes."""
    return dict.fromkeys(lanes, "reasoner")


@pytest.mark.slow
async def test_lanes_go_on_where_the_one_group_of_an_earlier_version_stood(broker, monkeypatch):
    await kafka_bus.create_topics(broker)
    await operator.release(broker, policies(), ChangedBy("test"))
    model = Model()
    for lane in LANES:
        await publish(broker, lane, 20, "earlier")
    with monkeypatch.context() as earlier:
        earlier.setattr(topics, "LANE_GROUPS", of_all_lanes())
        for lane in LANES:
            async with pool(broker, model, lane) as worker:
                await until(lambda worker=worker: worker.state()["committed"] == 20)
    for lane in LANES:
        await publish(broker, lane, 5, "later")
    # Both of them begin at once, and either may be the one that sets the positions.
    async with pool(broker, model, *LANES), pool(broker, model, *LANES):
        await until(lambda: sum(model.calls.values()) >= 25 * len(LANES))

        async def all_judged():
            return len(await judged(broker)) == 25 * len(LANES)

        await until(all_judged)
    assert set(model.calls.values()) == {1}, "nothing that the one group had judged was judged again"
    assert set((await judged(broker)).values()) == {1}


async def test_first_positions_stay_where_a_member_is(broker):
    await kafka_bus.create_topics(broker)
    await kafka_bus.set_first_positions(broker, "one", topics.EVENTS, {0: 3, 1: 5})
    await kafka_bus.begin_where_another_stands(broker, "two", "one", topics.EVENTS)
    await kafka_bus.set_first_positions(broker, "one", topics.EVENTS, {0: 8, 1: 8})
    await kafka_bus.begin_where_another_stands(broker, "two", "one", topics.EVENTS)
    assert await kafka_bus.group_positions(broker, "two", topics.EVENTS, [0, 1]) == {0: 3, 1: 5}


class Joined:
    """A listener that only waits for partitions."""

    def assigned(self, partitions):
        """Nothing begins."""

    async def revoked(self, partitions):
        """Nothing ends."""

    def reset(self, partition, offset):
        """Nothing was read."""


async def test_a_member_that_joined_in_between_is_no_failure(broker):
    await kafka_bus.create_topics(broker)
    await kafka_bus.set_first_positions(broker, "one", topics.EVENTS, {0: 3})
    bus = kafka_bus.KafkaBus(broker, [topics.EVENTS], "two")
    await bus.start(Joined())
    try:
        await until(bus.assignment)
        await kafka_bus.begin_where_another_stands(broker, "two", "one", topics.EVENTS)
        assert await kafka_bus.group_positions(broker, "two", topics.EVENTS, [0, 1]) == {}
    finally:
        await bus.stop()
