"""The commands that an operator uses beside the two processes, on both brokers."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from policies.document import load_library
from streams import kafka as kafka_bus
from streams import topics
from streams.records import ContentEvent, Verdict, decode, encode, now

SAFEGUARD = Path(sys.executable).with_name("safeguard")


@pytest.fixture
def environment(broker):
    return {
        **os.environ,
        "SAFEGUARD_PREFIX": broker.prefix,
        "SAFEGUARD_BOOTSTRAP": broker.bootstrap,
        "SAFEGUARD_PARTITIONS": "2",
    }


@pytest.fixture
def safeguard(environment):
    def run(*arguments, given=None):
        command = [SAFEGUARD, *arguments]
        done = subprocess.run(
            command, input=given, capture_output=True, text=True, timeout=60, env=environment, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


async def test_topics_are_created_once(safeguard):
    assert set(json.loads(safeguard("topics", "create", "--json")).values()) == {True}
    assert set(json.loads(safeguard("topics", "create", "--json")).values()) == {False}


async def test_releases_are_counted_and_listed(safeguard):
    safeguard("topics", "create")
    assert "fraud-spam" in safeguard("policy", "release", "fraud-spam", "--why", "first")
    safeguard("policy", "release", "--why", "all")
    listed = {row["id"]: row for row in json.loads(safeguard("policy", "list", "--released", "--json"))}
    assert set(listed) == set(load_library())
    assert listed["fraud-spam"]["revision"] == 2
    assert listed["hate-harassment"]["revision"] == 1
    assert listed["fraud-spam"]["why"] == "all"


async def test_lines_are_published_as_they_are(broker, safeguard):
    safeguard("topics", "create")
    lines = [encode(ContentEvent("a", "x\u2028y", now())).decode(), "not an event"]
    assert json.loads(safeguard("publish", "-", "--json", given="\n".join(lines) + "\n\n")) == {"published": 2}
    events = [r async for r in kafka_bus.read_all(broker, [topics.EVENTS])]
    assert sorted((r.key, r.value.decode()) for r in events if r.key) == [(b"a", lines[0])]
    assert [r.value for r in events if not r.key] == [b"not an event"]


async def test_verdicts_are_followed_with_filters(broker, safeguard, environment):
    safeguard("topics", "create")
    async with kafka_bus.producer(broker) as producer:
        for number, (policy, decision) in enumerate([("p", "safe"), ("q", "violates"), ("p", "violates")]):
            verdict = Verdict(f"v{number}", f"c{number}", "s", policy, "1", decision, "reasoner", "live", "m", now())
            await producer.send_and_wait(broker.prefix + topics.VERDICTS, encode(verdict), key=b"c", partition=0)
    words = ["verdicts", "tail", "--from-beginning", "--policy", "p", "--decision", "violates", "--json"]
    with subprocess.Popen([SAFEGUARD, *words], stdout=subprocess.PIPE, text=True, env=environment) as process:
        verdict = decode(process.stdout.readline().encode(), Verdict)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
    assert verdict.verdict_id == "v2"
