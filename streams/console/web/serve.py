"""The console's process: its pages and, unless another process does it, the projection that they show."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from urllib.parse import urlsplit

import uvicorn

from safeguard_streams.console.database import connect
from safeguard_streams.console.projector import Projector
from safeguard_streams.console.web import upkeep
from safeguard_streams.console.web.app import build
from safeguard_streams.runtime import telemetry
from safeguard_streams.runtime.process import EventLoopPauses, Stop, run_until_first
from safeguard_streams.runtime.settings import Settings

log = logging.getLogger(__name__)

STAGE = "console"
_DRAIN_SECONDS = 3  # for requests in progress; live pages hold their connections open


class _Server(uvicorn.Server):
    """A server that leaves signals to `Stop`."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def run(settings: Settings, *, project: bool) -> None:
    """Serve until SIGTERM or SIGINT. Raises ConfigurationError where settings of the console contradict each other."""
    engine = connect(settings)
    try:
        projector = Projector(settings, engine) if project else None
        app = build(settings, engine, projector)
        server = _Server(
            uvicorn.Config(
                app,
                host=settings.host,
                port=settings.console_port,
                log_config=None,
                access_log=False,  # it would log queries, which hold ids and words
                server_header=False,
                proxy_headers=False,  # the address that is checked is that of the connection
                lifespan="off",
                timeout_graceful_shutdown=_DRAIN_SECONDS,
            )
        )
        with Stop() as stop, telemetry.exported(STAGE), contextlib.closing(app.state.console.replay_workers) as workers:
            workers.wake()  # what other processes left
            log.info("console served url=%s sign_in=%r", address(settings), app.state.console.sign_in.about)
            work = [_serve(server, stop.event), EventLoopPauses(STAGE).measure(), upkeep.run(app.state.console)]
            if projector is not None:
                work.append(_project(projector, stop.event))
            await run_until_first(*work)
    finally:
        engine.dispose()


def address(settings: Settings) -> str:
    """Where browsers reach the console."""
    own = f"http://{settings.host}:{settings.console_port}"
    return settings.console_url if urlsplit(settings.console_url).netloc else own


async def _serve(server: _Server, stop: asyncio.Event) -> None:
    serving = asyncio.create_task(server.serve())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    server.should_exit = True
    stopping.cancel()
    await serving


async def _project(projector: Projector, stop: asyncio.Event) -> None:
    """Project until `stop`, and wait to be cancelled: the server finishes its requests first."""
    await projector.run(stop)
    await asyncio.Event().wait()
