"""`safeguard status` and `safeguard doctor` on both brokers, whole and with parts that cannot be read."""

import asyncio
import contextlib
import json
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.structs import OffsetAndMetadata
from typer.testing import CliRunner

from safeguard_streams.bus import kafka as kafka_bus
from safeguard_streams.bus.dead_letters import dead_letter
from safeguard_streams.bus.interface import Output
from safeguard_streams.bus.watermark import pack
from safeguard_streams.cli import app
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Verdict, encode, now
from safeguard_streams.errors import BusError, RecordError
from safeguard_streams.operations import cluster, diagnosis, status
from safeguard_streams.operations.checks import ok
from safeguard_streams.policies.files import load_library
from safeguard_streams.releases import operator
from safeguard_streams.runtime.memory_broker import StoredRecord
from safeguard_streams.runtime.security import client_options
from tests.conftest import TIMEOUT, until

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """Each part is read, however long that takes."""
    for module in (status, diagnosis):
        monkeypatch.setattr(module, "PART_SECONDS", TIMEOUT)
    monkeypatch.setattr(cluster, "FETCH_SECONDS", TIMEOUT)


async def nothing_held(_):
    return {}


async def write(current, topic, values, *, partition=0, ago=timedelta()):
    timestamp = int((datetime.now(UTC) - ago).timestamp() * 1000)
    async with kafka_bus.producer(current) as producer:
        for value in values:
            await producer.send_and_wait(
                current.prefix + topic, value, key=b"k", partition=partition, timestamp_ms=timestamp
            )


async def commit(current, group, topic, offset, metadata=""):
    client = AIOKafkaConsumer(**client_options(current), group_id=current.prefix + group, enable_auto_commit=False)
    tp = TopicPartition(current.prefix + topic, 0)
    client.assign([tp])
    await client.start()
    await client.commit({tp: OffsetAndMetadata(offset, metadata)})
    await client.stop()


@contextlib.asynccontextmanager
async def member(current, group, topic):
    client = AIOKafkaConsumer(
        current.prefix + topic, **client_options(current), group_id=current.prefix + group, enable_auto_commit=False
    )
    await client.start()
    try:
        await until(client.assignment, TIMEOUT)
        yield
    finally:
        await client.stop()


def verdict(name):
    return encode(Verdict(name, name, "s", "p", "1", "safe", "reasoner", "live", "m", now()))


async def test_it_shows_what_runs_what_waits_and_what_is_in_force(broker):
    await kafka_bus.create_topics(broker)
    await operator.release(broker, [load_library()["fraud-spam"]], operator.ChangedBy("test", "ann"))
    await write(broker, topics.EVENTS, [b"old"] * 5, ago=timedelta(hours=1))
    await commit(broker, "prefilter", topics.EVENTS, 1, pack(1, [2, 3], b""))
    await write(broker, topics.VERDICTS, [verdict(f"v{n}") for n in range(10)])
    await write(broker, topics.VERDICTS, [verdict("old")], partition=1, ago=timedelta(hours=1))
    record = StoredRecord(broker.prefix + topics.EVENTS, 0, 0, 0, b"k", b"x", [])
    letter = dead_letter(record, RecordError("record", "is not JSON"), stage="prefilter", attempts=1)
    await write(broker, topics.DEAD_LETTERS, [letter.value])

    async def held(_):
        return {"fraud-spam": 3}

    async with member(broker, "prefilter", topics.EVENTS):
        found = await status.read(broker, held)
    assert found.unread == {}
    assert len(found.brokers.addresses) >= 1
    assert (found.topics.missing, found.topics.differing, found.topics.forbidden) == ([], {}, [])
    assert {name: len(group.hosts) for name, group in found.processes.items()} == {
        "prefilter": 1,
        "prefilter-reports": 0,
        **dict.fromkeys(topics.LANE_GROUPS.values(), 0),
        "enforcement": 0,
        "enforcement-actions": 0,
        "enforcement-cleared": 0,
        "enforcement-webhook": 0,
        "authors": 0,
        "authors-webhook": 0,
        "authors-posts": 0,
        "authors-rates": 0,
    }
    lags = {(lag.stage, lag.queue): lag for lag in found.lag}
    events, verdicts = lags["prefilter", "events"], lags["enforcement", "verdicts"]
    # Two of the four behind the position are done. The embedded broker keeps no metadata with positions.
    done = 2 if await kafka_bus.has_transactions(broker, "test") else 0
    assert (events.records, events.started) == (4 - done, True)
    assert 3500 < events.seconds < 3800
    assert (verdicts.records, verdicts.started) == (11, False)
    assert (lags["reasoner", "live"].records, lags["reasoner", "live"].seconds) == (0, None)
    assert [(one.policy_id, one.revision) for one in found.policies] == [("fraud-spam", 1)]
    assert found.verdicts_per_minute == 10 / status.MINUTES
    assert found.held == {"fraud-spam": 3}
    assert (found.dead_letters.waiting, found.dead_letters.by_stage) == (1, {"prefilter": 1})
    assert found.webhook.configured is False
    checks = {check.name: check for check in await diagnosis.diagnose(broker, {}, None)}
    assert (checks["dead letters"].result, checks["dead letters"].found) == ("warning", "1 wait: prefilter 1")


async def test_markers_of_transactions_are_no_records_that_wait(kafka):
    await kafka_bus.create_topics(kafka)
    async with kafka_bus.exclusive_writer(kafka, "test") as write_all:
        await write_all([Output(topics.EVENTS, b"k", b"1"), Output(topics.EVENTS, b"k", b"2")], [0, 0])
    await commit(kafka, "prefilter", topics.EVENTS, 2)
    (events,) = [lag for lag in (await status.read(kafka, nothing_held)).lag if lag.queue == "events"]
    assert (events.records, events.seconds) == (0, None)


async def test_all_records_of_the_last_batch_wait(broker):
    """The embedded broker reports as the end what follows the first record of the last batch."""
    await kafka_bus.create_topics(broker)
    async with kafka_bus.producer(broker) as producer:
        batch = producer.create_batch()
        for _ in range(20):
            batch.append(key=b"k", value=b"x", timestamp=None)
        batch.close()
        await (await producer.send_batch(batch, broker.prefix + topics.EVENTS, partition=0))
    (events,) = [lag for lag in (await status.read(broker, nothing_held)).lag if lag.queue == "events"]
    assert events.records == 20


async def test_without_topics_each_part_says_what_to_do_and_none_is_created(broker):
    found = await status.read(broker, nothing_held)
    assert len(found.topics.missing) == len(topics.CATALOGUE)
    assert found.policies is found.verdicts_per_minute is found.held is found.dead_letters is found.webhook is None
    for part in ("policies", "verdicts_per_minute", "held", "dead_letters", "webhook"):
        assert "run: safeguard topics create" in found.unread[part]
    assert len((await status.read(broker, nothing_held)).topics.missing) == len(topics.CATALOGUE)
    checks = {check.name: check for check in await diagnosis.diagnose(broker, {}, None)}
    assert checks["topics"].result == "failed"
    assert checks["topics"].remedy == "run: safeguard topics create"
    assert checks["policies in force"].result == "skipped"


async def test_a_part_that_hangs_or_fails_hides_no_other(broker, monkeypatch):
    await kafka_bus.create_topics(broker)
    monkeypatch.setattr(status, "PART_SECONDS", 30.0)  # the other parts take less, also on a busy machine

    async def hangs(_):
        await asyncio.Event().wait()

    async def fails(*_):
        raise BusError("the history is broken")

    monkeypatch.setattr(operator, "history", fails)
    found = await status.read(broker, hangs)
    assert found.unread == {"held": "no answer within 30 s", "policies": "the history is broken"}
    assert found.lag is not None
    assert found.dead_letters.waiting == 0


async def test_a_release_and_processes_are_what_the_doctor_asks_for(broker):
    await kafka_bus.create_topics(broker)
    checks = {check.name: check for check in await diagnosis.diagnose(broker, {}, None)}
    assert (checks["policies in force"].result, checks["processes"].result) == ("failed", "failed")
    assert "safeguard policy release" in checks["policies in force"].remedy
    await operator.release(broker, [load_library()["fraud-spam"]], operator.ChangedBy("test", "ann"))
    async with contextlib.AsyncExitStack() as stack:
        for group, topic in (
            ("prefilter", topics.EVENTS),
            *((topics.LANE_GROUPS[lane], topic) for lane, topic in topics.LANES.items()),
            ("enforcement", topics.VERDICTS),
        ):
            await stack.enter_async_context(member(broker, group, topic))
        checks = {check.name: check for check in await diagnosis.diagnose(broker, {}, None)}
    assert checks["processes"].found == "1 prefilter, 1 reasoner, 1 enforcement"
    results = Counter(checks[name].result for name in ("policies in force", "processes", "broker", "topics", "clocks"))
    assert results == {"ok": 5}


async def test_kafka_tells_rights_and_disks(kafka):
    await kafka_bus.create_topics(kafka)
    checks = {check.name: check for check in await diagnosis.diagnose(kafka, {}, "operator")}
    for name in ("brokers' disks", "rights", "transactions"):
        assert checks[name].result != "skipped", checks[name]
    assert "GiB) on broker " in checks["brokers' disks"].found


async def test_a_clock_that_is_ahead_is_found(broker):
    await kafka_bus.create_topics(broker)
    await write(broker, topics.EVENTS, [b"x"], partition=1, ago=-timedelta(minutes=30))
    checks = {check.name: check for check in await diagnosis.diagnose(broker, {}, None)}
    assert checks["clocks"].result == "failed"
    assert "content.events[1] is 1," in checks["clocks"].found


def run(broker, monkeypatch, *words):
    monkeypatch.setenv("SAFEGUARD_PREFIX", broker.prefix)
    return CliRunner().invoke(app, [*words, "--bootstrap", broker.bootstrap])


def test_the_page_fits_a_terminal(broker, monkeypatch):
    asyncio.run(kafka_bus.create_topics(broker))
    shown = run(broker, monkeypatch, "status")
    assert shown.exit_code == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert len(lines) <= 24
    queues = [line.split()[1] for line in lines if line.startswith(" enforcement")]
    assert queues == ["verdicts", "cleared", "decisions", "appeals", "actions"]  # and no webhook, which was never used
    assert "none in force" in shown.stdout.replace("0 in force", "none in force")
    for part in ("brokers", "topics", "processes", "policies", "verdicts", "held actions", "dead letters", "webhook"):
        assert any(line.startswith(part) for line in lines), part
    keys = set(json.loads(run(broker, monkeypatch, "status", "--json").stdout))
    assert keys == set(status.Status.__struct_fields__)


def test_the_doctors_exit_status_says_whether_a_check_failed(broker, monkeypatch):
    asyncio.run(kafka_bus.create_topics(broker))
    shown = run(broker, monkeypatch, "doctor")
    assert shown.exit_code == 1
    assert "failed   policies in force: none" in shown.stdout
    assert "-> run: safeguard policy release" in shown.stdout
    checks = json.loads(run(broker, monkeypatch, "doctor", "--json").stdout)
    assert {check["result"] for check in checks} >= {"ok", "failed"}

    async def all_well(*_):
        return [ok("x", "y")]

    monkeypatch.setattr(diagnosis, "diagnose", all_well)
    assert run(broker, monkeypatch, "doctor").exit_code == 0


@pytest.mark.parametrize("words", [["status"], ["status", "--json"], ["doctor"]])
def test_a_broker_that_is_not_there_is_named(words, monkeypatch):
    monkeypatch.setattr(status, "PART_SECONDS", 0.1)
    monkeypatch.setattr(diagnosis, "PART_SECONDS", 0.1)
    done = CliRunner().invoke(app, [*words, "--bootstrap", "127.0.0.1:1"])
    assert done.exit_code == 1
    said = f"{done.stdout}{done.exception}"
    assert "no Kafka broker answers at 127.0.0.1:1" in said
