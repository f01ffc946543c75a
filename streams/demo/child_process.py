"""One process of the pipeline, as the demo starts it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path

import aiohttp

from safeguard_streams.errors import SafeguardError
from safeguard_streams.infra import brokers

STOP_SECONDS = 8.0
LOG_LINES = 15


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

    async def start(self) -> None:
        with self.log.open("wb") as out:
            self.process = await asyncio.create_subprocess_exec(
                *self._command,
                env=self._environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.returncode is None

    def failure(self, what: str) -> SafeguardError:
        """An error that says what happened and shows the end of the log."""
        tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-LOG_LINES:])
        return SafeguardError(f"{self.name} {what}; its log ends with:\n{tail}")

    def check(self) -> None:
        """Raise SafeguardError when the process has ended."""
        if not self.running:
            raise self.failure("ended unexpectedly")

    async def ready(self, http: aiohttp.ClientSession) -> bool:
        """Whether /health/ready answers 200. Raises SafeguardError when the process has ended."""
        self.check()
        try:
            async with http.get(f"http://127.0.0.1:{self.port}/health/ready") as response:
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def stop(self) -> None:
        """Send SIGTERM; after STOP_SECONDS, send SIGKILL to the whole process group."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                await self.process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        await self.process.wait()
