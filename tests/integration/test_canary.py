"""A canary as a process of its own, on Apache Kafka, beside a live worker: what it judges, and what it leaves alone."""

import asyncio
import contextlib
import json
import os
import signal
import sys
import urllib.request
from collections import Counter

import pytest

from safeguard_streams.bus import kafka as kafka_bus
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import (
    ContentEvent,
    Escalation,
    PrefilterResult,
    Verdict,
    decode,
    encode,
    now,
    origin_of,
)
from safeguard_streams.infra import brokers
from safeguard_streams.policies.files import load_library
from safeguard_streams.prefilter.sampling import is_drawn
from safeguard_streams.quality import model_comparison
from safeguard_streams.quality.model_comparison import DRAW
from safeguard_streams.releases import operator
from safeguard_streams.releases.operator import ChangedBy
from safeguard_streams.workers.app import Worker, start_backend
from safeguard_streams.workers.inference.scripted import Script, ScriptedServer
from tests.conftest import TIMEOUT, until

pytestmark = pytest.mark.slow
POLICY = load_library()["fraud-spam"]
SHARE = 0.4
WORDS = ("lottery", "bitcoin", "weather")  # the live model finds the first, the canary the second


class HeldServer(ScriptedServer):
    """Answers some requests, and the others once it may go on, for the process to be killed amid its work."""

    def __init__(self, *arguments, **more):
        super().__init__(*arguments, **more)
        self.go_on = asyncio.Event()
        self._left = 120  # each judgement has a request for the answer, and one for its score

    async def _completions(self, request):
        self._left -= 1
        if self._left < 0:
            await self.go_on.wait()
        return await super()._completions(request)


def content_id(number):
    return f"item-{number}"


def word(number):
    return WORDS[number % len(WORDS)]


async def publish(current, numbers):
    """Escalations as a prefilter writes them, to partitions in turn."""
    async with kafka_bus.producer(current) as producer:
        for number in numbers:
            event = ContentEvent(content_id(number), f"{number} about the {word(number)}", now())
            partition = number % 2
            escalation = Escalation(
                *(event, POLICY.id, POLICY.version, 1, PrefilterResult("everything"), "live", now()),
                origin=origin_of(partition, number),
            )
            topic = current.prefix + topics.ESCALATIONS
            await producer.send(topic, encode(escalation), key=event.content_id.encode(), partition=partition)
        await producer.flush()


def drawn(numbers):
    return {content_id(number) for number in numbers if is_drawn(content_id(number), DRAW, SHARE)}


async def verdicts(current, topic):
    return [decode(record.value, Verdict) async for record in kafka_bus.read_all(current, [topic])]


@contextlib.asynccontextmanager
async def live_worker(current, url):
    stop = asyncio.Event()
    worker = Worker(current.model_copy(update={"servers": url, "lanes": ("live",)}), start_backend)
    running = asyncio.create_task(worker.run(stop))
    try:
        yield worker
    finally:
        stop.set()
        await running


class Process:
    """`safeguard reason canary` as a user starts it."""

    def __init__(self, current, url, *more):
        self.port = brokers.free_port()
        self._environment = {
            **os.environ,
            "SAFEGUARD_BOOTSTRAP": current.bootstrap,
            "SAFEGUARD_PREFIX": current.prefix,
            "SAFEGUARD_SESSION_TIMEOUT_MS": str(current.session_timeout_ms),
        }
        options = ["--server", url, "--share", str(SHARE), "--name", "try", "--port", str(self.port), *more]
        self._command = [sys.executable, "-m", "safeguard_streams", "reason", "canary", *options]
        self._process = None

    async def start(self):
        self._process = await asyncio.create_subprocess_exec(*self._command, env=self._environment)

    async def ready(self):
        def asked():
            with contextlib.suppress(OSError), urllib.request.urlopen(self._url, timeout=5) as page:
                return json.load(page)
            return None

        return await until(lambda: asyncio.to_thread(asked))

    @property
    def _url(self):
        return f"http://127.0.0.1:{self.port}/health/ready"

    async def end(self, number=signal.SIGTERM):
        """Send a signal, and return the exit status."""
        if self._process.returncode is None:
            self._process.send_signal(number)
        return await self._process.wait()


async def test_a_canary_that_is_killed_loses_and_doubles_nothing_and_changes_no_live_verdict(kafka):
    await kafka_bus.create_topics(kafka)
    await operator.release(kafka, [POLICY], ChangedBy("test"))
    history, first, second = range(20), range(100, 300), range(300, 360)
    await publish(kafka, history)
    old = ScriptedServer(Script({"FS1": [WORDS[0]]}), model="old")
    new = HeldServer(Script({"FS1": [WORDS[1]]}), model="new")
    async with old.running() as old_url, new.running() as new_url, live_worker(kafka, old_url) as live:
        await until(lambda: live.state()["committed"] == len(history))
        canary = Process(kafka, new_url)
        await canary.start()
        try:
            state = await canary.ready()
            assert state["canary"] == {"name": "try", "share": SHARE}
            assert (state["stage"], state["model"]) == ("canary", "new")
            await publish(kafka, first)

            async def some():
                return len(await verdicts(kafka, topics.REPLAYS)) > 5

            await until(some)
            assert await canary.end(signal.SIGKILL) == -signal.SIGKILL
            assert len(await verdicts(kafka, topics.REPLAYS)) < len(drawn(first)), "killed amid its work"
            await publish(kafka, second)
            await until(lambda: live.state()["committed"] == len(history) + len(first) + len(second))
            new.go_on.set()
            await canary.start()
            expected = drawn([*first, *second])

            async def all_judged():
                return {one.content_id for one in await verdicts(kafka, topics.REPLAYS)} >= expected

            await until(all_judged)
        finally:
            status = await canary.end()
    assert status == 0
    again = await verdicts(kafka, topics.REPLAYS)
    assert Counter(one.content_id for one in again) == Counter(expected), "each drawn item once, none of the history"
    assert {(one.lane, one.model, one.canary.name, one.policy_version) for one in again} == {
        ("canary", "new", "try", POLICY.version)
    }
    standing = await verdicts(kafka, topics.VERDICTS)
    everything = [content_id(number) for numbers in (history, first, second) for number in numbers]
    assert Counter(one.content_id for one in standing) == Counter(everything)
    assert {(one.lane, one.model, one.canary) for one in standing} == {("live", "old", None)}
    assert [one async for one in kafka_bus.read_all(kafka, [topics.DEAD_LETTERS])] == []

    comparison = await model_comparison.from_kafka(kafka)
    (policy,) = comparison.policies
    words = Counter(word(number) for number in [*first, *second] if content_id(number) in expected)
    assert (policy.pairs, policy.agree.count) == (len(expected), words["weather"])
    assert (policy.to_violates.count, policy.to_safe.count) == (words["bitcoin"], words["lottery"])
    assert (policy.live.models, policy.canary.models) == ({"old": policy.pairs}, {"new": policy.pairs})
    assert policy.canary.latency.of == policy.canary.tokens.of == policy.pairs
    unpaired = policy.unpaired
    assert (unpaired.other_version, unpaired.only_canary, unpaired.only_live, unpaired.waiting) == (0, 0, 0, 0)
    assert await model_comparison.from_kafka(kafka, "hate-harassment") is None


async def test_a_canary_ends_when_its_time_is_over(kafka):
    await kafka_bus.create_topics(kafka)
    await operator.release(kafka, [POLICY], ChangedBy("test"))
    async with ScriptedServer(Script({"FS1": [WORDS[1]]})).running() as url:
        canary = Process(kafka, url, "--for", "1s")
        await canary.start()
        try:
            status = await asyncio.wait_for(canary._process.wait(), TIMEOUT)
        finally:
            await canary.end(signal.SIGKILL)
    assert status == 0
