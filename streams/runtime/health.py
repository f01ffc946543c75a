"""Liveness, readiness and metrics over HTTP, for processes without a web server of their own."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from aiohttp import web

from safeguard_streams.runtime import telemetry
from safeguard_streams.runtime.ports import listening


@contextlib.asynccontextmanager
async def served(host: str, port: int, state: Callable[[], dict[str, Any]]) -> AsyncIterator[None]:
    """Serve /health/live, /health/started, /health/ready and /metrics for the block.

    /health/ready returns `state()` as JSON, with status 503 until its `ready` is true. /health/started does the same by
    `started`, which is true from the beginning in processes without a slow start. It needs no partition.
    """

    async def live(_: web.Request) -> web.Response:
        return web.json_response({"alive": True})

    async def ready(_: web.Request) -> web.Response:
        current = state()
        return web.json_response(current, status=200 if current["ready"] else 503)

    async def started(_: web.Request) -> web.Response:
        begun = bool(state().get("started", True))
        return web.json_response({"started": begun}, status=200 if begun else 503)

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=telemetry.page(), headers={"content-type": telemetry.CONTENT_TYPE})

    server = web.Application()
    pages = {"/health/live": live, "/health/started": started, "/health/ready": ready, "/metrics": metrics}
    server.add_routes([web.get(path, page) for path, page in pages.items()])
    runner = web.AppRunner(server)
    await runner.setup()
    try:
        with listening(host, port):
            await web.TCPSite(runner, host, port).start()
        yield
    finally:
        await runner.cleanup()
