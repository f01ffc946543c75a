"""Which broker the demo uses, and that none is left behind when the demo is interrupted while one starts."""

import asyncio
import contextlib
import threading

import pytest

from safeguard_streams.bus import kafka
from safeguard_streams.demo import broker
from safeguard_streams.infra import brokers
from tests.conftest import TIMEOUT, until


class Started:
    """A broker; notes when it started and ended. Once `starts` is cleared, its start ends when that is set again."""

    def __init__(self, value):
        self.value, self.events = value, []
        self.starting, self.starts = threading.Event(), threading.Event()
        self.starts.set()

    @contextlib.contextmanager
    def __call__(self):
        self.starting.set()
        assert self.starts.wait(TIMEOUT)
        self.events.append("started")
        try:
            yield self.value
        finally:
            self.events.append("ended")


class Node:
    port = 4711


@pytest.fixture
def machine(monkeypatch):
    """A machine with both brokers."""
    found = {"kafka": Started([Node()]), "embedded": Started("127.0.0.1:4712")}
    monkeypatch.setattr(brokers, "kafka_cluster", found["kafka"])
    monkeypatch.setattr(brokers, "embedded", found["embedded"])
    monkeypatch.setattr(brokers, "jars", lambda: None)

    async def has_transactions(current, group):
        return current.bootstrap == "127.0.0.1:4711"

    monkeypatch.setattr(kafka, "has_transactions", has_transactions)
    return found


async def test_kafka_is_used_where_it_can_run(machine):
    said = []
    async with broker.started(None, said.append) as here:
        assert (here.name, here.transactional) == ("Apache Kafka 4.1.1", True)
        assert here.settings.bootstrap == "127.0.0.1:4711"
    assert machine["kafka"].events == ["started", "ended"]
    assert machine["embedded"].events == []
    assert said == ["starting Apache Kafka; on first use, Maven downloads it (43 MB)"]


async def test_the_embedded_broker_is_used_elsewhere_and_the_reason_is_shown(machine, monkeypatch):
    def missing():
        raise brokers.BrokerError("java is not on the PATH: install Java 17 and Maven to run Apache Kafka\nmore")

    monkeypatch.setattr(brokers, "jars", missing)
    said = []
    async with broker.started(None, said.append) as here:
        assert (here.name, here.transactional) == ("the embedded broker", False)
    assert machine["embedded"].events == ["started", "ended"]
    assert machine["kafka"].events == []
    line = said[-1]
    assert line.startswith("the embedded broker replaces it")
    assert "java is not on the PATH: install Java 17 and Maven" in line
    assert "more" not in line


async def interrupted(starting, slow):
    """Cancel a task while a broker starts, let that end, and see that the task is cancelled."""
    running = asyncio.create_task(starting)
    await until(slow.starting.is_set)
    running.cancel()
    await asyncio.sleep(0.05)
    slow.starts.set()
    with pytest.raises(asyncio.CancelledError):
        await running


@pytest.fixture
def slow(monkeypatch):
    slow = Started([Node()])
    slow.starts.clear()
    monkeypatch.setattr(brokers, "kafka_cluster", slow)
    return slow


async def test_an_interrupt_while_the_broker_starts_ends_it(machine, slow):
    async def demo():
        async with broker.started(None, print):
            pytest.fail("the demo went on")

    await interrupted(demo(), slow)
    assert slow.events == ["started", "ended"]


async def test_an_interrupt_that_also_ends_the_broker_is_an_interrupt(machine, slow, monkeypatch):
    @contextlib.contextmanager
    def failing():
        with slow():
            raise brokers.BrokerError("formatting Kafka's storage failed")
        yield

    monkeypatch.setattr(brokers, "kafka_cluster", failing)
    await interrupted(broker.started(None, print).__aenter__(), slow)
