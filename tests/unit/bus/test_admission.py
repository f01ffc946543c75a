"""Live work comes first, lower ranks share the remaining room, and no rank starves."""

import asyncio
import random

import pytest

from safeguard_streams.bus.admission import BUSY, PriorityAdmission
from safeguard_streams.bus.engine import Engine, Limits, admission_of
from safeguard_streams.bus.interface import Output
from safeguard_streams.bus.memory import MemoryBus
from safeguard_streams.bus.transform import stateless
from safeguard_streams.runtime.memory_broker import MemoryBroker
from tests.conftest import TIMEOUT


async def begin(admission, rank):
    task = asyncio.create_task(admission.acquire(rank))
    await asyncio.sleep(0)
    return task


async def test_lower_ranks_leave_the_reserve_free():
    admission = PriorityAdmission(8, ranks=3, reserve=2)
    replays = [await begin(admission, 2) for _ in range(20)]
    assert sum(task.done() for task in replays) == 6
    live = [await begin(admission, 0) for _ in range(2)]
    assert all(task.done() for task in live), "live work finds room at once"
    for task in replays:
        task.cancel()


async def test_released_room_goes_to_the_first_rank_that_waits():
    admission = PriorityAdmission(4, ranks=3)
    taken = [await begin(admission, 0) for _ in range(4)]
    waiting = {rank: await begin(admission, rank) for rank in (2, 1, 0)}
    assert all(task.done() for task in taken)
    admission.release(0)
    await asyncio.sleep(0)
    assert [rank for rank, task in waiting.items() if task.done()] == [1], (
        "one call is guaranteed to a rank that has none under way"
    )
    admission.release(1)
    admission.release(0)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert waiting[2].done()
    admission.release(0)
    admission.release(2)
    await asyncio.sleep(0)
    assert waiting[0].done()


async def test_lower_ranks_never_starve_and_the_room_is_never_exceeded():
    admission = PriorityAdmission(6, ranks=3, reserve=1)
    draw = random.Random(1)
    done, under_way, max_under_way = [0, 0, 0], 0, 0

    async def work(rank):
        nonlocal under_way, max_under_way
        await admission.acquire(rank)
        under_way += 1
        max_under_way = max(max_under_way, under_way)
        await asyncio.sleep(draw.random() / 500)
        under_way -= 1
        admission.release(rank)
        done[rank] += 1

    live = [asyncio.create_task(work(0)) for _ in range(600)]
    lower = [asyncio.create_task(work(rank)) for rank in (1, 2) for _ in range(20)]
    await asyncio.gather(*lower)
    assert done[0] < 600, "lower ranks progressed while live work waited"
    await asyncio.gather(*live)
    assert max_under_way <= 6
    assert done == [600, 20, 20]
    assert admission._taken == [0, 0, 0]


async def test_a_call_cancelled_while_it_waits_takes_no_room():
    admission = PriorityAdmission(1)
    await admission.acquire()
    waiting = await begin(admission, 0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    admission.release()
    await asyncio.wait_for(admission.acquire(), TIMEOUT)


def test_a_reserve_that_leaves_nothing_is_refused():
    with pytest.raises(ValueError, match="too few"):
        PriorityAdmission(3, ranks=3, reserve=1)


async def test_live_records_pass_a_flood_of_replays():
    broker = MemoryBroker()
    for n in range(200):
        broker.append("replay", str(n).encode())
    finished = []

    async def slow(records):
        await asyncio.sleep(0.01)
        finished.append(records[0].topic)
        return [Output("sink", None, r.value) for r in records]

    limits = Limits(
        max_batch=1, max_in_flight=8, max_buffered=400, max_poll_records=400, ranks={"replay": 1}, reserve=2
    )
    engine = Engine(MemoryBus(broker, ["live", "replay"]), stateless(slow), stage="test", limits=limits)
    stop = asyncio.Event()
    running = asyncio.create_task(engine.run(stop))
    while len(finished) < 20:
        await asyncio.sleep(0.005)
    begun = len(finished)
    for n in range(10):
        broker.append("live", str(n).encode())
    while finished.count("live") < 10:
        await asyncio.sleep(0.005)
    between = len(finished) - begun - 10
    assert between < 60, "live work did not wait for the replays before it"
    while len(finished) < 210:
        await asyncio.sleep(0.005)
    stop.set()
    await running
    assert finished.count("replay") == 200


async def test_lower_ranks_take_their_share_beside_live_work_and_more_after_a_quiet_moment(monkeypatch):
    moment = 1000.0
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: moment)
    admission = PriorityAdmission(10, ranks=2, reserve=2, background=3)
    await admission.acquire(0)
    replays = [await begin(admission, 1) for _ in range(20)]
    assert sum(task.done() for task in replays) == 3
    admission.release(0)
    admission.release(1)
    await asyncio.sleep(0)
    assert sum(task.done() for task in replays) == 4, "live work was there a moment ago"
    moment += BUSY
    admission.release(1)
    await asyncio.sleep(0)
    assert admission._taken == [0, 8]
    for task in replays:
        task.cancel()


async def test_calls_take_room_by_weight_and_none_is_too_heavy_to_begin():
    admission = PriorityAdmission(100, ranks=2, reserve=20)
    heavy = [await begin_heavy(admission, 0, 1000) for _ in range(3)]
    assert [task.done() for task in heavy] == [True, True, False], "what is heavier than a share counts as that share"
    light = await begin_heavy(admission, 1, 20)
    assert light.done(), "a lower rank that has none may begin"
    admission.release(0, 1000)
    await asyncio.sleep(0)
    assert heavy[2].done()
    for rank, weight in ((0, 1000), (0, 1000), (1, 20)):
        admission.release(rank, weight)
    assert admission._taken == [0, 0]


async def begin_heavy(admission, rank, weight):
    task = asyncio.create_task(admission.acquire(rank, weight))
    await asyncio.sleep(0)
    return task


async def test_a_call_cancelled_while_it_waits_makes_way_for_a_lighter_one():
    admission = PriorityAdmission(10)
    await admission.acquire(0, 6)
    heavy, light = await begin_heavy(admission, 0, 8), await begin_heavy(admission, 0, 3)
    assert not light.done()
    heavy.cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert light.done()


async def begin_of(admission, owner, rank=0):
    task = asyncio.create_task(admission.acquire(rank, owner=owner))
    await asyncio.sleep(0)
    return task


async def test_an_owner_whose_calls_do_not_end_leaves_room_for_the_others():
    admission = PriorityAdmission(32)
    admission.owners = 4
    blocked = [await begin_of(admission, "a") for _ in range(100)]
    assert sum(task.done() for task in blocked) == 25, "four fifths"
    for owner in "bcd":
        task = await begin_of(admission, owner)
        assert task.done(), "each has a place"
    for _ in range(50):
        for owner in "bcd":
            admission.release(owner=owner)
            assert (await begin_of(admission, owner)).done(), "and keeps it"
    admission.release(owner="a")
    await asyncio.sleep(0)
    assert sum(task.done() for task in blocked) <= 26
    for task in blocked:
        task.cancel()


async def test_an_owner_alone_takes_all_room():
    admission = PriorityAdmission(3)
    assert all([(await begin_of(admission, "a")).done() for _ in range(3)])


@pytest.mark.parametrize("total", [2, 3, 4, 10])
async def test_with_little_room_the_first_place_of_an_owner_comes_before_the_second_of_another(total):
    admission = PriorityAdmission(total)
    admission.owners = 2
    blocked = [await begin_of(admission, "a") for _ in range(20)]
    assert 1 <= sum(task.done() for task in blocked) < total
    assert (await begin_of(admission, "b")).done()
    for task in blocked:
        task.cancel()


async def test_a_partition_whose_calls_are_all_blocked_does_not_stop_the_others():
    broker = MemoryBroker(partitions=4)
    for number in range(100):
        for partition in (0, 1, 2, 3):
            broker.append("source", str(number).encode(), partition=partition)

    async def transform(records):
        if records[0].partition in (0, 1):
            await asyncio.Event().wait()
        return [Output("sink", None, record.value) for record in records]

    limits = Limits(max_batch=1, max_in_flight=10, drain_timeout=0.05, commit_interval=0.001)
    engine = Engine(MemoryBus(broker, ["source"]), stateless(transform), stage="test", limits=limits)
    stop = asyncio.Event()
    running = asyncio.create_task(engine.run(stop))
    async with asyncio.timeout(TIMEOUT):
        while len(broker.read("sink")) < 200:
            await asyncio.sleep(0.005)
    stop.set()
    await running
    assert {record.partition for record in broker.read("sink")} == {2, 3}


async def test_an_owner_that_is_left_alone_gets_the_room_that_others_might_have_wanted():
    admission = PriorityAdmission(4)
    admission.owners = 2
    for _ in range(3):
        await admission.acquire(owner="slow")
    waiting = asyncio.create_task(admission.acquire(owner="slow"))
    await asyncio.sleep(0)
    assert not waiting.done()
    admission.owners = 1
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert waiting.done()


async def test_engines_that_share_their_calls_put_the_first_rank_first_and_share_by_all_partitions():
    broker = MemoryBroker()
    for n in range(60):
        broker.append("replay", str(n).encode())
    finished, limits = [], Limits(max_batch=1, max_in_flight=4, ranks={"replay": 1}, reserve=1)
    admission = admission_of(limits)

    async def slow(records):
        await asyncio.sleep(0.01)
        finished.extend(record.topic for record in records)
        return []

    stop = asyncio.Event()
    engines = [
        Engine(MemoryBus(broker, [topic]), stateless(slow), stage="test", limits=limits, admission=admission)
        for topic in ("live", "replay")
    ]
    running = [asyncio.create_task(engine.run(stop)) for engine in engines]
    async with asyncio.timeout(TIMEOUT):
        while len(finished) < 8:
            await asyncio.sleep(0.005)
        assert admission.owners == 2, "a partition of each engine"
        for n in range(8):
            broker.append("live", str(n).encode())
        while finished.count("live") < 8:
            await asyncio.sleep(0.005)
        assert finished.count("replay") < 60, "live records passed those that waited"
    stop.set()
    await asyncio.gather(*running)
    assert admission.owners == 0
