"""The Quality page: figures of decisions as they stand, disputes, labels, and what each role sees of them."""

import re
from datetime import timedelta
from uuid import uuid4

import orjson
import pytest
from sqlalchemy import delete, select

from safeguard_streams.console.schema import actions, audit_log, checks, items, reviews, verdicts
from safeguard_streams.console.web import judgements
from safeguard_streams.contract.records import now
from tests.unit.console.web.conftest import BOTH_DATABASES

POLICY = "fraud-spam"  # of the items whose number is 1 more than a multiple of 3


@pytest.fixture(autouse=True)
def nobody_decided(filled):
    with filled.begin() as connection:
        connection.execute(delete(reviews))


def said(engine, who, number, decision, **more):
    """Somebody decided about an item, whose verdict they had seen."""
    content_id = f"post-{number:03d}"
    with engine.begin() as connection:
        item = connection.execute(select(items).where(items.c.content_id == content_id)).one()
        verdict = connection.execute(select(verdicts).where(verdicts.c.content_id == content_id)).one()
        row = {"who": who, "content_id": content_id, "policy_id": verdict.policy_id, "decision": decision, "at": now()}
        row |= {"content_sha256": item.content_sha256, "verdict_id": verdict.verdict_id, "action_id": uuid4().hex}
        row |= {"blind": False, "golden": False, "second": False, **more}
        connection.execute(reviews.insert().values(**row))
    return content_id, row["action_id"]


def look(engine, who, number, decision):
    return said(engine, who, number, decision, blind=True, second=True, action_id=None)


def golden(engine, who, number, decision, expected):
    row = {"golden": True, "blind": True, "expected": expected, "action_id": None, "verdict_id": None}
    said(engine, who, number, decision, **row, content_sha256=f"{number:064d}")


def rows(engine, **wanted):
    with engine.connect() as connection:
        return judgements.load(connection, now() - timedelta(days=30), **wanted)


def cells(page, after):
    """The rows of the table after a caption or a heading, without markup."""
    table = page.split(after, 1)[1].split("</tbody>")[0].split("<tbody>")[1]
    plain = [re.sub(r"<[^>]+>", "|", row) for row in table.split("<tr>")[1:]]
    return [[cell.strip() for cell in row.split("|") if cell.strip()] for row in plain]


@BOTH_DATABASES
def test_people_are_compared_where_neither_knew_of_the_other(filled):
    for number in range(20):
        said(filled, "mia", number, "violates" if number % 2 else "safe")
        look(filled, "bob", number, "violates" if number % 2 or number < 4 else "safe")
        said(filled, "eve", number, "violates", second=True)  # who saw what mia had decided
    (whole, *by_policy), (pair,) = judgements.among_people(rows(filled)), judgements.pairs(rows(filled))
    assert whole[0] == "*"
    assert sum(one.items for _, one in by_policy) == whole[1].items == 20
    assert (pair.first, pair.second, pair.agreement.items) == ("bob", "mia", 20)
    assert pair.agreement.value == pytest.approx(0.8)
    assert whole[1].same == pytest.approx(0.9)
    assert judgements.with_colleagues(rows(filled, judged_by="bob"), "bob").value == pytest.approx(0.9)


@BOTH_DATABASES
def test_a_person_counts_once_for_an_item_with_their_last_word_that_stands(filled):
    for number in range(12):
        said(filled, "mia", number, "safe")
        content_id, action_id = said(filled, "mia", number, "violates")
        look(filled, "bob", number, "violates")
    assert judgements.pairs(rows(filled))[0].agreement.same == 1
    with filled.begin() as connection:  # the last word about one item is taken back
        row = connection.execute(select(actions)).mappings().first()
        back = {**row, "action_id": uuid4().hex, "content_id": content_id, "withdraws": action_id, "policy_id": None}
        connection.execute(actions.insert().values(**back))
    said(filled, "mia", 30, "undetermined")
    pair = judgements.pairs(rows(filled))[0].agreement
    assert (pair.items, pair.same) == (12, pytest.approx(11 / 12))


def test_agreement_with_the_model_keeps_blind_decisions_apart(filled):
    with filled.connect() as connection:
        model = dict(connection.execute(select(verdicts.c.content_id, verdicts.c.decision)).all())
    numbers = [int(name[-3:]) for name, decision in model.items() if decision != "undetermined"]
    for number in numbers:
        says = model[f"post-{number:03d}"]
        said(filled, "mia", number, says, rule="FS1")
        other = "safe" if says == "violates" else "violates"
        said(filled, "bob", number, other if number % 5 == 0 else says, blind=True)
    whole, *policies = judgements.with_model(rows(filled))
    assert whole.seen.value == 1
    assert 0 < whole.blind.value < 1
    assert (whole.blind.items, whole.seen.items) == (len(numbers), len(numbers))
    assert sum(one.blind.items for one in policies) == len(numbers)
    undetermined = next(int(name[-3:]) for name, decision in model.items() if decision == "undetermined")
    said(filled, "mia", undetermined, "violates")
    assert judgements.with_model(rows(filled))[0].seen.items == len(numbers)


def test_a_rule_is_compared_as_people_and_the_model_cite_it(filled):
    with filled.connect() as connection:
        cited = {one.content_id: one for one in connection.execute(select(verdicts)).all() if one.policy_id == POLICY}
    for name, one in cited.items():
        if one.decision != "undetermined":
            rule = one.rule_ids[0] if one.decision == "violates" else None
            said(filled, "mia", int(name[-3:]), one.decision, rule=rule)
            said(filled, "bob", int(name[-3:]), "violates", rule=None)  # of no rule: says nothing about any
    found = {one.rule: one for one in judgements.by_rule(rows(filled, policy_id=POLICY))}
    assert set(found) == {"FS1"}
    assert (found["FS1"].seen.value, found["FS1"].blind.items) == (1, 0)


def test_golden_items_are_counted_by_person_and_policy_and_in_nothing_else(filled):
    for number, decision in enumerate(["violates"] * 8 + ["safe", "undetermined"]):
        golden(filled, "mia", 1 + 3 * number, decision, "violates")
    golden(filled, "bob", 1, "safe", "safe")
    golden(filled, "bob", 1, "violates", "safe")  # who got a text before knows the answer
    found = judgements.golden(rows(filled))
    assert [(one.who, one.policy_id, one.right.count, one.right.of) for one in found] == [
        ("bob", POLICY, 1, 1),
        ("mia", POLICY, 8, 10),
    ]
    assert judgements.among_people(rows(filled))[0][1].items == 0
    assert judgements.with_model(rows(filled))[0].blind.items == 0
    assert judgements.weeks(rows(filled))[0].golden.of == 11


def test_weeks_begin_on_monday(filled):
    old = now() - timedelta(days=8)
    said(filled, "mia", 1, "safe", at=old)
    said(filled, "mia", 4, "safe")
    weeks = judgements.weeks(rows(filled))
    assert [one.begins.weekday() for one in weeks] == [0, 0]
    assert [one.decisions for one in weeks] == [1, 1]
    assert weeks[0].begins > weeks[1].begins


@BOTH_DATABASES
def test_a_second_look_that_differs_is_listed_until_it_is_settled(filled, browser):
    said(filled, "mia", 4, "safe")
    look(filled, "bob", 4, "violates")
    said(filled, "mia", 7, "safe")
    look(filled, "bob", 7, "safe")
    page = browser("otto", "auditor").get("/quality").text
    assert cells(page, "Second looks that differ</h2>")[0][:6] == ["post-004", POLICY, "safe", "mia", "violates", "bob"]
    with filled.begin() as connection:  # an admin has a second look at it now
        check = {"who": "ada", "content_id": "post-004", "policy_id": POLICY, "since": now()}
        connection.execute(checks.insert().values(**check))
        entry = {"who": "mia", "role": "reviewer", "action": "decide", "object": "post-004", "at": now()}
        connection.execute(audit_log.insert().values(**entry, details={"action": "removed-it"}))
    assert "post-004" not in browser("ada", "admin").get("/quality").text
    assert "removed-it" not in browser("ada", "admin").get("/audit?object=post-004").text
    assert "removed-it" in browser("otto", "auditor").get("/audit?object=post-004").text
    assert "decide about its item first" in browser("ada", "admin").get(f"/rationale?verdict={verdict(filled, 4)}").text
    with filled.begin() as connection:
        connection.execute(delete(checks))
    said(filled, "lea", 4, "violates")
    assert "None waits to be settled" in browser("otto", "auditor").get("/quality").text


def verdict(engine, number):
    with engine.connect() as connection:
        about = verdicts.c.content_id == f"post-{number:03d}"
        return connection.execute(select(verdicts.c.verdict_id).where(about)).scalar_one()


def test_the_page_says_not_enough_and_never_a_number_that_is_none(browser, filled):
    for url in ("/quality", f"/quality?policy={POLICY}", "/quality?days=7&policy=none", "/own"):
        page = browser("ada", "admin").get(url)
        assert page.status_code == 200
        assert "nan" not in re.sub(r"<[^>]*>", "", page.text).lower().split()
    said(filled, "mia", 4, "safe")
    look(filled, "bob", 4, "safe")
    page = browser("otto", "auditor").get("/quality").text
    assert cells(page, "Krippendorff")[0] == ["all policies", "not enough", "100%", "1"]


def test_the_page_is_filtered_by_policy_and_time(browser, filled):
    said(filled, "mia", 4, "safe")
    said(filled, "mia", 3, "safe")
    said(filled, "mia", 5, "safe", at=now() - timedelta(days=60))
    for query, shown in (("", 3), ("?days=30", 2), (f"?policy={POLICY}", 1), ("?days=junk", 3)):
        page = browser("otto", "auditor").get(f"/quality{query}").text
        assert f"{shown} decisions of people" in page, query


def test_a_reviewer_sees_their_own_figures_alone(browser, filled):
    golden(filled, "rita", 1, "violates", "violates")
    golden(filled, "mallory", 4, "safe", "violates")
    said(filled, "mallory", 7, "safe")
    look(filled, "rita", 7, "safe")
    assert browser("rita", "reviewer").get("/quality").status_code == 403
    page = browser("rita", "reviewer").get("/own").text
    assert "mallory" not in page
    assert 'href="/quality"' not in page
    assert "2 of yours" in page
    assert "decided the same in 1 of 1 cases" in page
    assert cells(page, "Texts of golden sets that you got")[0][:2] == [POLICY, "100%"]


@BOTH_DATABASES
def test_labels_are_downloaded_by_who_may_export_and_that_is_logged(browser, filled):
    said(filled, "mia", 4, "violates", rule="FS1", blind=True)
    said(filled, "mia", 7, "safe")
    otto = browser("otto", "auditor")
    assert "/quality/labels" in otto.get("/quality").text
    assert "/quality/labels" not in browser("anna", "author").get("/quality").text
    assert browser("anna", "author").get(f"/quality/labels?policy={POLICY}").status_code == 403
    answered = otto.get(f"/quality/labels?policy={POLICY}")
    assert answered.headers["content-disposition"] == 'attachment; filename="labels.jsonl"'
    assert {orjson.loads(line)["violates"] for line in answered.content.splitlines()} == {True, False}
    rows_of_set = otto.get(f"/quality/labels?policy={POLICY}&as_golden=1&blind_only=1").content.splitlines()
    assert [orjson.loads(line)["rule"] for line in rows_of_set] == ["FS1"]
    with filled.connect() as connection:
        entries = select(audit_log.c.object).where(audit_log.c.action == "export", audit_log.c.who == "otto")
        assert f"labels of {POLICY}" in connection.execute(entries).scalars().all()
    assert otto.get("/quality/labels?policy=unknown").content == b""
    unknown = otto.get("/quality/labels?policy=unknown&as_golden=1")
    assert (unknown.status_code, "needs the rules" in unknown.text) == (409, True)
    assert otto.get(f"/quality/labels?policy={POLICY}&since=soon").status_code == 409


@BOTH_DATABASES
def test_labels_hold_no_item_that_the_person_is_to_decide_blind(browser, filled, monkeypatch):
    monkeypatch.setattr("safeguard_streams.console.web.pages.quality._LOOKED_UP", 1)
    said(filled, "mia", 4, "violates")
    said(filled, "mia", 7, "safe")
    url = f"/quality/labels?policy={POLICY}"
    with filled.begin() as connection:
        check = {"who": "ada", "content_id": "post-004", "policy_id": POLICY, "since": now()}
        connection.execute(checks.insert().values(**check))
    try:
        own = [orjson.loads(line)["violates"] for line in browser("ada", "admin").get(url).content.splitlines()]
        assert own == [False]
        for name, role in (("otto", "auditor"), ("eve", "admin")):
            assert len(browser(name, role).get(url).content.splitlines()) == 2
    finally:
        with filled.begin() as connection:
            connection.execute(delete(checks))


def test_hostile_names_are_shown_and_do_nothing(browser, filled):
    name = "<script>alert(1)</script>\u202e\x1b[31m"
    said(filled, name, 4, "safe")
    said(filled, name, 4, "safe", second=True)
    look(filled, name + "2", 4, "violates")
    golden(filled, name, 7, "safe", "safe")
    page = browser("otto", "auditor").get("/quality").text
    assert page.count("&lt;script&gt;alert(1)") >= 3
    for sign in ("<script>alert", "\u202e", "\x1b"):
        assert sign not in page
