"""What happens to content while inference servers fail: real HTTP servers, the engine, the judge, and an injected DNS.

Each scenario judges ITEMS content items, half of which violate, and breaks servers after a number of verdicts. No
content item is lost, none has two verdicts, and none is undetermined for an outage.
"""

import asyncio
import contextlib
import itertools
import socket
from collections import Counter

import msgspec
import pytest
from aiohttp import web

from safeguard_streams.bus.engine import Engine, Limits
from safeguard_streams.bus.memory import MemoryBus
from safeguard_streams.bus.transform import stateless
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import (
    ContentEvent,
    Escalation,
    PolicyRelease,
    PrefilterResult,
    Verdict,
    decode,
    encode,
    now,
)
from safeguard_streams.policies.files import load_library
from safeguard_streams.releases.feed import PolicyFeed
from safeguard_streams.runtime import settings
from safeguard_streams.runtime.memory_broker import MemoryBroker
from safeguard_streams.workers.inference import discovery, harmony, remote, server
from safeguard_streams.workers.inference.interface import InferenceError, InferenceRequest
from safeguard_streams.workers.inference.remote import ServerBackend
from safeguard_streams.workers.inference.script import Script
from safeguard_streams.workers.inference.scripted import VLLM, ScriptedServer
from safeguard_streams.workers.judging.judge import Judge
from safeguard_streams.workers.judging.reasoner import InferenceBudget

POLICY = load_library()["hate-harassment"]
ITEMS = 60
TIMEOUT = 60.0
HOSTS = [f"127.0.0.{number}" for number in range(1, 5)]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(remote, "BACKOFF", 0.01)
    monkeypatch.setattr(server, "BACKOFF", 0.01)
    monkeypatch.setattr(server, "MAX_BACKOFF", 0.05)
    monkeypatch.setattr(discovery, "INTERVAL", 0.02)


class Faulty(ScriptedServer):
    """A scripted server. fault: gets each request, and may respond to it, or raise, before the server does.

    answered, failed: requests. reads: of longer prompts, how many tokens it reads; None for all.
    """

    def __init__(self, owner=VLLM):
        super().__init__(Script({"HH2": ["idiot"]}), owner=owner)
        self.fault = None
        self.answered = 0
        self.failed = 0
        self.reads = None
        self._at = contextlib.AsyncExitStack()

    @web.middleware
    async def _errors_as_json(self, request, handler):
        await asyncio.sleep(0.003)  # so that requests are in progress when something breaks
        response = await self.fault(request) if self.fault else None
        if response is not None:
            self.failed += 1
            return response
        response = await super()._errors_as_json(request, handler)
        self.answered += request.method == "POST"
        return response

    def _respond(self, kind, choice, prompt, written):
        read = prompt.tokens if self.reads is None else min(prompt.tokens, self.reads)
        return super()._respond(kind, choice, prompt._replace(tokens=read), written)

    async def start(self, host, port):
        await self._at.enter_async_context(self.running(host, port))
        return self

    async def stop(self):
        await self._at.aclose()

    async def kill(self):
        """End without answering what is in progress."""
        self.fault = cut_off
        await self.stop()


async def cut_off(request):
    request.transport.abort()
    await asyncio.sleep(0)
    return web.Response()


def status(code, when=lambda request: True, **headers):
    async def fault(request):
        return web.Response(status=code, headers=headers) if when(request) else None

    return fault


def posts(request):
    return request.method == "POST"


async def never(request):
    return await asyncio.Event().wait() if posts(request) else None


class Run:
    """Servers at HOSTS, on one port; `names` is what DNS answers."""

    def __init__(self):
        self.servers = [Faulty() for _ in HOSTS]
        self.names = HOSTS[:3]
        self.broker = MemoryBroker(partitions=2)
        with socket.socket() as free:
            free.bind((HOSTS[0], 0))
            self.port = free.getsockname()[1]

    async def start(self, number):
        await self.servers[number].start(HOSTS[number], self.port)

    async def resolve(self, host, port):
        assert (host, port) == ("servers.test", self.port)
        if not self.names:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return self.names

    @property
    def urls(self):
        return f"dns+http://servers.test:{self.port}/v1"

    @property
    def verdicts(self):
        return [decode(record.value, Verdict) for record in self.broker.read(topics.VERDICTS)]

    async def until(self, verdicts):
        """Wait for a number of verdicts."""
        while len(self.verdicts) < verdicts:
            await asyncio.sleep(0.005)

    async def judge(self, scenario, extra=0, **given):
        """Judge all items while the scenario breaks servers. Returns the verdicts by content id."""
        backend = await ServerBackend.start(settings.load(servers=self.urls, **given), self.resolve)
        judge = Judge(backend, feed(), InferenceBudget(500))
        for number in range(ITEMS):
            self.broker.append(topics.ESCALATIONS, encode(escalation(number)), partition=number % 2)
        limits = Limits(max_batch=1, max_in_flight=16, drain_timeout=2.0)
        engine = Engine(MemoryBus(self.broker, [topics.ESCALATIONS]), stateless(judge), stage="reasoner", limits=limits)
        stop = asyncio.Event()

        async def watch():
            await scenario(self)
            await self.until(ITEMS + extra)
            stop.set()

        try:
            async with asyncio.timeout(TIMEOUT):
                await asyncio.gather(engine.run(stop), watch())
        finally:
            await backend.close()
        return Counter(verdict.content_id for verdict in self.verdicts)


@pytest.fixture
async def run():
    run = Run()
    for number in range(3):
        await run.start(number)
    yield run
    for one in run.servers:
        one.fault = None
        await one.stop()


def feed():
    feed = PolicyFeed()
    feed.take(POLICY.id.encode(), encode(PolicyRelease(POLICY.id, POLICY.version, 1, POLICY.document, now(), "test")))
    return feed


def violates(number):
    return number % 2 == 0


def escalation(number):
    text = f"you idiot {number}" if violates(number) else f"good morning {number}"
    event = ContentEvent(f"content-{number}", text, now())
    return Escalation(event, POLICY.id, POLICY.version, 1, PrefilterResult("everything"), "live", now())


EXPECTED = {f"content-{n}": "violates" if violates(n) else "safe" for n in range(ITEMS)}


# ---------------------------------------------------------------------- the table of faults


async def fail_all(run, code):
    """Each server answers requests with a status, until they have met it often."""
    for one in run.servers:
        one.fault = status(code, posts)
    while sum(one.failed for one in run.servers) < 60:
        await asyncio.sleep(0.005)
    for one in run.servers:
        one.fault = None


async def server_errors_at_all(run):
    await run.until(10)
    await fail_all(run, 500)


async def server_errors_at_one(run):
    await run.until(10)
    run.servers[0].fault = status(500, posts)


async def missing_under_load(run):
    """A router that has lost its engines: it lists the model, and answers 404."""
    await run.until(10)
    await fail_all(run, 404)


async def too_many_requests(run):
    """Each server takes two requests at once."""

    def limited(one):
        now_in = 0

        async def fault(request):
            nonlocal now_in
            if not posts(request):
                return None
            if now_in >= 2:
                return web.Response(status=429, headers={"Retry-After": "0"})
            now_in += 1
            await asyncio.sleep(0.01)
            now_in -= 1
            return None

        one.fault = fault

    for one in run.servers:
        limited(one)


async def hangs(run):
    await run.until(10)
    run.servers[1].fault = never


async def gone_and_back(run):
    await run.until(10)
    for number in range(3):
        await run.servers[number].kill()
    await asyncio.sleep(0.1)
    run.servers[0].fault = None
    await run.start(0)


async def closes_connections(run):
    await run.until(10)
    for one in run.servers:
        one.fault = cut_off
    while sum(one.failed for one in run.servers) < 30:
        await asyncio.sleep(0.005)
    for one in run.servers:
        one.fault = None


async def addresses_change(run):
    await run.start(3)
    for verdicts, names in ((10, [1, 2]), (20, [3]), (30, []), (40, [0, 3])):
        await run.until(verdicts)
        run.names = [HOSTS[number] for number in names]


async def one_is_replaced(run):
    await run.until(15)
    await run.servers[1].kill()
    await run.start(3)
    run.names = [HOSTS[0], HOSTS[2], HOSTS[3]]
    while not run.servers[3].answered:
        await asyncio.sleep(0.005)


async def one_cuts_prompts(run):
    run.servers[0].reads = 400


async def gateway_is_half_broken(run):
    """One address before many engines, half of which fail."""
    run.names = HOSTS[:1]
    turns = itertools.cycle([status(500), status(500), None, None])
    await run.until(5)

    async def fault(request):
        turn = next(turns) if posts(request) else None
        return await turn(request) if turn else None

    run.servers[0].fault = fault


FAULTS = [
    one_cuts_prompts,
    gateway_is_half_broken,
    server_errors_at_all,
    server_errors_at_one,
    missing_under_load,
    too_many_requests,
    hangs,
    gone_and_back,
    closes_connections,
    addresses_change,
    one_is_replaced,
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
async def test_content_is_judged_once_whatever_servers_do(run, fault):
    judged = await run.judge(fault, inference_timeout=2.0 if fault is hangs else None)
    assert judged == dict.fromkeys(EXPECTED, 1), "none is lost, none is doubled"
    decided = {verdict.content_id: verdict.decision for verdict in run.verdicts}
    assert decided == EXPECTED, "none is undetermined"


async def nothing(run):
    return


async def no_models(request):
    return web.json_response({"object": "list", "data": []}) if request.path.endswith("models") else None


@pytest.mark.parametrize(
    "fault",
    [status(404), status(503), status(500), no_models, cut_off],
    ids=["missing", "unavailable", "failing", "without models", "closing"],
)
async def test_a_worker_waits_for_servers_that_are_starting(run, fault):
    async def starting(request):
        ready = all(one.failed >= 2 for one in run.servers[:3])
        return None if ready else await fault(request)

    for one in run.servers:
        one.fault = starting
    assert await run.judge(nothing) == dict.fromkeys(EXPECTED, 1)
    assert {verdict.content_id: verdict.decision for verdict in run.verdicts} == EXPECTED


async def test_a_prompt_that_every_server_cuts_is_never_judged(run):
    async def cut(run):
        for one in run.servers:
            one.reads = 400

    assert await run.judge(cut) == dict.fromkeys(EXPECTED, 1)
    after = [verdict.decision for verdict in run.verdicts if verdict.decision != EXPECTED[verdict.content_id]]
    assert set(after) == {"undetermined"}
    assert len(after) > ITEMS / 2, "a server that cuts prompts is not believed once"


async def test_a_request_that_makes_each_server_fail_ends_and_costs_no_other(run):
    async def fails_one(request):
        if not posts(request):
            return None
        poisoned = "content-to-fail" in harmony.decode_tokens((await request.json())["prompt"])
        return web.Response(status=500) if poisoned else None

    for one in run.servers:
        one.fault = fails_one
    poison = escalation(0)
    poison = msgspec.structs.replace(
        poison, event=msgspec.structs.replace(poison.event, content_id="poison", text="content-to-fail")
    )
    run.broker.append(topics.ESCALATIONS, encode(poison))
    assert await run.judge(nothing, extra=1) == {**dict.fromkeys(EXPECTED, 1), "poison": 1}
    decided = {verdict.content_id: verdict.decision for verdict in run.verdicts}
    assert decided == {**EXPECTED, "poison": "undetermined"}
    assert sum(one.failed for one in run.servers) == 2 * remote.ATTEMPTS, "at both efforts"


async def test_a_request_waits_for_no_server_that_dns_has_dropped(run):
    """The first server refuses a request, which then waits for the only place of the second one."""
    release = asyncio.Event()

    async def hold(request):
        if posts(request):
            await release.wait()

    run.names = HOSTS[:2]
    backend = await ServerBackend.start(settings.load(servers=run.urls, max_in_flight=1), run.resolve)
    run.servers[0].fault, run.servers[1].fault = status(400, posts), hold
    user = harmony.encode_text("good morning")
    asking = {asyncio.create_task(backend.generate(InferenceRequest(POLICY.text, "low", user, 500))) for _ in range(2)}
    while not run.servers[0].failed:
        await asyncio.sleep(0.005)
    run.names = HOSTS[:1]
    done, (held,) = await asyncio.wait(asking, timeout=TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
    for refused in done:
        with pytest.raises(InferenceError, match="HTTP 400"):
            refused.result()
    release.set()
    assert (await held).tokens, "a server that left DNS finishes what it has"
    await backend.close()
