"""What enforcement did about the demo's verdicts, and waiting until it has."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

from safeguard_streams.contract.records import Action
from safeguard_streams.enforcement import moderators
from safeguard_streams.errors import SafeguardError
from safeguard_streams.runtime.settings import Settings

TIMEOUT = 180.0  # seconds without progress
PROGRESS_SECONDS = 5.0  # between two lines of progress


class Progress(NamedTuple):
    """How many of the expected records exist."""

    done: int
    total: int


async def until(what: str, measure: Callable[[], Awaitable[Progress]], say: Callable[[str], None]) -> None:
    """Wait until everything expected exists, and report progress. Raises SafeguardError when progress stops."""
    progressed = reported = time.monotonic()
    last = -1
    while True:
        done, total = await measure()
        if done >= total:
            return
        if done > last:
            last, progressed = done, time.monotonic()
        if time.monotonic() - progressed > TIMEOUT:
            raise SafeguardError(f"no progress for {TIMEOUT:.0f} s while waiting until {what}: {done} of {total}")
        if time.monotonic() - reported > PROGRESS_SECONDS:
            reported = time.monotonic()
            say(f"waiting until {what}: {done} of {total}")
        await asyncio.sleep(0.5)


async def actions_for(settings: Settings, due: set[str]) -> dict[str, Action]:
    """The actions that follow these verdicts, by verdict_id."""
    found = {}
    async for _, action in moderators.actions(settings):
        if action.verdict_id is not None and action.verdict_id in due:
            found[action.verdict_id] = action
    return found


async def followed(settings: Settings, due: set[str]) -> Progress:
    """How many of these verdicts enforcement has followed."""
    return Progress(len(await actions_for(settings, due)), len(due))


def counted(actions: Mapping[str, str]) -> str:
    """How often each action stands, for people."""
    counts = Counter(actions.values())
    return ", ".join(f"{action} {count}" for action, count in sorted(counts.items())) or "nothing"
