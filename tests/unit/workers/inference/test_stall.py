"""A hung vLLM is told from a slow one by its steps."""

import asyncio
import contextlib

import pytest

from safeguard_streams.workers.inference import stall
from safeguard_streams.workers.inference.stall import StallDetector


@pytest.fixture
def ticks(monkeypatch):
    """Advance the watch by a number of ticks. Nothing depends on the clock."""
    turn = asyncio.Semaphore(0)

    async def tick(_seconds):
        await turn.acquire()

    class Clock:
        sleep = staticmethod(tick)

        def __getattr__(self, name):
            return getattr(asyncio, name)

    async def advance(number):
        for _ in range(number):
            turn.release()
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    monkeypatch.setattr(stall, "asyncio", Clock())
    return advance


class Core:
    """Counts steps as vLLM's engine core reports them."""

    steps = 0


@contextlib.asynccontextmanager
async def watched(limit):
    core = Core()
    watch = StallDetector(lambda: core.steps, limit)
    task = asyncio.create_task(watch.watch())
    yield core, watch
    task.cancel()


async def request(watch):
    async with watch.awaited():
        await asyncio.Event().wait()


@contextlib.asynccontextmanager
async def in_progress(watch):
    """A request that is in progress in the context, and is cancelled after it."""
    running = asyncio.create_task(request(watch))
    yield
    assert not running.done()
    running.cancel()


async def test_requests_end_when_no_step_follows_and_so_do_later_ones(ticks):
    async with watched(limit=30) as (_, watch):
        running = [asyncio.create_task(request(watch)) for _ in range(3)]
        await ticks(1 + 9)
        assert not watch.stalled
        await ticks(1)
        assert watch.stalled, "the worker is not healthy, and content's time does not count"
        await ticks(19)
        assert not watch.hung
        await ticks(1)
        assert watch.hung
        results = await asyncio.gather(*running, return_exceptions=True)
        assert [type(result) for result in results] == [TimeoutError] * 3
        with pytest.raises(TimeoutError):
            await request(watch)


async def test_a_request_may_take_any_time_while_vllm_takes_steps(ticks):
    async with watched(limit=5) as (core, watch), in_progress(watch):
        for _ in range(50):
            await ticks(3)
            core.steps += 1
            await ticks(1)
            assert not watch.stalled


async def test_a_stall_that_ends_leaves_the_worker_healthy(ticks):
    async with watched(limit=30) as (core, watch), in_progress(watch):
        await ticks(20)
        assert watch.stalled
        core.steps += 1
        await ticks(1)
        assert not watch.stalled


async def test_an_idle_engine_takes_no_steps_and_does_not_hang(ticks):
    async with watched(limit=5) as (core, watch):
        await ticks(100)
        assert not watch.stalled
        async with in_progress(watch):
            await ticks(4)
            assert not watch.hung, "the idle time before the request does not count"
        await ticks(100)
        assert not watch.hung
        assert core.steps == 0


async def test_a_cancelled_request_is_cancelled_and_not_timed_out(ticks):
    async with watched(limit=5) as (_, watch):
        running = asyncio.create_task(request(watch))
        await ticks(1)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
