"""A replay from its estimate to its promotion and back, through the pages, on a broker."""

import asyncio
import re
import time
from collections import Counter
from uuid import uuid4

import pytest
from sqlalchemy import select

from safeguard_streams.bus import kafka as kafka_bus
from safeguard_streams.console.database import engine_of
from safeguard_streams.console.migrations import upgrade
from safeguard_streams.console.projector import Projector
from safeguard_streams.console.schema import audit_log, flip_reviews, replay_work
from safeguard_streams.console.web.app import build
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Escalation, now
from safeguard_streams.releases.operator import ChangedBy
from safeguard_streams.replay import jobs
from tests import replaying
from tests.conftest import TIMEOUT, own_topics
from tests.replaying import EVENTS, NAME, NEW, OLD
from tests.unit.console.web.conftest import Browser

pytestmark = pytest.mark.slow
FORM = {"release": f"{NAME}@{NEW.version}", "sample": "100", "noise": "100", "why": "stricter about gifts"}


class World:
    """A console on a broker, projected when a test says so."""

    def __init__(self, current, engine):
        self.current, self.engine = current, engine
        self.app = build(current, engine)
        self.workers = self.app.state.console.replay_workers

    def project(self):
        asyncio.run(Projector(self.current, self.engine).run(asyncio.Event(), to_end=True))

    def done(self, kind):
        """The newest work of a kind, once it has ended."""
        deadline = time.monotonic() + TIMEOUT
        while True:
            with self.engine.connect() as connection:
                wanted = select(replay_work).where(replay_work.c.kind == kind).order_by(replay_work.c.changed_at.desc())
                row = connection.execute(wanted).first()
            if row is not None and row.ended_at is not None:
                assert row.error is None, row.error
                return row
            assert time.monotonic() < deadline, row
            time.sleep(0.05)

    def logged(self):
        with self.engine.connect() as connection:
            return Counter(connection.execute(select(audit_log.c.action)).scalars())

    def replays(self):
        return asyncio.run(jobs.read_all(self.current))

    def superseding(self):
        """What promotions and reversions wrote."""
        return [one for one in asyncio.run(replaying.verdicts(self.current)) if one.replay_id]


@pytest.fixture(scope="module")
def world(embedded_address, current, tmp_path_factory):
    here = own_topics(embedded_address)
    here = current.model_copy(
        update={"bootstrap": here.bootstrap, "prefix": here.prefix, "partitions": here.partitions}
    )
    engine = engine_of(f"sqlite:///{tmp_path_factory.mktemp('replays')}/console.db")
    upgrade(engine)
    asyncio.run(replaying.deploy(here))
    made = World(here, engine)
    made.project()
    yield made
    made.workers.close()
    engine.dispose()


@pytest.fixture
def browser(world):
    return lambda name, *roles: Browser(world.app, name, *roles)


@pytest.fixture(scope="module")
def started(world):
    """The id of a replay that was estimated, started with a double click, and judged."""
    ola = Browser(world.app, "ola", "operator")
    key = re.search(r'name="key" value="(\w+)"', ola.get("/replays/new").text)[1]
    urls = {ola.post("/replays/estimate", **FORM, key=key).headers["location"] for _ in range(2)}
    assert len(urls) == 1
    world.done("estimate")
    assert world.replays() == {}, "an estimate starts nothing"
    page = ola.get(urls.pop()).text
    assert "about 12, 1 per event" in page, "8 by the new version, 4 again by the old one"
    assert "GPU time" in page
    targets = {ola.post("/replays/start", key=key).headers["location"] for _ in range(3)}
    (target,) = targets
    assert "being started" in ola.get(target).text, "before it is projected"
    world.done("run")
    (replay,) = world.replays().values()
    assert target == f"/replay?id={replay.replay_id}"
    assert (replay.state, replay.created_by, replay.why) == ("escalated", "ola", "stricter about gifts")
    assert (replay.policies[0].version, replay.policies[0].before_version) == (NEW.version, OLD.version)
    ola.post("/replays/start", key=key)  # long after
    assert len(world.replays()) == 1
    assert world.logged()["start replay"] == world.logged()["estimate replay"] == 1
    asyncio.run(replaying.judge(world.current, replay.replay_id))
    world.project()
    return replay.replay_id


def escalations(world):
    async def read():
        return [one async for _, one in kafka_bus.read_decoded(world.current, [topics.ESCALATIONS_REPLAY], Escalation)]

    return asyncio.run(read())


def test_a_replay_that_was_started_is_watched(world, started, browser):
    assert len(escalations(world)) == 12
    page = browser("ann", "reviewer").get(f"/replay?id={started}").text
    assert "judged" in page
    assert "12 of 12 judgements" in page
    assert "stricter about gifts" in page
    part = browser("ann", "reviewer").get(f"/replay?id={started}", headers={"hx-request": "true"}).text
    assert "12 of 12 judgements" in part
    assert "<html" not in part
    assert started in browser("ann", "reviewer").get("/replays").text


@pytest.fixture(scope="module")
def compared(world, started):
    aut = Browser(world.app, "aut", "author")
    for _ in range(2):
        assert aut.post("/replay/compare", id=started, policy=NAME).status_code == 303
    row = world.done("compare")
    assert row.result["diff"]["to_violates"]["count"] == 8
    return started


def test_the_comparison_shows_figures_beside_each_chart(world, compared, browser):
    page = browser("ola", "operator").get(f"/replay?id={compared}").text
    assert "post-" not in page, "an operator sees no items"
    assert "More items flip than noise explains" in page
    flips = re.search(r"to violates</th>.*?</tr>", page, re.DOTALL)[0]
    assert re.findall(r'class="num">([^<]*)<', flips) == ["8", "8", "100.00%", "67.56% to 100.00%"]
    assert "<title>to violates: 8 of 8, 100.00%, 95% interval" in flips
    rule = NEW.violating[0]
    by_rule = re.search(rf"<bdi>{rule}</bdi>.*?</tr>", page, re.DOTALL)[0]
    assert re.findall(r'class="num">([^<]*)<', by_rule) == ["0", "8", "8"]


def worked(person, started):
    """The flip that a person is led to."""
    answered = person.post("/replay/flips/next", id=started, policy=NAME)
    return answered.headers["location"]


def item_in(url):
    return re.search(r"item=([\w-]+)", url)[1]


def verdict_in(page):
    return re.search(r'name="verdict" value="([^"]+)"', page)[1]


def test_two_people_work_through_the_flips(world, compared, browser):
    ann, bob = browser("ann", "reviewer"), browser("bob", "reviewer")
    first, other = worked(ann, compared), worked(bob, compared)
    assert first != other
    assert worked(ann, compared) == first, "she holds it still"
    page = ann.get(first).text
    name = item_in(first)
    text = replaying.text_of(int(name.removeprefix("post-")))
    assert text not in page
    assert "is only rude" in page or "The gates let it pass" in page
    assert "offers a gift that is none" in page
    of = {"id": compared, "policy": NAME, "content_id": name}
    assert text in ann.post("/replay/flip/text", **of).text
    assert "bob works on it" in ann.get(other).text
    taken = {**of, "content_id": item_in(other), "verdict": verdict_in(bob.get(other).text), "answer": "new"}
    refused = ann.post("/replay/flip", **taken)
    assert (refused.status_code, "bob works on this flip" in refused.text) == (409, True)
    assert ann.post("/replay/flip", **of, verdict="an older one", answer="new").status_code == 409
    said = {**of, "verdict": verdict_in(page), "answer": "new"}
    urls = {ann.post("/replay/flip", **said).headers["location"] for _ in range(3)}
    (following,) = urls
    assert item_in(following) not in {name, item_in(other)}
    assert bob.post("/replay/flip", **taken).status_code == 303
    assert ann.post("/replay/flip", **{**taken, "answer": "old"}).status_code == 409, "it is answered"
    again = ann.post("/replay/flip", **{**said, "answer": "unsure"})  # she thinks again
    assert again.status_code == 303
    assert world.logged()["answer flip"] == 3
    with world.engine.connect() as connection:
        rows = {row.content_id: (row.who, row.answer) for row in connection.execute(select(flip_reviews))}
    assert rows == {name: ("ann", "unsure"), item_in(other): ("bob", "new")}
    listed = ann.get(f"/replay/flips?id={compared}&policy={NAME}").text
    assert "2 of 8 answered" in listed
    shares = re.search(r"all flips</th>.*?</tr>", listed, re.DOTALL)[0]
    assert re.findall(r'class="num">([^<]*)<', shares) == ["1", "1", "100.00%", "20.65% to 100.00%", "1"]


def test_a_later_comparison_keeps_answers_and_leases(world, compared, browser):
    ann = browser("ann", "reviewer")
    held = worked(ann, compared)
    browser("aut", "author").post("/replay/compare", id=compared, policy=NAME)
    world.done("compare")
    assert worked(ann, compared) == held
    assert "2 of 8 answered" in ann.get(f"/replay/flips?id={compared}&policy={NAME}").text


def plan_in(page):
    return re.search(r'name="plan" value="(\w+)"', page)[1]


def test_promoting_is_refused_beyond_the_budget_and_done_once(world, compared, browser):
    ola = browser("ola", "operator")
    of = {"id": compared, "policy": NAME, "direction": "promote"}
    url = ola.post("/replay/plan", **of).headers["location"]
    world.done("plan")
    page = ola.get(url).text
    assert re.search(r"Content items that become violating</dt><dd>8", page)
    assert "Publish 8 verdicts" in page
    refused = ola.post("/replay/publish", **of, plan=plan_in(page), budget="5", why="agreed")
    assert (refused.status_code, "more than the budget of 5.0%" in refused.text) == (409, True)
    assert ola.post("/replay/publish", **of, plan=uuid4().hex, budget="100").status_code == 409, "was never shown"
    form = {**of, "plan": plan_in(page), "budget": "100", "why": "agreed"}
    assert {ola.post("/replay/publish", **form).status_code for _ in range(3)} == {303}
    assert world.done("publish").result == {"written": 8, "planned": 8}
    assert ola.post("/replay/publish", **form).status_code == 303  # long after
    promoted = world.superseding()
    assert {(one.content_id, one.decision, one.replay_id) for one in promoted} == {
        (f"post-{number}", "violates", compared) for number in range(EVENTS) if number % 3 != 2
    }
    assert len(promoted) == 8
    (noted,) = world.replays()[compared].publications
    assert (noted.direction, noted.by, noted.why, noted.verdicts) == ("promote", "ola", "agreed", 8)
    assert world.logged()["promote replay"] == 1
    assert "8 of 8 superseding verdicts were written" in ola.get(url).text

    world.project()
    assert "promoted" in ola.get(f"/replay?id={compared}").text
    of["direction"] = "revert"
    url = ola.post("/replay/plan", **of).headers["location"]
    world.done("plan")
    form = {**of, "plan": plan_in(ola.get(url).text), "why": "too strict"}
    assert {ola.post("/replay/publish", **form).status_code for _ in range(2)} == {303}
    assert world.done("publish").result == {"written": 8, "planned": 8}
    assert Counter(one.decision for one in world.superseding()) == {"violates": 8, "safe": 8}
    assert [one.direction for one in world.replays()[compared].publications] == ["promote", "revert"]


async def create(current):
    """A replay as a command leaves it that was stopped at once."""
    replay = await jobs.plan(current, jobs.ReplayRequest([NEW]), ChangedBy("one more", "mia"))
    await jobs.create(current, replay)
    return replay.replay_id


def test_a_replay_is_paused_resumed_and_cancelled_once_each(world, browser):
    ola, name = browser("ola", "operator"), asyncio.run(create(world.current))
    for change, state in (("pause", "paused"), ("resume", "running"), ("cancel", "cancelled")):
        for _ in range(2):
            answered = ola.post("/replay/change", id=name, change=change)
            assert answered.status_code == 303, answered.text
        assert world.replays()[name].state == state
        assert world.logged()[f"{change} replay"] == 1
    refused = ola.post("/replay/change", id=name, change="resume")
    assert (refused.status_code, "start another one" in refused.text) == (409, True)
    assert ola.post("/replay/change", id=name[:-1], change="cancel").status_code == 404, "the beginning is no id"


def test_what_cannot_be_estimated_says_why(world, browser):
    ola, key = browser("ola", "operator"), uuid4().hex
    url = ola.post("/replays/estimate", **{**FORM, "surfaces": "nowhere"}, key=key).headers["location"]
    deadline = time.monotonic() + TIMEOUT
    while "no event between these bounds has" not in (page := ola.get(url).text):
        assert time.monotonic() < deadline, page
        time.sleep(0.05)
    refused = ola.post("/replays/start", key=key)
    assert (refused.status_code, "no estimate yet" in refused.text) == (409, True)


def test_work_of_a_process_that_was_killed_is_taken_over(world, started, browser):
    """The row of a killed process has a lease that ran out, and no end."""
    key = f"compare {started} {NAME}"
    browser("aut", "author").post("/replay/compare", id=started, policy=NAME)
    world.done("compare")
    with world.engine.begin() as connection:
        killed = {"ended_at": None, "result": None, "alive_until": now()}
        connection.execute(replay_work.update().where(replay_work.c.key == key).values(**killed))
    world.workers.wake()
    assert world.done("compare").result["diff"]["compared"] == 8
