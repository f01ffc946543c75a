"""Exposure: limits by harm that a lead sets, what is refused beyond them, and how texts appear to each person."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import delete, insert, select, update

from safeguard_streams.console.schema import (
    audit_log,
    displays,
    exposure_limits,
    exposures,
    preferences,
    review_items,
    verdicts,
)
from tests.unit.console.web.conftest import BOTH_DATABASES, Browser
from tests.unit.console.web.filling import TEXTS

HARM = "fraud_spam"  # of items whose number is 1 more than a multiple of 3
WAIT = ("post-007", "post-010", "post-013")  # and that wait


@pytest.fixture(autouse=True)
def fresh(filled):
    with filled.begin() as connection:
        connection.execute(update(review_items).values(claimed_by=None, claim_expires_at=None))
        for table in (displays, exposure_limits, exposures, preferences):
            connection.execute(delete(table))


def id_in(answered):
    return answered.headers["location"].removeprefix("/item?id=")


def reveal(person, content_id):
    return person.post("/item/text", content_id=content_id)


def counted(engine, who):
    with engine.connect() as connection:
        return connection.execute(select(exposures.c["count"]).where(exposures.c.who == who)).scalar() or 0


@pytest.fixture
def limited(browser):
    """The lead allows two items of a harm on a day."""
    answered = browser("lea", "operator").post("/exposure", harm=HARM, most="2")
    assert answered.status_code == 303


@BOTH_DATABASES
def test_beyond_the_limit_nothing_of_that_harm_is_revealed_or_handed_out(browser, filled, limited):
    ann = browser("ann-limit", "reviewer")
    for content_id in ("post-001", "post-004"):
        assert TEXTS[int(content_id[-3:]) % 6] in reveal(ann, content_id).text
    assert "fraud_spam 2 of 2, enough for today" in ann.get("/queue").text
    refused = reveal(ann, WAIT[0])
    assert (refused.status_code, TEXTS[1] in refused.text) == (409, False)
    assert "You have revealed 2 items about fraud_spam today, and the daily limit is 2." in refused.text
    page = ann.get(f"/item?id={WAIT[0]}").text
    assert "Take a break" in page
    assert 'action="/item/text"' not in page
    assert "Take a break" in ann.post("/claims", content_id=WAIT[0]).text
    assert ann.post("/claims", policy="fraud-spam").headers["location"] == "/queue"
    assert id_in(ann.post("/claims"))
    assert counted(filled, "ann-limit") == 2
    with filled.connect() as connection:
        entry = audit_log.c.who == "ann-limit", audit_log.c.action == "reveal"
        revealed = connection.execute(select(audit_log.c.object).where(*entry)).scalars().all()
    assert set(revealed) == {"post-001", "post-004"}, "what was refused was not revealed"
    assert reveal(ann, "post-000").status_code == 200, "another harm"
    assert id_in(browser("ben-limit", "reviewer").post("/claims", policy="fraud-spam")), "somebody else"


def test_an_item_that_was_revealed_today_is_seen_again_and_counts_once(browser, filled, limited):
    ann = browser("ann-again", "reviewer")
    for _ in range(3):
        assert reveal(ann, WAIT[0]).status_code == 200
    assert counted(filled, "ann-again") == 1
    reveal(ann, WAIT[1])
    assert reveal(ann, WAIT[0]).status_code == 200
    assert 'action="/item/text"' in ann.get(f"/item?id={WAIT[0]}").text
    assert ann.post("/claims", content_id=WAIT[0]).status_code == 303, "and it may be decided"
    assert id_in(ann.post("/claims")) == WAIT[0], "also when the next item is asked for"


def test_an_item_that_is_held_when_the_limit_comes_goes_back(browser, filled):
    ann = browser("ann-held", "reviewer")
    held = id_in(ann.post("/claims", policy="fraud-spam"))
    browser("lea", "operator").post("/exposure", harm=HARM, most="0")
    assert id_in(ann.post("/claims")) != held
    with filled.connect() as connection:
        holder = select(review_items.c.claimed_by).where(review_items.c.content_id == held)
        assert connection.execute(holder).scalar() is None


@BOTH_DATABASES
def test_two_reveals_at_once_pass_no_limit(app, filled, limited):
    people = [Browser(app, "ann-twice", "reviewer") for _ in range(6)]
    for one in people:
        one.get("/queue")
    numbers = ("001", "004", "007", "010", "013", "016")
    with ThreadPoolExecutor(6) as pool:
        answered = list(pool.map(lambda one, number: reveal(one, f"post-{number}").status_code, people, numbers))
    assert sorted(answered) == [200, 200, 409, 409, 409, 409]
    assert counted(filled, "ann-twice") == 2


@BOTH_DATABASES
def test_an_item_under_several_policies_is_left_to_others_for_each_of_them(browser, filled):
    with filled.begin() as connection:
        row = connection.execute(select(review_items).where(review_items.c.content_id == WAIT[0])).mappings().one()
        connection.execute(insert(review_items).values(**{**row, "policy_id": "several"}))
        judged = connection.execute(select(verdicts).where(verdicts.c.content_id == WAIT[1])).mappings().one()
        connection.execute(insert(review_items).values(**{**row, "content_id": WAIT[1], "policy_id": "*"}))
    assert judged["policy_id"] == "fraud-spam"
    eve = browser("eve-several", "reviewer")
    assert id_in(eve.post("/claims", policy="several")) == WAIT[0]
    eve.post("/claims/avoid", content_id=WAIT[0], harm=HARM)
    for policy in ("several", "*"):
        assert eve.post("/claims", policy=policy).headers["location"] == "/queue", policy
    with filled.begin() as connection:
        connection.execute(delete(review_items).where(review_items.c.policy_id.in_(("several", "*"))))


@BOTH_DATABASES
def test_a_lead_sets_limits_and_sees_who_saw_how_much(browser, filled):
    lea, ann = browser("lea", "operator"), browser("ann-seen", "reviewer")
    reveal(ann, "post-000")
    reveal(ann, WAIT[0])
    for harm, most in (("*", "1"), (HARM, "5")):
        assert lea.post("/exposure", harm=harm, most=most).status_code == 303
    page = " ".join(lea.get("/exposure").text.split())
    assert page.count("<td>ann-seen</td>") == 2
    assert page.count(">reached<") == 1, "the harm without a limit of its own has that of every other harm"
    with filled.connect() as connection:
        entry = select(audit_log.c.details).where(audit_log.c.action == "limit", audit_log.c.object == HARM)
        assert {"most": "5"} in connection.execute(entry).scalars().all()
    lea.post("/exposure", harm="*", most="")
    assert ">reached<" not in lea.get("/exposure").text
    numbers = ("many", "-1", "9" * 30, "0" * 9 + "9" * 30, "²")
    for harm, most in (*((HARM, one) for one in numbers), ("", "3"), ("h" * 201, "3")):
        assert lea.post("/exposure", harm=harm, most=most).status_code == 409, most
    assert ann.post("/claims/avoid", content_id=WAIT[0], harm="h" * 201).status_code == 409
    assert ann.get("/exposure").status_code == 403
    assert ann.post("/exposure", harm=HARM, most="900").status_code == 403


def test_texts_appear_as_each_person_wants(browser, filled):
    ann, ben = browser("ann-shown", "reviewer"), browser("ben-shown", "reviewer")
    shown = reveal(ann, WAIT[0]).text
    assert 'class="text grey small"' in shown
    assert 'hx-trigger="submit"' in ann.get(f"/item?id={WAIT[1]}").text, "behind a veil"
    ann.post("/own", small="1", unveiled=[HARM, "no such harm"])
    assert 'class="text small"' in reveal(ann, WAIT[0]).text
    assert 'hx-trigger="load, submit"' in ann.get(f"/item?id={WAIT[1]}").text
    assert 'hx-trigger="submit"' in ann.get("/item?id=post-000").text, "another harm"
    with filled.connect() as connection:
        unveiled = connection.execute(select(displays.c.unveiled).where(displays.c.who == "ann-shown")).scalar()
    assert unveiled == [HARM]
    assert counted(filled, "ann-shown") == 1, "a page that is looked at reveals nothing by itself"
    assert 'class="text grey small"' in reveal(ben, WAIT[0]).text
    page = ann.get("/own").text
    assert 'name="small" value="1" checked' in page
    assert 'name="grey" value="1" checked' not in page
    ann.post("/own")
    assert 'class="text"' in reveal(ann, WAIT[0]).text
