"""The processes that a benchmark measures: started as an operator would start them, stopped with their children."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import aiohttp

from safeguard_streams.errors import SafeguardError
from safeguard_streams.runtime.settings import Settings

STARTUP_SECONDS = 600.0


def safeguard(*words: str) -> list[str]:
    """A command line of the `safeguard` that is installed beside this Python."""
    return [str(Path(sys.executable).with_name("safeguard")), *words]


def environment(current: Settings) -> dict[str, str]:
    """The environment variables that name the broker and the topics' prefix."""
    return {"SAFEGUARD_BOOTSTRAP": current.bootstrap, "SAFEGUARD_PREFIX": current.prefix}


@contextlib.contextmanager
def process(command: Sequence[str], variables: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process in its own process group; its output goes to a file."""
    with log.open("wb") as out:
        child = subprocess.Popen(
            command,
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
            cwd=log.parent,
        )
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(15)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, 9)


def failed(name: str, log: Path) -> SafeguardError:
    """The error for a process that ended unexpectedly or never became ready."""
    error = SafeguardError(f"{name} ended or was not ready; its log ends with:")
    for line in log.read_text(errors="replace")[-2000:].splitlines():
        error.add_note(line)
    return error


async def ready(child: subprocess.Popen[bytes], url: str, name: str, log: Path) -> None:
    """Wait until the process is ready. Raises SafeguardError when it ended, or after STARTUP_SECONDS."""
    deadline = time.monotonic() + STARTUP_SECONDS
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as http:
        while time.monotonic() < deadline:
            if child.poll() is not None:
                raise failed(name, log)
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with http.get(url) as response:
                    if response.status == 200:
                        return
            await asyncio.sleep(0.5)
    raise failed(name, log)
