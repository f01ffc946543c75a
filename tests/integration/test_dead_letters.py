"""Dead letters are listed, and requeued exactly once each."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from safeguard_streams.bus import kafka as kafka_bus
from safeguard_streams.bus.dead_letters import TRIES_HEADER, dead_letter
from safeguard_streams.contract import topics
from safeguard_streams.errors import RecordError
from safeguard_streams.runtime.memory_broker import StoredRecord
from tests.conftest import TIMEOUT

pytestmark = pytest.mark.slow
SAFEGUARD = Path(sys.executable).with_name("safeguard")


@pytest.fixture
def safeguard(broker):
    environment = {"SAFEGUARD_PREFIX": broker.prefix, "SAFEGUARD_BOOTSTRAP": broker.bootstrap}
    environment["SAFEGUARD_SESSION_TIMEOUT_MS"] = str(broker.session_timeout_ms)

    def run(*arguments):
        done = subprocess.run(
            [SAFEGUARD, *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=TIMEOUT,
            env={**os.environ, **environment},
        )
        return done.stdout

    return run


@pytest.mark.parametrize("broker_address", ["kafka"], indirect=True)
async def test_a_dead_letter_is_listed_and_requeued_once(broker, safeguard):
    await kafka_bus.create_topics(broker)
    topic = broker.prefix + topics.EVENTS
    async with kafka_bus.producer(broker) as producer:
        for number in range(5):
            value = b"\xff broken %d" % number
            record = StoredRecord(topic, number % 2, number, 0, b"k%d" % number, value, [("traceparent", b"00-x")])
            letter = dead_letter(record, RecordError("record", "is not JSON"), stage="prefilter", attempts=1)
            await producer.send_and_wait(
                broker.prefix + topics.DEAD_LETTERS,
                letter.value,
                key=record.key,
                partition=number % 2,
                headers=letter.headers,
            )
    listed = safeguard("dead-letters", "list")
    assert "record: is not JSON" in listed
    assert len(safeguard("dead-letters", "list", "--json").splitlines()) == 5
    assert json.loads(safeguard("dead-letters", "retry", "--json")) == {"retried": 5}
    assert json.loads(safeguard("dead-letters", "retry", "--json")) == {"retried": 0}
    events = [r async for r in kafka_bus.read_all(broker, [topics.EVENTS])]
    assert sorted(r.value for r in events) == [b"\xff broken %d" % n for n in range(5)]
    for event in events:
        assert dict(event.headers) == {"traceparent": b"00-x", TRIES_HEADER: b"1"}
