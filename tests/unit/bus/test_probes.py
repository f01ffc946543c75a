"""What a process concludes about its brokers before it starts."""

import asyncio

import pytest
from aiokafka.errors import KafkaConnectionError

from safeguard_streams.bus.kafka import probes
from safeguard_streams.errors import BusError, ConfigurationError
from safeguard_streams.runtime import settings


@pytest.fixture
def answers(monkeypatch):
    """Answers to a transactional id; the last one goes on."""
    given, asked = [], []

    async def answer(_, name):
        asked.append(name)
        return given.pop(0) if len(given) > 1 else given[0]

    monkeypatch.setattr(probes, "_answer_to_transactional_id", answer)
    monkeypatch.setattr(probes, "_PROBE_DELAYS", (0, 0, 0, 0, 0))
    return given, asked


async def test_one_unknown_error_does_not_make_a_process_at_least_once(answers):
    given, asked = answers
    given[:] = ["unknown error", "unknown error", "yes"]
    assert await probes.has_transactions(settings.load(), "g")
    assert asked == ["g-probe"] * 3


async def test_a_broker_that_keeps_failing_is_an_error_and_no_fallback(answers):
    answers[0][:] = ["unknown error"]
    with pytest.raises(BusError, match="unknown error"):
        await probes.has_transactions(settings.load(), "g")


async def test_a_broker_without_transactions_is_refused_where_they_are_required(answers):
    answers[0][:] = ["no"]
    assert not await probes.has_transactions(settings.load(), "g")
    with pytest.raises(ConfigurationError, match="SAFEGUARD_DELIVERY"):
        await probes.has_transactions(settings.load(delivery="exactly-once"), "g")


async def test_a_wait_for_a_broker_ends_and_says_why():
    with pytest.raises(BusError, match="127.0.0.1:1 .*refused|127.0.0.1:1 .*failed"):
        await probes.wait_for_broker(settings.load(bootstrap="127.0.0.1:1"), 0.1)


BAD = (
    "host",
    "host:",
    "host:notaport",
    "host:0",
    "host:70000",
    ":9092",
    "",
    "kafka://h:9092",
    "a:1,,b:2",
    "a:1,b",
    "a:٣",
)


@pytest.mark.parametrize("bootstrap", BAD)
def test_an_address_that_is_none_is_refused_by_name(bootstrap):
    with pytest.raises(ConfigurationError, match="SAFEGUARD_BOOTSTRAP"):
        settings.load(bootstrap=bootstrap)


@pytest.mark.parametrize("bootstrap", ["h:9092", "a.b-c:1,d:65535", "a:1, b:2", "[::1]:9092", "höst:9092"])
def test_addresses_are_taken(bootstrap):
    assert settings.load(bootstrap=bootstrap).bootstrap == bootstrap


class Clock:
    """The event loop's clock, and producers whose start takes so many seconds each and finds no broker."""

    def __init__(self, monkeypatch, seconds):
        self.now, self.started = 0.0, []
        clock = self

        class Refused:
            def __init__(self, **_):
                pass

            async def start(self):
                clock.started.append(clock.now)
                clock.now += seconds[min(len(clock.started), len(seconds)) - 1]
                raise KafkaConnectionError

            async def stop(self):
                pass

        async def sleep(delay):
            clock.now += delay

        monkeypatch.setattr(probes, "AIOKafkaProducer", Refused)
        monkeypatch.setattr(probes.asyncio, "sleep", sleep)
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: clock.now)


@pytest.mark.parametrize(("seconds", "attempts"), [(0.0, 10), (6.0, 1)], ids=["refused", "unanswered"])
async def test_a_command_waits_for_a_broker_a_few_seconds(monkeypatch, seconds, attempts):
    """Also where nothing answers. seconds: how long one attempt takes."""
    clock = Clock(monkeypatch, [seconds])
    with pytest.raises(BusError, match="safeguard broker"):
        await probes.wait_for_broker(settings.load(), timeout=probes.COMMAND_SECONDS)
    monkeypatch.undo()
    assert clock.now <= 6
    assert len(clock.started) == attempts


async def test_an_attempt_during_which_the_machine_stood_still_says_nothing_about_the_broker(monkeypatch):
    clock = Clock(monkeypatch, [30.0, 0.0])
    with pytest.raises(BusError, match="safeguard broker"):
        await probes.wait_for_broker(settings.load(), timeout=probes.COMMAND_SECONDS)
    monkeypatch.undo()
    assert len(clock.started) == 2


async def test_a_command_does_not_wait_for_ever_because_each_attempt_takes_long(monkeypatch):
    clock = Clock(monkeypatch, [30.0])
    with pytest.raises(BusError, match="safeguard broker"):
        await probes.wait_for_broker(settings.load(), timeout=probes.COMMAND_SECONDS)
    monkeypatch.undo()
    assert len(clock.started) == 4
