"""Pages show what the database holds, find what is asked for, and render hostile texts harmless."""

import csv
import hashlib
import io
import re
import tomllib
from importlib.resources import files

import pytest
from pyarrow import parquet
from sqlalchemy import create_engine, event, select

from safeguard_streams.console.database import engine_of
from safeguard_streams.console.migrations import upgrade
from safeguard_streams.console.schema import audit_log, verdicts
from safeguard_streams.console.web import policy_text, rendering
from safeguard_streams.console.web.app import build
from safeguard_streams.console.web.harms import LONGEST_HARM
from safeguard_streams.console.web.pages import overview, search
from safeguard_streams.contract.records import now
from tests.unit.console.web.conftest import BOTH_DATABASES, Browser
from tests.unit.console.web.filling import TEXTS, fill, policies

HOSTILE = (
    "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{7*7}}{%x%}"
    "\u202eevil\u202c\u2066\x00\x1b[31m\x9b2J\x07\r\u2028=cmd|'/c'!A0 &amp; \U000e0041"
)


@BOTH_DATABASES
def test_the_overview_counts_what_the_tables_hold(browser, filled):
    page = browser("ann", "operator").get("/?window=day").text
    assert "1,203" in page, "cleared: 400, 401 and 402"
    assert "Wait for review" in page
    assert "biomedical-misinformation" in page
    assert 'data-chart="over-time"' in page
    for window in ("hour", "week", "nonsense"):
        assert browser("ann", "operator").get(f"/?window={window}").status_code == 200


@BOTH_DATABASES
def test_the_figures_alone_are_sent_to_a_page_that_is_open(browser):
    part = browser("ann", "admin").get("/", headers={"hx-request": "true"}).text
    assert part.lstrip().startswith("<div")
    assert "Verdicts by policy" in part


def test_a_part_of_a_page_is_no_other_page_and_takes_no_message(app, browser):
    from starlette.testclient import TestClient

    gone = TestClient(app, follow_redirects=False).get("/", headers={"hx-request": "true"})
    assert (gone.status_code, "You are signed out" in gone.text) == (401, True)
    ann = browser("ann", "reviewer")
    ann.post("/claims/avoid", content_id="post-000", harm="none_of_them")
    assert ann.get("/", headers={"hx-request": "true"}).status_code == 200  # in another window
    assert "no more items about none_of_them" in ann.get("/queue").text
    assert "no more items about none_of_them" not in ann.get("/search").text


def test_a_page_that_is_open_learns_that_something_changed(browser, monkeypatch):
    monkeypatch.setattr(overview, "_POLL_SECONDS", 0)
    monkeypatch.setattr(overview, "_POLLS", 3)
    answered = browser("ann", "operator").get("/changes")
    assert answered.headers["content-type"].startswith("text/event-stream")
    assert answered.text.count("event: changed") == 1, "the projector wrote once"


def found(answered):
    return [line for line in answered.text.splitlines() if '<a class="id row-link"' in line]


@BOTH_DATABASES
@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("id=post-004", 1),
        ("words=photo", 10),
        ("words=lovely+photo", 10),
        ("words=%22photo+lovely%22", 0),
        ("words=photo&decision=safe&policy=biomedical-misinformation", None),
        ("author=author-3", 9),
        ("rule=BM1", None),
        ("language=de", 10),
        ("since=2100-01-01", 0),
        ("until=2000-01-01", 0),
        ("until=9999-12-31", 50),
        ("words=%22%22", 50),
        ("words=' OR 1=1 --", 0),
        ("policy=' OR '1'='1", 0),
    ],
)
def test_a_search_finds_what_matches_and_nothing_else(browser, query, expected):
    answered = browser("ann", "reviewer").get(f"/search?{query}")
    assert answered.status_code == 200
    rows = found(answered)
    assert len(rows) == expected if expected is not None else rows


ODD = (
    "%00",
    "%ff",
    "a" * 5000,
    "%ED%A0%80",
    "%22",
    "%22a",
    "-",
    "*",
    "a*b",
    "NEAR(a b)",
    "(",
    ":",
    "^",
    "{",
    "'",
    "%E2%80%AE",
    "9" * 30,
)
QUERIES = (
    "/?window=",
    "/item?id=",
    "/search?words=",
    "/search?id=",
    "/search?since=",
    "/search?after=",
    "/search?after=2026-01-01T00:00:00%2B00:00~",
    "/policy?id=",
    "/replay?id=",
    "/rationale?verdict=",
    "/audit?before=",
    "/audit?who=",
    "/queue?policy=",
    "/queue?language=",
    "/queue?author=",
    "/author?id=",
    "/author?id=author-3&after=",
    "/author?id=author-3&after=2026-01-01T00:00:00%2B00:00~",
    "/accounts?rule=",
    "/accounts?after=",
    "/accounts?after=2026-01-01T00:00:00%2B00:00~",
    "/quality?policy=",
    "/quality?days=",
    "/quality/labels?policy=",
    "/quality/labels?since=",
)


@BOTH_DATABASES
@pytest.mark.parametrize("query", QUERIES)
def test_no_query_is_an_error_of_the_server(browser, query):
    ann = browser("ann", "admin")
    for odd in ODD:
        assert ann.get(query + odd).status_code < 500, odd


@BOTH_DATABASES
def test_the_queue_is_filtered_by_policy_cause_and_language(browser, filled):
    ann = browser("ann", "reviewer")
    for query, column in (
        ("language=de", ">de<"),
        ("policy=fraud-spam", ">fraud-spam<"),
        ("cause=undetermined", "post-"),
        ("author=author-3", "post-0"),
    ):
        rows = found(ann.get(f"/queue?{query}"))
        assert rows
        assert all(column in row for row in rows)
    assert not found(ann.get("/queue?language=xx"))
    assert len(found(ann.get("/queue?author=author-3"))) < len(found(ann.get("/queue"))) / 3


def test_a_time_that_is_none_is_said(browser):
    assert browser("ann", "reviewer").get("/search?since=yesterday").status_code == 409


@BOTH_DATABASES
def test_older_pages_follow_without_gap_or_repeat(browser):
    ann = browser("ann", "reviewer")
    first = ann.get("/search")
    older = first.text.split('" rel="next"')[0].rsplit('href="', 1)[1].replace("&amp;", "&")
    ids = [line.split("post-")[1][:3] for line in (*found(first), *found(ann.get(older)))]
    assert len(ids) == len(set(ids)) == 60


@BOTH_DATABASES
def test_an_export_holds_all_that_a_search_finds(browser, filled):
    answered = browser("otto", "auditor").get("/search.csv?decision=violates")
    rows = list(csv.DictReader(io.StringIO(answered.text)))
    with filled.connect() as connection:
        wanted = connection.execute(select(verdicts.c.verdict_id).where(verdicts.c.decision == "violates")).scalars()
        assert {row["verdict_id"] for row in rows} == set(wanted)
    assert answered.headers["content-disposition"] == 'attachment; filename="verdicts.csv"'
    log = list(csv.DictReader(io.StringIO(browser("otto", "auditor").get("/audit.csv?action=export").text)))
    assert ("otto", "verdicts") in {(row["who"], row["object"]) for row in log}


@BOTH_DATABASES
def test_an_export_as_parquet_holds_the_rows_of_the_one_as_csv_in_groups(browser, monkeypatch):
    monkeypatch.setattr(search, "_ROW_GROUP", 7)
    otto = browser("otto", "auditor")
    exports = len(otto.get("/audit.csv?action=export").text.splitlines())
    answered = otto.get("/search.parquet?decision=violates")
    assert answered.headers["content-disposition"] == 'attachment; filename="verdicts.parquet"'
    file = parquet.ParquetFile(io.BytesIO(answered.content))
    rows = file.read().to_pylist()
    assert len(otto.get("/audit.csv?action=export").text.splitlines()) == exports + 2  # this export, and the log's own
    plain = list(csv.DictReader(io.StringIO(otto.get("/search.csv?decision=violates").text)))
    assert [row["verdict_id"] for row in rows] == [row["verdict_id"] for row in plain]
    assert [row["decided_at"].isoformat() for row in rows] == [row["decided_at"] for row in plain]
    assert [" ".join(row["rule_ids"]) for row in rows] == [row["rule_ids"] for row in plain]
    assert [str(row["score"]) for row in rows] == [row["score"] for row in plain]
    assert file.metadata.num_row_groups == -(-len(rows) // 7) > 1
    assert list(rows[0]) == list(plain[0])


@BOTH_DATABASES
@pytest.mark.parametrize(
    ("wanted", "leads"),
    [
        ("post-002", "/item?id=post-002"),
        (" post-002 ", "/item?id=post-002"),
        ("http://testserver/policy?id=fraud-spam", "/policy?id=fraud-spam"),
        ("fraud-spam", "/policy?id=fraud-spam"),
        ("2026-11-harsher", "/replay?id=2026-11-harsher"),
        ("author-3", "/author?id=author-3"),
        ("author-6", "/author?id=author-6"),
        ("http://evil.example/policy?id=fraud-spam", None),
        ("http://testserver//evil.example/", "/"),
        ("unknown", None),
        ("http://[", None),
    ],
)
def test_going_to_an_id_or_a_url(browser, wanted, leads):
    answered = browser("ann", "admin").post("/go", to=wanted)
    assert (answered.headers.get("location"), answered.status_code) == (leads, 303 if leads else 404)


def test_an_item_shows_the_statement_that_its_author_got(tmp_path, current):
    engine = engine_of(f"sqlite:///{tmp_path}/console.db")
    upgrade(engine)
    fill(engine, items=12)
    with engine.begin() as connection:
        item = connection.exec_driver_sql("SELECT content_id FROM actions").scalar()
        said = "Removed.\n<b>Spam</b>, \u202eFS1"
        connection.exec_driver_sql("UPDATE actions SET statement = ? WHERE content_id = ?", (said, item))
    page = Browser(build(current, engine), "ann", "admin").get(f"/item?id={item}").text
    assert "Statement of reasons" in page
    assert "Removed.<br>" in page
    assert "&lt;b&gt;Spam&lt;/b&gt;, " in page
    assert "\u202e" not in page
    engine.dispose()


def test_an_item_of_which_little_is_known_has_a_page(tmp_path, current):
    """Topics keep their records for different times, and a projector may be ahead in any of them."""
    engine = engine_of(f"sqlite:///{tmp_path}/console.db")
    upgrade(engine)
    fill(engine, items=12)
    names = ["items", "verdicts", "replay_verdicts", "escalations", "actions", "review_items", "policy_releases"]
    names += ["policy_changes", "rationales"]
    ann = Browser(build(current, engine), "ann", "admin")
    for kept in ("items", "verdicts", "actions", "review_items"):
        with engine.begin() as connection:
            for name in names:
                connection.exec_driver_sql(f"CREATE TABLE kept_{name} AS SELECT * FROM {name}")
                if name != kept:
                    connection.exec_driver_sql(f"DELETE FROM {name}")
            connection.exec_driver_sql("UPDATE review_items SET policy_id = '*', cause = 'moderator', since = NULL")
            connection.exec_driver_sql("UPDATE items SET text = NULL, context = NULL, author_id = NULL")
        for url in ("/item?id=post-002", "/queue", "/search", "/", "/policies"):
            assert ann.get(url).status_code == 200, (kept, url)
        assert ann.post("/item/text", content_id="post-002").status_code == 200
        with engine.begin() as connection:
            for name in names:
                connection.exec_driver_sql(f"DELETE FROM {name}")
                connection.exec_driver_sql(f"INSERT INTO {name} SELECT * FROM kept_{name}")
                connection.exec_driver_sql(f"DROP TABLE kept_{name}")
    engine.dispose()


@BOTH_DATABASES
def test_a_policy_shows_its_rules_as_the_model_reads_them_and_its_history(browser):
    page = browser("ann", "author").get("/policy?id=fraud-spam").text
    assert "Deceives to obtain money or data: phishing" in page
    assert '<span class="removed">-' in page
    assert '<span class="added">+' in page


def test_every_rule_of_the_library_has_its_paragraph():
    for policy in policies():
        read = policy_text.read(policy.document)
        assert [rule.rule_id for rule in read.rules] == list(policy.rules)
        assert all(rule.paragraph != rule.summary for rule in read.rules)
        assert read.title == policy.title
    assert policy_text.read("no front matter").rules == ()
    assert policy_text.read("---\n: [\n---\ntext").text == "text"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory, current):
    engine = engine_of(f"sqlite:///{tmp_path_factory.mktemp('hostile')}/console.db")
    upgrade(engine)
    fill(engine, items=6, hostile=HOSTILE.replace("\0", "\ufffd"))
    yield Browser(build(current, engine), "ann", "admin")
    engine.dispose()


def test_hostile_texts_are_shown_and_do_nothing(hostile):
    first = found(hostile.get("/queue"))[0].split('href="')[1].split('"')[0].replace("&amp;", "&")
    pages = [hostile.get(url) for url in ("/", "/queue", first, "/search", "/policies", "/replays", "/audit")]
    pages.append(hostile.get("/policy?id=fraud-spam"))
    author = found(hostile.get("/accounts"))[0].split('href="')[1].split('"')[0].replace("&amp;", "&")
    pages += [hostile.get(author), hostile.get("/accounts")]
    content_id = pages[2].text.split('name="content_id" value="')[1].split('"')[0]
    assert "%0D" in content_id, "browsers would change the line break"
    revealed = hostile.post("/item/text", content_id=content_id)
    pages.append(revealed)
    assert "<script>alert" not in "".join(page.text for page in pages)
    for page in pages:
        assert page.status_code == 200, page.request.url
        assert "<img" not in page.text
        shown = re.sub(r'="[^"]*"', "", page.text)  # values of forms are as they are, and nobody sees them
        for sign in "\u202e\u2066\x00\x1b\x9b\x07":
            assert sign not in shown, (page.request.url, hex(ord(sign)))
    assert "\u27e8U+202E\u27e9" in revealed.text
    assert "{{7*7}}" in revealed.text
    assert "&lt;script&gt;alert(1)" in revealed.text
    exported = hostile.get("/search.csv").text
    assert all(not cell.startswith(("=", "+", "@")) for row in csv.reader(io.StringIO(exported)) for cell in row)


def test_a_text_of_a_megabyte_is_shown_in_part_and_whole_when_asked_for(tmp_path, current):
    engine = engine_of(f"sqlite:///{tmp_path}/console.db")
    upgrade(engine)
    fill(engine, items=1, hostile=None)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE items SET text = ?", ("ab " * 350_000,))
    ann = Browser(build(current, engine), "ann", "admin")
    shown = ann.post("/item/text", content_id="post-000").text
    assert len(shown) < 100_000
    assert "1,030,000 more characters" in shown
    assert len(ann.post("/item/text", content_id="post-000", whole="1").text) > 1_000_000
    engine.dispose()


def test_what_a_browser_hides_is_visible():
    hidden = "a\x00b\x1b\x7f\u202e\u2066\n\tç👩\u200d⚖️"
    assert (
        rendering.visible(hidden)
        == "a\u27e8U+0000\u27e9b\u27e8U+001B\u27e9\u27e8U+007F\u27e9\u27e8U+202E\u27e9\u27e8U+2066\u27e9\n\tç👩\u200d⚖️"
    )
    assert rendering.line("a\nb" * 100, 5) == "a ba " + "…"


def test_a_database_that_is_away_is_said_and_the_console_recovers(current):
    away = create_engine("sqlite:////nonexistent-folder/console.db")
    ann = Browser(build(current, away), "ann", "admin")
    for url in ("/", "/queue", "/item?id=x", "/search", "/author?id=x", "/accounts", "/policies", "/replays", "/audit"):
        answered = ann.get(url)
        assert answered.status_code == 503
        assert "Nothing is lost" in answered.text
    assert ann.get("/health/live").status_code == 200
    assert ann.get("/health/ready").status_code == 503


def test_a_database_without_the_tables_of_this_version_is_said(tmp_path, current):
    engine = engine_of(f"sqlite:///{tmp_path}/console.db")
    ann = Browser(build(current, engine), "ann", "admin")
    assert "safeguard console project" in ann.get("/queue").text
    assert ann.get("/health/ready").status_code == 503
    upgrade(engine)
    assert ann.get("/queue").status_code == ann.get("/health/ready").status_code == 200
    engine.dispose()


def test_a_database_that_takes_no_writes_is_said(tmp_path, current):
    engine = engine_of(f"sqlite:///{tmp_path}/console.db")
    upgrade(engine)
    fill(engine)

    @event.listens_for(engine, "connect")
    def opened(connection, _):
        connection.execute("PRAGMA query_only = ON")

    engine.dispose()
    ann = Browser(build(current, engine), "ann", "admin")
    assert ann.get("/item?id=post-000").status_code == 200
    refused = ann.post("/item/text", content_id="post-000")
    assert (refused.status_code, "takes no writes" in refused.text) == (503, True)
    assert TEXTS[0] not in refused.text, "what is not logged is not revealed"


def test_health_and_metrics_need_nobody(app):
    from starlette.testclient import TestClient

    client = TestClient(app)
    assert client.get("/health/ready").json() == {"stage": "console", "prefix": "", "ready": True}
    assert client.get("/metrics").status_code == 200


def test_files_of_other_projects_are_what_their_registry_gives():
    folder = files("safeguard_streams.console.web") / "static"
    for name, source in tomllib.loads((folder / "SOURCES.toml").read_text()).items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == source["sha256"], name
        assert (folder / f"{source['package'].removesuffix('.org')}.LICENSE").read_text()


def test_a_fault_of_the_console_has_a_page_and_its_log_no_content(app, browser, monkeypatch, caplog):
    def broken(*_):
        raise ValueError("a text of a user")

    monkeypatch.setattr(overview.figures, "overview", broken)
    answered = browser("ann", "admin").get("/")
    assert answered.status_code == 500
    assert "content-security-policy" in answered.headers
    assert "a text of a user" not in answered.text + caplog.text
    assert "request failed path=/ error=ValueError at=broken" in caplog.text


def test_no_cookie_is_longer_than_browsers_keep(browser):
    ann = browser("ann", "reviewer")
    for sent in (
        ann.post("/claims", policy="x" * 50_000),
        ann.post("/claims", policy="p" * 200, cause="rule", language="\u4e2d" * 200, author="\U0001f600" * 512),
        ann.post("/claims", policy="p" * 150, cause="rule", language="\u4e2d" * 40, author="\u4e2d" * 100),
        ann.post("/claims/avoid", content_id="post-000", harm="\u00e9" * LONGEST_HARM),
    ):
        assert sent.status_code == 303
        assert len(sent.headers["set-cookie"]) < 4096


@pytest.mark.parametrize("begins", ["=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20"])
def test_no_cell_of_an_export_begins_a_formula(browser, filled, begins):
    who, about = f"sheet {ord(begins)}", f"{begins}1+1"
    with filled.begin() as connection:
        entry = {"at": now(), "who": who, "role": "admin", "action": "reveal", "object": about, "details": {}}
        connection.execute(audit_log.insert().values(**entry))
    answered = browser("otto", "auditor").get("/audit.csv", params={"who": who})
    assert [row["object"] for row in csv.DictReader(io.StringIO(answered.text, newline=""))] == ["'" + about]


@BOTH_DATABASES
@pytest.mark.parametrize(("charset", "text"), [("utf-8", "\u00e9".encode()), ("utf-7", b"+2AA-")])
def test_no_form_is_an_error_of_the_server(browser, charset, text):
    ann = browser("ann", "reviewer")
    token = re.search(r'name="token" value="([^"]+)"', ann.get("/sign-in/none").text)[1].encode()
    assert ann.client.post("/claims/end", data={"token": "\u00e9"}).status_code == 403
    fields = {"token": token, "content_id": text, "action": b"remove", "why": b"w", "key": b"0" * 32}
    part = b'--x\r\ncontent-disposition: form-data; name="%s"\r\n\r\n%s\r\n'
    body = b"".join(part % (name.encode(), value) for name, value in fields.items()) + b"--x--\r\n"
    sent = {"content-type": f"multipart/form-data; boundary=x; charset={charset}"}
    for url in ("/claims/end", "/claims/avoid", "/item/text", "/decisions"):
        assert ann.client.post(url, content=body, headers=sent).status_code in (303, 403, 404, 409), url
