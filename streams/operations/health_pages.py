"""What a process on this host says at /health/ready: a stage of this deployment, of another one, or none of ours.

Any program may listen at the port. What it answers is bounded in time and size, and no proxy is asked.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from safeguard_streams.runtime.settings import Settings

SECONDS = 1.0  # for the whole answer
_MAX_BYTES = 1_000_000
_Name = Annotated[str, Meta(max_length=250)]


class HealthPage(msgspec.Struct, frozen=True):
    """The parts of the page that commands read. stage and prefix are None of an earlier version, which does not tell.

    undelivered: the agent's messages that wait. webhook: the receiver's last answer, if its messages fail.
    """

    ready: bool
    stage: _Name | None = None
    prefix: _Name | None = None
    undelivered: dict[str, Any] | None = None
    webhook: str | None = None

    def foreign(self, settings: Settings, stage: str) -> str | None:
        """Which stage of which deployment answered instead of this deployment's; None for this one's.

        A page that does not tell counts as this deployment's.
        """
        own = settings.identity(stage)
        found = {name: value if (value := getattr(self, name)) is not None else own[name] for name in own}
        if found == own:
            return None
        prefix = f"prefix {found['prefix']}" if found["prefix"] else "no prefix"
        return f"{found['stage']} of the deployment with {prefix}"


async def own_health_page(settings: Settings, stage: str, port: int) -> HealthPage | None:
    """The page of a process on this host, if it is a stage of this deployment."""
    page = await health_page(settings, port)
    return page if page is not None and page.foreign(settings, stage) is None else None


async def health_page(settings: Settings, port: int) -> HealthPage | None:
    """The page of a process of this project on this host; None if none answers there."""
    host = "127.0.0.1" if settings.host in {"0.0.0.0", "::"} else settings.host  # noqa: S104  (compared only)
    try:
        async with asyncio.timeout(SECONDS):
            answer = await _answer(host, port)
    except (OSError, OverflowError, UnicodeError):  # a TimeoutError is an OSError
        return None
    try:
        return msgspec.json.decode(answer.partition(b"\r\n\r\n")[2], type=HealthPage)
    except (msgspec.DecodeError, UnicodeError):
        return None


async def _answer(host: str, port: int) -> bytes:
    """The answer to one request of HTTP/1.0, head and body, whatever its status."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(f"GET /health/ready HTTP/1.0\r\nHost: {host}:{port}\r\n\r\n".encode())
        answer = b""
        while len(answer) <= _MAX_BYTES and (part := await reader.read(_MAX_BYTES)):
            answer += part
        return answer
    finally:
        writer.transport.abort()
