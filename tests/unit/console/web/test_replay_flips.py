"""The worklist of flips: one person at a time, in a random order, and nothing that a person may not see."""

import re
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from uuid import uuid4

import pytest
from sqlalchemy import delete, select, update

from safeguard_streams.console.database import engine_of
from safeguard_streams.console.migrations import upgrade
from safeguard_streams.console.schema import (
    audit_log,
    erasures,
    exposures,
    flip_reviews,
    items,
    policy_changes,
    preferences,
    replay_flips,
    replay_work,
    review_items,
)
from safeguard_streams.console.web.app import build
from safeguard_streams.console.web.flips import Worklist
from safeguard_streams.console.web.harms import harm_of
from safeguard_streams.console.web.policy_text import read
from safeguard_streams.console.web.roles import Person
from safeguard_streams.console.web.writing import transaction
from safeguard_streams.contract.records import now, verdict_id
from tests.unit.console.web.conftest import BOTH_DATABASES, Browser
from tests.unit.console.web.filling import REPLAY, TEXTS, fill, policies
from tests.unit.console.web.test_pages import HOSTILE

LEASE = timedelta(minutes=5)
POLICY = policies()[0].id
OF = {"id": REPLAY, "policy": POLICY}


@pytest.fixture(autouse=True)
def untouched(filled):
    """Each test finds the worklist as a comparison leaves it."""
    yield
    with filled.begin() as connection:
        connection.execute(delete(flip_reviews))
        connection.execute(delete(erasures))
        connection.execute(delete(preferences))
        connection.execute(update(replay_flips).values(claimed_by=None, claim_expires_at=None))


def claimed(engine, name, blind_share=0.0):
    with transaction(engine) as connection:
        row = Worklist(connection, REPLAY, POLICY, LEASE).next(Person(name, ("reviewer",)), blind_share)
    return None if row is None else row.content_id


def size(engine):
    with engine.connect() as connection:
        return Worklist(connection, REPLAY, POLICY, LEASE).size()[0]


@BOTH_DATABASES
def test_many_who_claim_at_once_get_a_flip_each(filled):
    count = size(filled)
    assert count > 3
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda number: claimed(filled, f"p{number}"), range(count)))
    assert len(set(found)) == count
    assert None not in found
    assert claimed(filled, "late") is None
    assert claimed(filled, "p0") == found[0], "who holds one gets it again"
    with filled.begin() as connection:  # an hour later, p0 is gone
        own = replay_flips.c.claimed_by == "p0"
        connection.execute(update(replay_flips).where(own).values(claim_expires_at=now() - timedelta(hours=1)))
    assert claimed(filled, "late") == found[0]


def test_what_was_erased_is_no_flip_any_more(filled):
    first, before = claimed(filled, "ann"), size(filled)
    with filled.begin() as connection:
        connection.execute(erasures.insert().values(content_id=first, erased_at=now(), overwritten=True))
    assert claimed(filled, "ann") not in (first, None)
    assert size(filled) == before - 1


def test_nobody_sees_a_flip_of_an_item_that_they_have_to_decide_about_blind(filled, current):
    first = claimed(filled, "ann")
    waits = {"content_id": first, "policy_id": POLICY, "cause": "rule", "state": "open", "action": "review"}
    waits |= {"effective": "review", "priority": 1.0, "since": now(), "edited": False}
    new = {"verdict": verdict_id(first, "replay"), "answer": "new"}
    with filled.begin() as connection:
        connection.execute(review_items.insert().values(**waits))
        connection.execute(update(replay_flips).values(claimed_by=None, claim_expires_at=None))
    try:
        assert claimed(filled, "ida", blind_share=1.0) not in (first, None)
        app = build(current.model_copy(update={"console_blind_share": 1.0}), filled)
        shown = Browser(app, "ida", "reviewer").get(f"/replay/flip?id={REPLAY}&policy={POLICY}&item={first}")
        listed = Browser(app, "ida", "reviewer").get(f"/replay/flips?id={REPLAY}&policy={POLICY}").text
        ida = Browser(app, "ida", "reviewer")
        assert ida.post("/replay/flip/text", **OF, content_id=first).status_code == 404
        assert ida.post("/replay/flip", **OF, content_id=first, **new).status_code == 404
        with filled.connect() as connection:
            for table in (exposures, audit_log, flip_reviews):
                assert connection.execute(select(table).where(table.c.who == "ida")).all() == [], table
        assert claimed(filled, "ann") == first
    finally:
        with filled.begin() as connection:
            connection.execute(delete(review_items).where(review_items.c.content_id == first))
    assert (shown.status_code, "decide about the item in the queue first" in shown.text) == (404, True)
    assert first not in listed
    assert "post-" in listed


def test_a_plan_that_could_not_be_published_is_not_taken_for_another_one(browser, filled):
    at = now()
    times = dict.fromkeys(("changed_at", "alive_until", "ended_at"), at)
    row = {"replay_id": REPLAY, "policy_id": POLICY, "judgements": ["1"], "error": "Kafka did not answer.", **times}
    row |= {"given": {"direction": "promote", "why": "", "budget": 1.0}, **dict.fromkeys(("tries", "done", "total"), 0)}
    with filled.begin() as connection:
        connection.execute(replay_work.insert().values(key="publish p1", kind="publish", who="ola", **row))
    answered = browser("ola", "operator").post("/replay/publish", **OF, plan="p1", direction="revert", why="w")
    with filled.begin() as connection:
        error = connection.execute(select(replay_work.c.error).where(replay_work.c.key == "publish p1")).scalar()
        connection.execute(delete(replay_work).where(replay_work.c.key == "publish p1"))
    assert (answered.status_code, "out of date" in answered.text, error) == (409, True, "Kafka did not answer.")


def test_who_asked_not_to_see_a_harm_today_gets_no_flip_of_it(browser, filled):
    ann = browser("ann", "reviewer")
    ann.post("/claims/avoid", content_id="post-000", harm=harm_of(POLICY, read(policies()[0].document)))
    answered = ann.post("/replay/flips/next", **OF)
    assert answered.headers["location"].startswith("/replay/flips?")
    assert "No flip waits for you" in ann.get(answered.headers["location"]).text
    assert browser("bob", "reviewer").post("/replay/flips/next", **OF).headers["location"].startswith("/replay/flip?")


def test_a_text_is_revealed_on_request_and_only_if_it_is_the_judged_one(browser, filled):
    ann = browser("ann", "reviewer")
    name = claimed(filled, "ann")
    text = TEXTS[int(name[-3:]) % len(TEXTS)]
    url = f"/replay/flip?id={REPLAY}&policy={POLICY}&item={name}"
    assert text not in ann.get(url).text
    assert text in ann.post("/replay/flip/text", **OF, content_id=name).text
    with filled.connect() as connection:
        revealed = select(audit_log.c.who).where(audit_log.c.object == name, audit_log.c.action == "reveal")
        logged = connection.execute(revealed).scalars().all()
        assert connection.execute(select(exposures.c["count"]).where(exposures.c.who == "ann")).scalar() == 1
    assert logged == ["ann"]
    with filled.begin() as connection:
        old = connection.execute(select(items.c.content_sha256).where(items.c.content_id == name)).scalar()
        connection.execute(update(items).where(items.c.content_id == name).values(content_sha256="another text"))
    try:
        shown = ann.post("/replay/flip/text", **OF, content_id=name).text
    finally:
        with filled.begin() as connection:
            connection.execute(update(items).where(items.c.content_id == name).values(content_sha256=old))
    assert text not in shown
    assert "it was edited or erased since" in shown


@pytest.mark.parametrize(
    ("url", "status"),
    [
        (f"/replay/flips?id={REPLAY}&policy=none", 404),
        ("/replay/flips?id=none&policy=none", 404),
        (f"/replay/flip?id={REPLAY}&policy={POLICY}&item=none", 404),
        (f"/replay/flips?id={REPLAY}&policy={POLICY}&after=99999999999999999999", 200),
        (f"/replay/plan?id={REPLAY}&policy={POLICY}&direction=sideways", 409),
        ("/replays/estimate?key=none", 404),
        (f"/replays/estimate?key=compare+{REPLAY}+{POLICY}", 404),
    ],
)
def test_what_is_not_there_is_said(browser, url, status):
    assert browser("ada", "admin").get(url).status_code == status


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"release": ""}, "Choose a policy"),
        ({"sample": "0"}, "sample: write a share"),
        ({"sample": "nan"}, "sample: write a share"),
        ({"noise": "101"}, "noise: write a share"),
        ({"since": "yesterday"}, "since: write a time"),
        ({"first": "-1"}, "first: write an offset"),
        ({"decision": "maybe"}, "Choose earlier decisions"),
        ({"why": "two\nlines"}, "remove line breaks"),
        ({"key": "short"}, "out of date"),
    ],
)
def test_a_form_that_makes_no_sense_is_refused(browser, fields, said):
    form = {"release": f"{POLICY}@1", "sample": "100", "noise": "10", "key": "0" * 32}
    answered = browser("ola", "operator").post("/replays/estimate", **{**form, **fields})
    assert (answered.status_code, said in answered.text) == (409, True), answered.text


def test_the_form_offers_what_is_in_force_first_and_each_older_version_once(browser, filled):
    with filled.begin() as connection:
        changes = (
            connection.execute(select(policy_changes).where(policy_changes.c.policy_id == POLICY)).mappings().all()
        )
        for one in changes:
            connection.execute(policy_changes.insert().values({**one, "change_id": uuid4().hex, "version": "older"}))
    page = browser("aut", "author").get("/replays/new").text
    mine = [one for one in page.split("<option")[1:] if f'value="{POLICY}@' in one]
    assert len(mine) == 2
    assert "in force" in mine[0]
    assert f'value="{POLICY}@older"' in mine[1]


def test_hostile_texts_are_rendered_harmless(tmp_path, current):
    engine = engine_of(f"sqlite:///{tmp_path}/console.db")
    upgrade(engine)
    fill(engine, items=15, hostile=HOSTILE.replace("\0", ""))
    ada = Browser(build(current, engine), "ada", "admin")
    with engine.connect() as connection:
        flip = connection.execute(select(replay_flips)).first()
    of = {"id": flip.replay_id, "policy": flip.policy_id}
    pages = [
        ada.client.get("/replays"),
        ada.client.get("/replay", params=of),
        ada.client.get("/replay/flips", params=of),
        ada.client.get("/replay/flip", params={**of, "item": flip.content_id}),
        ada.client.get("/replay/plan", params={**of, "direction": "promote"}),
        ada.post("/replay/flip/text", **of, content_id=flip.content_id),
    ]
    engine.dispose()
    for page in pages:
        assert page.status_code == 200, page.text
        assert "<script>alert" not in page.text
        assert "<img src=x" not in page.text
        shown = re.sub(r'<input type="hidden"[^>]*>', "", page.text)
        assert "\u202e" not in shown
        assert "\x1b" not in shown
