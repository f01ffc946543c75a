"""The demo's act of faults: a prefilter and a reasoner are killed at work, restarted, and the answers are counted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

import msgspec

from safeguard_streams.demo.child_process import ChildProcess, all_ready
from safeguard_streams.demo.tally import Tally

SHARE_ANSWERED = 0.2  # of the events, when the processes are killed


class Killed(msgspec.Struct, frozen=True):
    """What was on its way when the processes were killed, and how long they were away."""

    processes: tuple[str, ...]
    published: int
    answered: int
    seconds_away: float


async def kill_and_restart(
    children: Sequence[ChildProcess], tally: Tally, total: int, say: Callable[[str], None]
) -> Killed:
    """Wait until some events are answered, kill the processes with SIGKILL, and restart them as a supervisor would.

    Returns when all are ready again. Raises SafeguardError when one does not come back.
    """
    while tally.published - tally.unanswered() < SHARE_ANSWERED * total:
        await asyncio.sleep(0.1)
    published, answered = tally.published, tally.published - tally.unanswered()
    names = tuple(child.name for child in children)
    say(f"kill -9 of the {' and the '.join(names)}: {published} events published, {published - answered} unanswered")
    start = time.monotonic()
    await asyncio.gather(*(child.kill() for child in children))
    for child in children:
        await child.start()
    say("both are restarted, as a supervisor would; meanwhile, events go on arriving")
    await all_ready(children, say, since=start)
    return Killed(names, published, answered, round(time.monotonic() - start, 1))
