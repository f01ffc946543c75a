"""The only module that imports Faust: its app, the channel to its agent, the agent, and the web pages.

Faust's own Kafka consumer acknowledges records that are unfinished, and its producer does not deduplicate. Faust
therefore has no Kafka clients here. A batch of one partition crosses it in memory, and the engine commits the batch
after the agent has answered.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar

import faust
import msgspec
from faust.app.base import BootStrategy
from mode import Service

from safeguard_streams.bus.interface import Output, Record
from safeguard_streams.prefilter.batches import is_large, parts
from safeguard_streams.prefilter.decision import Begun
from safeguard_streams.prefilter.encoder.passages import PassageVectors
from safeguard_streams.runtime import telemetry
from safeguard_streams.runtime.process import END_SECONDS
from safeguard_streams.runtime.settings import Settings

log = logging.getLogger(__name__)
T = TypeVar("T")

PAUSE_SECONDS = 0.2  # of CPU that decisions may take from the event loop at a time; a usual batch takes 0.07


class BridgeHooks(msgspec.Struct, frozen=True):
    """What the process gives to the bridge.

    begin: the agent's work on a part of a batch, on the event loop or in a thread, as is that of its result.
    encode: gives the vectors that the result waits for, and leaves the event loop free.
    run: runs beside the agent until it ends by itself or `stop` is set; the app stops when it has ended.
    ready: the body of /health/ready; its `ready` decides between the statuses 200 and 503.
    """

    begin: Callable[[Sequence[Record]], Begun]
    encode: Callable[[Begun], Awaitable[PassageVectors]]
    run: Callable[[], Awaitable[None]]
    stop: asyncio.Event
    ready: Callable[[], Mapping[str, object]]


class FaustBridge:
    """A Faust app whose agent handles the batches that `process` hands over."""

    def __init__(self, name: str, settings: Settings, hooks: BridgeHooks) -> None:
        self._hooks = hooks
        self._health = f"http://{settings.host}:{settings.prefilter_port}/health/ready"
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._app = _App(
            f"{settings.prefix}safeguard-{name}",
            broker=[f"kafka://{address}" for address in settings.bootstrap.split(",")],
            topic_disable_leader=True,
            topic_allow_declare=False,
            web_bind=settings.host,
            web_host=settings.host,
            web_port=settings.prefilter_port,
            autodiscover=False,
        )
        self._batches = self._app.channel()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="decide")
        self._busy = 0.0  # seconds of CPU that parts have taken from the event loop without a pause, or the last one
        self._add_agent(name)
        self._add_pages()
        self._add_service()

    async def process(self, records: Sequence[Record]) -> Sequence[Output]:
        """Hand a batch to the agent and wait for its outputs."""
        batch = _Batch(records)
        await self._batches.put(batch)
        return await batch.outputs

    async def run(self) -> None:
        """Run the app until the `run` hook ends. Raises what the hook raises."""
        await self._app.start()
        self._app.flow_control.resume()  # channels open with Faust's own consumer, which is not used here
        log.info("Faust app started health=%s", self._health)
        try:
            await self._ended
        finally:
            try:
                async with asyncio.timeout(END_SECONDS):
                    await self._app.stop()
            except TimeoutError:
                log.warning("Faust app not stopped in time timeout=%gs", END_SECONDS)
            self._thread.shutdown(wait=False, cancel_futures=True)

    def _add_agent(self, name: str) -> None:
        @self._app.agent(self._batches, name=name)
        async def agent(stream: Any) -> None:
            async for batch in stream:
                try:
                    batch.answer(await self._decide(batch))
                except Exception as error:  # the engine finds the failing record
                    batch.fail(error)

    async def _decide(self, batch: _Batch) -> list[Output]:
        """Decide a batch in parts. Once these have kept the event loop for PAUSE_SECONDS, go on in a thread.

        Ordinary batches take less. A thread for all of them would cost a quarter of the throughput, because the event
        loop then waits for the interpreter after each of its calls.
        """
        outputs: list[Output] = []
        for part in parts(batch.records):
            if batch.outputs.done():  # cancelled: the partition was given up
                break
            in_thread = self._busy > PAUSE_SECONDS or is_large(part)
            begun = await self._done(partial(self._hooks.begin, part), in_thread=in_thread)
            vectors = await self._hooks.encode(begun.result)
            decided = await self._done(partial(begun.result.outputs, vectors), in_thread=in_thread)
            self._busy = begun.seconds + decided.seconds + (0.0 if in_thread else self._busy)
            outputs += decided.result
        self._busy = 0.0 if self._busy <= PAUSE_SECONDS else self._busy
        return outputs

    async def _done(self, work: Callable[[], T], *, in_thread: bool) -> _Done[T]:
        if in_thread:
            return await asyncio.get_running_loop().run_in_executor(self._thread, _timed, work)
        return _timed(work)

    def _add_pages(self) -> None:
        ready = self._hooks.ready

        @self._app.page("/health/live")
        async def live_page(web: Any, _: Any) -> Any:
            return web.json({"alive": True})

        @self._app.page("/health/started")
        async def started_page(web: Any, _: Any) -> Any:
            return web.json({"started": True})

        @self._app.page("/health/ready")
        async def ready_page(web: Any, _: Any) -> Any:
            state = ready()
            return web.json(state, status=200 if state["ready"] else 503)

        @self._app.page("/metrics")
        async def metrics_page(web: Any, _: Any) -> Any:
            return web.bytes(telemetry.page(), headers={"Content-Type": telemetry.CONTENT_TYPE})

    def _add_service(self) -> None:
        bridge = self

        @self._app.service
        class Runner(Service):
            """Runs the hook, which owns every Kafka client of the process."""

            async def on_start(self) -> None:
                self._running = asyncio.create_task(bridge._run_hook())

            async def on_stop(self) -> None:
                bridge._hooks.stop.set()
                await asyncio.wait({self._running})

    async def _run_hook(self) -> None:
        try:
            await self._hooks.run()
        except Exception as error:
            self._ended.set_exception(error)
        else:
            self._ended.set_result(None)


class _Done(NamedTuple, Generic[T]):
    """The result of some work, and the CPU time that it took."""

    result: T
    seconds: float


def _timed(work: Callable[[], T]) -> _Done[T]:
    started = time.thread_time()
    result = work()
    return _Done(result, time.thread_time() - started)


class _Batch:
    """Records on their way to the agent, and the outputs on their way back."""

    def __init__(self, records: Sequence[Record]) -> None:
        self.records = records
        self.outputs: asyncio.Future[Sequence[Output]] = asyncio.get_running_loop().create_future()

    def answer(self, outputs: Sequence[Output]) -> None:
        """Hand the outputs over, unless nobody waits for them any more."""
        if not self.outputs.done():
            self.outputs.set_result(outputs)

    def fail(self, error: Exception) -> None:
        if not self.outputs.done():
            self.outputs.set_exception(error)


class _WithoutKafka(BootStrategy):
    enable_kafka = False


class _App(faust.App):
    BootStrategy = _WithoutKafka

    def _create_directories(self) -> None:
        """Do nothing: the folder would hold Faust's tables, and there are none."""
