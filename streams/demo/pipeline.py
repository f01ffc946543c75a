"""The demo's processes: those that an operator would start."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp

from safeguard_streams.demo.child_process import ChildProcess, all_ready
from safeguard_streams.demo.enforced import Progress, until
from safeguard_streams.errors import SafeguardError
from safeguard_streams.runtime.settings import Settings

_OF_THE_CONSOLE = "SAFEGUARD_CONSOLE_"


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


@contextlib.asynccontextmanager
async def console(current: Settings, folder: Path, say: Callable[[str], None]) -> AsyncIterator[str | None]:
    """The address of a console that shows all of the run; it ends with the context.

    It keeps its database in the folder, and serves this machine alone, as one local user, whatever the settings say of
    another console. None where it cannot run: `say` then prints the reason, and everything else continues.
    """
    variables = {name: value for name, value in environment(current).items() if not name.startswith(_OF_THE_CONSOLE)}
    variables |= {
        "SAFEGUARD_HOST": "127.0.0.1",
        "SAFEGUARD_CONSOLE_OIDC_ISSUER": "",
        "SAFEGUARD_CONSOLE_DATABASE": f"sqlite:///{folder}/console.db",
    }
    child = ChildProcess("console", [command(), "console", "serve"], variables, folder)
    try:
        yield await _address(child, say)
    finally:
        await child.stop()


async def _address(child: ChildProcess, say: Callable[[str], None]) -> str | None:
    say(f"starting: safeguard {' '.join(child.words[1:])}")
    try:
        await child.start()
        await all_ready([child], say)
        await until("the console shows all of this", lambda: _projected(child), say)
    except SafeguardError as error:
        for line in (str(error), *getattr(error, "__notes__", ())):
            say(line)
        return None
    return f"http://127.0.0.1:{child.port}/"


async def _projected(child: ChildProcess) -> Progress:
    """Whether the console has read what the topics held when it began."""
    child.check()
    url = f"http://127.0.0.1:{child.port}/health/ready"
    async with aiohttp.ClientSession() as http, http.get(url) as response:
        state = await response.json()
    return Progress(int(state["projector"]["caught_up"]), 1)
