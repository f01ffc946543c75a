"""Claiming, revealing, deciding and undoing: who holds an item, what is recorded, and that a repeat records it once."""

import asyncio
import html
import io
import re
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from uuid import uuid4

import pytest
from pyarrow import parquet
from sqlalchemy import delete, select, update

from safeguard_streams.console.schema import actions, appeals, audit_log, exposures, review_items, reviews
from safeguard_streams.console.web import item_facts
from safeguard_streams.console.web.app import build
from safeguard_streams.console.web.blind import is_drawn
from safeguard_streams.console.web.claims import Queue
from safeguard_streams.console.web.pages import decisions as page
from safeguard_streams.console.web.writing import transaction
from safeguard_streams.contract.records import Action, content_sha256, now, verdict_id
from safeguard_streams.enforcement import decisions
from safeguard_streams.errors import BusError
from tests.unit.console.web.conftest import BOTH_DATABASES, Browser
from tests.unit.console.web.filling import REPLAY, TEXTS, policies

pytestmark = BOTH_DATABASES


@pytest.fixture(autouse=True)
def free(filled):
    """Every item is free again."""
    with filled.begin() as connection:
        connection.execute(update(review_items).values(claimed_by=None, claim_expires_at=None))


@pytest.fixture
def written(monkeypatch):
    """Stands for Kafka: what was written, once for each id, as the library does."""
    records = {}

    async def decide(_, item, action, moderator, *, cited, key):
        await asyncio.sleep(0)
        made = Action(verdict_id(key, item.content_id), item.content_id, action, now(), moderator.by, moderator.why)
        made = records.setdefault(made.action_id, made)
        records[made.action_id + " cited"] = (*cited, item.partition, item.origin, item.content_sha256)
        return made

    async def undo(_, item, decision_id, moderator):
        return records.setdefault(f"undo {decision_id}", (item.content_id, moderator.by))

    monkeypatch.setattr(page.decisions, "decide", decide)
    monkeypatch.setattr(page.decisions, "undo", undo)
    return records


def sha_of(content_id):
    return content_sha256(TEXTS[int(content_id[-3:]) % len(TEXTS)])


def form(content_id, **more):
    return {
        "content_id": content_id,
        "content_sha256": sha_of(content_id),
        "action": "remove",
        "rule": "FS1",
        "why": "a lure",
        "key": uuid4().hex,
        **more,
    }


def entries(engine, action, about):
    with engine.connect() as connection:
        wanted = select(audit_log.c.who, audit_log.c.details).where(
            audit_log.c.action == action, audit_log.c.object == about
        )
        return connection.execute(wanted).all()


def id_in(answered):
    return answered.headers["location"].removeprefix("/item?id=")


def test_a_reviewer_claims_reveals_decides_and_undoes(browser, filled, written):
    ann = browser("ann", "reviewer")
    claimed = id_in(ann.post("/claims"))
    text = TEXTS[int(claimed[-3:]) % len(TEXTS)]
    veiled = ann.get(f"/item?id={claimed}").text
    assert text not in veiled
    assert "The text is hidden" in veiled
    shown = ann.post("/item/text", content_id=claimed)
    assert text in shown.text
    assert [who for who, _ in entries(filled, "reveal", claimed)] == ["ann"]
    with filled.connect() as connection:
        assert connection.execute(select(exposures.c["count"]).where(exposures.c.who == "ann")).scalar() == 1
    assert "Items that you revealed today" in ann.get("/queue").text

    answered = ann.post("/decisions", **form(claimed))
    following = id_in(answered)
    assert following not in ("", claimed)
    (action_id,) = [name for name in written if " " not in name]
    assert (written[action_id].by, written[action_id].why, written[action_id].action) == ("ann", "a lure", "remove")
    policy, rule, partition, origin, sha = written[action_id + " cited"]
    assert (rule, partition, origin, sha) == ("FS1", 0, f"0@{int(claimed[-3:])}", sha_of(claimed))
    with filled.connect() as connection:
        label = connection.execute(select(reviews).where(reviews.c.content_id == claimed)).one()
    assert (label.who, label.decision, label.rule, label.policy_id, label.blind) == (
        "ann",
        "violates",
        "FS1",
        policy,
        False,
    )

    after = ann.get(f"/item?id={following}").text
    assert f"{claimed}: remove." in after
    undone = ann.post("/decisions/undo", content_id=claimed, decision=action_id)
    assert id_in(undone) == claimed
    assert written[f"undo {action_id}"] == (claimed, "ann")
    assert [who for who, _ in entries(filled, "undo", claimed)] == ["ann"]


def test_a_repeated_request_is_one_decision_one_label_and_one_entry(browser, filled, written):
    ann = browser("ann", "reviewer")
    ann.post("/claims", content_id="post-003")
    same = form("post-003")
    assert {ann.post("/decisions", **same).status_code for _ in range(3)} == {303}
    assert len([name for name in written if " " not in name]) == 1
    with filled.connect() as connection:
        assert len(connection.execute(select(reviews).where(reviews.c.content_id == "post-003")).all()) == 1
    assert len(entries(filled, "decide", "post-003")) == 1


def test_the_same_request_twice_at_once_is_one_label(app, filled, written, monkeypatch):
    def slow(*given):
        found = is_logged(*given)
        time.sleep(0.5)
        return found

    is_logged = page._is_logged
    monkeypatch.setattr(page, "_is_logged", slow)
    ann, same = Browser(app, "ann", "reviewer"), form("post-022")
    ann.post("/claims", content_id="post-022")
    with ThreadPoolExecutor(2) as pool:
        assert {one.status_code for one in pool.map(lambda _: ann.post("/decisions", **same), range(2))} == {303}
    with filled.connect() as connection:
        assert len(connection.execute(select(reviews).where(reviews.c.content_id == "post-022")).all()) == 1


def test_a_form_that_kafka_did_not_take_can_be_sent_as_it_was(browser, written, monkeypatch):
    async def away(*_, **__):
        raise BusError("no broker")

    ann, sent = browser("ann", "reviewer"), form("post-025", why='"><b>a reason')
    monkeypatch.setattr(page.decisions, "decide", away)
    answered = ann.post("/decisions", **sent)
    assert answered.status_code == 503
    fields = re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', answered.text)
    again = {name: html.unescape(value) for name, value in fields}
    assert {name: again[name] for name in sent} == sent
    assert 'href="/item?id=post-025"' in answered.text


def test_an_item_that_somebody_passed_on_goes_to_a_colleague(browser, filled, written):
    ann, ben = browser("ann", "reviewer"), browser("ben", "reviewer")
    with filled.begin() as connection:  # of one policy, which no other item has
        connection.execute(update(review_items).values(policy_id="rare").where(review_items.c.content_id == "post-027"))
    ann.post("/decisions", **form("post-027", action="review"))
    with filled.begin() as connection:  # long after
        connection.execute(update(review_items).values(claimed_by=None, claim_expires_at=None))
    assert ann.post("/claims", policy="rare").headers["location"] == "/queue"
    assert id_in(ben.post("/claims", policy="rare")) == "post-027"


def test_two_people_never_hold_one_item(app, filled):
    people = [Browser(app, f"person-{number}", "reviewer") for number in range(6)]
    with ThreadPoolExecutor(6) as pool:
        claimed = list(pool.map(lambda one: id_in(one.post("/claims")), people))
    assert len(set(claimed)) == 6, claimed
    again = [id_in(one.post("/claims")) for one in people]
    assert again == claimed, "who holds an undecided item continues with it"
    taken = people[0].post("/claims", content_id=claimed[1])
    assert taken.status_code == 409
    assert "person-1 works on this item" in taken.text


def test_an_item_that_somebody_else_holds_is_not_decided(browser, written):
    ann, ben = browser("ann", "reviewer"), browser("ben", "reviewer")
    ann.post("/claims", content_id="post-005")
    assert 'action="/decisions"' not in ben.get("/item?id=post-005").text
    refused = ben.post("/decisions", **form("post-005"))
    assert refused.status_code == 409
    assert not written


def test_what_a_colleague_decided_meanwhile_is_not_overridden_unseen(browser, filled, written):
    ann, content_id = browser("ann", "reviewer"), "post-018"
    key = uuid4().hex
    own = decisions.id_of(key, content_id)
    with filled.begin() as connection:
        row = connection.execute(select(actions).where(actions.c.content_id == content_id)).mappings().first()
        human = {**row, "policy_id": None, "by": "ben", "action": "remove", "acted_at": now(), "action_id": "ben's"}
        connection.execute(actions.insert().values(**human))
    refused = ann.post("/decisions", **form(content_id, action="allow"))
    assert (refused.status_code, "ben decided remove meanwhile" in refused.text) == (409, True)
    assert not written
    assert 'name="last_word" value="ben&#39;s"' in ann.get(f"/item?id={content_id}").text
    assert ann.post("/decisions", **form(content_id, action="allow", last_word="ben's", key=key)).status_code == 303
    with filled.begin() as connection:  # it is projected, and the request comes once more
        connection.execute(actions.insert().values(**{**human, "by": "ann", "acted_at": now(), "action_id": own}))
    assert ann.post("/decisions", **form(content_id, action="allow", last_word="ben's", key=key)).status_code == 303


def test_a_decision_that_nobody_followed_yet_is_not_in_effect(browser, filled):
    with filled.begin() as connection:
        row = connection.execute(select(actions).where(actions.c.content_id == "post-023")).mappings().first()
        human = {**row, "policy_id": None, "by": "ben", "action": "remove", "acted_at": now(), "action_id": "23"}
        connection.execute(actions.insert().values(**human))
    shown = " ".join(browser("ann", "reviewer").get("/item?id=post-023").text.split())
    assert "ben decided" in shown
    assert "which the enforcement agent has not followed yet" in shown
    assert "decided by ben" not in shown


def test_nobody_holds_an_item_that_waits_no_more(browser, filled):
    ann, ben = browser("ann", "reviewer"), browser("ben", "reviewer")
    ann.post("/claims", content_id="post-020")
    with filled.begin() as connection:
        connection.execute(update(review_items).where(review_items.c.content_id == "post-020").values(state="decided"))
    shown = ben.get("/item?id=post-020").text
    assert "ann works on it now" not in shown
    assert 'action="/decisions"' in shown


def test_an_item_that_waits_under_two_policies_is_claimed_whole(filled):
    with filled.begin() as connection:
        row = connection.execute(select(review_items).where(review_items.c.content_id == "post-007")).mappings().one()
        connection.execute(review_items.insert().values(**{**row, "policy_id": "another"}))
    lease = timedelta(minutes=15)
    with transaction(filled) as connection:
        assert Queue(connection, lease).claim("post-007", "ann")
        assert not Queue(connection, lease).claim("post-007", "ben")
        held = connection.execute(select(review_items.c.claimed_by).where(review_items.c.content_id == "post-007"))
        assert held.scalars().all() == ["ann", "ann"]


def test_an_abandoned_claim_returns(browser, filled):
    ann, ben = browser("ann", "reviewer"), browser("ben", "reviewer")
    ann.post("/claims", content_id="post-008")
    assert ben.post("/claims", content_id="post-008").status_code == 409
    with filled.begin() as connection:
        connection.execute(
            update(review_items).where(review_items.c.claimed_by == "ann").values(claim_expires_at=now() - timedelta(1))
        )
    assert ben.post("/claims", content_id="post-008").status_code == 303
    assert ann.post("/claims/end", content_id="post-008").status_code == 303
    with filled.connect() as connection:
        assert Queue(connection, timedelta(minutes=15)).holder("post-008") == "ben", "ann gave nothing of ben's back"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"action": "delete"}, "Choose what to do"),
        ({"why": "  "}, "Give a reason"),
        ({"key": "1"}, "out of date"),
        ({"content_sha256": "0" * 64}, "another text by now"),
        ({"rule": "no id"}, "Choose a rule"),
        ({"rule": "A" * 90_000}, "Choose a rule"),
    ],
)
def test_a_form_that_makes_no_sense_writes_nothing(browser, written, changed, said):
    answered = browser("ann", "reviewer").post("/decisions", **form("post-010", **changed))
    assert answered.status_code == 409
    assert said in answered.text
    assert not written


def test_an_unknown_item_is_not_found(browser, written):
    ann = browser("ann", "admin")
    assert ann.post("/decisions", **{**form("post-010"), "content_id": "unknown"}).status_code == 404
    assert ann.get("/item?id=unknown").status_code == 404
    assert not written


def test_a_share_is_decided_before_the_verdict_is_shown(filled, current, written):
    blind = Browser(build(current.model_copy(update={"console_blind_share": 1.0}), filled), "ann", "reviewer")
    blind.post("/claims", content_id="post-012")
    page_text = blind.get("/item?id=post-012").text
    assert "Decide first" in page_text
    for told in ("lures with a prize", "attacks people for where they come from", "Score", "to-review", "Verdicts"):
        assert told not in page_text
    assert "Decide first" in blind.post("/item/text", content_id="post-012").text, "the text shows no verdict either"
    answered = blind.post("/decisions", **form("post-012", action="allow"))
    with filled.connect() as connection:
        label = connection.execute(select(reviews).where(reviews.c.content_id == "post-012")).one()
    assert (label.blind, label.decision) == (True, "safe")
    assert "You decided before you saw the verdict" in blind.get(answered.headers["location"]).text
    assert "Decide first" not in blind.get("/item?id=post-012").text


@pytest.mark.parametrize(
    "url",
    [
        "/item?id=post-015",
        "/queue",
        "/search?id=post-015",
        "/search?decision=violates&id=post-015",
        "/search?effective=review&id=post-015",
        f"/replay/flips?id={REPLAY}&policy={policies()[0].id}",
    ],
)
def test_no_page_tells_a_verdict_before_the_decision(filled, current, url):
    app = build(current.model_copy(update={"console_blind_share": 1.0}), filled)
    shown = Browser(app, "ann", "reviewer").get(url).text
    without_forms = re.sub(r"<form.*?</form>", "", shown.partition("</nav>")[2], flags=re.DOTALL)
    about = [row for row in without_forms.split("<tr>") if "post-015" in row]
    telling = ('class="tag', "to-review", policies()[0].violating[0])
    assert not [row for row in about if any(told in row for told in telling)], url
    assert 'class="tag' in Browser(app, "otto", "auditor").get(url).text, "who cannot decide sees all"


def test_no_export_tells_a_verdict_before_the_decision(filled, current):
    app = build(current.model_copy(update={"console_blind_share": 1.0}), filled)
    root, otto = Browser(app, "root", "admin"), Browser(app, "otto", "auditor")
    with filled.begin() as connection:
        entry = {"at": now(), "who": "bob", "role": "reviewer", "action": "decide", "object": "post-015"}
        connection.execute(audit_log.insert().values(**entry, details={"action": "remove"}))
    csv, log = "/search.csv", "/audit.csv?object=post-015"
    assert "post-015," in otto.get(csv).text, "who cannot decide sees all"
    assert "post-015," not in root.get(csv).text
    assert "post-016," in root.get(csv).text, "it does not wait"
    held = [parquet.read_table(io.BytesIO(one.get("/search.parquet").content)) for one in (otto, root)]
    assert ["post-015" in one["content_id"].to_pylist() for one in held] == [True, False]
    assert ["remove" in one.get(log).text for one in (otto, root)] == [True, False]
    assert "bob" in root.get(log).text, "the entry itself stays"


@pytest.mark.parametrize("wanted", ["id=post-015", "words=claim"])
def test_no_search_tells_a_golden_item_from_one_that_is_decided_blind(filled, current, wanted):
    """Of a golden item no search finds a verdict. So it is with the others."""
    app = build(current.model_copy(update={"console_blind_share": 1.0}), filled)
    assert "after yours" not in Browser(app, "ann", "reviewer").get(f"/search?{wanted}").text
    assert "row-link" in Browser(app, "otto", "auditor").get(f"/search?{wanted}").text


def test_an_appeal_that_ended_tells_nothing_of_an_item_that_is_decided_blind(filled, current):
    app = build(current.model_copy(update={"console_blind_share": 1.0}), filled)
    at = now()
    row = {"content_id": "post-015", "appeal_id": "ended-1", "appellant": "author", "action": "limit", "not_by": []}
    with filled.begin() as connection:
        connection.execute(appeals.insert().values(**row, state="upheld", by="bob", opened_at=at, due_at=at))
    try:
        assert "ended-1" not in Browser(app, "ann", "reviewer").get("/item?id=post-015").text
        assert "ended-1" in Browser(app, "otto", "auditor").get("/item?id=post-015").text
    finally:
        with filled.begin() as connection:
            connection.execute(delete(appeals))


def test_who_saw_the_verdict_does_not_decide_blind_again(filled, current, written):
    blind = Browser(build(current.model_copy(update={"console_blind_share": 1.0}), filled), "ida", "reviewer")
    blind.post("/decisions", **form("post-017"))
    with filled.begin() as connection:  # long after, somebody took the decision back
        connection.execute(update(reviews).values(at=now() - timedelta(days=1)).where(reviews.c.who == "ida"))
        connection.execute(update(review_items).values(claimed_by=None, claim_expires_at=None))
    blind.post("/claims", content_id="post-017")
    assert "Decide first" not in blind.get("/item?id=post-017").text


def test_the_share_is_as_large_as_set_and_the_same_each_time():
    drawn = [is_drawn("secret", f"post-{number}", sha_of("post-000"), 0.05) for number in range(2000)]
    assert 60 < sum(drawn) < 140
    assert drawn == [is_drawn("secret", f"post-{number}", sha_of("post-000"), 0.05) for number in range(2000)]


def test_who_asks_not_to_see_a_harm_gets_no_more_items_of_it_today(browser):
    eve = browser("eve", "reviewer")
    first = id_in(eve.post("/claims", policy="fraud-spam"))
    assert "Not fraud_spam for me today" in eve.get(f"/item?id={first}").text
    answered = eve.post("/claims/avoid", content_id=first, harm="fraud_spam")
    assert "no more items about fraud_spam today" in eve.get(answered.headers["location"]).text
    assert eve.post("/claims", policy="fraud-spam").headers["location"] == "/queue"
    assert id_in(eve.post("/claims"))
    assert id_in(browser("ann", "reviewer").post("/claims", policy="fraud-spam")) == first


def test_an_auditor_reads_a_rationale_and_that_is_logged(browser, filled):
    verdict = verdict_id("post-001", "live")
    page_text = browser("otto", "auditor").get(f"/rationale?verdict={verdict}").text
    assert "The post 1 names a group." in page_text
    assert [who for who, _ in entries(filled, "rationale", verdict)] == ["otto"]
    assert browser("ann", "reviewer").get(f"/rationale?verdict={verdict}").status_code == 403
    assert "/rationale" not in browser("ann", "reviewer").get("/item?id=post-001").text
    assert "/rationale" in browser("otto", "auditor").get("/item?id=post-001").text
    assert len(entries(filled, "rationale", verdict)) == 1


def test_a_decision_names_the_author_of_the_item(filled):
    with filled.connect() as connection:
        facts = item_facts.load(connection, "post-010")
    assert facts is not None
    assert page.known_item(facts).author_id == facts.item.author_id == "author-3"
