"""Work about replays runs once at a time, in whichever process lives, and people read how it ended."""

import asyncio
import logging
import threading
import time
from datetime import timedelta

import pytest
from sqlalchemy import select

from safeguard_streams.console.schema import replay_work as table
from safeguard_streams.console.web import replay_work
from safeguard_streams.console.web.replay_work import Asked, Outcome, Workers
from safeguard_streams.contract.records import now
from safeguard_streams.errors import BusError, ConfigurationError
from tests.conftest import TIMEOUT
from tests.unit.console.web.conftest import BOTH_DATABASES


@pytest.fixture
def workers(engine, current, monkeypatch):
    """Makes the workers of a process, without a broker."""

    async def answers(*_):
        return None

    monkeypatch.setattr(replay_work.kafka, "wait_for_broker", answers)
    monkeypatch.setattr(replay_work, "_LOOK_SECONDS", 0.02)
    monkeypatch.setattr(replay_work, "_PAUSE", timedelta())
    made = []

    def make(step):
        made.append(Workers(current, engine, dict.fromkeys(("estimate", "run", "plan"), step)))
        return made[-1]

    yield make
    for one in made:
        one.close()
    with engine.begin() as connection:
        connection.execute(table.delete())


def ask(engine, key="k", again=False, **more):
    with engine.begin() as connection:
        return replay_work.begin(connection, Asked(key, "plan", "ola", "r1", **more), again=again)


def row_of(engine, key="k"):
    with engine.connect() as connection:
        return connection.execute(select(table).where(table.c.key == key)).one()


def ended(engine, key="k"):
    deadline = time.monotonic() + TIMEOUT
    while (row := row_of(engine, key)).ended_at is None:
        assert time.monotonic() < deadline, row
        time.sleep(0.01)
    return row


@BOTH_DATABASES
def test_what_is_asked_twice_is_done_once(engine, workers):
    asked = []

    async def step(doing):
        asked.append(doing.row.given.get("direction"))
        doing.advance(3, 4)
        await asyncio.sleep(0.1)
        return Outcome({"changes": 3}, ["v1", "v2"])

    assert [ask(engine, given={"direction": one}) for one in ("promote", "revert")] == [True, False]
    for one in (workers(step), workers(step)):  # of two processes
        one.wake()
    row = ended(engine)
    assert (asked, row.result, row.judgements, row.error) == (["promote"], {"changes": 3}, ["v1", "v2"], None)
    assert not ask(engine), "it is done"
    assert ask(engine, again=True)
    assert row_of(engine).result == {"changes": 3}, "shown until there is another"
    ended(engine)
    assert len(asked) == 2 if asked[1:] else True


@BOTH_DATABASES
def test_work_of_a_killed_process_is_taken_over_a_few_times(engine, workers):
    async def step(_):
        return Outcome({"done": True})

    ask(engine)
    with engine.begin() as connection:
        connection.execute(table.update().values(tries=1))
    one = workers(step)
    one.wake()
    assert ended(engine).result == {"done": True}
    with engine.begin() as connection:
        assert replay_work.begin(connection, Asked("k", "plan", "ola", "r1"), again=True)
        connection.execute(table.update().values(tries=3, result=None))
    one.wake()
    row = ended(engine)
    assert ("processes of the console that did this ended" in row.error, row.result) == (True, None)
    assert ask(engine), "what failed may be asked for once more"


def test_a_lease_keeps_others_away(engine, workers):
    async def step(_):
        return Outcome({})

    ask(engine)
    with engine.begin() as connection:
        connection.execute(table.update().values(alive_until=now() + replay_work._LEASE))
    one = workers(step)
    one.wake()
    time.sleep(0.2)
    assert row_of(engine).ended_at is None


def test_a_process_that_lost_its_lease_does_not_end_again_what_another_ended(engine, workers):
    begun, go_on = threading.Event(), threading.Event()

    async def stalled(_):
        begun.set()
        await asyncio.to_thread(go_on.wait, TIMEOUT)
        raise ConfigurationError("what this process found is late")

    ask(engine)
    first = workers(stalled)
    first.wake()
    assert begun.wait(TIMEOUT)
    with engine.begin() as connection:  # another process took the work over meanwhile
        connection.execute(table.update().values(ended_at=now(), result={"by": "another"}))
    go_on.set()
    first.close()
    row = row_of(engine)
    assert (row.error, row.result) == (None, {"by": "another"})


@pytest.mark.parametrize("heeds", [True, False])
def test_a_process_that_ends_leaves_its_work_to_the_next(engine, workers, heeds):
    begun = []

    async def endless(doing):
        begun.append(doing)
        await (doing.stop.wait() if heeds else asyncio.sleep(3600))

    async def quick(_):
        return Outcome({"by": "another"})

    ask(engine)
    first = workers(endless)
    first.wake()
    deadline = time.monotonic() + TIMEOUT
    while not begun:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    first.close()
    assert row_of(engine).ended_at is None
    workers(quick).wake()
    assert ended(engine).result == {"by": "another"}


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ConfigurationError("no event lies between these bounds"), "no event lies between these bounds"),
        (BusError("x"), "Kafka did not answer"),
        (ImportError(name="duckdb"), "duckdb is not installed where the console runs"),
        (ValueError("quotes wombat"), "Its log says where"),
    ],
)
def test_why_work_failed_is_said_without_content(engine, workers, caplog, error, said):
    tried = []

    async def step(_):
        tried.append(error)
        raise error

    ask(engine)
    with caplog.at_level(logging.INFO):
        workers(step).wake()
        row = ended(engine)
    assert said in row.error
    assert len(tried) == (3 if isinstance(error, BusError) else 1)
    assert "wombat" not in row.error + caplog.text
