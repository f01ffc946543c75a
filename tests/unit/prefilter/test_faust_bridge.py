"""The Faust bridge, without Kafka: batches cross it, errors come back, and its pages follow the process's state."""

import asyncio
import socket
import threading

import aiohttp
import pytest

from safeguard_streams.bus.interface import Output
from safeguard_streams.bus.memory import StoredRecord
from safeguard_streams.errors import BusError
from safeguard_streams.prefilter.faust_bridge import BridgeHooks, FaustBridge
from safeguard_streams.runtime import settings
from tests.conftest import TIMEOUT


def record(value):
    return StoredRecord("content.events", 0, 0, 0, None, value, [])


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def decide(records):
    if any(r.value == b"bad" for r in records):
        raise ValueError("bad record")
    return [Output("cleared", r.key, r.value, []) for r in records]


class Decided:
    """Records whose outputs are known, and that wait for no vectors."""

    def __init__(self, outputs):
        self.decided = outputs

    def outputs(self, vectors):
        assert vectors == "vectors"
        return self.decided


async def vectors_of(begun):
    return "vectors"


async def run_with(work, state=None, decide=decide, encode=vectors_of):
    """Run a bridge until `work`, given the bridge and its address, ends."""
    current = settings.load(host="127.0.0.1", prefilter_port=free_port())

    async def run():
        await work(bridge, f"http://127.0.0.1:{current.prefilter_port}")

    hooks = BridgeHooks(
        begin=lambda records: Decided(decide(records)),
        encode=encode,
        run=run,
        stop=asyncio.Event(),
        ready=lambda: state or {"ready": True},
    )
    bridge = FaustBridge("bridge-test", current, hooks)
    await bridge.run()
    return hooks


async def test_the_agent_answers_a_batch_and_an_error_of_one_batch_leaves_the_agent_running():
    async def work(bridge, _):
        assert [o.value for o in await bridge.process([record(b"a"), record(b"b")])] == [b"a", b"b"]
        with pytest.raises(ValueError, match="bad record"):
            await bridge.process([record(b"a"), record(b"bad")])
        assert [o.value for o in await bridge.process([record(b"c")])] == [b"c"]

    assert (await run_with(work)).stop.is_set()


async def test_the_pages_follow_the_state_of_the_process():
    state = {"ready": False, "committed": 0}

    async def work(_, address):
        async with aiohttp.ClientSession() as http:

            async def get(path):
                while True:
                    try:
                        async with http.get(address + path) as response:
                            return response.status, await response.text()
                    except aiohttp.ClientConnectionError:  # the server starts beside the agent
                        await asyncio.sleep(0.05)

            assert (await get("/health/live"))[0] == 200
            assert (await get("/health/started"))[0] == 200
            assert (await get("/health/ready"))[0] == 503
            state["ready"] = True
            assert (await get("/health/ready"))[0] == 200
            assert (await get("/metrics"))[0] == 200

    await run_with(work, state)


async def test_an_error_of_the_process_ends_the_app_and_is_raised():
    async def work(*_):
        raise BusError("the broker is gone")

    with pytest.raises(BusError, match="the broker is gone"):
        await run_with(work)


async def test_a_batch_that_is_cancelled_leaves_the_agent_running(caplog):
    async def work(bridge, _):
        for value in (b"slow", b"bad"):
            cancelled = asyncio.create_task(bridge.process([record(value)]))
            await asyncio.sleep(0)
            cancelled.cancel()
            under_way = asyncio.create_task(bridge.process([record(value * 200_000)]))  # in the thread
            while not bridge._batches.empty():
                await asyncio.sleep(0)
            under_way.cancel()
            await asyncio.wait({cancelled, under_way})
            assert cancelled.cancelled()
            assert under_way.cancelled()
        assert [o.value for o in await bridge.process([record(b"c")])] == [b"c"]

    await run_with(work)
    assert not [line for line in caplog.records if line.levelname in {"ERROR", "CRITICAL"}], "Faust restarted the agent"


async def test_a_costly_batch_is_decided_in_order_while_the_event_loop_turns(monkeypatch):
    """In parts, of which each but the first is in a thread. The decision waits for the event loop, or would hang."""
    loop, threads, turned = asyncio.get_running_loop(), [], threading.Event()

    def costly(records):
        threads.append(threading.current_thread() is threading.main_thread())
        if not threads[-1]:
            loop.call_soon_threadsafe(turned.set)
            assert turned.wait(TIMEOUT)
        return decide(records)

    async def work(bridge, _):
        values = [b"%d" % number * 40_000 for number in range(40)]
        assert [o.value for o in await bridge.process([record(value) for value in values])] == values
        assert [o.value for o in await bridge.process([record(b"x" * 600_000)])] == [b"x" * 600_000]

    monkeypatch.setattr("safeguard_streams.prefilter.faust_bridge.PAUSE_SECONDS", -1.0)
    await run_with(work, decide=costly)
    assert len(threads) > 5
    assert not any(threads)


async def test_an_ordinary_batch_stays_on_the_event_loop():
    threads = []

    def cheap(records):
        threads.append(threading.current_thread() is threading.main_thread())
        return decide(records)

    async def work(bridge, _):
        await bridge.process([record(b"a" * 100)] * 1000)

    await run_with(work, decide=cheap)
    assert threads
    assert all(threads)


async def test_the_event_loop_turns_while_texts_are_encoded_and_the_next_batch_waits():
    may_end, encoding, begun = asyncio.Event(), asyncio.Event(), []

    def noted(records):
        begun.append(records[0].value)
        return decide(records)

    async def encode(_):
        encoding.set()
        await may_end.wait()
        return "vectors"

    async def work(bridge, _):
        first, second = [asyncio.create_task(bridge.process([record(value)])) for value in (b"a", b"b")]
        await encoding.wait()
        assert begun == [b"a"]
        assert not first.done()
        may_end.set()
        assert [(await task)[0].value for task in (first, second)] == [b"a", b"b"]

    await run_with(work, decide=noted, encode=encode)


async def test_a_batch_whose_texts_cannot_be_encoded_fails_alone():
    async def encode(begun):
        if begun.decided[0].value == b"odd":
            raise ValueError("no vector")
        return "vectors"

    async def work(bridge, _):
        with pytest.raises(ValueError, match="no vector"):
            await bridge.process([record(b"odd")])
        assert [o.value for o in await bridge.process([record(b"c")])] == [b"c"]

    await run_with(work, encode=encode)
