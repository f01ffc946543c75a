"""Stopping a client of aiokafka without losing the cancellation of the task that stops it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable


async def stopped(stop: Callable[[], Awaitable[None]]) -> None:
    """Stop a client. Raises CancelledError if this task was cancelled meanwhile, and only then.

    aiokafka's clients swallow a cancellation that arrives while they stop: they wait for a task that they have
    cancelled, and take the one for the other. They raise one of their own if they are stopped before they did anything.
    """
    task = asyncio.current_task()
    assert task is not None
    before = task.cancelling()
    with contextlib.suppress(asyncio.CancelledError):
        await stop()
    if task.cancelling() > before:
        raise asyncio.CancelledError
