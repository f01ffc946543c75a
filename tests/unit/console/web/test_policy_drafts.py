"""Drafts of policies: kept by person, restored, compared with what was released meanwhile, and seen by nobody else."""

import html
import re
from datetime import timedelta
from uuid import uuid4

import pytest
from sqlalchemy import delete, select, update

from safeguard_streams.console.schema import audit_log, policy_drafts, policy_releases
from safeguard_streams.console.web import policy_drafts as drafts
from safeguard_streams.console.web import upkeep
from safeguard_streams.console.web.policy_drafts import Base, Place
from safeguard_streams.contract.records import now
from safeguard_streams.policies.parsing import MAX_CHARACTERS
from tests.unit.console.web.conftest import BOTH_DATABASES, Browser
from tests.unit.console.web.filling import policies

POLICY = policies()[0]
AREA = re.compile(r'<textarea id="document"[^>]*>\n(.*?)</textarea>', re.DOTALL)
FIELD = re.compile(r'<input type="hidden" name="(\w+)" value="([^"]*)">')
URL = f"/policy/edit?id={POLICY.id}"
PARTIAL = {"hx-request": "true"}
EDITED = POLICY.document + "\nA line that nobody released.\n"


@pytest.fixture(autouse=True)
def none_yet(filled):
    with filled.begin() as connection:
        connection.execute(delete(policy_drafts))


@pytest.fixture
def ann(app):
    return Browser(app, "ann", "author")


def opened(browser, url=URL):
    """The fields of the editor's form, and its text."""
    text = browser.get(url).text
    form = text[text.index('<form id="editor"') :]
    return dict(FIELD.findall(form)), html.unescape(AREA.search(form)[1]), " ".join(text.split())


def keep(browser, fields, document, **more):
    """Keep a text as the editor's script does."""
    browser.client.headers.update(PARTIAL)
    try:
        sent = {**fields, "document": document, **more}
        return browser.post("/policy/draft", **{name: one for name, one in sent.items() if name != "token"})
    finally:
        browser.client.headers.pop("hx-request", None)


def row(engine, who="ann"):
    with engine.connect() as connection:
        return drafts.find(connection, who, POLICY.id)


def test_a_draft_comes_back_with_a_notice_and_is_discarded(filled, ann, app):
    fields, document, text = opened(ann)
    assert (document, "your draft" in text.lower()) == (POLICY.document, False)
    answer = keep(ann, fields, EDITED.replace("\n", "\r\n"))
    assert (answer.status_code, answer.json()["saved"]) == (200, 1)
    again = Browser(app, "ann", "author")  # another session, as after a crash
    _, document, text = opened(again)
    assert document == EDITED
    assert "This is the text of your draft" in text
    assert "Nobody else reads it" in text
    assert POLICY.id in again.get("/policies").text.partition("Your drafts")[2]
    discarded = again.post("/policy/draft/discard", id=POLICY.id).headers["location"]
    assert "The draft is discarded" in again.get(discarded).text
    assert opened(again)[1] == POLICY.document
    assert row(filled) is None
    with filled.connect() as connection:
        logged = select(audit_log.c.action, audit_log.c.details).where(audit_log.c.object == POLICY.id)
        assert ("discard draft", {}) in [tuple(one) for one in connection.execute(logged)]


def test_without_scripts_a_button_keeps_the_draft(filled, ann):
    fields, _, text = opened(ann)
    assert 'formaction="/policy/draft"' in text
    fields.pop("token")
    answered = ann.post("/policy/draft", **fields, document=EDITED)
    assert (answered.status_code, answered.headers["location"]) == (303, URL)
    assert "Kept as your draft" in opened(ann)[2]
    assert row(filled).document == EDITED


def test_nobody_else_reads_a_draft_until_it_is_shared_and_nobody_else_changes_it(filled, ann, app):
    keep(ann, opened(ann)[0], EDITED)
    bob, shared = Browser(app, "bob", "author"), f"{URL}&from=shared&of=ann"
    for url in (URL, shared, f"{URL}&from=draft"):
        assert opened(bob, url)[1] == POLICY.document
    bob.post("/policy/draft/discard", id=POLICY.id)
    bob.post("/policy/draft/share", id=POLICY.id, shared="1")
    assert (row(filled).document, row(filled).shared) == (EDITED, False)
    ann.post("/policy/draft/share", id=POLICY.id, shared="1")
    assert "Begin from the draft that ann shares" in opened(bob)[2]
    fields, document, _ = opened(bob, shared)
    assert document == EDITED
    keep(bob, fields, document + "and bob")
    assert row(filled).document == EDITED
    assert row(filled, "bob").document == EDITED + "and bob"
    ann.post("/policy/draft/share", id=POLICY.id)
    assert opened(bob, shared)[1] != EDITED


def test_changes_of_one_page_that_arrive_late_change_nothing(filled, ann):
    fields = opened(ann)[0]
    keep(ann, fields, "second", number="7")
    late = keep(ann, fields, "first", number="6")
    assert (late.status_code, row(filled).document) == (200, "second")


def test_a_page_that_is_older_than_the_draft_does_not_replace_it(filled, ann):
    first, second = opened(ann)[0], opened(ann)[0]
    keep(ann, first, "of the first window")
    refused = keep(ann, second, "of the second window")
    assert (refused.status_code, "Another window of yours" in refused.text) == (409, True)
    assert row(filled).document == "of the first window"
    assert keep(ann, opened(ann)[0], "after a look").status_code == 200
    assert keep(ann, first, "the first once more", number="9").status_code == 409


@pytest.mark.parametrize("at", ["released", "in git"])
def test_what_changed_meanwhile_is_shown_and_the_draft_is_based_on_it(filled, ann, at):
    with filled.begin() as connection:
        before = connection.execute(select(policy_releases).where(policy_releases.c.key == POLICY.id)).mappings().one()
    keep(ann, opened(ann)[0], EDITED)
    if at == "in git":
        with filled.begin() as connection:
            connection.execute(update(policy_drafts).values(base="another"))
        assert "The file in git changed" in opened(ann)[2]
    else:
        newer = {"version": "feedfeedfeed", "revision": 9, "document": POLICY.document + "\nA line of mia.\n"}
        with filled.begin() as connection:
            changed = {**newer, "released_by": "mia", "why": "prizes", "released_at": now()}
            connection.execute(update(policy_releases).where(policy_releases.c.key == POLICY.id).values(**changed))
        text = opened(ann)[2]
        assert f"based on version <code>{POLICY.version}</code>, revision 2" in text
        assert "mia released version <code>feedfeedfeed</code>, revision 9" in text
        assert '<span class="added">+A line of mia.</span>' in text
        assert '<span class="removed">-A line of mia.</span>' in text
        assert '<span class="added">+A line that nobody released.</span>' in text
    try:
        form = ann.get(URL).text.partition('action="/policy/draft/base"')[2].partition("</form>")[0]
        fields = {name: value for name, value in FIELD.findall(form) if name != "token"}
        ann.post("/policy/draft/base", **{**fields, "saved": "99"})
        assert "based on" in opened(ann)[2], "the draft changed meanwhile"
        ann.post("/policy/draft/base", **fields)
        assert "Based" not in opened(ann)[2]
        assert "What changed meanwhile" not in opened(ann)[2]
        assert row(filled).document == EDITED
    finally:
        with filled.begin() as connection:
            connection.execute(update(policy_releases).where(policy_releases.c.key == POLICY.id).values(**before))


def test_the_question_and_the_way_back_carry_what_the_draft_began_from(ann, filled):
    fields = opened(ann)[0]
    fields.pop("token")
    page = ann.post("/policy/check", **fields, document=EDITED).text
    back = dict(FIELD.findall(page[page.index('<form id="editor"') :]))
    assert {name: back[name] for name in ("version", "revision", "editor", "saved")} == {
        name: fields[name] for name in ("version", "revision", "editor", "saved")
    }
    assert int(back["number"]) > int(fields["number"])
    assert keep(ann, back, EDITED).status_code == 200


def test_sizes_and_counts_are_bounded(filled, ann):
    fields = opened(ann)[0]
    assert keep(ann, fields, "x" * (MAX_CHARACTERS + 1)).status_code == 409
    assert keep(ann, fields, "").status_code == 409
    for name, value in (
        ("editor", "x"),
        ("number", "-1"),
        ("number", "9" * 40),
        ("saved", "²"),
        ("version", "v" * 999),
    ):
        assert keep(ann, fields, EDITED, **{name: value}).status_code == 409, (name, value)
    assert keep(ann, fields, EDITED, id="../../etc").status_code == 404
    assert row(filled) is None
    with filled.begin() as connection:
        for number in range(drafts.MOST):
            drafts.keep(connection, "ann", f"p-{number}", "x", Base("", None, None), Place(uuid4().hex, 1, 0))
    refused = keep(ann, fields, EDITED)
    assert (refused.status_code, f"You have {drafts.MOST} drafts" in refused.text) == (409, True)


def test_a_draft_ends_with_its_time_and_with_its_release(filled, ann, app):
    keep(ann, opened(ann)[0], EDITED)
    upkeep.once(app.state.console)
    assert row(filled) is not None
    with filled.begin() as connection:
        drafts.forget_released(connection, "ann", POLICY.id, "another text")
        assert drafts.find(connection, "ann", POLICY.id) is not None
        connection.execute(update(policy_drafts).values(saved_at=now() - timedelta(days=31)))
    upkeep.once(app.state.console)
    assert row(filled) is None
    with filled.begin() as connection:
        drafts.keep(connection, "ann", POLICY.id, EDITED, Base("", None, None), Place(uuid4().hex, 1, 0))
        drafts.forget_released(connection, "ann", POLICY.id, EDITED)
        assert drafts.find(connection, "ann", POLICY.id) is None


def test_a_draft_of_a_policy_that_nobody_released_comes_back_and_ends(ann):
    url = "/policy/edit?id=ticket-touting"
    fields, skeleton, _ = opened(ann, f"{url}&from=new")
    assert keep(ann, fields, "---\ntitle: Touting\n").status_code == 200
    assert opened(ann, url)[1] == "---\ntitle: Touting\n"
    discarded = ann.post("/policy/draft/discard", id="ticket-touting").headers["location"]
    assert opened(ann, discarded)[1] == skeleton
    assert ann.get(url).status_code == 404


@BOTH_DATABASES
def test_a_draft_is_written_and_read_on_both_databases(filled):
    place = Place(uuid4().hex, 1, 0)
    with filled.begin() as connection:
        first = drafts.keep(connection, "eve", POLICY.id, "one", Base("g", "v", 3), place)
        second = drafts.keep(connection, "eve", POLICY.id, "two", Base("g", "v", 3), place._replace(number=2))
        assert (first.saved, second.saved, second.document, second.begun_at) == (1, 2, "two", first.begun_at)
        assert drafts.rebase(connection, "eve", POLICY.id, 2, Base("h", None, None))
        assert not drafts.rebase(connection, "eve", POLICY.id, 2, Base("i", None, None))
        assert drafts.share(connection, "eve", POLICY.id, shared=True)
        assert drafts.shared_by_others(connection, "ann", POLICY.id) == ["eve"]
        assert drafts.discard(connection, "eve", POLICY.id)


def test_a_forged_form_keeps_nothing_and_hostile_text_is_escaped(filled, ann):
    fields = opened(ann)[0]
    forged = ann.client.post("/policy/draft", data={**fields, "token": "forged", "document": EDITED})
    assert (forged.status_code, row(filled)) == (403, None)
    keep(ann, fields, "</textarea><script>alert(1)</script>")
    text = ann.get(URL).text
    assert "<script>alert" not in text
    assert POLICY.id not in str(ann.get(URL).headers)
