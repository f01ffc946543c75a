"""Second looks: their pages are those of items that are decided blind, and nothing follows the decision."""

from datetime import timedelta
from uuid import uuid4

import pytest
from sqlalchemy import delete, select, update

from safeguard_streams.console.schema import (
    actions,
    audit_log,
    checks,
    exposures,
    items,
    review_items,
    reviews,
)
from safeguard_streams.console.web.app import build
from safeguard_streams.console.web.pages import decisions as page
from safeguard_streams.contract.records import content_sha256, now
from tests.unit.console.web.conftest import BOTH_DATABASES, Browser
from tests.unit.console.web.filling import TEXTS, policies


@pytest.fixture(autouse=True)
def nothing_written(filled, monkeypatch):
    """Every item is free again, nobody was checked, and a record is an error."""

    async def refused(*_, **__):
        raise AssertionError("a check wrote a record")

    monkeypatch.setattr(page.decisions, "decide", refused)
    with filled.begin() as connection:
        connection.execute(update(review_items).values(claimed_by=None, claim_expires_at=None, state="open"))
        for table in (checks, reviews, exposures):
            connection.execute(delete(table))


@pytest.fixture
def second(filled, current):
    return build(current.model_copy(update={"console_second_share": 1.0}), filled)


def id_in(answered):
    return answered.headers["location"].removeprefix("/item?id=")


def row_of(engine, table, **wanted):
    with engine.connect() as connection:
        found = select(table).where(*(table.c[name] == value for name, value in wanted.items()))
        return connection.execute(found).one_or_none()


def form(content_id, sha, **more):
    given = {"action": "remove", "rule": "", "why": "the rule", "key": uuid4().hex, **more}
    return {"content_id": content_id, "content_sha256": sha, **given}


def decided_by(engine, who, content_id, decision="violates", **more):
    """A colleague decided about an item, which waits no more."""
    sha = content_sha256(TEXTS[int(content_id[-3:]) % len(TEXTS)])
    with engine.begin() as connection:
        found = select(review_items.c.policy_id).where(review_items.c.content_id == content_id)
        label = {"rule": None, "action": "remove", "verdict_id": None, "blind": False, "golden": False, "second": False}
        values = {**label, "policy_id": connection.execute(found).scalar_one(), "at": now(), "action_id": uuid4().hex}
        values |= {"who": who, "content_id": content_id, "content_sha256": sha, "decision": decision, **more}
        connection.execute(reviews.insert().values(**values))
        connection.execute(update(review_items).where(review_items.c.content_id == content_id).values(state="decided"))
    return sha, values["action_id"]


def test_a_check_that_is_given_back_or_abandoned_ends(filled, second, current):
    decided_by(filled, "mia", "post-003")
    ann = Browser(second, f"ann-{uuid4().hex[:6]}", "reviewer")
    who = ann.client.headers["x-forwarded-user"]
    assert id_in(ann.post("/claims")) == "post-003"
    assert ann.post("/claims").headers["location"] == "/item?id=post-003", "who holds one continues with it"
    assert ann.post("/claims/end", content_id="post-003").headers["location"] == "/queue"
    assert row_of(filled, checks, who=who) is None
    with filled.begin() as connection:
        since = now() - timedelta(hours=1)
        connection.execute(checks.insert().values(who=who, content_id="post-003", policy_id="x", since=since))
    plain = Browser(build(current, filled), who, "reviewer")
    assert id_in(plain.post("/claims")) != "post-003"
    assert row_of(filled, checks, who=who) is None


def test_an_empty_queue_gives_no_check(filled, second):
    decided_by(filled, "mia", "post-003")
    ann = Browser(second, f"ann-{uuid4().hex[:6]}", "reviewer")
    assert ann.post("/claims", policy="none").headers["location"] == "/queue"


@BOTH_DATABASES
def test_a_colleague_judges_a_decided_item_without_the_decision(filled, second, browser):
    sha, _ = decided_by(filled, "mia", "post-003", "safe", action="allow")
    with filled.begin() as connection:
        waits = connection.execute(select(actions).where(actions.c.content_id == "post-003")).mappings().first()
        human = {
            **waits,
            "policy_id": None,
            "by": "mia",
            "action": "allow",
            "acted_at": now(),
            "action_id": uuid4().hex,
        }
        connection.execute(actions.insert().values(**human))
        connection.execute(update(items).where(items.c.content_id == "post-003").values(effective="allow"))
    name = f"bob-{uuid4().hex[:6]}"
    bob = Browser(second, name, "reviewer")
    assert id_in(bob.post("/claims")) == "post-003"
    for url in ("/item?id=post-003", "/search?id=post-003", "/queue"):
        rows = [row for row in bob.get(url).text.partition("</nav>")[2].split("<tr>") if "post-003" in row]
        assert not [row for row in rows if 'class="tag' in row or "mia" in row], url
    answered = bob.post("/decisions", **form("post-003", sha))
    assert (
        "mia decided before you: safe. Your decision is kept as a second opinion."
        in bob.get(answered.headers["location"]).text
    )
    label = row_of(filled, reviews, who=name)
    assert (label.second, label.blind, label.golden, label.decision) == (True, True, False, "violates")
    assert "decided by mia" in " ".join(bob.get("/item?id=post-003").text.split()), "now everything is shown"
    assert id_in(Browser(second, "eve", "reviewer").post("/claims")) != "post-003", "once is enough"


@pytest.mark.parametrize("why", ["own", "seen", "withdrawn", "edited", "gone", "waits", "avoided", "passed on"])
def test_some_items_are_no_second_look(filled, second, why):
    bob, content_id = f"bob-{uuid4().hex[:6]}", "post-002"
    who = bob if why == "own" else "mia"
    _, action_id = decided_by(filled, who, content_id, "undetermined" if why == "passed on" else "violates")
    with filled.begin() as connection:
        text = select(items.c.text, items.c.content_sha256).where(items.c.content_id == content_id)
        before = connection.execute(text).mappings().one()
        policy = connection.execute(select(reviews.c.policy_id)).scalar_one()
        if why == "seen":
            seen = {"at": now(), "who": bob, "role": "reviewer", "action": "reveal", "object": content_id}
            connection.execute(audit_log.insert().values(**seen, details={}))
        if why == "withdrawn":
            other = connection.execute(select(actions).where(actions.c.content_id == content_id)).mappings().first()
            back = {**other, "action_id": uuid4().hex, "withdraws": action_id, "policy_id": None}
            connection.execute(actions.insert().values(**back))
        changed = {"edited": {"content_sha256": "0" * 64}, "gone": {"text": None}}.get(why)
        if changed:
            connection.execute(update(items).where(items.c.content_id == content_id).values(**changed))
        if why == "waits":
            connection.execute(update(review_items).values(state="open"))
    person = Browser(second, bob, "reviewer")
    if why == "avoided":
        harm = {one.id: one.gate.harms[0] if one.gate.harms else one.id for one in policies()}[policy]
        person.post("/claims/avoid", content_id="post-000", harm=harm)
    person.post("/claims")
    assert row_of(filled, checks, who=bob) is None
    with filled.begin() as connection:
        connection.execute(update(items).where(items.c.content_id == content_id).values(**before))


def test_a_second_look_whose_text_is_erased_meanwhile_writes_nothing(filled, second):
    sha, _ = decided_by(filled, "mia", "post-008")
    bob = Browser(second, f"bob-{uuid4().hex[:6]}", "reviewer")
    assert id_in(bob.post("/claims")) == "post-008"
    with filled.begin() as connection:
        connection.execute(update(items).where(items.c.content_id == "post-008").values(text=None))
    answered = bob.post("/decisions", **form("post-008", sha))
    assert "Nothing was written" in bob.get(answered.headers["location"]).text
    assert row_of(filled, reviews, golden=False, second=True) is None
    with filled.begin() as connection:
        connection.execute(update(items).where(items.c.content_id == "post-008").values(text=TEXTS[2]))
