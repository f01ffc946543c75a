"""The editor of a policy: the check's messages, trials with a model, and their bounds."""

import asyncio
import html
import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import select

from safeguard_streams.console.schema import audit_log
from safeguard_streams.console.web import checking, policy_files, trials
from safeguard_streams.console.web.app import build
from safeguard_streams.console.web.checker import Question
from safeguard_streams.console.web.checking import Checker
from safeguard_streams.console.web.guard import RefusedError
from safeguard_streams.console.web.pages import policy_editor
from safeguard_streams.errors import DependencyError
from safeguard_streams.policies import check
from safeguard_streams.policies.files import LIBRARY
from safeguard_streams.policies.parsing import MAX_CHARACTERS
from safeguard_streams.policies.skeleton import Outline, skeleton
from tests.conftest import TIMEOUT
from tests.unit.console.web.conftest import Browser
from tests.unit.console.web.filling import policies

POLICY = policies()[0]
PATH = LIBRARY / POLICY.id / "policy.md"
AREA = re.compile(r'<textarea id="document"[^>]*>\n(.*?)</textarea>', re.DOTALL)
PARTIAL = {"hx-request": "true"}


@pytest.fixture(scope="module")
def ann(app):
    return Browser(app, "ann", "author")


def sent(browser, url, document, *, partial=True, **fields):
    """Post a text as the editor's page does."""
    browser.client.headers.update(PARTIAL if partial else {})
    try:
        return browser.post(url, id=POLICY.id, document=document, **fields)
    finally:
        browser.client.headers.pop("hx-request", None)


def test_the_editor_shows_the_text_in_force_as_it_is(ann):
    page = ann.get(f"/policy/edit?id={POLICY.id}").text
    assert html.unescape(AREA.search(page)[1]) == POLICY.document
    assert "SAFEGUARD_SERVERS" in page
    assert 'formaction="/policy/test"' not in page, "nothing is offered without a server"
    assert 'formaction="/policy/try"' not in page


def test_a_new_policy_begins_with_its_skeleton_and_never_replaces_one(ann):
    page = ann.get("/policy/edit?from=new&id=ticket-touting").text
    assert html.unescape(AREA.search(page)[1]) == skeleton(Outline("ticket-touting"))
    page = ann.get(f"/policy/edit?from=new&id={POLICY.id}").text
    assert html.unescape(AREA.search(page)[1]) == POLICY.document


@pytest.mark.parametrize("policy_id", ["no-such-policy", "../../etc", "", "a/b", "A"])
def test_an_unknown_policy_and_a_path_are_not_found(ann, policy_id):
    assert ann.client.get("/policy/edit", params={"id": policy_id}).status_code == 404
    if policy_id != "no-such-policy":  # which somebody may be about to write
        assert ann.post("/policy/check", id=policy_id, document="---").status_code == 404


def test_the_check_says_what_the_command_says_at_the_same_lines(ann, tmp_path):
    document = POLICY.document.replace("## SAFE", "## SAVE").replace("owner:", "ownr:", 1)
    folder = tmp_path / POLICY.id
    folder.mkdir()
    (folder / "policy.md").write_text(document)
    (folder / "golden.jsonl").write_bytes(PATH.with_name("golden.jsonl").read_bytes())
    problems = check.check(folder / "policy.md", named_by_folder=True).problems
    assert len(problems) > 1
    shown = html.unescape(sent(ann, "/policy/check", document.replace("\n", "\r\n")).text)
    for one in problems:
        assert f'data-goto="{one.line}"' in shown
        assert one.message in shown
    assert "<html" not in shown


def test_a_text_without_problems_names_its_version(ann):
    shown = sent(ann, "/policy/check", POLICY.document).text
    assert POLICY.version in shown
    assert "no problem" in shown


def test_without_scripts_the_check_is_a_page_with_the_text(ann):
    hostile = "---\nid: </textarea><b>\u202e\n---\n"
    page = sent(ann, "/policy/check", hostile, partial=False).text
    assert html.unescape(AREA.search(page)[1]) == hostile
    assert "<b>" not in page
    assert "is missing in the front matter" in page


@pytest.mark.parametrize(
    "document",
    ["x", "---\n", "---\n- [\n---\n", "---\na: &a [*a]\n---\nx", "---\nid: 1\n---\n\0", f"---\n{'[' * 5000}\n---\n"],
)
def test_a_broken_front_matter_is_a_message(ann, document):
    answered = sent(ann, "/policy/check", document)
    assert answered.status_code == 200
    assert "error" in answered.text


def test_a_text_that_is_too_long_is_refused_before_it_is_read(ann):
    assert "the limit is 200,000" in sent(ann, "/policy/check", "я" * (MAX_CHARACTERS + 1)).text
    assert sent(ann, "/policy/check", "x" * (policy_editor.MOST + 1)).status_code == 413


def test_a_check_that_takes_too_long_is_ended_and_the_next_one_works(ann):
    checker = Checker(0.5)
    slow = f"---\nid: {POLICY.id}\n---\n## VIOLATES\n" + "a" * 190_000  # one word: tokens of it take time
    with pytest.raises(RefusedError, match="could not be checked within"):
        checker.ask(Question(str(PATH), slow))
    assert checker.ask(Question(str(PATH), "x")).report.problems
    checker.close()
    assert POLICY.version in sent(ann, "/policy/check", POLICY.document).text


def test_only_some_wait_for_the_checker_so_that_threads_are_left_for_pages(monkeypatch):
    checker, held, asked = Checker(), threading.Event(), threading.Semaphore(0)

    def busy(_):
        asked.release()
        held.wait(TIMEOUT)

    monkeypatch.setattr(checker, "_asked", busy)
    with ThreadPoolExecutor(checking.WAITING) as threads:
        waiting = [threads.submit(checker.ask, Question(str(PATH), "x")) for _ in range(checking.WAITING)]
        for _ in waiting:
            assert asked.acquire(timeout=TIMEOUT)
        try:
            with pytest.raises(RefusedError, match="Many texts are being checked"):
                checker.ask(Question(str(PATH), "x"))
        finally:
            held.set()
    checker.ask(Question(str(PATH), "x"))


@pytest.fixture
def tried(app, filled, current, monkeypatch):
    """A console with an inference server, whose model says what the test sets."""
    checker = app.state.console.checker  # its process takes a while to start
    app = build(current.model_copy(update={"servers": "http://127.0.0.1:1/v1"}), filled)
    app.state.console.checker = checker
    model = {"text": None, "golden": None}
    monkeypatch.setattr(trials, "load", model.__getitem__)
    return Browser(app, "ann", "author"), model


OUTCOME = {
    "decision": "violates",
    "rules": ["HH1"],
    "score": 0.97,
    "reason": "<i>attacks</i>",
    "rationale": "it <b>names</b> a group",
    "tokens": {"prompt": 100, "cached": 0, "completion": 20},
    "model": "m",
}
NOTHING = {"count": 0, "of": 0, "value": None, "low": 0.0, "high": 1.0}
HALF = {"count": 1, "of": 2, "value": 0.5, "low": 0.1, "high": 0.9}
GOLDEN = {"text": "<script>x</script>", "decision": "safe", "rule": "HH5", "kind": "clear"}
REPORT = {
    "policy_id": POLICY.id,
    "version": POLICY.version,
    "model": "m",
    "texts": 2,
    "confusion": {"violates": {"violates": 1}, "safe": {"violates": 1}},
    "f1": [0.6, 0.7],
    "precision": HALF,
    "recall": HALF,
    "accuracy": HALF,
    "rules": {rule: {"recall": HALF, "precision": NOTHING} for rule in POLICY.rules},
    "kinds": {"clear": HALF},
    "noise": {**HALF, "count": 0},
    "tokens": {"prompt": 10, "cached": 1, "completion": 5},
    "disagreements": [{"golden": GOLDEN, "outcome": OUTCOME, "runs": 2}],
}


def entries(engine, action):
    with engine.connect() as connection:
        wanted = select(audit_log.c.who, audit_log.c.object, audit_log.c.details).where(audit_log.c.action == action)
        return connection.execute(wanted).all()


def test_a_text_is_tried_and_kept_nowhere(tried, filled):
    browser, model = tried

    async def judged(_settings, policy, text):
        assert (policy.version, text) == (POLICY.version, "a secret text")
        return OUTCOME

    model[trials.ON_TEXT] = judged
    shown = sent(browser, "/policy/try", POLICY.document, text="a secret text").text
    assert "violates" in shown
    assert "0.97" in shown
    assert "&lt;i&gt;attacks" in shown
    assert ("ann", POLICY.id, {"version": POLICY.version}) in entries(filled, "try policy")
    assert "a secret text" not in str(entries(filled, "try policy"))


def test_a_model_that_is_away_says_so(tried):
    browser, model = tried

    async def away(*_):
        raise DependencyError("the server is gone; start it")

    model[trials.ON_TEXT] = away
    answered = sent(browser, "/policy/try", POLICY.document, text="x")
    assert answered.status_code == 409
    assert "the server is gone; start it" in answered.text


def test_a_text_with_errors_is_not_judged(tried):
    browser, _ = tried
    for url in ("/policy/try", "/policy/test"):
        answered = sent(browser, url, "---\nid: x\n---\n", text="x")
        assert answered.status_code == 409
        assert "The check finds errors" in answered.text


def test_without_a_server_nothing_is_judged(ann):
    assert sent(ann, "/policy/test", POLICY.document).status_code == 409


def test_a_test_tells_its_progress_and_then_the_report(tried, filled, monkeypatch):
    browser, model = tried
    monkeypatch.setattr(policy_editor, "_TOLD_SECONDS", 0.01)

    async def judged(_settings, policy, texts, on_progress):
        assert len(texts) > 50
        on_progress("judging", 1, 2)
        await asyncio.sleep(0.1)
        return REPORT

    model[trials.ON_GOLDEN_SET] = judged
    lines = [json.loads(one) for one in sent(browser, "/policy/test", POLICY.document).text.splitlines()]
    assert {"progress": {"title": "judging", "count": 1, "total": 2}} in lines
    shown = lines[-1]["html"]
    assert "&lt;script&gt;x" in shown
    assert "1 are judged as labelled" in shown
    assert "it &lt;b&gt;names&lt;/b&gt; a group" in shown
    (_, about, details) = entries(filled, "test policy")[-1]
    assert about == POLICY.id
    assert (details["version"], details["texts"], details["right"], details["model"]) == (POLICY.version, 2, 1, "m")
    assert "script" not in str(details)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (DependencyError("the server is gone; start it"), "the server is gone; start it"),
        (KeyError("a text"), "log says"),
    ],
)
def test_a_test_that_fails_says_why(tried, caplog, error, told):
    browser, model = tried

    async def away(*_):
        raise error

    model[trials.ON_GOLDEN_SET] = away
    (line,) = [json.loads(one) for one in sent(browser, "/policy/test", POLICY.document).text.splitlines()[-1:]]
    assert told in line["problem"]
    assert "a text" not in str(line) + caplog.text
    assert policy_editor._Work.running == 0


async def test_closing_the_connection_cancels_the_test_and_few_run_at_once(current):
    ended = asyncio.Event()

    async def judged(*_):
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    class Fake:
        settings = current

    works = [policy_editor._Work(Fake()).told(judged, POLICY, []) for _ in range(policy_editor._TESTS)]
    for work in works:
        assert await anext(work) == {}
    with pytest.raises(RefusedError, match="at the moment"):
        await anext(policy_editor._Work(Fake()).told(judged, POLICY, []))
    for work in works:
        await work.aclose()
    await asyncio.wait_for(ended.wait(), TIMEOUT)
    assert policy_editor._Work.running == 0


async def test_a_text_of_blank_lines_holds_up_no_page(current):
    classifiers = policy_files.Classifiers(current)
    began = time.process_time()
    blank = f"---\n{chr(10) * (MAX_CHARACTERS // 4)}id: x\n---\ntext\n"
    assert await classifiers.named_in(blank, PATH) is None
    assert time.process_time() - began < 3, "the time is of the order of the length, not of its square"
    classifiers._add("a classifier")
    (name,) = classifiers._known
    named = f"---\ngate:\n  distilled: '{name}'\n---\ntext\n"
    assert await classifiers.named_in(named, PATH) == "a classifier"
