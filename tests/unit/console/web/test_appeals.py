"""Appeals in the console: shown with their deadlines, decided by a second person, and by no one who decided before."""

from datetime import timedelta

import pytest
from sqlalchemy import delete, select, update

from safeguard_streams.console.schema import (
    actions,
    appeal_statements,
    appeals,
    audit_log,
    items,
    review_items,
    reviews,
)
from safeguard_streams.console.web.pages import appeals as page
from safeguard_streams.console.web.pages import decisions as plain_page
from safeguard_streams.contract.records import now
from tests.unit.console.web.conftest import BOTH_DATABASES
from tests.unit.console.web.test_decisions import form, sha_of

pytestmark = BOTH_DATABASES
ITEM = "post-002"


@pytest.fixture
def written(monkeypatch):
    """Stands for Kafka: the records that were written, once for each id."""
    records = {}

    async def write_once(_, partition, action):
        return records.setdefault(action.action_id, (partition, action))[1]

    async def nothing(*_, **__):
        raise AssertionError("nothing may be written")

    monkeypatch.setattr(page, "write_once", write_once)
    monkeypatch.setattr(plain_page.decisions, "decide", nothing)
    monkeypatch.setattr(plain_page.decisions, "undo", nothing)
    monkeypatch.setattr(plain_page.decisions, "undecide", nothing)
    return records


@pytest.fixture
def appealed(filled):
    """An item that Ann removed, with an appeal that is overdue."""
    at = now()
    row = {
        "content_id": ITEM,
        "appeal_id": "p<1>",
        "appellant": "author",
        "state": "open",
        "opened_at": at - timedelta(days=15),
        "due_at": at - timedelta(days=1),
        "action": "remove",
        "not_by": ["ann"],
    }
    said = {
        "content_id": ITEM,
        "appeal_id": "p<1>",
        "reason": "<b>a quote</b>",
        "new_context": "of X",
        "received_at": at,
    }
    waits = {"content_id": ITEM, "policy_id": "*", "cause": "appealed", "state": "open", "action": "remove"}
    with filled.begin() as connection:
        connection.execute(appeals.insert(), row)
        connection.execute(appeal_statements.insert(), said)
        connection.execute(
            review_items.insert().values(**waits, effective="remove", priority=4.0, since=at, edited=False)
        )
        connection.execute(update(items).where(items.c.content_id == ITEM).values(effective="remove"))
        connection.execute(update(review_items).values(claimed_by=None, claim_expires_at=None))
    yield ITEM
    with filled.begin() as connection:
        for table in (appeals, appeal_statements):
            connection.execute(delete(table))
        connection.execute(delete(review_items).where(review_items.c.cause == "appealed"))


def outcome(**more):
    return {
        "content_id": ITEM,
        "content_sha256": sha_of(ITEM),
        "appeal_id": "p<1>",
        "outcome": "overturned",
        "action": "allow",
        "why": "a quote",
        **more,
    }


def test_the_queue_and_the_item_show_an_appeal_with_its_deadline_and_words(browser, appealed):
    bob = browser("bob", "reviewer")
    queue = bob.get("/queue?cause=appealed").text
    assert "an appeal" in queue
    assert "overdue" in queue
    assert ITEM in queue
    shown = bob.get(f"/item?id={ITEM}").text
    assert "&lt;b&gt;a quote&lt;/b&gt;" in shown
    assert "of X" in shown
    assert 'action="/appeals"' in shown
    assert 'action="/decisions"' not in shown


@pytest.mark.parametrize("name", ["ann", "Ann", "ANN "])
def test_who_decided_before_has_no_button_and_the_server_refuses_each_form(browser, appealed, written, filled, name):
    ann = browser(name, "reviewer")
    shown = ann.get(f"/item?id={ITEM}").text
    assert 'action="/appeals"' not in shown
    assert 'action="/decisions' not in shown
    for url, fields in (
        ("/appeals", outcome()),
        ("/appeals", outcome(outcome="upheld")),
        ("/decisions", form(ITEM, action="allow", rule="")),
        ("/decisions/undo", {"content_id": ITEM}),
    ):
        assert ann.post(url, **fields).status_code == 403, url
    assert not written
    with filled.connect() as connection:
        assert not connection.execute(select(reviews).where(reviews.c.content_id == ITEM)).all()


def test_an_action_in_the_history_bars_a_person_whom_the_standing_does_not_name(browser, appealed, written, filled):
    acted = {"action_id": "early", "content_id": ITEM, "action": "remove", "acted_at": now(), "by": "Eve", "why": ""}
    flags = dict.fromkeys(("alert", "dry_run", "any_text"), False)
    with filled.begin() as connection:
        connection.execute(
            actions.insert().values(**acted, **flags, state="applied", previous="allow", rule_ids=[], sequence=1)
        )
    try:
        assert browser("eve", "reviewer").post("/appeals", **outcome()).status_code == 403
        assert browser("Eve", "admin").post("/claims").headers["location"] != f"/item?id={ITEM}"
    finally:
        with filled.begin() as connection:
            connection.execute(delete(actions).where(actions.c.action_id == "early"))
    assert not written


def test_a_second_person_decides_and_a_repeat_is_the_same_record(browser, appealed, written, filled):
    bob = browser("bob", "reviewer")
    for _ in range(2):
        assert bob.post("/appeals", **outcome()).status_code == 303
    ((partition, action),) = written.values()
    assert (partition, action.outcome, action.action, action.by) == (0, "overturned", "allow", "bob")
    assert (action.appeal_id, action.policy_id, action.content_sha256) == ("p<1>", None, sha_of(ITEM))
    with filled.connect() as connection:
        logged = connection.execute(
            select(audit_log.c.who).where(audit_log.c.object == ITEM, audit_log.c.action == "decide")
        )
        assert [one.who for one in logged] == ["bob"]


@pytest.mark.parametrize(
    ("fields", "status", "said"),
    [
        ({"appeal_id": "p2"}, 409, "not known"),
        ({"outcome": "moot"}, 409, "upheld or overturned"),
        ({"why": " "}, 409, "Give a reason"),
        ({"rule": "no id"}, 409, "Choose a rule"),
        ({"action": "remove"}, 409, "milder than remove"),
        ({"content_sha256": "other"}, 409, "another text"),
        ({"content_id": "nothing"}, 404, "knows no item"),
    ],
)
def test_an_outcome_that_makes_no_sense_is_refused_with_the_reason(browser, appealed, written, fields, status, said):
    answered = browser("bob", "reviewer").post("/appeals", **outcome(**fields))
    assert answered.status_code == status
    assert said in answered.text
    assert not written


def test_an_auditor_sees_an_appeal_and_decides_none(browser, appealed, written):
    auditor = browser("zoe", "auditor")
    assert "of X" in auditor.get(f"/item?id={ITEM}").text
    assert auditor.post("/appeals", **outcome()).status_code == 403
    assert not written
