"""The demo's processes: those that an operator would start."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from safeguard_streams.demo.child_process import ChildProcess, all_ready
from safeguard_streams.runtime.settings import Settings


def command() -> str:
    """`safeguard` as installed beside this Python, else the one on the PATH."""
    installed = Path(sys.executable).with_name("safeguard")
    return str(installed) if installed.exists() else "safeguard"


def environment(current: Settings) -> dict[str, str]:
    """The environment in which a command uses this broker."""
    return {
        **os.environ,
        "SAFEGUARD_BOOTSTRAP": current.bootstrap,
        "SAFEGUARD_SESSION_TIMEOUT_MS": str(current.session_timeout_ms),
    }


@contextlib.asynccontextmanager
async def running(
    current: Settings, model: str | None, folder: Path, say: Callable[[str], None]
) -> AsyncIterator[list[ChildProcess]]:
    """A prefilter, a reasoner and enforcement, ready; they end with the context."""
    commands = {
        "prefilter": ["prefilter", "run"],
        "reasoner": ["reason", "run", *(["--model", model] if model else [])],
        # --from-now: enforcement must not act on verdicts of earlier runs on the same broker.
        "enforcement": ["enforce", "run", "--from-now"],
    }
    children = [
        ChildProcess(name, [command(), *words], environment(current), folder) for name, words in commands.items()
    ]
    try:
        for child in children:
            say(f"starting: safeguard {' '.join(child.words[1:])}")
            await child.start()
        await all_ready(children, say)
        yield children
    finally:
        await asyncio.gather(*(child.stop() for child in children))
