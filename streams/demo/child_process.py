"""One process of the pipeline, as the demo starts it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import aiohttp

from safeguard_streams.errors import SafeguardError
from safeguard_streams.infra import brokers

STARTUP_SECONDS = 600.0  # one that ends is noticed at once; a busy machine loads the model in minutes
STOP_SECONDS = 8.0
REPORT_SECONDS = 20.0  # between two lines while a process starts
LOG_LINES = 15
LOADING = "an idle CPU loads the model in about a minute, a busy one takes longer"


class ChildProcess:
    """A process in its own process group; its output goes to a log file."""

    def __init__(self, name: str, command: list[str], environment: dict[str, str], folder: Path) -> None:
        self.name = name
        self.port = brokers.free_port()
        self.log = folder / f"{name}.log"
        self.words = command
        self._command = [*command, "--port", str(self.port)]
        self._environment = environment
        self.process: asyncio.subprocess.Process | None = None
        self._killed = False  # and not restarted yet

    async def start(self) -> None:
        with self.log.open("ab") as out:
            self.process = await asyncio.create_subprocess_exec(
                *self._command,
                env=self._environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        self._killed = False

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.returncode is None

    def failure(self, what: str) -> SafeguardError:
        """An error that says what happened, with a note for each line at the end of the log."""
        error = SafeguardError(f"the {self.name} {what}; its log ends with:")
        for line in self.log.read_text(errors="replace").splitlines()[-LOG_LINES:]:
            error.add_note(line)
        return error

    def check(self) -> None:
        """Raise SafeguardError when the process has ended, unless the demo killed it."""
        if not self.running and not self._killed:
            raise self.failure("ended unexpectedly")

    async def ready(self, http: aiohttp.ClientSession) -> bool:
        """Whether /health/ready answers 200. Raises SafeguardError when the process has ended."""
        self.check()
        try:
            async with http.get(f"http://127.0.0.1:{self.port}/health/ready") as response:
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def kill(self) -> None:
        """Send SIGKILL to the whole process group, as `kill -9` does."""
        if self.process is None:
            return
        self._killed = True
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        await self.process.wait()

    async def stop(self) -> None:
        """Send SIGTERM; after STOP_SECONDS, kill it."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                await self.process.wait()
        await self.kill()


async def all_ready(children: Sequence[ChildProcess], say: Callable[[str], None], since: float | None = None) -> None:
    """Wait until every process is ready, and say when each is. Raises SafeguardError when one ends or takes too long.

    since: the monotonic time to count from; default now.
    """
    start = reported = time.monotonic() if since is None else since
    waiting = list(children)
    hint = f"; {LOADING}"
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as http:
        while waiting:
            for child in [c for c in waiting if await c.ready(http)]:
                waiting.remove(child)
                say(f"the {child.name} is ready after {time.monotonic() - start:.0f} s")
            if waiting and time.monotonic() - start > STARTUP_SECONDS:
                raise waiting[0].failure(f"was not ready after {STARTUP_SECONDS:.0f} s")
            if waiting and time.monotonic() - reported > REPORT_SECONDS:
                reported = time.monotonic()
                names = ", the ".join(c.name for c in waiting)
                say(f"{reported - start:.0f} s: waiting for the {names}{hint}")
                hint = ""
            await asyncio.sleep(0.2)
