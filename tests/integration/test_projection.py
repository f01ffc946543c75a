"""The projector on real brokers and databases: whatever is killed or gone, each record counts once."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import uuid
from functools import partial

import orjson
import pytest
import sqlalchemy as sa
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from typer.testing import CliRunner

from safeguard_streams.bus import kafka as kafka_bus
from safeguard_streams.cli import app
from safeguard_streams.console import projector as projecting
from safeguard_streams.console import schema
from safeguard_streams.console.database import engine_of
from safeguard_streams.console.projector import Projector
from safeguard_streams.console.store import Store
from safeguard_streams.contract import topics
from safeguard_streams.errors import DependencyError
from safeguard_streams.runtime.security import client_options
from tests import projected
from tests.conftest import TIMEOUT, own_topics, until
from tests.databases import address, cluster, postgresql

__all__ = ["address", "cluster"]

KILLS = 10
PLACES = ("record_at", "topic_id")  # of positions: the brokers set them


@pytest.fixture(autouse=True)
def without_retention(monkeypatch):
    """Kafka keeps the records: those of the fixtures are from a time that is past the retention of their topics."""
    config = topics.Topic.config.fget

    def kept(topic):
        return {name: "-1" if name == "retention.ms" else value for name, value in config(topic).items()}

    monkeypatch.setattr(topics.Topic, "config", property(kept))


@contextlib.asynccontextmanager
async def publishing(current):
    """Writes records of the fixtures to their partitions, in their order."""
    async with kafka_bus.producer(current) as client:

        async def write(records):
            sent = []
            for one in records:
                options = {"key": one.key, "partition": one.partition, "timestamp_ms": one.timestamp}
                sent.append(await client.send(current.prefix + one.topic, one.value, **options))
            await asyncio.gather(*sent)

        yield write


def records_of(logs):
    return [one for log in logs.values() for one in log]


def expected(logs, folder):
    """The rows that the topics lead to, computed in one go."""
    engine = engine_of(f"sqlite:///{folder}/expected-{uuid.uuid4().hex}.db")
    store = Store(engine, text_days=10_000)
    store.open()
    store.apply(records_of(logs))
    rows = projected.dump(engine, without=PLACES)
    engine.dispose()
    return rows


@contextlib.asynccontextmanager
async def running(current, engine):
    """A projector in this process."""
    stop, one = asyncio.Event(), Projector(current, engine)
    task = asyncio.create_task(one.run(stop))
    try:
        yield one
    finally:
        stop.set()
        await task


async def caught_up(engine, logs):
    """Wait until every record is projected."""
    ends = {place: len(log) for place, log in logs.items()}

    def reached():
        with contextlib.suppress(sa.exc.DBAPIError), engine.connect() as connection:
            table = schema.positions
            stored = connection.execute(sa.select(table.c.topic, table.c.partition, table.c.offset))
            at = {(topic, partition): offset for topic, partition, offset in stored}
            return all(at.get(place, 0) >= end for place, end in ends.items())

    await until(reached)


def of(current, **options):
    return current.model_copy(update={"console_text_days": 10_000.0, **options})


async def test_every_topic_is_projected_and_restarts_change_nothing(broker, tmp_path):
    current, logs = of(broker), projected.deployment()
    engine = engine_of(f"sqlite:///{tmp_path}/console.db")
    await kafka_bus.create_topics(current)
    async with publishing(current) as write:
        await write(records_of(logs))
    for _ in range(2):
        async with running(current, engine) as one:
            await caught_up(engine, logs)
            await until(lambda: one.following and not sum(one.lag.values()))
        assert projected.dump(engine, without=PLACES) == expected(logs, tmp_path)
    assert one.projected == 0
    engine.dispose()


async def test_a_topic_that_was_created_again_is_read_from_its_beginning(kafka, tmp_path, monkeypatch):
    monkeypatch.setattr(projecting, "_CHECK_SECONDS", 0.2)
    engine = engine_of(f"sqlite:///{tmp_path}/console.db")
    current, name = of(kafka), kafka.prefix + topics.VERDICTS
    await kafka_bus.create_topics(current)

    def judged(first, count):
        return [projected.record(topics.VERDICTS, projected.verdict(first + n), partition=0) for n in range(count)]

    async with publishing(current) as write:
        await write(judged(0, 5))
    async with running(current, engine):
        await caught_up(engine, {(topics.VERDICTS, 0): range(5)})
        admin = AIOKafkaAdminClient(**client_options(current))
        await admin.start()
        await admin.delete_topics([name])
        await until(lambda: is_gone(current, name))
        await admin.close()
        await kafka_bus.create_topics(current)
        async with publishing(current) as write:
            await write(judged(100, 9))
        await until(lambda: count(engine) == 14)
    engine.dispose()


async def is_gone(current, name):
    admin = AIOKafkaAdminClient(**client_options(current))
    await admin.start()
    try:
        return name not in await admin.list_topics()
    finally:
        await admin.close()


def count(engine):
    with engine.connect() as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(schema.verdicts))


async def test_records_that_were_deleted_before_they_were_read_are_reported(kafka, tmp_path, caplog):
    engine = engine_of(f"sqlite:///{tmp_path}/console.db")
    current = of(kafka)
    await kafka_bus.create_topics(current)
    judged = [projected.record(topics.VERDICTS, projected.verdict(n), partition=0) for n in range(9)]
    async with publishing(current) as write:
        await write(judged[:3])
        async with running(current, engine):
            await caught_up(engine, {(topics.VERDICTS, 0): range(3)})
        await write(judged[3:])
    admin = AIOKafkaAdminClient(**client_options(current))
    await admin.start()
    await admin.delete_records({TopicPartition(current.prefix + topics.VERDICTS, 0): RecordsToDelete(before_offset=6)})
    await admin.close()
    async with running(current, engine):
        await caught_up(engine, {(topics.VERDICTS, 0): range(9)})
    assert count(engine) == 6
    assert "records were deleted before they were projected" in caplog.text
    engine.dispose()


async def test_a_database_that_was_away_misses_nothing(embedded_address, tmp_path, caplog):
    current, logs = of(own_topics(embedded_address)), projected.deployment()
    await kafka_bus.create_topics(current)
    records = records_of(logs)
    with postgresql() as away:
        engine = engine_of(away.url)
        async with publishing(current) as write, running(current, engine) as one:
            await until(lambda: one.following)
            await asyncio.to_thread(away.stop)
            await write(records)
            await until(lambda: not one.following)
            await asyncio.to_thread(away.start)
            await caught_up(engine, logs)
            await until(lambda: one.following)
        assert projected.dump(engine, without=PLACES) == expected(logs, tmp_path)
        engine.dispose()
    assert "wombat" not in caplog.text
    assert "projection interrupted, retrying" in caplog.text


def moved_on(done, before):
    return done() > before


@pytest.mark.slow
async def test_a_projector_killed_ten_times_projects_each_record_once(kafka, address, tmp_path):
    current, logs = of(kafka), projected.deployment(seed=7, items=300)
    await kafka_bus.create_topics(current)
    environment = {
        **os.environ,
        "SAFEGUARD_BOOTSTRAP": current.bootstrap,
        "SAFEGUARD_PREFIX": current.prefix,
        "SAFEGUARD_CONSOLE_DATABASE": address,
        "SAFEGUARD_CONSOLE_TEXT_DAYS": "10000",
        "SAFEGUARD_PROJECTOR_PORT": "0",
    }
    # The process of the command, with transactions of a few records, so that a kill comes between two of them.
    code = "import asyncio\nfrom safeguard_streams.console import app, projector\n"
    code += "from safeguard_streams.runtime import settings\n"
    code += "projector._RECORDS = projector._POLL_MS = 20\nasyncio.run(app.run(settings.load()))"
    records = records_of(logs)
    parts = [records[len(records) * n // (KILLS + 1) : len(records) * (n + 1) // (KILLS + 1)] for n in range(KILLS + 1)]
    engine, seen = engine_of(address), []

    def done():
        with contextlib.suppress(sa.exc.DBAPIError), engine.connect() as connection:
            return connection.scalar(sa.select(sa.func.sum(schema.positions.c.offset))) or 0
        return 0

    async with publishing(current) as write:
        for part in parts[:KILLS]:
            await write(part)
            process = subprocess.Popen([sys.executable, "-c", code], env=environment)
            try:
                await until(partial(moved_on, done, done()))
            finally:
                process.send_signal(signal.SIGKILL)
                process.wait()
            seen.append(done())
        await write(parts[KILLS])
    written = [len(records) * (number + 1) // (KILLS + 1) for number in range(KILLS)]
    assert any(position < end for position, end in zip(seen, written, strict=True))  # killed while it worked
    command = [sys.executable, "-m", "safeguard_streams", "console", "project"]
    process = subprocess.Popen(command, env=environment)
    await caught_up(engine, logs)
    process.terminate()
    assert process.wait(TIMEOUT) == 0
    assert projected.dump(engine, without=PLACES) == expected(logs, tmp_path)
    engine.dispose()


def test_a_command_rebuilds_the_projection_and_prints_its_rate(embedded_address, tmp_path, monkeypatch):
    current, logs = own_topics(embedded_address), projected.deployment()
    database = f"sqlite:///{tmp_path}/console.db"
    monkeypatch.setenv("SAFEGUARD_CONSOLE_DATABASE", database)
    monkeypatch.setenv("SAFEGUARD_CONSOLE_TEXT_DAYS", "10000")
    monkeypatch.setenv("SAFEGUARD_PREFIX", current.prefix)

    async def prepare():
        await kafka_bus.create_topics(current)
        async with publishing(current) as write:
            await write(records_of(logs))

    asyncio.run(prepare())
    for _ in range(2):
        result = CliRunner().invoke(app, ["console", "rebuild", "--yes", "--bootstrap", current.bootstrap])
        assert result.exit_code == 0, result.output
        assert f"projected {len(records_of(logs)):,} records in " in result.stdout
        assert "records/s" in result.stdout
        engine = engine_of(database)
        assert projected.dump(engine, without=PLACES) == expected(logs, tmp_path)
        engine.dispose()


def test_a_rebuild_without_a_database_says_so(embedded_address, monkeypatch):
    monkeypatch.setenv("SAFEGUARD_CONSOLE_DATABASE", "postgresql://kim:hunter2@127.0.0.1:1/console")
    result = CliRunner().invoke(app, ["console", "rebuild", "--yes", "--bootstrap", embedded_address])
    assert result.exit_code == 1
    assert isinstance(result.exception, DependencyError)
    assert "the console's database failed: connection failed" in str(result.exception)
    assert "hunter2" not in str(result.exception) + result.output


def test_erase_reaches_the_database_before_a_projector_reads_the_erasure(embedded_address, tmp_path, monkeypatch):
    current, one = own_topics(embedded_address), projected.escalation(1, "c1", "a wombat")
    database = f"sqlite:///{tmp_path}/console.db"
    monkeypatch.setenv("SAFEGUARD_CONSOLE_DATABASE", database)
    monkeypatch.setenv("SAFEGUARD_PREFIX", current.prefix)

    async def prepare():
        await kafka_bus.create_topics(current)
        async with publishing(current) as write:
            judged = projected.record(topics.VERDICTS, projected.verdict(2))
            await write([projected.record(topics.ESCALATIONS, one), judged])

    def held():
        return [file.name for file in tmp_path.iterdir() if b"wombat" in file.read_bytes()]

    def run(*words):
        result = CliRunner().invoke(app, [*words, "--bootstrap", current.bootstrap])
        assert result.exit_code == 0, result.output
        return result.stdout

    asyncio.run(prepare())
    run("console", "rebuild", "--yes")
    assert held()
    assert orjson.loads(run("erase", "c1", "--by", "kim", "--json"))["console"] is True
    assert held() == []
    assert "projected 4 records" in run("console", "rebuild", "--yes")  # which reads the item's records once more
    assert held() == []
    monkeypatch.setenv("SAFEGUARD_CONSOLE_DATABASE", f"sqlite:///{tmp_path}/other.db")
    assert orjson.loads(run("erase", "c1", "--by", "kim", "--json"))["console"] is False
    monkeypatch.delenv("SAFEGUARD_CONSOLE_DATABASE")
    assert orjson.loads(run("erase", "c1", "--by", "kim", "--json"))["console"] is None
