"""Stopping a client of Kafka: in bounded time, and without losing the cancellation of the task that stops it."""

import asyncio
import contextlib

import pytest

from safeguard_streams.bus.kafka import clients


async def swallowing():
    """Stop as aiokafka's clients do, which wait for a task of theirs that they have cancelled."""
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.sleep(60)


async def test_a_cancellation_that_the_client_swallows_is_raised():
    stopping = asyncio.create_task(clients.bounded_stop(swallowing))
    await asyncio.sleep(0)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping


@pytest.mark.parametrize("stop", [swallowing, lambda: asyncio.sleep(60)])
async def test_a_client_that_does_not_stop_is_left(monkeypatch, stop):
    monkeypatch.setattr(clients, "STOP_SECONDS", 0.01)
    await clients.bounded_stop(stop)


async def test_a_cancellation_of_the_clients_own_is_none_of_this_task():
    async def stop():
        raise asyncio.CancelledError

    await clients.bounded_stop(stop)


async def test_a_task_that_was_cancelled_before_stops_its_client_and_ends():
    stopped = []

    async def stop():
        await asyncio.sleep(0)
        stopped.append(True)

    async def work():
        try:
            await asyncio.sleep(60)
        finally:
            await clients.bounded_stop(stop)

    working = asyncio.create_task(work())
    await asyncio.sleep(0)
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    assert stopped
