"""Checks of reviewers: golden items and second looks, which nobody can tell from items that are decided blind."""

import html
import re
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
    policy_releases,
    review_items,
    reviews,
)
from safeguard_streams.console.web.app import build
from safeguard_streams.console.web.checks import _disguise, _hand_out, _varied
from safeguard_streams.console.web.pages import decisions as page
from safeguard_streams.contract.records import content_sha256, now
from safeguard_streams.policies.files import LIBRARY
from safeguard_streams.policies.golden import load
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
def golden(filled, current):
    return build(current.model_copy(update={"console_golden_share": 1.0}), filled)


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


@BOTH_DATABASES
def test_a_golden_item_looks_like_others_and_writes_a_label_alone(filled, golden):
    name = f"ann-{uuid4().hex[:6]}"
    ann = Browser(golden, name, "reviewer")
    shown = id_in(ann.post("/claims", policy="fraud-spam", language="en"))
    assert re.fullmatch(r"post-\d{3}", shown)
    with filled.connect() as connection:
        assert shown not in connection.execute(select(items.c.content_id)).scalars().all()
    check = row_of(filled, checks, who=name)
    texts = {one.text: one for one in load(LIBRARY / "fraud-spam" / "golden.jsonl")}
    assert check.text in texts
    assert texts[check.text].language == "en", "as the item that it replaces"
    page_text = ann.get(f"/item?id={shown}").text
    assert "Decide first" in page_text
    assert "you hold it" in page_text
    assert "golden" not in page_text.lower()
    assert ann.post("/claims").headers["location"] == f"/item?id={shown}", "who holds one continues with it"
    assert "Continue with the item you hold" in ann.get("/queue").text
    assert ann.post("/go", to=shown).headers["location"] == f"/item?id={shown}"
    assert row_of(filled, checks, who=name).text in html.unescape(ann.post("/item/text", content_id=shown).text)
    assert Browser(golden, "bob", "reviewer").get(f"/item?id={shown}").status_code == 404, "nobody else has it"

    sent = form(shown, check.content_sha256, rule="FS1")
    answered = [ann.post("/decisions", **sent) for _ in range(2)]
    assert {one.status_code for one in answered} == {303}, "twice is once"
    told = ann.get(answered[1].headers["location"]).text
    assert f"This was a text of the golden set: {check.expected}, {check.rule}." in told
    label = row_of(filled, reviews, who=name)
    assert (label.golden, label.blind, label.second, label.action_id) == (True, True, False, None)
    assert (label.decision, label.expected, label.rule) == ("violates", check.expected, "FS1")
    assert row_of(filled, checks, who=name, content_id=shown).text is None, "its text is not kept"
    with filled.connect() as connection:
        entry = select(audit_log.c.details).where(audit_log.c.who == name, audit_log.c.action == "decide")
        assert connection.execute(entry).scalars().all() == [{"action": "remove", "check": "golden"}]


def test_a_page_of_a_check_differs_from_one_that_is_decided_blind_in_nothing_but_its_item(filled, golden, current):
    ann = Browser(golden, "ann", "reviewer")
    checked = id_in(ann.post("/claims", policy="fraud-spam", language="en"))
    blind = Browser(build(current.model_copy(update={"console_blind_share": 1.0}), filled), "ann", "reviewer")
    with filled.begin() as connection:
        language = select(items.c.language).where(items.c.content_id == review_items.c.content_id).scalar_subquery()
        same = review_items.c.policy_id == "fraud-spam", language == "en"
        waits = connection.execute(select(review_items.c.content_id).where(*same)).scalars().first()
    blind.post("/claims", content_id=waits)

    def shape(one, content_id):
        text = one.get(f"/item?id={content_id}").text.replace(content_id, "ID")
        text = re.sub(r'(name="(?:key|token|content_sha256)" value=)"[^"]+"', r"\1", text)
        return re.sub(r"[\d,]+ characters(, with \d+ earlier messages)?", "", text)

    assert shape(ann, checked) == shape(blind, waits)


@BOTH_DATABASES
def test_nobody_gets_a_golden_text_twice_and_none_that_is_not_of_the_policy_in_force(filled, golden, current, tmp_path):
    folder = tmp_path / "fraud-spam"
    folder.mkdir()
    rows = (
        '{"text": "one 1", "decision": "safe", "rule": "FS4", "kind": "clear"}',
        '{"text": "two 2", "decision": "safe", "rule": "XX9", "kind": "clear"}',
        '{"text": "drei", "decision": "safe", "rule": "FS4", "kind": "language", "language": "fi"}',
    )
    (folder / "golden.jsonl").write_text("\n".join(rows))
    settings = {"console_golden_share": 1.0, "console_policies": tmp_path}
    ann = Browser(build(current.model_copy(update=settings), filled), "ann", "reviewer")
    shown = id_in(ann.post("/claims", policy="fraud-spam", language="en"))
    check = row_of(filled, checks, who="ann")
    assert check.text == "one 1"
    following = id_in(ann.post("/decisions", **form(shown, check.content_sha256, action="allow")))
    assert row_of(filled, items, content_id=following) is not None, "the next one waits in the queue"
    assert row_of(filled, checks, who="ann").key is not None


def test_a_check_that_is_given_back_or_abandoned_ends(filled, golden, current):
    ann = Browser(golden, "ann", "reviewer")
    shown = id_in(ann.post("/claims"))
    assert ann.post("/claims/end", content_id=shown).headers["location"] == "/queue"
    assert row_of(filled, checks, who="ann") is None
    id_in(ann.post("/claims"))
    with filled.begin() as connection:
        connection.execute(update(checks).values(since=now() - timedelta(hours=1)))
    plain = Browser(build(current, filled), "ann", "reviewer")
    assert row_of(filled, items, content_id=id_in(plain.post("/claims"))) is not None
    assert row_of(filled, checks, who="ann") is None


def test_a_check_counts_towards_the_limit_of_its_harm_and_stays_once_it_is_revealed(filled, golden):
    ann = Browser(golden, f"ann-{uuid4().hex[:6]}", "reviewer", "operator")
    ann.post("/exposure", harm="fraud_spam", most="1")
    shown = id_in(ann.post("/claims", policy="fraud-spam", language="en"))
    assert ann.post("/item/text", content_id=shown).status_code == 200
    assert id_in(ann.post("/claims")) == shown
    ann.post("/claims/end", content_id=shown)
    assert ann.post("/claims", policy="fraud-spam", language="en").headers["location"] == "/queue"
    ann.post("/exposure", harm="fraud_spam", most="")


def test_a_check_that_nobody_revealed_ends_with_the_limit_of_its_harm(filled, golden):
    ann = Browser(golden, f"ann-{uuid4().hex[:6]}", "reviewer", "operator")
    shown = id_in(ann.post("/claims", policy="fraud-spam", language="en"))
    ann.post("/exposure", harm="fraud_spam", most="0")
    assert ann.post("/claims", policy="fraud-spam", language="en").headers["location"] == "/queue"
    assert "Take a break" in ann.post("/item/text", content_id=shown).text
    ann.post("/exposure", harm="fraud_spam", most="")


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


def test_an_empty_queue_and_a_policy_out_of_force_give_no_check(filled, golden):
    ann = Browser(golden, "ann", "reviewer")
    assert ann.post("/claims", policy="none").headers["location"] == "/queue"
    with filled.begin() as connection:
        connection.execute(update(policy_releases).values(place="was in force"))
    try:
        assert row_of(filled, items, content_id=id_in(ann.post("/claims"))) is not None
    finally:
        with filled.begin() as connection:
            connection.execute(update(policy_releases).values(place="in-force"))


@pytest.mark.parametrize(
    ("like", "pattern"),
    [
        ("7", r"\d"),
        ("1042917", r"104\d{4}"),
        ("3f9a8c1e5b2d4f60", r"3f9a8c1e[0-9a-f]{8}"),
        ("01HZX3K9QW5T8RPM", r"01HZX3K9[0-9A-Z]{8}"),
        ("post12", r"pos[t]\d\d"),
    ],
)
def test_an_id_is_varied_in_its_second_half_and_keeps_its_shape(like, pattern):
    made = {_varied(like) for _ in range(50)}
    assert len(made) > 5
    assert all(re.fullmatch(pattern, one) for one in made)


def test_the_id_of_a_golden_item_is_one_that_no_check_had(filled):
    like = "thread-5"
    with filled.begin() as connection:
        others = [f"thread-{digit}" for digit in range(10) if digit != 5]
        for content_id in others[1:]:
            _hand_out(connection, "ann", content_id, "fraud-spam")
        made = {_disguise(connection, like) for _ in range(5)} - {None}  # None: chance missed the only free one
        _hand_out(connection, "bob", others[0], "fraud-spam")
        assert made <= {others[0]}
        assert _disguise(connection, like) is None, "all ids of this shape were shown to somebody"
