"""Golden items, which a hostile reviewer compares with real ones, field by field, and cannot tell from them."""

import html
import itertools
import re
from datetime import timedelta
from urllib.parse import urlencode
from uuid import uuid4

import pytest
from sqlalchemy import delete, event, insert, select, update

from safeguard_streams.console.schema import (
    PROJECTED,
    actions,
    audit_log,
    checks,
    draws,
    exposures,
    golden_items,
    items,
    positions,
    reports,
    review_items,
    reviews,
    verdicts,
)
from safeguard_streams.console.store import Store
from safeguard_streams.console.web import blind, policy_drafts, upkeep
from safeguard_streams.console.web import golden_items as queueing
from safeguard_streams.console.web.app import build
from safeguard_streams.console.web.pages import decisions as page
from safeguard_streams.console.web.roles import Person
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import PolicyStanding, now
from safeguard_streams.policies.files import LIBRARY
from safeguard_streams.policies.golden import load
from tests import projected
from tests.unit.console.web.conftest import BOTH_DATABASES, Browser
from tests.unit.console.web.filling import REPLAY, policies

POLICY = policies()[0]
LANGUAGE = "en"


@pytest.fixture(autouse=True)
def fresh(filled, monkeypatch):
    """Every item waits again, without a context, and a record is an error."""

    async def refused(*_, **__):
        raise AssertionError("a golden item wrote a record")

    for name in ("decide", "undo", "undecide"):
        monkeypatch.setattr(page.decisions, name, refused)
    with filled.begin() as connection:
        for one in connection.execute(select(golden_items.c.content_id)).scalars().all():
            for table in (items, review_items):
                connection.execute(delete(table).where(table.c.content_id == one))
        connection.execute(update(review_items).values(claimed_by=None, claim_expires_at=None, state="open"))
        connection.execute(update(items).values(context=None))
        connection.execute(update(review_items).values(severity="high"))
        for table in (golden_items, checks, reviews, exposures, reports):
            connection.execute(delete(table))
        safe = [f"post-{number:03d}" for number in range(60) if number % 5 % 3 == 1]  # no id would be free
        for table in (items, verdicts):
            connection.execute(delete(table).where(table.c.content_id.in_(safe)))
        connection.execute(update(draws).values(until=now() - timedelta(days=9)))


@pytest.fixture
def app(filled, current):
    """A console in which everybody decides blind about every item, so that nothing but a mistake tells them apart."""
    return build(current.model_copy(update={"console_golden_share": 1.0, "console_blind_share": 1.0}), filled)


@pytest.fixture
def golden(filled, app):
    """A golden item that waits, of a policy with real ones beside it."""
    upkeep.once(app.state.console)
    with filled.begin() as connection:
        wanted = golden_items.c.policy_id == POLICY.id, golden_items.c.language == LANGUAGE
        one = connection.execute(select(golden_items).where(*wanted)).first()
        others = select(golden_items.c.content_id).where(golden_items.c.content_id != one.content_id)
        ids = connection.execute(others).scalars().all()  # the list shows 50 items
        for table in (golden_items, items, review_items):
            connection.execute(delete(table).where(table.c.content_id.in_(ids)))
        return one


def real_like(engine, golden):
    """A real item that waits for the same reason."""
    with engine.connect() as connection:
        same = [review_items.c[name] == golden.waits[name] for name in ("cause", "action", "effective")]
        own = select(golden_items.c.content_id)
        found = select(review_items.c.content_id, items.c.text, items.c.content_sha256).where(
            review_items.c.policy_id == golden.policy_id,
            items.c.content_id == review_items.c.content_id,
            items.c.language == golden.language,
            review_items.c.content_id.not_in(own),
            *same,
        )
        return connection.execute(found).first()


def rows(engine, table, **wanted):
    with engine.connect() as connection:
        found = select(table).where(*(table.c[name] == value for name, value in wanted.items()))
        return connection.execute(found).all()


def form(content_id, sha, **more):
    given = {"action": "remove", "rule": "", "why": "the rule", "key": uuid4().hex, **more}
    return {"content_id": content_id, "content_sha256": sha, **given}


SECRETS = re.compile(r'(name="(?:key|token|content_sha256)" value=)"[^"]*"')
TIMES = re.compile(r"<time [^>]*>[^<]*</time>")


def received(answer, item):
    """What a person receives, without what each item has of its own: id, text, length, time."""
    text = html.unescape(answer.text).replace(item.text, "TEXT").replace(item.content_id, "ID")
    text = re.sub(r"\bann-[0-9a-f]{4}\b", "ME", text)
    text = TIMES.sub("TIME", SECRETS.sub(r"\1", text))
    text = re.sub(r"[\d,]+ characters", "N characters", text)
    headers = {name: value for name, value in answer.headers.items() if name not in ("content-length", "set-cookie")}
    return answer.status_code, {name: one.replace(item.content_id, "ID") for name, one in headers.items()}, text


def row_of(text, content_id):
    """The row of the list with an item."""
    (found,) = [one for one in text.partition("<tbody>")[2].split("<tr>") if f">{content_id}<" in one]
    return TIMES.sub("TIME", found.partition("</tr>")[0].replace(content_id, "ID"))


@BOTH_DATABASES
def test_a_golden_item_has_the_rows_of_a_real_one_in_the_queue(filled, golden):
    real = real_like(filled, golden)
    for table in (items, review_items):
        (ours,), (theirs,) = (rows(filled, table, content_id=one.content_id) for one in (golden, real))
        shown = {"language", "cause", "state", "action", "effective", "rule", "edited", "policy_id", "held"}
        shown |= {"severity", "priority"}
        for name in shown & set(table.c.keys()):
            assert getattr(ours, name) == getattr(theirs, name), name
    (ours,) = rows(filled, items, content_id=golden.content_id)
    assert golden.text == ours.text
    assert golden.text in {one.text for one in load(LIBRARY / POLICY.id / "golden.jsonl")}
    assert re.fullmatch(r"post-\d{3}", golden.content_id)


@BOTH_DATABASES
def test_nothing_that_a_reviewer_receives_tells_a_golden_item_from_a_real_one(filled, golden, app):
    real = real_like(filled, golden)
    with filled.begin() as connection:  # what a real one has besides
        connection.execute(
            insert(reports).values(
                content_id=real.content_id, report_id="r", reporter="authority", reported_at=now(), reason="it hurts"
            )
        )
        connection.execute(update(review_items).where(review_items.c.content_id == real.content_id).values(edited=True))
    seen = []
    for item in (golden, real):
        name, about = f"ann-{uuid4().hex[:4]}", {"content_id": item.content_id}
        ann, sha = Browser(app, name, "reviewer"), item.content_sha256
        appeal = {"outcome": "upheld", "appeal_id": "a", "why": "w", "content_sha256": sha}
        flip = urlencode({"id": REPLAY, "policy": POLICY.id, "item": item.content_id})
        answers = {
            "list": row_of(ann.get("/queue").text, item.content_id),
            "list of the policy": row_of(ann.get(f"/queue?policy={POLICY.id}").text, item.content_id),
            "reported": item.content_id in ann.get("/queue?cause=reported").text,
            "before": received(ann.get(f"/item?id={item.content_id}"), item),
            "claim": received(ann.post("/claims", **about), item),
            "page": received(ann.get(f"/item?id={item.content_id}"), item),
            "next": received(ann.post("/claims"), item),
            "list while held": row_of(ann.get("/queue").text, item.content_id).replace(
                ann.client.headers["x-forwarded-user"], "ME"
            ),
            "go": received(ann.post("/go", to=item.content_id), item),
            "undo": received(ann.post("/decisions/undo", **about), item),
            "undo of a decision": received(ann.post("/decisions/undo", **about, decision="d"), item),
            "appeal": received(ann.post("/appeals", **about, **appeal), item),
            "stale": received(ann.post("/decisions", **form(item.content_id, "0" * 64)), item),
            "no reason": received(ann.post("/decisions", **form(item.content_id, sha, why="")), item),
            "reveal": received(ann.post("/item/text", **about), item),
            "author": received(ann.get(f"/author?id={item.content_id}"), item),
            "flip": received(ann.get(f"/replay/flip?{flip}"), item),
            "give back": received(ann.post("/claims/end", **about), item),
            "after": received(ann.get(f"/item?id={item.content_id}"), item),
            "list after": row_of(ann.get("/queue").text, item.content_id),
        }
        for given in ({"id": item.content_id}, {"policy": POLICY.id}, {"since": "2000-01-01"}, {"surface": "comment"}):
            answers[f"search {list(given)}"] = f">{item.content_id}<" in ann.get("/search?" + urlencode(given)).text
        bob = Browser(app, "bob", "reviewer")
        answers["colleague"] = received(bob.get(f"/item?id={item.content_id}"), item)
        seen.append(answers)
    for name, ours in seen[0].items():
        assert ours == seen[1][name], name
    assert (seen[0]["before"][0], seen[0]["reported"]) == (200, False)


def test_the_numbers_of_the_queue_count_golden_items_as_others(filled, golden, app):
    ann = Browser(app, "ann", "reviewer")
    page_text = ann.get(f"/queue?policy={POLICY.id}").text
    counted = len(rows(filled, review_items, state="open"))
    assert f"{counted} wait for a person" in page_text
    groups = re.findall(r'class="num">([\d,]+)</td>', page_text.partition("By policy")[2].partition('id="items"')[0])
    assert sum(map(int, groups)) == counted
    assert golden.content_id in page_text


def test_the_same_statements_read_a_golden_item_and_a_real_one(filled, golden, app):
    real, read = real_like(filled, golden), []
    for item in (golden, real):
        statements = []

        def heard(_connection, _cursor, statement, *_rest, kept=statements):
            kept.append(statement)

        event.listen(filled, "before_cursor_execute", heard)
        try:
            with filled.connect() as connection:
                facts, is_blind = blind.load(connection, Person("ann", ("reviewer",)), item.content_id, 1.0)
        finally:
            event.remove(filled, "before_cursor_execute", heard)
        assert is_blind
        known = {name: getattr(facts, name) for name in facts.__struct_fields__}
        assert known.pop("item").text == item.text
        assert known.pop("content_id") == item.content_id
        read.append((statements, known))
    assert read[0] == read[1]


@BOTH_DATABASES
def test_a_golden_item_is_handed_out_in_its_turn_and_writes_a_label_alone(filled, golden, app):
    with filled.begin() as connection:
        others = review_items.c.content_id != golden.content_id
        connection.execute(update(review_items).where(others).values(state="decided"))
    name = f"ann-{uuid4().hex[:6]}"
    ann = Browser(app, name, "reviewer")
    assert ann.post("/claims").headers["location"] == f"/item?id={golden.content_id}"
    assert golden.text in html.unescape(ann.post("/item/text", content_id=golden.content_id).text)
    rule = POLICY.violating[0]
    sent = form(golden.content_id, golden.content_sha256, rule=rule)
    answered = [ann.post("/decisions", **sent) for _ in range(2)]
    assert {one.status_code for one in answered} == {303}, "twice is once"
    told = ann.get(answered[1].headers["location"]).text
    assert f"This was a text of the golden set: {golden.expected}, {golden.rule}." in told
    (label,) = rows(filled, reviews, who=name)
    assert (label.golden, label.blind, label.second, label.action_id) == (True, True, False, None)
    assert (label.decision, label.expected, label.rule) == ("violates", golden.expected, rule)
    assert not rows(filled, items, content_id=golden.content_id)
    assert not rows(filled, review_items, content_id=golden.content_id)
    (kept,) = rows(filled, golden_items, content_id=golden.content_id)
    assert (kept.text, kept.who) == (None, name), "its text is not kept"
    with filled.connect() as connection:
        entry = select(audit_log.c.details).where(audit_log.c.who == name, audit_log.c.action == "decide")
        assert connection.execute(entry).scalars().all() == [{"action": "remove", "check": "golden"}]
    assert ann.get(f"/item?id={golden.content_id}").status_code == 404


def test_a_colleague_who_holds_a_golden_item_keeps_it(filled, golden, app):
    ann, bob = Browser(app, "ann", "reviewer"), Browser(app, "bob", "reviewer")
    ann.post("/claims", content_id=golden.content_id)
    assert "ann works on it now" in bob.get(f"/item?id={golden.content_id}").text
    refused = bob.post("/decisions", **form(golden.content_id, golden.content_sha256))
    assert (refused.status_code, "ann works on this item" in refused.text) == (409, True)
    assert not rows(filled, reviews)


def test_a_draw_is_not_computed_from_what_a_page_shows_and_is_the_same_for_all(filled, current):
    app = build(current.model_copy(update={"console_blind_share": 0.5}), filled)
    shown = [
        {
            content_id
            for content_id in (f"post-{number:03d}" for number in range(60))
            if "Decide first" in Browser(app, name, "reviewer").get(f"/item?id={content_id}").text
        }
        for name in ("ann", "bob")
    ]
    assert shown[0] == shown[1] != set()
    with filled.connect() as connection:
        (secret,) = connection.execute(select(draws.c.secret)).scalars()
    assert len(secret) == 64
    assert secret not in Browser(app, "ann", "reviewer").get("/queue").text


@pytest.mark.parametrize("why", ["context", "reported", "edited", "passed on", "no text", "before"])
def test_some_items_bring_no_golden_item_that_would_stand_out(filled, current, why):
    with filled.begin() as connection:
        if why == "context":
            connection.execute(update(items).values(context=[{"role": "user", "text": "before"}]))
        if why == "no text":
            texts = connection.execute(select(items.c.content_id, items.c.text)).all()
            connection.execute(update(items).values(text=None))
        changed = {"edited": {"edited": True}, "passed on": {"cause": "moderator"}}.get(why)
        causes = connection.execute(select(review_items.c.content_id, review_items.c.cause)).all()
        if changed:
            connection.execute(update(review_items).values(**changed))
        if why == "reported":
            for one in causes:
                values = {"report_id": "r", "reporter": "user", "reported_at": now()}
                connection.execute(insert(reports).values(content_id=one.content_id, **values))
        if why == "before":
            connection.execute(update(draws).values(until=now()))
    upkeep.once(build(current.model_copy(update={"console_golden_share": 1.0}), filled).state.console)
    assert not rows(filled, golden_items)
    with filled.begin() as connection:
        connection.execute(update(review_items).values(edited=False))
        for one in causes:
            connection.execute(
                update(review_items).where(review_items.c.content_id == one.content_id).values(cause=one.cause)
            )
        for one in texts if why == "no text" else ():
            connection.execute(update(items).where(items.c.content_id == one.content_id).values(text=one.text))


def test_an_arrival_has_its_chance_once(filled, app):
    upkeep.once(app.state.console)
    first = len(rows(filled, golden_items))
    upkeep.once(app.state.console)
    assert len(rows(filled, golden_items)) == first > 0
    times = {one.since for one in rows(filled, golden_items)}
    newest = max(one.since for one in rows(filled, review_items))
    assert max(times) <= newest <= now()


def test_golden_texts_are_of_the_language_and_of_rules_in_force_and_one_of_each_waits(filled, current, tmp_path):
    folder = tmp_path / POLICY.id
    folder.mkdir()
    rule = POLICY.safe[0]
    texts = (
        f'{{"text": "one 1", "decision": "safe", "rule": "{rule}", "kind": "clear"}}',
        '{"text": "two 2", "decision": "safe", "rule": "XX9", "kind": "clear"}',
        f'{{"text": "drei", "decision": "safe", "rule": "{rule}", "kind": "language", "language": "fi"}}',
    )
    (folder / "golden.jsonl").write_text("\n".join(texts))
    more = {"console_golden_share": 1.0, "console_policies": tmp_path}
    upkeep.once(build(current.model_copy(update=more), filled).state.console)
    assert [one.text for one in rows(filled, golden_items) if one.language == LANGUAGE] == ["one 1"]


def test_a_rebuild_brings_golden_items_back(filled, golden, app):
    kept = {table: rows(filled, table, content_id=golden.content_id) for table in (items, review_items)}
    with filled.begin() as connection:
        for table in kept:
            connection.execute(delete(table).where(table.c.content_id == golden.content_id))
    upkeep.once(app.state.console)
    for table, before in kept.items():
        assert rows(filled, table, content_id=golden.content_id) == before != []


def test_an_item_of_the_platform_with_the_same_id_is_decided_as_any_other(filled, golden, app):
    with filled.begin() as connection:
        placed = update(items).where(items.c.content_id == golden.content_id)
        connection.execute(
            placed.values(text="a real text", content_sha256="1" * 64, event_partition=0, event_offset=9)
        )
        assert queueing.find(connection, golden.content_id) is None
    upkeep.once(app.state.console)
    assert not rows(filled, golden_items, content_id=golden.content_id)
    assert len(rows(filled, items, content_id=golden.content_id)) == 1


def stood(golden, **fields):
    """What stands on an item of the platform that has the id of a golden item."""
    limited = {"action": "limit", "action_id": "a", "at": now(), "decision": "violates", **fields}
    return projected.standing(golden.content_id, [PolicyStanding("another", **limited)], effective="limit")


@pytest.mark.parametrize("order", itertools.permutations(["text", "verdict", "standing"]), ids="-".join)
@BOTH_DATABASES
def test_a_later_item_of_the_platform_takes_the_place_of_a_golden_one_whatever_is_projected_first(
    filled, golden, app, order
):
    name = golden.content_id
    records = {
        "text": (topics.ESCALATIONS, projected.escalation(3, name, "a text of the platform")),
        "verdict": (topics.VERDICTS, projected.verdict(3, name)),
        "standing": (topics.STANDING, stood(golden)),
    }
    store = Store(filled, text_days=10_000)
    store.open()
    try:
        for number, kind in enumerate(order):
            topic, value = records[kind]
            store.apply([projected.record(topic, value, offset=number, partition=77, key=name.encode())])
            with filled.connect() as connection:
                assert queueing.find(connection, name) is None, "somebody's decision would be no record"
            if number == 0:
                upkeep.once(app.state.console)
        (item,) = rows(filled, items, content_id=name)
        assert (item.text, item.author_id, item.effective) == ("a text of the platform", "author-7", "limit")
        assert not rows(filled, review_items, content_id=name, state="open"), "the platform's item does not wait"
    finally:
        with filled.begin() as connection:
            connection.execute(delete(positions).where(positions.c.partition == 77))
            for table in (items, review_items, verdicts):
                connection.execute(delete(table).where(table.c.content_id == name))


def test_an_item_that_begins_to_wait_in_the_future_ends_no_golden_items(filled, current):
    """As where the clock of an agent is wrong."""
    console = build(current.model_copy(update={"console_golden_share": 1.0}), filled).state.console
    with filled.begin() as connection:
        first = connection.execute(select(review_items)).first()
        own = update(review_items).where(
            review_items.c.content_id == first.content_id, review_items.c.policy_id == first.policy_id
        )
        connection.execute(own.values(since=now() + timedelta(days=900)))
    try:
        upkeep.once(console)
        (until,) = [one.until for one in rows(filled, draws)]
        assert until <= now()
    finally:
        with filled.begin() as connection:
            connection.execute(own.values(since=first.since))


def test_an_id_is_made_of_those_that_began_to_wait_at_the_same_time(filled, current):
    """In a queue of thousands, whose first ones in the table are of another time."""
    like = now() - timedelta(days=1)
    with filled.begin() as connection:
        shown = {"policy_id": "other", "cause": "rule", "action": "review", "effective": "review", "edited": False}
        row = {**shown, "state": "open", "priority": 1.0}
        connection.execute(
            insert(review_items),
            [
                {**row, "content_id": f"n{n:07d}", "since": like + timedelta(minutes=n - 9000)}
                for n in range(0, 9900, 9)
            ],
        )
        one = connection.execute(select(review_items).where(review_items.c.content_id == "n0009000")).one()
    try:
        with filled.connect() as connection:
            made = {int(queueing._id_like(connection, one)[1:]) for _ in range(20)}
        assert (min(made) > 8900, max(made) < 9100) == (True, True), (min(made), max(made))
    finally:
        with filled.begin() as connection:
            connection.execute(delete(review_items).where(review_items.c.policy_id == "other"))


def test_the_search_for_a_free_id_ends_where_all_are_known(filled, monkeypatch):
    asked = []
    monkeypatch.setattr(queueing, "_has", lambda _connection, _table, made: asked.append(made) or True)
    monkeypatch.setattr(queueing, "disguise", lambda *_: uuid4().hex)
    with filled.connect() as connection:
        assert queueing._id_like(connection, connection.execute(select(review_items)).first()) is None
    assert len(asked) < 1000


def test_a_golden_set_that_cannot_be_read_keeps_no_draft_longer(filled, app, monkeypatch):
    with filled.begin() as connection:
        place = policy_drafts.Place(uuid4().hex, 1, 0)
        policy_drafts.keep(connection, "zoe", POLICY.id, "a text", policy_drafts.Base("", None, None), place)
        connection.execute(update(policy_drafts.table).values(saved_at=now() - timedelta(days=31)))
    monkeypatch.setattr(queueing, "keep_up", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        upkeep.once(app.state.console)
    assert not rows(filled, policy_drafts.table, who="zoe")


def test_a_verdict_or_an_action_leads_to_no_item_that_is_decided_blind(filled, golden, app):
    real = real_like(filled, golden)
    ann = Browser(app, "ann", "reviewer")
    for table, key in ((verdicts, "verdict_id"), (actions, "action_id")):
        (row, *_) = rows(filled, table, content_id=real.content_id)
        assert ann.post("/go", to=getattr(row, key)).status_code == 404
    assert ann.post("/go", to=real.content_id).headers["location"] == f"/item?id={real.content_id}"


def test_a_search_fills_its_page_whatever_it_leaves_out(filled, current):
    with filled.connect() as connection:
        waiting = set(connection.execute(select(review_items.c.content_id)).scalars())
    blindly = build(current.model_copy(update={"console_blind_share": 1.0}), filled)
    found = Browser(blindly, "ann", "reviewer").get("/search").text
    assert not [one for one in waiting if f">{one}<" in found]
    assert "Older" not in found


def test_golden_items_are_no_projection():
    assert golden_items not in PROJECTED
    assert draws not in PROJECTED
