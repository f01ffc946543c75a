"""Authors in the console: what stands and why, who may see and decide it, and that a repeat decides once."""

import asyncio
import json
import re
from base64 import b64decode
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from urllib.parse import quote
from uuid import uuid4

import pytest
from sqlalchemy import delete, event, insert, select, update

from safeguard_streams.authors import people
from safeguard_streams.authors.ledger import undo_id
from safeguard_streams.console.schema import (
    actions,
    appeals,
    author_actions,
    author_decisions,
    author_standings,
    draws,
    items,
    reports,
    review_items,
    strikes,
)
from safeguard_streams.console.web import author_facts
from safeguard_streams.console.web.app import build
from safeguard_streams.console.web.blind import is_drawn
from safeguard_streams.console.web.pages import authors as page
from safeguard_streams.contract.records import Strike, now
from safeguard_streams.errors import BusError
from tests.unit.console.web.conftest import BOTH_DATABASES, Browser
from tests.unit.console.web.test_decisions import entries, sha_of
from tests.unit.console.web.test_pages import found

pytestmark = BOTH_DATABASES
AUTHOR = "author-3"
NEW = "<b>of strikes alone</b>"  # an author without items


@pytest.fixture
def written(monkeypatch):
    """Stands for Kafka: the records that were written, once for each id, as the ledger follows them."""
    records = {}

    async def write(_settings, author_id, name, state, person, action=None):
        await asyncio.sleep(0)
        return records.setdefault(name, Strike(name, author_id, state, now(), action=action, by=person.by))

    monkeypatch.setattr(people, "_write", write)
    return records


@pytest.fixture
def fresh(filled):
    """An author with a strike, about whom nobody decided; the rows are gone afterwards."""
    at = now()
    row = {"strike_id": "fresh", "author_id": NEW, "state": "given", "at": at, "rule_ids": ["H1"], "weight": 2}
    with filled.begin() as connection:
        connection.execute(strikes.insert().values(**row, expires_at=at + timedelta(days=1), policy_id="p"))
    yield NEW
    with filled.begin() as connection:
        for table in (strikes, author_decisions, author_standings, author_actions):
            connection.execute(delete(table).where(table.c.author_id == NEW))


def form(author_id=NEW, **more):
    return {
        "author_id": author_id,
        "action": "suspend",
        "why": "a bought account",
        "key": uuid4().hex,
        "last_word": "",
        **more,
    }


def shown(answered):
    assert answered.status_code == 200
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", answered.text))


def test_the_page_says_what_stands_and_why(browser):
    text = shown(browser("ann", "reviewer").get(f"/author?id={AUTHOR}"))
    assert "Stands: review by the threshold spam twice in a week , 3 h ago" in text
    assert "1 strike counts, together 3." in text
    for said in (
        "counts weighs 3 · severity high · until",
        "expired weighed 1",
        "Forgiven by mia 2 d ago : a quotation",
    ):
        assert said in text
    assert "Taken back 2 d ago : the item is no longer restricted for it" in text


def test_actions_on_the_account_say_whether_they_were_lifted(browser):
    text = browser("ann", "reviewer").get(f"/author?id={AUTHOR}").text
    table = text.split('aria-label="Actions on the account"')[1].split("</table>")[0]
    rows = [shown(one) for one in map(answered, table.split("<tr>")[2:])]
    assert [row.strip().split(" ")[-1] for row in rows] == ["stands", "ago", "ago"]
    assert "lifted" in rows[2]


def test_the_page_shows_what_the_author_got(browser):
    text = shown(browser("ann", "reviewer").get(f"/author?id={AUTHOR}"))
    assert "What the author got" in text
    assert "Your account was limited. It broke a rule." in text


def answered(text):
    return type("Answer", (), {"status_code": 200, "text": f"<td {text}"})()


def test_a_strike_that_was_taken_back_names_the_decision_that_did_it(browser, filled, fresh):
    at = now()
    ended = {"state": "taken-back", "content_id": "post-901", "policy_id": "p", "ended_at": at}
    decided = {"policy_id": None, "by": "kim", "why": "satire", "acted_at": at - timedelta(milliseconds=20)}
    earlier = {"policy_id": "p", "by": None, "why": None, "acted_at": at - timedelta(hours=1)}
    with filled.begin() as connection:
        connection.execute(update(strikes).where(strikes.c.author_id == NEW).values(**ended, at=at - timedelta(days=1)))
        for name, values in (("allow", decided), ("remove", earlier)):
            fixed = {"action_id": f"a-{name}", "content_id": "post-901", "action": name, "state": "applied"}
            fixed |= {"previous": "remove", "rule_ids": [], "alert": False, "dry_run": False, "any_text": False}
            connection.execute(actions.insert().values(**fixed, **values))
    text = shown(browser("ann", "reviewer").get("/author", params={"id": NEW}))
    assert "kim decided allow , satire" in text
    with filled.begin() as connection:
        connection.execute(delete(actions).where(actions.c.content_id == "post-901"))


def test_an_author_of_items_alone_has_a_page_and_an_unknown_one_none(browser):
    text = shown(browser("ann", "reviewer").get("/author?id=author-6"))
    assert "Stands: none" in text
    assert "0 strikes count, together 0." in text
    for unknown in ("nobody", "", "%00", "x" * 5000):
        assert browser("ann", "reviewer").get(f"/author?id={unknown}").status_code == 404


def test_items_follow_page_by_page_without_gap_or_repeat(browser, monkeypatch):
    monkeypatch.setattr(author_facts, "ITEMS", 4)
    ann, url, ids = browser("ann", "reviewer"), f"/author?id={AUTHOR}", []
    while url:
        text = ann.get(url).text
        ids += re.findall(r">post-(\d+)<", text.split('id="items"')[1].split("</table>")[0])
        older = re.search(r'href="([^"#]*)#items" rel="next"', text)
        url = older and older[1].replace("&amp;", "&")
    assert [int(one) for one in ids] == [number for number in range(60) if number % 7 == 3]


def test_reports_and_appeals_are_looked_up_by_items_and_not_among_all(browser, filled):
    asked = []

    def note(_connection, _cursor, statement, *_):
        asked.append(statement)

    event.listen(filled, "before_cursor_execute", note)
    try:
        browser("ann", "reviewer").get(f"/author?id={AUTHOR}")
    finally:
        event.remove(filled, "before_cursor_execute", note)
    about = [one for one in asked if "FROM reports" in one or "FROM appeals" in one]
    assert about
    assert not any("JOIN items" in one for one in about)


def test_no_text_of_an_item_is_on_the_page_and_looking_is_logged(browser, filled):
    before = len(entries(filled, "author", AUTHOR))
    ann = browser("ann", "reviewer")
    text = ann.get(f"/author?id={AUTHOR}").text
    ann.get(f"/author?id={AUTHOR}&after=2000-01-01T00:00:00%2B00:00~x")
    with filled.connect() as connection:
        own = connection.execute(select(items.c.text).where(items.c.author_id == AUTHOR)).scalars().all()
    assert own
    assert not any(one[:20] in text for one in own)
    assert [who for who, _ in entries(filled, "author", AUTHOR)[before:]] == ["ann"]


def test_who_may_see_no_items_may_see_no_author(browser):
    ann = browser("ann", "operator")
    for url in (f"/author?id={AUTHOR}", "/accounts"):
        assert ann.get(url).status_code == 403
    assert "/accounts" not in ann.get("/").text


def test_who_may_not_decide_sees_no_form_and_the_server_refuses_it(browser, written, fresh):
    otto = browser("otto", "auditor")
    assert "/author/decisions" not in otto.get("/author", params={"id": NEW}).text
    assert otto.post("/author/decisions", **form()).status_code == 403
    assert otto.post("/author/decisions/undo", author_id=NEW, decision="d").status_code == 403
    assert written == {}


def test_items_that_somebody_decides_blind_are_nowhere_on_the_page(current, filled):
    sha = {f"post-{number:03d}": sha_of(f"post-{number:03d}") for number in range(60) if number % 7 == 3}
    drawn = {one: {name for name in sha if is_drawn(one, name, sha[name], 0.5)} for one in map(str, range(99))}
    secret, who = next(one for one, ids in drawn.items() if "post-003" in ids and len(ids) < len(sha) / 2), "ann"
    app, closed = build(type(current)(**{**current.model_dump(), "console_blind_share": 0.5}), filled), []
    with filled.begin() as connection:
        at = now()
        connection.execute(update(draws).values(secret=secret))
        report = {"content_id": "post-003", "report_id": "blind", "reporter": "user", "reported_at": at}
        connection.execute(reports.insert().values(**report))
        appeal = {"appeal_id": "blind", "appellant": "author", "state": "moot", "opened_at": at, "due_at": at}
        connection.execute(appeals.insert().values(content_id="post-003", action="remove", not_by=[], **appeal))
    try:
        text = Browser(app, who, "reviewer").get(f"/author?id={AUTHOR}").text
        assert "post-003" not in text
        assert "severity" not in text
        assert "after your decision" in text
        assert "What the author got" not in text
        assert "post-003" in Browser(app, who, "auditor").get(f"/author?id={AUTHOR}").text
        assert not [
            row for row in found(Browser(app, who, "reviewer").get(f"/search?author={AUTHOR}")) if "-003" in row
        ]
        assert not [row for row in found(Browser(app, who, "reviewer").get(f"/queue?author={AUTHOR}")) if "-003" in row]
        claimed, mine = set(), Browser(app, who, "reviewer")
        for _ in range(20):
            place = mine.post("/claims", author=AUTHOR).headers["location"]
            claimed.add(place)
            if "id=" not in place:
                break
            mine.post("/claims/end", content_id=place.partition("id=")[2])
            with filled.begin() as connection:
                ended = review_items.c.content_id == place.partition("id=")[2]
                connection.execute(update(review_items).where(ended).values(state="closed"))
                closed.append(place.partition("id=")[2])
        assert len(claimed) > 1
        assert not [place for place in claimed if "post-003" in place]
        assert not [row for row in found(Browser(app, who, "reviewer").get("/search")) if "post-003" in row]
    finally:
        with filled.begin() as connection:
            connection.execute(delete(reports).where(reports.c.report_id == "blind"))
            reopened = review_items.c.content_id.in_(closed)
            connection.execute(update(review_items).where(reopened).values(state="open"))
            connection.execute(delete(appeals).where(appeals.c.appeal_id == "blind"))


def test_pages_link_to_the_author(browser):
    ann = browser("ann", "reviewer")
    link = f'href="/author?id={AUTHOR}"'
    for url in ("/item?id=post-003", "/search?id=post-003", "/accounts"):
        assert link in ann.get(url).text, url


def test_accounts_that_wait_are_listed_oldest_first_and_filtered(browser, monkeypatch):
    ann = browser("ann", "reviewer")
    assert "2 wait for a review" in ann.get("/accounts").text
    names = [re.search(r"id=(author-\d)", row)[1] for row in found_authors(ann.get("/accounts"))]
    assert names == ["author-1", AUTHOR]
    assert len(found_authors(ann.get("/accounts?rule=spam+twice+in+a+week"))) == 1
    assert len(found_authors(ann.get("/accounts?rule=*"))) == 1
    assert not found_authors(ann.get("/accounts?rule=other"))
    monkeypatch.setattr(page, "_ROWS", 1)
    first = ann.get("/accounts")
    more = re.search(r'href="([^"]*)" rel="next"', first.text)[1].replace("&amp;", "&")
    second = found_authors(ann.get(more))
    assert [AUTHOR in row for row in (*found_authors(first), *second)] == [False, True]


def found_authors(answered):
    return [line for line in answered.text.splitlines() if 'class="id row-link" href="/author' in line]


def test_a_decision_is_written_logged_and_shown_once_it_is_projected(browser, written, filled, fresh):
    ann = browser("ann", "reviewer")
    sent = ann.post("/author/decisions", **form(key="a" * 32))
    assert sent.headers["location"] == page.author_url(NEW)
    (record,) = written.values()
    assert (record.state, record.action, record.by) == ("decided", "suspend", "ann")
    assert record.strike_id == people.id_of(NEW, "a" * 32)
    assert [(who, one["action"]) for who, one in entries(filled, "decide author", NEW)] == [("ann", "suspend")]
    text = ann.get("/author", params={"id": NEW}).text
    assert 'value="' + record.strike_id in text, "the message offers to undo it"
    project(filled, record)
    text = shown(ann.get("/author", params={"id": NEW}))
    assert "The author ledger has not followed it yet." in text
    with filled.begin() as connection:
        stands = {"author_id": NEW, "action": "suspend", "weight": 2, "since": now(), "strikes": []}
        decided = {"decision": "suspend", "decision_id": record.strike_id, "decided_at": now(), "decided_by": "ann"}
        connection.execute(insert(author_standings).values(**stands, **decided, followed=[record.strike_id]))
    text = shown(ann.get("/author", params={"id": NEW}))
    assert "not followed" not in text
    assert "Stands: suspend decided by ann 0 s ago , whatever the strikes say" in text


def project(engine, record):
    with engine.begin() as connection:
        row = {"decision_id": record.strike_id, "author_id": record.author_id, "state": record.state}
        connection.execute(insert(author_decisions).values(**row, action=record.action, at=record.at, by=record.by))


@pytest.mark.parametrize("name", ["\u4e2d" * 512, "\U0001f600" * 512, "\u4e2d" * 100])
def test_no_id_makes_a_cookie_that_browsers_drop(browser, written, filled, name):
    ann = browser("ann", "reviewer")
    ann.post("/claims", author="\u4e2d" * 100)
    with filled.begin() as connection:
        row = {"strike_id": "long", "author_id": name, "state": "given", "at": now(), "rule_ids": [], "weight": 1}
        connection.execute(strikes.insert().values(**row))
    try:
        sent = ann.post("/author/decisions", **form(author_id=quote(name)))
        assert sent.status_code == 303
        assert len(sent.headers["set-cookie"]) < 4096
        assert ann.get("/own").status_code == 200
    finally:
        with filled.begin() as connection:
            connection.execute(delete(strikes).where(strikes.c.strike_id == "long"))


def test_a_long_filter_by_author_is_kept_whole_or_not_at_all(browser):
    ann = browser("ann", "reviewer")
    for name, kept in (("a" * 300, True), ("\u4e2d" * 512, False)):
        cookie = ann.post("/claims", author=name).headers["set-cookie"].split("=", 1)[1].split(".")[0]
        session = json.loads(b64decode(cookie))
        assert session.get("queue") == ({"author": name} if kept else None)


@pytest.mark.parametrize("at_once", [True, False])
def test_a_request_that_comes_twice_is_one_decision(browser, written, filled, fresh, at_once):
    ann, sent = browser("ann", "reviewer"), form(key=uuid4().hex)
    before = len(entries(filled, "decide author", NEW))
    ann.get("/author", params={"id": NEW})
    if at_once:
        with ThreadPoolExecutor(2) as pool:
            answers = list(pool.map(lambda _: ann.post("/author/decisions", **sent), range(2)))
    else:
        answers = [ann.post("/author/decisions", **sent)]
        project(filled, *written.values())
        answers.append(ann.post("/author/decisions", **sent))
    assert [one.status_code for one in answers] == [303, 303]
    assert len(written) == len(entries(filled, "decide author", NEW)) - before == 1
    other = ann.post("/author/decisions", **{**sent, "action": "none"})
    assert (other.status_code, "sent before" in other.text) == (409, True)


def test_what_a_colleague_wrote_meanwhile_is_not_overridden(browser, written, filled, fresh):
    ann, bob = browser("ann", "reviewer"), browser("bob", "reviewer")
    bob.post("/author/decisions", **form())
    project(filled, *written.values())
    refused = ann.post("/author/decisions", **form(action="none"))
    assert (refused.status_code, "bob decided suspend meanwhile" in refused.text) == (409, True)
    assert len(written) == 1
    last = re.search(r'name="last_word" value="([^"]+)"', ann.get("/author", params={"id": NEW}).text)[1]
    assert ann.post("/author/decisions", **form(action="none", last_word=last)).status_code == 303


def test_a_decision_is_undone_also_before_it_is_projected_and_twice_is_once(browser, written, filled, fresh):
    ann, before = browser("ann", "reviewer"), len(entries(filled, "undo author", NEW))
    ann.post("/author/decisions", **form())
    (decision,) = written.values()
    for _ in range(2):
        undone = ann.post("/author/decisions/undo", author_id=NEW, decision=decision.strike_id)
        assert undone.status_code == 303
    project(filled, decision)
    project(filled, written[undo_id(NEW, decision.strike_id)])
    assert ann.post("/author/decisions/undo", author_id=NEW, decision=decision.strike_id).status_code == 303
    assert [one.state for one in written.values()] == ["decided", "undecided"]
    assert len(entries(filled, "undo author", NEW)) - before == 1
    assert "Undo the decision" not in ann.get("/author", params={"id": NEW}).text


def test_an_undo_ends_no_other_decision(browser, written, filled, fresh):
    ann, bob = browser("ann", "reviewer"), browser("bob", "reviewer")
    nothing = ann.post("/author/decisions/undo", author_id=NEW, decision="invented")
    assert (nothing.status_code, "Nobody decided" in nothing.text) == (409, True)
    ann.post("/author/decisions", **form(key="b" * 32))
    own = people.id_of(NEW, "b" * 32)
    project(filled, written[own])
    bob.post("/author/decisions", **form(key="c" * 32, last_word=own, action="warn"))
    project(filled, written[people.id_of(NEW, "c" * 32)])
    for decision in (own, "invented"):
        refused = ann.post("/author/decisions/undo", author_id=NEW, decision=decision)
        assert (refused.status_code, "bob decided warn meanwhile" in refused.text) == (409, True)
    assert len(written) == 2


@pytest.mark.parametrize(
    ("fields", "status", "says"),
    [
        ({"action": "remove"}, 409, "Choose what is to stand"),
        ({"action": ""}, 409, "Choose what is to stand"),
        ({"why": "  "}, 409, "Give a reason"),
        ({"key": "x"}, 409, "out of date"),
        ({"author_id": "nobody"}, 404, "knows no author"),
    ],
)
def test_a_form_that_makes_no_sense_writes_nothing(browser, written, fresh, fields, status, says):
    refused = browser("ann", "reviewer").post("/author/decisions", **form(**fields))
    assert (refused.status_code, says in refused.text) == (status, True)
    assert written == {}


def test_a_form_of_another_site_is_refused(browser, written, fresh):
    ann = browser("ann", "reviewer")
    assert ann.client.post("/author/decisions", data={**form(), "token": "forged"}).status_code == 403
    assert written == {}


def test_while_kafka_is_away_a_decision_can_be_sent_once_more(browser, monkeypatch, filled, fresh):
    async def away(*_, **__):
        raise BusError("no broker")

    monkeypatch.setattr(people, "_write", away)
    before = len(entries(filled, "decide author", NEW))
    answered = browser("ann", "reviewer").post("/author/decisions", **form(key="d" * 32))
    assert answered.status_code == 503
    assert "d" * 32 in answered.text, "the form is on the page, to be sent again"
    assert len(entries(filled, "decide author", NEW)) == before


def test_strikes_older_than_their_topic_keeps_come_from_what_stands(browser, filled, fresh):
    kept = {"strike_id": "old", "state": "given", "at": "2020-01-01T00:00:00Z", "expires_at": "9000-01-01T00:00:00Z"}
    kept |= {"policy_id": "p", "rule_ids": ["R9"], "severity": None, "rule": "grave", "weight": 7}
    with filled.begin() as connection:
        stands = {"author_id": NEW, "action": "limit", "weight": 9, "since": now(), "rule": "many", "followed": []}
        connection.execute(insert(author_standings).values(**stands, strikes=[kept]))
    text = shown(browser("ann", "reviewer").get("/author", params={"id": NEW}))
    assert "2 strikes count, together 9." in text
    assert "2020-01-01 00:00:00 counts weighs 7" in text
    assert "R9" in text
    assert "erased, or past its time" in text
