"""Which records the projector takes when a log is not as it was."""

import asyncio

import pytest
from aiokafka import TopicPartition
from sqlalchemy.exc import OperationalError

from safeguard_streams.bus import kafka as kafka_bus
from safeguard_streams.bus.interface import Partition
from safeguard_streams.console import projector as projecting
from safeguard_streams.console.database import engine_of
from safeguard_streams.console.projector import Projector
from safeguard_streams.console.store import Moved, Stored
from safeguard_streams.contract import topics
from safeguard_streams.errors import BusError, ConfigurationError
from safeguard_streams.runtime import metrics, settings
from tests import projected

TP = TopicPartition("eu." + topics.CLEARED, 0)
PLACE = Partition(topics.CLEARED, 0)


class Log:
    """A consumer of one partition that ends at `end` and begins at `first`."""

    def __init__(self, end, first=0):
        self.end, self.first, self.sought = end, first, []

    def assignment(self):
        return {TP}

    async def beginning_offsets(self, _):
        return {TP: self.first}

    async def end_offsets(self, _):
        return {TP: self.end}

    def seek(self, _, offset):
        self.sought.append(offset)


@pytest.fixture
def ids(monkeypatch):
    """Kafka's ids of the topics, which a test may change."""
    known = {TP.topic: "id-1"}

    async def topic_ids_of(*_):
        return dict(known)

    monkeypatch.setattr(kafka_bus, "topic_ids_of", topic_ids_of)
    return known


@pytest.fixture
def one(tmp_path, ids):
    """A projector whose partition stands at offset 5."""
    engine = engine_of(f"sqlite:///{tmp_path}/console.db")
    made = Projector(settings.load(prefix="eu."), engine)
    made.store.positions[PLACE] = Stored(5, "id-1")
    made.store.topic_ids = dict(ids)
    made._begun = {TP}
    yield made
    engine.dispose()


def records(first, count):
    return [projected.record(TP.topic, b"{}", offset=first + number) for number in range(count)]


async def test_the_next_records_are_taken(one):
    assert len(await one._expected(Log(8), {TP: records(5, 3)})) == 3


async def test_records_that_are_projected_already_are_left_out(one):
    log = Log(8)
    assert await one._expected(log, {TP: records(0, 3)}) == []
    assert log.sought == [5]


async def test_a_log_that_was_cut_is_read_from_its_beginning(one, caplog):
    assert len(await one._expected(Log(3), {TP: records(0, 3)})) == 3
    assert one.store._recounted == {PLACE}
    assert "log was cut" in caplog.text


async def test_a_topic_that_was_created_again_is_no_log_that_was_cut(one, ids):
    ids[TP.topic] = "id-2"
    with pytest.raises(BusError, match="created again: eu.moderation.cleared"):
        await one._expected(Log(9), {TP: records(0, 3)})
    assert one.store._recounted == set()


async def test_every_record_of_a_topic_that_was_created_again_is_taken(one):
    one.store.topic_ids = {TP.topic: "id-2"}
    log = Log(9)
    assert len(await one._expected(log, {TP: records(0, 3)})) == 3
    assert log.sought == []


@pytest.mark.parametrize(
    ("topic_id", "first", "begins", "said"),
    [
        ("id-1", 0, 5, ""),
        ("id-1", 7, 7, "records were deleted before they were projected"),
        ("id-2", 0, 0, "topic was created again"),
        (None, 0, 5, ""),  # a broker that has no ids
    ],
)
async def test_where_a_partition_begins(one, ids, caplog, topic_id, first, begins, said):
    one.store.topic_ids = {TP.topic: topic_id} if topic_id else {}
    one._begun = set()
    log = Log(9, first)
    await one._begin(log)
    assert log.sought == [begins]
    assert said in caplog.text


async def failing(one, monkeypatch, *errors, followed=True):
    """Run until a reading succeeds. errors: of the readings before it."""
    left, one._followed = list(errors), followed

    async def follow(*_args, **_options):
        if left:
            raise left.pop(0)

    class Reader:
        async def __aenter__(self):
            return None

        async def __aexit__(self, *_):
            return None

    monkeypatch.setattr(one, "_follow", follow)
    monkeypatch.setattr(kafka_bus, "reader", lambda *_: Reader())
    monkeypatch.setattr(projecting, "_RETRY_SECONDS", (0.01,))
    monkeypatch.setattr(projecting, "_STANDBY_SECONDS", 0.01)
    await one.run(asyncio.Event())
    assert left == []


async def test_outages_are_waited_for(one, monkeypatch, caplog):
    secret = OperationalError("SELECT 'secret'", {"a": "secret"}, Exception("connection refused"), hide_parameters=True)
    await failing(one, monkeypatch, secret, secret, BusError("no broker"), ConfigurationError("no topic"))
    assert caplog.text.count("projection interrupted, retrying") == 4
    assert "secret" not in caplog.text


async def test_a_topic_that_is_missing_at_the_start_ends_the_process(one, monkeypatch):
    with pytest.raises(ConfigurationError, match="no topic"):
        await failing(one, monkeypatch, ConfigurationError("no topic"), followed=False)


async def test_an_error_of_the_program_is_no_outage(one, monkeypatch):
    with pytest.raises(AttributeError):
        await failing(one, monkeypatch, AttributeError("a bug"))


async def test_outages_of_the_database_are_counted_and_those_of_kafka_are_not(one, monkeypatch):
    counted = []
    monkeypatch.setattr(metrics.Metric, "add", lambda which, count, about: counted.append((which, count, about)))
    away = OperationalError("SELECT 1", {}, Exception("connection refused"))
    await failing(one, monkeypatch, away, BusError("no broker"), away)
    assert counted == [(metrics.DATABASE_FAILURES, 1, {"stage": "projector"})] * 2


async def test_the_age_of_what_was_read_grows_until_it_is_projected(one, monkeypatch):
    read, away = records(5, 3), OperationalError("SELECT 1", {}, Exception("connection refused"))

    def refused(_):
        raise away

    monkeypatch.setattr(one.store, "apply", refused)
    with pytest.raises(OperationalError):
        await one._apply(read)
    ((age, about),) = one._age_observed()
    assert age > 0
    assert about == {
        metrics.TOPIC: topics.CLEARED,
        metrics.PARTITION: "0",
        metrics.GROUP: "projector",
    }
    monkeypatch.setattr(projecting.time, "time", lambda: read[0].timestamp / 1000 + 90)
    assert [age for age, _ in one._age_observed()] == [90], "of the oldest record"
    monkeypatch.setattr(one.store, "apply", lambda _: None)
    await one._apply(read)
    assert one._age_observed() == []


async def test_a_projector_that_stands_by_is_not_behind(one, monkeypatch):
    one._waiting_since[PLACE] = 1.0
    await failing(one, monkeypatch, Moved("another process projects"))
    assert one._age_observed() == []


async def test_a_projector_catches_up_until_it_stands_by_and_again_once_it_projects(one, monkeypatch):
    assert one.is_catching_up
    await failing(one, monkeypatch, Moved("another process projects"))
    assert not one.is_catching_up
    monkeypatch.setattr(one.store, "apply", lambda _: None)
    await one._apply(records(5, 1))
    assert one.is_catching_up
    one.caught_up = True
    assert not one.is_catching_up
