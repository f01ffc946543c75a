"""Runs the demo: a broker, the two processes as an operator would start them, events, and a watcher."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from importlib.resources import files
from pathlib import Path
from typing import Any, NoReturn

import aiohttp
import msgspec
import orjson
from rich.console import Console
from rich.live import Live

from safeguard_streams.bus import kafka
from safeguard_streams.client.publisher import key_of, lines_of
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import ContentEvent, now, schema_header
from safeguard_streams.demo import show
from safeguard_streams.demo.second_act import SecondAct
from safeguard_streams.demo.tally import Tally
from safeguard_streams.errors import ConfigurationError, SafeguardError
from safeguard_streams.infra import brokers
from safeguard_streams.policies.files import load_library
from safeguard_streams.releases import operator
from safeguard_streams.runtime import settings
from safeguard_streams.runtime.settings import Settings

STARTUP_SECONDS = 300.0
QUIET_SECONDS = 120.0  # no answer for so long: the run is given up
END_SECONDS = 8.0
WATCHED = (
    topics.ESCALATIONS,
    topics.ESCALATIONS_AUDIT,
    topics.CLEARED,
    topics.VERDICTS,
    topics.RATIONALES,
    topics.DEAD_LETTERS,
)


class Options(msgspec.Struct, frozen=True):
    """The command's options; rate is events per second."""

    events: str | None = None
    count: int | None = None
    rate: float = 40.0
    keep: bool = False
    bootstrap: str | None = None
    model: str | None = None
    replay: bool = False
    as_json: bool = False


class Child:
    """A process of the pipeline, in a process group of its own, its log in a file."""

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

    def died(self) -> NoReturn:
        tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])
        raise SafeguardError(f"{self.name} ended by itself; its log ends with:\n{tail}")

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.returncode is None

    async def ready(self, http: aiohttp.ClientSession) -> bool:
        if not self.running:
            self.died()
        try:
            async with http.get(f"http://127.0.0.1:{self.port}/health/ready") as response:
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def end(self) -> None:
        """SIGTERM, and after END_SECONDS SIGKILL to the whole group."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_SECONDS):
                await self.process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        await self.process.wait()


def _command() -> str:
    beside = Path(sys.executable).with_name("safeguard")
    return str(beside) if beside.exists() else "safeguard"


def _sample() -> list[bytes]:
    """The events in the package, as if they were created now by this run."""
    run = f"{int(time.time()):x}"
    lines = files("safeguard_streams.demo").joinpath("events.jsonl").read_bytes().splitlines()
    events = [orjson.loads(line) for line in lines]
    return [orjson.dumps({**event, "content_id": f"{event['content_id']}-{run}"}) for event in events]


def _stamped(line: bytes) -> bytes:
    return orjson.dumps({**orjson.loads(line), "created_at": now().isoformat()})


class Demo:
    """One run; `say` prints a line of progress for people."""

    def __init__(self, options: Options, say: Callable[[str], None], console: Console) -> None:
        self.options = options
        self.say = say
        self.console = console
        self.tally = Tally()
        self.summary: dict[str, Any] | None = None
        own = options.events is None
        lines = _sample() if own else lines_of(options.events or "")
        self._stamp = own
        self.lines = lines[: options.count] if options.count is not None else lines
        if not self.lines:
            raise ConfigurationError(f"{options.events}: no events in it")

    async def run(self) -> None:
        """The whole run; `summary` is set when every answer is in. Raises SafeguardError when it cannot be done."""
        async with contextlib.AsyncExitStack() as stack:
            bootstrap = self.options.bootstrap
            if bootstrap is None:
                self.say("starting the embedded broker")
                bootstrap = stack.enter_context(brokers.embedded())
            current = self._settings(bootstrap)
            self.say(f"broker at {bootstrap}: creating topics")
            await kafka.wait_for_broker(current, timeout=8)
            await kafka.create_topics(current)
            for record in await operator.release(current, load_library().values(), operator.ChangedBy("demo")):
                self.say(f"released policy {record.policy_id}, version {record.version}")
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="safeguard-demo-")))
            children = await stack.enter_async_context(self._children(current, folder))
            await self._wait_until_ready(children)
            await self._publish_and_watch(current, children)
            summary = self.tally.summary()
            self._report(summary)
            if self.options.replay:
                out = sys.stderr.fileno() if self.options.as_json else sys.stdout.fileno()
                summary["replay"] = await SecondAct(current, self.tally, self.say, _command(), out).run()
            if self.options.as_json:
                print(orjson.dumps(summary).decode(), flush=True)
            self.summary = summary
            if self.options.keep:
                self.say(f"staying up: SAFEGUARD_BOOTSTRAP={bootstrap} safeguard verdicts tail; Ctrl-C ends it")
                await asyncio.Event().wait()
            self.say("stopping")

    def _settings(self, bootstrap: str) -> Settings:
        if self.options.bootstrap is None:
            # The embedded broker lets a group form only after half of the session timeout.
            return settings.load(bootstrap=bootstrap, session_timeout_ms=4000, partitions=2)
        return settings.load(bootstrap=bootstrap)

    @contextlib.asynccontextmanager
    async def _children(self, current: Settings, folder: Path) -> AsyncIterator[list[Child]]:
        environment = {
            **os.environ,
            "SAFEGUARD_BOOTSTRAP": current.bootstrap,
            "SAFEGUARD_SESSION_TIMEOUT_MS": str(current.session_timeout_ms),
        }
        model = ["--model", self.options.model] if self.options.model else []
        children = [
            Child("prefilter", [_command(), "prefilter", "run"], environment, folder),
            Child("reasoner", [_command(), "reason", "run", *model], environment, folder),
        ]
        if self.options.replay:
            # Verdicts of earlier runs on the same broker are none of its business.
            children.append(Child("enforcement", [_command(), "enforce", "run", "--from-now"], environment, folder))
        try:
            for child in children:
                self.say(f"starting safeguard {' '.join(child.words[1:3])}")
                await child.start()
            yield children
        finally:
            await asyncio.gather(*(child.end() for child in children))

    async def _wait_until_ready(self, children: list[Child]) -> None:
        start = time.monotonic()
        waiting = list(children)
        said = start
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as http:
            while waiting:
                for child in [c for c in waiting if await c.ready(http)]:
                    waiting.remove(child)
                    self.say(f"{child.name} is ready after {time.monotonic() - start:.0f} s")
                if time.monotonic() - start > STARTUP_SECONDS:
                    waiting[0].died()
                if waiting and time.monotonic() - said > 10:
                    said = time.monotonic()
                    names = " and ".join(c.name for c in waiting)
                    self.say(f"{said - start:.0f} s: waiting for the {names} (a model takes most of a minute on a CPU)")
                await asyncio.sleep(0.2)

    async def _publish_and_watch(self, current: Settings, children: list[Child]) -> None:
        async with kafka.reader(current, WATCHED, from_end=True) as consumer:
            for tp in consumer.assignment():  # the end is fixed now, not when the first record arrives
                await consumer.position(tp)
            publishing = asyncio.create_task(self._publish(current))
            try:
                with self._progress() as refresh:
                    await self._watch(current, consumer, publishing, children, refresh)
            finally:
                publishing.cancel()

    async def _publish(self, current: Settings) -> None:
        header = [schema_header(ContentEvent)]
        topic = current.prefix + topics.EVENTS
        async with kafka.producer(current) as producer:
            start = time.monotonic()
            for number, line in enumerate(self.lines):
                await asyncio.sleep(max(0.0, start + number / self.options.rate - time.monotonic()))
                event = _stamped(line) if self._stamp else line
                key = key_of(event)
                self.tally.sent(key, event)
                await producer.send(topic, value=event, key=key, headers=header)
            await producer.flush()

    async def _watch(
        self,
        current: Settings,
        consumer: Any,
        publishing: asyncio.Task[None],
        children: list[Child],
        refresh: Callable[[], None],
    ) -> None:
        last = time.monotonic()
        while True:
            polled = await consumer.getmany(timeout_ms=200)
            for tp, records in polled.items():
                for record in records:
                    self.tally.take(tp.topic.removeprefix(current.prefix), record)
            refresh()
            if publishing.done():
                publishing.result()
            if polled or not publishing.done():
                last = time.monotonic()
            for child in children:
                if not child.running:
                    child.died()
            answered = publishing.done() and not polled and not self.tally.unanswered()
            # An escalation may be read later than a verdict that was written after it.
            if answered and not await (await kafka.EndOffsets.now(consumer)).remaining():
                return
            if time.monotonic() - last > QUIET_SECONDS:
                self.say(f"no answer for {QUIET_SECONDS:.0f} s, giving up")
                return

    @contextlib.contextmanager
    def _progress(self) -> Any:
        total = len(self.lines)
        if self.console.is_terminal and not self.options.as_json:
            with Live(console=self.console, refresh_per_second=4) as live:
                yield lambda: live.update(show.counts(self.tally, total))
            return
        said = time.monotonic()

        def refresh() -> None:
            nonlocal said
            if time.monotonic() - said > 3:
                said = time.monotonic()
                self.say(show.line(self.tally, total))

        yield refresh

    def _report(self, summary: dict[str, Any]) -> None:
        """What became of the events, for people."""
        if self.options.as_json:
            return
        texts = {}
        for line in self.lines:
            with contextlib.suppress(ValueError, TypeError, KeyError):
                event = orjson.loads(line)
                texts[event["content_id"]] = event["text"]
        self.console.print(show.verdicts(self.tally, texts))
        if self.tally.dead_letters:
            self.console.print(show.dead_letters(self.tally))
        self.console.print(show.counts(self.tally, len(self.lines)))
        keys = (
            "published",
            "cleared",
            "escalated",
            "verdicts",
            "undetermined",
            "dead_letters",
            "unanswered",
            "duplicates",
        )
        self.console.print("  ".join(f"{key} {summary[key]}" for key in keys), highlight=False)
