"""Runs the demo: starts a broker and the pipeline's processes, publishes events and follows their answers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import orjson
from rich.console import Console
from rich.live import Live

from safeguard_streams.bus import kafka
from safeguard_streams.client.event_files import lines_of
from safeguard_streams.client.publisher import key_of
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import ContentEvent, now, schema_header
from safeguard_streams.demo import show
from safeguard_streams.demo.child_process import ChildProcess
from safeguard_streams.demo.second_act import SecondAct
from safeguard_streams.demo.tally import Tally
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.infra import brokers
from safeguard_streams.policies.files import load_library
from safeguard_streams.releases import operator
from safeguard_streams.runtime import settings
from safeguard_streams.runtime.settings import Settings

STARTUP_SECONDS = 300.0
QUIET_SECONDS = 120.0  # the run gives up after this time without an answer
PROGRESS_SECONDS = 3.0  # between two lines of progress
WATCHED = (
    topics.ESCALATIONS,
    topics.ESCALATIONS_AUDIT,
    topics.CLEARED,
    topics.VERDICTS,
    topics.RATIONALES,
    topics.DEAD_LETTERS,
)
SHOWN_COUNTS = (
    "published",
    "cleared",
    "escalated",
    "verdicts",
    "undetermined",
    "dead_letters",
    "unanswered",
    "duplicates",
)


class Options(msgspec.Struct, frozen=True):
    """The options of the command; rate is in events per second."""

    events: str | None = None
    count: int | None = None
    rate: float = 40.0
    keep: bool = False
    bootstrap: str | None = None
    model: str | None = None
    replay: bool = False
    as_json: bool = False


def _command() -> str:
    """`safeguard` as installed beside this Python, else the one on the PATH."""
    installed = Path(sys.executable).with_name("safeguard")
    return str(installed) if installed.exists() else "safeguard"


def _sample() -> list[bytes]:
    """The events in the package, with content ids that are unique to this run."""
    run = f"{int(time.time()):x}"
    lines = files("safeguard_streams.demo").joinpath("events.jsonl").read_bytes().splitlines()
    events = [orjson.loads(line) for line in lines]
    return [orjson.dumps({**event, "content_id": f"{event['content_id']}-{run}"}) for event in events]


def _with_created_at(line: bytes) -> bytes:
    return orjson.dumps({**orjson.loads(line), "created_at": now().isoformat()})


class Demo:
    """One run. `say` prints a line of progress."""

    def __init__(self, options: Options, say: Callable[[str], None], console: Console) -> None:
        self.options = options
        self.say = say
        self.console = console
        self.tally = Tally()
        self.summary: dict[str, Any] | None = None
        self._set_created_at = options.events is None
        lines = _sample() if options.events is None else [line.value for line in lines_of(options.events)]
        self.lines = lines[: options.count] if options.count is not None else lines
        if not self.lines:
            raise ConfigurationError(f"{options.events}: contains no events")

    async def run(self) -> None:
        """The whole run; sets `summary` after the last answer. Raises SafeguardError when the run cannot complete."""
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
            self._show(summary)
            if self.options.replay:
                out = sys.stderr.fileno() if self.options.as_json else sys.stdout.fileno()
                summary["replay"] = await SecondAct(current, self.tally, self.say, _command(), out).run()
            if self.options.as_json:
                print(orjson.dumps(summary).decode(), flush=True)
            self.summary = summary
            if self.options.keep:
                self.say(
                    f"still running: SAFEGUARD_BOOTSTRAP={bootstrap} safeguard verdicts tail; press Ctrl-C to stop"
                )
                await asyncio.Event().wait()
            self.say("stopping")

    def _settings(self, bootstrap: str) -> Settings:
        if self.options.bootstrap is None:
            # On the embedded broker a group forms only after half the session timeout.
            return settings.load(bootstrap=bootstrap, session_timeout_ms=4000, partitions=2)
        return settings.load(bootstrap=bootstrap)

    @contextlib.asynccontextmanager
    async def _children(self, current: Settings, folder: Path) -> AsyncIterator[list[ChildProcess]]:
        environment = {
            **os.environ,
            "SAFEGUARD_BOOTSTRAP": current.bootstrap,
            "SAFEGUARD_SESSION_TIMEOUT_MS": str(current.session_timeout_ms),
        }
        model = ["--model", self.options.model] if self.options.model else []
        children = [
            ChildProcess("prefilter", [_command(), "prefilter", "run"], environment, folder),
            ChildProcess("reasoner", [_command(), "reason", "run", *model], environment, folder),
        ]
        if self.options.replay:
            # --from-now: enforcement must not act on verdicts of earlier runs on the same broker.
            enforce = [_command(), "enforce", "run", "--from-now"]
            children.append(ChildProcess("enforcement", enforce, environment, folder))
        try:
            for child in children:
                self.say(f"starting safeguard {' '.join(child.words[1:3])}")
                await child.start()
            yield children
        finally:
            await asyncio.gather(*(child.stop() for child in children))

    async def _wait_until_ready(self, children: list[ChildProcess]) -> None:
        start = time.monotonic()
        waiting = list(children)
        reported = start
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as http:
            while waiting:
                for child in [c for c in waiting if await c.ready(http)]:
                    waiting.remove(child)
                    self.say(f"{child.name} is ready after {time.monotonic() - start:.0f} s")
                if waiting and time.monotonic() - start > STARTUP_SECONDS:
                    raise waiting[0].failure(f"was not ready after {STARTUP_SECONDS:.0f} s")
                if waiting and time.monotonic() - reported > 10:
                    reported = time.monotonic()
                    names = " and ".join(c.name for c in waiting)
                    self.say(
                        f"{reported - start:.0f} s: waiting for the {names} (a CPU loads a model in about a minute)"
                    )
                await asyncio.sleep(0.2)

    async def _publish_and_watch(self, current: Settings, children: list[ChildProcess]) -> None:
        async with kafka.reader(current, WATCHED, from_end=True) as consumer:
            for tp in consumer.assignment():  # resolve the end offsets before anything is published
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
                event = _with_created_at(line) if self._set_created_at else line
                key = key_of(event)
                self.tally.sent(key, event)
                await producer.send(topic, value=event, key=key, headers=header)
            await producer.flush()

    async def _watch(
        self,
        current: Settings,
        consumer: Any,
        publishing: asyncio.Task[None],
        children: list[ChildProcess],
        refresh: Callable[[], None],
    ) -> None:
        last_answer = time.monotonic()
        while True:
            polled = await consumer.getmany(timeout_ms=200)
            for tp, records in polled.items():
                for record in records:
                    self.tally.take(tp.topic.removeprefix(current.prefix), record)
            refresh()
            if publishing.done():
                publishing.result()
            if polled or not publishing.done():
                last_answer = time.monotonic()
            for child in children:
                child.check()
            answered = publishing.done() and not polled and not self.tally.unanswered()
            # The consumer may read an escalation after a verdict that was written later.
            if answered and not await (await kafka.EndOffsets.now(consumer)).remaining():
                return
            if time.monotonic() - last_answer > QUIET_SECONDS:
                self.say(f"no answer for {QUIET_SECONDS:.0f} s, giving up")
                return

    @contextlib.contextmanager
    def _progress(self) -> Iterator[Callable[[], None]]:
        """A function that shows the counts: as a live table on a terminal, else as a line now and then."""
        total = len(self.lines)
        if self.console.is_terminal and not self.options.as_json:
            with Live(console=self.console, refresh_per_second=4) as live:
                yield lambda: live.update(show.counts(self.tally, total))
            return
        reported = time.monotonic()

        def refresh() -> None:
            nonlocal reported
            if time.monotonic() - reported > PROGRESS_SECONDS:
                reported = time.monotonic()
                self.say(show.line(self.tally, total))

        yield refresh

    def _show(self, summary: dict[str, Any]) -> None:
        """Print tables of the verdicts and counts, unless the output is JSON."""
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
        self.console.print("  ".join(f"{key} {summary[key]}" for key in SHOWN_COUNTS), highlight=False)
