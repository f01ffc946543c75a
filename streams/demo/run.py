"""Runs the demo: starts a broker and the pipeline's processes, publishes events, and shows how each was answered."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec
import orjson
from rich.console import Console, RenderableType
from rich.status import Status

from safeguard_streams.bus import kafka
from safeguard_streams.client.event_files import lines_of
from safeguard_streams.client.publisher import key_of
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import ContentEvent, now, schema_header
from safeguard_streams.demo import broker, examples, faults, labels, pipeline, show
from safeguard_streams.demo.broker import Broker
from safeguard_streams.demo.child_process import ChildProcess
from safeguard_streams.demo.enforced import actions_for, followed, until
from safeguard_streams.demo.second_act import SecondAct
from safeguard_streams.demo.tally import Tally
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.policies.files import load_library
from safeguard_streams.releases import operator
from safeguard_streams.runtime.settings import Settings

QUIET_SECONDS = 120.0  # the run gives up after this time without an answer
PROGRESS_SECONDS = 5.0  # between two lines of progress
WATCHED = (
    topics.ESCALATIONS,
    topics.ESCALATIONS_AUDIT,
    topics.CLEARED,
    topics.VERDICTS,
    topics.RATIONALES,
    topics.DEAD_LETTERS,
)


class Options(msgspec.Struct, frozen=True):
    """The options of the command; rate is in events per second."""

    events: str | None = None
    count: int | None = None
    rate: float = 40.0
    keep: bool = False
    bootstrap: str | None = None
    model: str | None = None
    faults: bool = True
    replay: bool = False
    as_json: bool = False


def _sample() -> list[bytes]:
    """The events in the package, with content ids that are unique to this run."""
    run = f"{int(time.time()):x}"
    lines = files("safeguard_streams.demo").joinpath("events.jsonl").read_bytes().splitlines()
    events = [orjson.loads(line) for line in lines]
    return [orjson.dumps({**event, "content_id": f"{event['content_id']}-{run}"}) for event in events]


def _with_created_at(line: bytes) -> bytes:
    return orjson.dumps({**orjson.loads(line), "created_at": now().isoformat()})


class Demo:
    """One run. Progress and results go to the console, which is standard error where the output is JSON."""

    def __init__(self, options: Options, console: Console) -> None:
        self.options = options
        self.console = console
        self.tally = Tally()
        self.summary: dict[str, Any] | None = None
        self._acts = 0
        self._began = time.monotonic()
        self._set_created_at = options.events is None
        lines = _sample() if options.events is None else [line.value for line in lines_of(options.events)]
        self.lines = lines[: options.count] if options.count is not None else lines
        if not self.lines:
            raise ConfigurationError(f"{options.events}: contains no events")
        self._events = labels.read(self.lines)

    def say(self, text: str) -> None:
        """Print a line of progress."""
        self._print(show.prose(text))

    async def run(self) -> None:
        """The whole run; sets `summary` after the last answer. Raises SafeguardError when the run cannot complete."""
        async with contextlib.AsyncExitStack() as stack:
            self._act("Start")
            here = await stack.enter_async_context(broker.started(self.options.bootstrap, self.say))
            await self._prepare(here)
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="safeguard-demo-")))
            children = await stack.enter_async_context(
                pipeline.running(here.settings, self.options.model, folder, self.say)
            )
            self._act("Publish, and kill two processes meanwhile" if self.options.faults else "Publish")
            killed = await self._publish_and_watch(here.settings, children)
            summary = self.tally.summary() | {"broker": here.name, "transactional": here.transactional}
            summary["killed"] = msgspec.to_builtins(killed)
            self._act("Each event in, each answer out")
            self._print(show.counts(self.tally), "", show.exactly_once(self.tally, here, killed))
            self._compare_with_labels(summary)
            shown = await self._show_examples(here.settings)
            self._explain_the_model()
            if self.options.replay:
                self._act("A policy changes")
                out = sys.stderr.fileno() if self.options.as_json else sys.stdout.fileno()
                summary["replay"] = await SecondAct(here.settings, self.tally, self.say, out).run()
            if self.options.as_json:
                print(orjson.dumps(summary).decode(), flush=True)
            self.summary = summary
            await self._leave(here, children, shown, folder)

    def _act(self, title: str) -> None:
        self._acts += 1
        self.console.print(f"\n{self._acts}. {title}\n", style="bold")

    def _print(self, *parts: RenderableType) -> None:
        for part in parts:
            self.console.print(show.rendered(part), soft_wrap=True)

    async def _prepare(self, here: Broker) -> None:
        """Create the topics and release the policies."""
        self.say(f"{here.name}, at {here.settings.bootstrap}")
        await kafka.create_topics(here.settings)
        released = await operator.release(here.settings, load_library().values(), operator.ChangedBy("demo"))
        self.say(f"released the policies {', '.join(record.policy_id for record in released)}")

    async def _publish_and_watch(self, current: Settings, children: list[ChildProcess]) -> faults.Killed | None:
        async with kafka.reader(current, WATCHED, from_end=True) as consumer:
            for tp in consumer.assignment():  # resolve the end offsets before anything is published
                await consumer.position(tp)
            self.say(f"publishing {len(self.lines)} texts, {self.options.rate:g} a second")
            publishing = asyncio.create_task(self._publish(current))
            killing = asyncio.create_task(self._kill(children))
            try:
                with self._progress() as refresh:
                    await self._watch(current, consumer, (publishing, killing), children, refresh)
                return killing.result() if killing.done() else None
            finally:
                for task in (publishing, killing):
                    task.cancel()

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

    async def _kill(self, children: list[ChildProcess]) -> faults.Killed | None:
        if not self.options.faults:
            return None
        victims = [child for child in children if child.name != "enforcement"]
        return await faults.kill_and_restart(victims, self.tally, len(self.lines), self.say)

    async def _watch(
        self,
        current: Settings,
        consumer: Any,
        tasks: tuple[asyncio.Task[Any], ...],
        children: list[ChildProcess],
        refresh: Callable[[], None],
    ) -> None:
        """Count the answers until the tasks are done and every event is answered, or until no answer comes."""
        last_answer = time.monotonic()
        while True:
            polled = await consumer.getmany(timeout_ms=200)
            for tp, records in polled.items():
                for record in records:
                    self.tally.take(tp.topic.removeprefix(current.prefix), record)
            refresh()
            done = [task.result() for task in tasks if task.done()]  # raises what the task raised
            if polled or len(done) < len(tasks):
                last_answer = time.monotonic()
            for child in children:
                child.check()
            answered = len(done) == len(tasks) and not polled and not self.tally.unanswered()
            # The consumer may read an escalation after a verdict that was written later.
            if answered and not await (await kafka.EndOffsets.now(consumer)).remaining():
                return
            if time.monotonic() - last_answer > QUIET_SECONDS:
                self.say(f"no answer for {QUIET_SECONDS:.0f} s, giving up")
                return

    @contextlib.contextmanager
    def _progress(self) -> Iterator[Callable[[], None]]:
        """A function that shows the counts: as a changing line on a terminal, else as a line now and then."""
        total = len(self.lines)
        if self.console.is_terminal:
            with Status(show.line(self.tally, total), console=self.console) as status:
                yield lambda: status.update(show.line(self.tally, total))
            return
        reported, last = time.monotonic(), ""

        def refresh() -> None:
            nonlocal reported, last
            line = show.line(self.tally, total)
            if time.monotonic() - reported > PROGRESS_SECONDS and line != last:
                reported, last = time.monotonic(), line
                self.say(line)

        yield refresh

    def _compare_with_labels(self, summary: dict[str, Any]) -> None:
        """What people had labelled, beside the verdicts."""
        figures = labels.figures(self._events, self.tally.verdicts)
        summary["by_label"] = msgspec.to_builtins(figures)
        if figures:
            self._act("What was right, by what people had labelled")
            self._print(show.by_label(figures))

    async def _show_examples(self, current: Settings) -> list[examples.Example]:
        """Wait until enforcement has acted on the verdicts, and show a few from text to action."""
        due = {v.verdict_id for v in self.tally.verdicts if v.decision != "safe"}
        await until("enforcement has acted on the verdicts", lambda: followed(current, due), self.say)
        actions = await actions_for(current, due)
        shown = examples.choose(self._events, self.tally.verdicts, self.tally.rationales, actions)
        if shown:
            self._act("From text to action")
            self._print(show.prose(show.EXAMPLES), "")
            library = load_library()
            for letter, one in zip("abcde", shown, strict=False):
                self._print(show.example(letter, one, library))
        return shown

    def _explain_the_model(self) -> None:
        if self.options.model in (None, "small"):
            self._act("With the real model")
            self._print(show.prose(show.SMALL_MODEL))

    async def _leave(
        self, here: Broker, children: list[ChildProcess], shown: list[examples.Example], folder: Path
    ) -> None:
        self._act("Next")
        if self.options.keep:
            content_id = shown[0].event.content_id if shown else "CONTENT_ID"
            async with pipeline.console(here.settings, folder, self.say) as console:
                self._print(show.addresses(here, children, content_id, console))
                await asyncio.Event().wait()
        self._print(show.next_steps(), "")
        self.say(f"stopping; all of this took {time.monotonic() - self._began:.0f} s")
