"""The projector's process, and a rebuild of the projection by a command."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable

import msgspec
from sqlalchemy import Engine

from safeguard_streams.bus import kafka
from safeguard_streams.console.database import connect
from safeguard_streams.console.projector import AWAY, STAGE, Projector, brief
from safeguard_streams.errors import DependencyError
from safeguard_streams.runtime import telemetry
from safeguard_streams.runtime.health import served
from safeguard_streams.runtime.process import EventLoopPauses, Stop, in_thread, run_until_first
from safeguard_streams.runtime.settings import Settings

_PROGRESS_SECONDS = 0.5


async def run(settings: Settings) -> None:
    """Project until SIGTERM or SIGINT. Raises ConfigurationError if no database is set, or a topic is missing."""
    async with _database(settings) as engine:
        with Stop() as stop, telemetry.exported(STAGE):
            projector = Projector(settings, engine)
            async with served(settings.host, settings.projector_port, projector.state):
                await run_until_first(projector.run(stop.event), EventLoopPauses(STAGE).measure())


class Rebuilt(msgspec.Struct, frozen=True):
    """A rebuild: how many records were read in how many seconds, and how many of them were none of their topic.

    complete: whether it came to the end; a projector goes on from where it stopped.
    """

    records: int
    seconds: float
    skipped: int
    complete: bool

    @property
    def rate(self) -> float:
        """Records in a second."""
        return self.records / self.seconds if self.seconds else 0.0


async def rebuild(settings: Settings, on_progress: Callable[[int, int], None]) -> Rebuilt:
    """Delete all that is projected, and project what the topics hold now.

    on_progress: called with the numbers of records that are projected and that are not. Raises ConfigurationError if no
    database is set, or a topic is missing; BusError if no broker answers, DependencyError if no database does.
    """
    async with _database(settings) as engine:
        with Stop() as stop:
            await kafka.wait_for_broker(settings, kafka.COMMAND_SECONDS)
            projector = Projector(settings, engine)
            await _emptied(projector)
            began = time.monotonic()
            reporting = asyncio.create_task(_report(projector, on_progress))
            try:
                await projector.run(stop.event, to_end=True)
            finally:
                reporting.cancel()
            on_progress(projector.projected, 0)
            skipped, seconds = projector.store.skipped.total(), time.monotonic() - began
            return Rebuilt(projector.projected, seconds, skipped, not stop.event.is_set())


async def _emptied(projector: Projector) -> None:
    try:
        await in_thread(projector.store.open)
        await in_thread(projector.store.clear)
    except AWAY as error:
        raise DependencyError(f"the console's database failed: {brief(error)}") from None


async def _report(projector: Projector, on_progress: Callable[[int, int], None]) -> None:
    while True:
        on_progress(projector.projected, sum(projector.lag.values()))
        await asyncio.sleep(_PROGRESS_SECONDS)


@contextlib.asynccontextmanager
async def _database(settings: Settings) -> AsyncIterator[Engine]:
    engine = connect(settings)
    try:
        yield engine
    finally:
        engine.dispose()
