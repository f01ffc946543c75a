"""Processes that a benchmark measures: started as an operator would, ended with all of theirs."""

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

STARTUP = 600.0  # seconds


def safeguard(*words: str) -> list[str]:
    """The command line of `safeguard` as it is installed beside this Python."""
    return [str(Path(sys.executable).with_name("safeguard")), *words]


def environment(current: Settings) -> dict[str, str]:
    """Where the broker is, and whose topics."""
    return {"SAFEGUARD_BOOTSTRAP": current.bootstrap, "SAFEGUARD_PREFIX": current.prefix}


@contextlib.contextmanager
def process(command: Sequence[str], given: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a group of its own, its output in a file."""
    with log.open("wb") as out:
        child = subprocess.Popen(
            command,
            env={**os.environ, **given},
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
    """What to say of a process that ended by itself, or never came up."""
    return SafeguardError(f"{name} ended by itself; its log ends with:\n{log.read_text(errors='replace')[-2000:]}")


async def ready(child: subprocess.Popen[bytes], url: str, name: str, log: Path) -> None:
    """Wait until the process says that it is ready. Raises SafeguardError when it ended, or after STARTUP seconds."""
    deadline = time.monotonic() + STARTUP
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
