"""A policy's author in a real browser: edits, sees the check's message, tests, shadows, releases and rolls back."""

import asyncio
import contextlib
import os
import re
import subprocess
import threading

import pytest

pytest.importorskip("playwright")

from oidc_provider_mock import User, run_server_in_thread

from safeguard_streams.bus import kafka as kafka_bus
from safeguard_streams.policies.files import LIBRARY, load
from safeguard_streams.releases import operator
from safeguard_streams.releases.operator import ChangedBy
from safeguard_streams.workers.inference.scripted import Script, ScriptedServer
from tests.conftest import TIMEOUT, own_topics
from tests.integration.test_console_pages import AXE, Person, chromium, run, serving

__all__ = ["chromium"]

pytestmark = pytest.mark.slow
ID = "fraud-spam"
POLICY = load(LIBRARY / ID / "policy.md")
RULE, ROWS = POLICY.violating[0], 6
SHOTS = os.environ.get("SAFEGUARD_TEST_SHOTS")  # a folder for screenshots of every page


@contextlib.contextmanager
def model():
    """The address of a scripted server that finds the first rule violated where a text has the word prize."""
    loop, stop, up, address = asyncio.new_event_loop(), asyncio.Event(), threading.Event(), []

    async def work():
        async with ScriptedServer(Script({RULE: ["prize"]})).running() as url:
            address.append(url)
            up.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(work(),))
    thread.start()
    try:
        assert up.wait(TIMEOUT)
        yield address[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """A git checkout with one policy and a short golden set."""
    folder = tmp_path_factory.mktemp("library")
    (folder / ID).mkdir()
    (folder / ID / "policy.md").write_text(POLICY.document)
    rows = (LIBRARY / ID / "golden.jsonl").read_text().splitlines(keepends=True)
    without = [row for row in rows if "prize" not in row.lower()]  # the model finds these safe
    golden = [[row for row in without if f'"decision": "{side}"' in row][: ROWS // 2] for side in ("violates", "safe")]
    (folder / ID / "golden.jsonl").write_text("".join(golden[0] + golden[1]))
    git(folder, "init", "--quiet", "--initial-branch", "main")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "begin")
    return folder


def git(folder, *arguments):
    command = ["git", "-C", str(folder), "-c", "user.name=x", "-c", "user.email=x@y", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="module")
def console(embedded_address, library, tmp_path_factory):
    current = own_topics(embedded_address)

    async def begin():
        await kafka_bus.create_topics(current)
        await operator.release(current, [POLICY], ChangedBy("first", "mia"))

    run(begin())
    claims = {"preferred_username": "ann", "email": "ann@example.com", "groups": ["authors"]}
    folder = tmp_path_factory.mktemp("console")
    with (
        run_server_in_thread(require_nonce=True, user_claims=[User(sub="ann", claims=claims)]) as provider,
        model() as server,
        serving(
            current,
            f"http://localhost:{provider.server_port}",
            folder,
            SAFEGUARD_CONSOLE_ROLES='{"authors": ["author"]}',
            SAFEGUARD_CONSOLE_POLICIES=str(library),
            SAFEGUARD_SERVERS=server,
        ) as (url, _),
    ):
        yield url, current


def shot(page, name):
    if SHOTS:
        page.screenshot(path=f"{SHOTS}/{name}.png", full_page=True)


def accessible(page, name):
    """No violation that axe-core finds, and nothing wider than the window."""
    scrolled = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert scrolled <= 0, f"{name} is {scrolled} px too wide"
    page.evaluate(AXE.read_text())
    violations = page.evaluate("axe.run()")["violations"]
    assert not violations, (name, [(one["id"], [node["html"] for node in one["nodes"]][:3]) for one in violations])


EDITED = POLICY.document.replace(f"- {RULE}: ", f"- {RULE}: In any words, ", 1)


def test_an_author_edits_checks_tests_shadows_releases_and_rolls_back(chromium, console, library):
    url, current = console
    ann = Person(chromium, url, "ann")
    page = ann.page
    page.goto("/policies")
    while not page.get_by_role("link", name=ID).count():  # the release is projected meanwhile
        page.reload()
    page.get_by_role("link", name=ID).click()
    page.wait_for_url("**/policy?id=*")
    page.keyboard.press("e")
    page.wait_for_url("**/policy/edit?*")
    page.locator(".summary", has_text=POLICY.version).wait_for()
    sees_a_message_at_its_line_while_writing(page)
    tries_and_tests(page)
    starts_a_shadow(page)
    assert actions(current) == ["release", "shadow"]
    assert git(library, "rev-list", "--count", "HEAD") == "1"

    promotes(page)
    assert actions(current) == ["release", "shadow", "release", "end-shadow"]
    assert git(library, "log", "-1", "--format=%an <%ae>") == "ann <ann@example.com>"
    assert (library / ID / "policy.md").read_text() == EDITED
    page.get_by_text("git holds the version in force").wait_for()
    accessible(page, "policy")
    shot(page, "policy")

    page.keyboard.press("b")
    page.get_by_role("heading", name=re.compile("Roll back")).wait_for()
    page.locator("#why").fill("too broad")
    page.get_by_role("button", name="Roll back", exact=True).click()
    page.get_by_text("Rolled back: revision").wait_for()
    assert (library / ID / "policy.md").read_text() == POLICY.document
    changes = run(operator.history(current)).changes
    assert (changes[-1].action, changes[-1].why) == ("rollback", "too broad")
    assert [one.changed_by for one in changes] == ["mia"] + ["ann"] * 4
    ann.context.close()
    assert not ann.complaints


def sees_a_message_at_its_line_while_writing(page):
    page.keyboard.press("i")
    assert page.evaluate("document.activeElement.id") == "document"
    page.locator("#document").fill(POLICY.document.replace("## SAFE", "## SAVE"))
    note = page.locator(".notes li.error").first
    note.wait_for()
    at = note.get_attribute("data-line")
    assert page.locator(f".numbers span:nth-child({at})").get_attribute("class") == "error"
    tops = [page.locator(one).first.bounding_box()["y"] for one in (".notes li", f".numbers span:nth-child({at})")]
    assert abs(tops[0] - tops[1]) < 10, "the note stands beside its line"
    shot(page, "policy-edit-error")
    note.get_by_role("button").click()
    field = page.evaluate(
        "(({ id, value, selectionStart }) => [id, value.slice(0, selectionStart)])(document.activeElement)"
    )
    assert (field[0], field[1].count("\n") + 1) == ("document", int(at))
    page.locator("#document").fill(EDITED)
    page.locator(".summary", has_text="version").wait_for()


def tries_and_tests(page):
    page.locator("#text").fill("claim your prize")
    page.get_by_role("button", name="Try it on this text").click()
    page.locator("#outcome", has_text="violates").wait_for()
    page.get_by_role("button", name="Test on the golden set").click()
    page.locator("#report h3").first.wait_for()
    assert f"{ROWS} golden texts" in page.locator("#report").inner_text()
    accessible(page, "editor")
    shot(page, "policy-edit")


def starts_a_shadow(page):
    page.locator("#share").fill("10")
    page.get_by_role("button", name="Start a shadow").click()
    page.locator("#why").fill("try it first")
    accessible(page, "question of a shadow")
    page.get_by_role("button", name="Start the shadow").dblclick()
    page.get_by_text("In shadow on 10.00% of content").wait_for()


def promotes(page):
    page.get_by_role("button", name="Promote the shadow").click()
    page.get_by_role("heading", name=re.compile("Promote the shadow")).wait_for()
    shown = page.locator("main").inner_text()
    assert f"{ROWS // 2} of {ROWS} golden texts are judged as labelled" in shown
    assert "A replay is advised" in shown
    page.locator("#why").fill("it finds more")
    shot(page, "policy-question")
    page.get_by_role("button", name="Promote it").dblclick()
    page.get_by_text("Committed as").wait_for()  # a golden gate is learned first


def actions(current):
    return [one.action for one in run(operator.history(current)).changes]


def test_a_draft_outlives_its_window_and_is_discarded(chromium, console):
    edited = POLICY.document + "\nWhat nobody released yet.\n"
    ann = Person(chromium, console[0], "ann")
    page = ann.page
    page.goto(f"/policy/edit?id={ID}")
    page.locator(".summary", has_text="version").wait_for()
    page.locator("#document").fill(edited)
    page.locator("#kept", has_text="Your draft was kept").wait_for()
    accessible(page, "editor that keeps a draft")
    ann.context.close()  # nothing asks, and nothing is sent
    assert not ann.complaints

    again = Person(chromium, console[0], "ann", viewport={"width": 400, "height": 900})
    page = again.page
    page.goto("/policies")
    page.get_by_role("region", name="Your drafts").get_by_role("link", name=ID).click()
    page.get_by_text("You have not released this draft").wait_for()
    assert page.locator("#document").input_value() == edited
    accessible(page, "editor with a draft")
    shot(page, "policy-draft")
    page.locator("#document").fill(edited + "more")
    page.locator("#kept", has_text="Your draft was kept").wait_for()
    page.locator("#document").fill(edited + "and more, which no request sent")
    page.get_by_role("button", name="Discard the draft").click()
    page.get_by_text("The draft is discarded").wait_for()
    assert page.locator("#document").input_value() != edited
    page.reload()
    assert page.locator("#draft").count() == 0, "the window that discarded it did not keep it once more"
    again.context.close()
    assert not again.complaints


def test_the_editor_and_its_question_fit_a_narrow_window_in_the_dark(chromium, console):
    ann = Person(chromium, console[0], "ann", viewport={"width": 400, "height": 900}, color_scheme="dark")
    page = ann.page
    page.goto(f"/policy/edit?id={ID}")
    page.locator(".summary", has_text="version").wait_for()
    page.locator("#document").fill(POLICY.document.replace("## SAFE", "## SAVE") + "\n" + "x" * 300)
    page.locator(".notes li.error").first.wait_for()
    accessible(page, "narrow editor")
    shot(page, "policy-edit-400")
    page.locator("#document").fill(POLICY.document.replace(f"- {RULE}: ", f"- {RULE}: In any words, ", 1))
    page.get_by_role("button", name="Release").click()
    page.locator("#why").wait_for()
    accessible(page, "narrow question")
    shot(page, "policy-question-400")
    page.get_by_role("button", name="Back to the text").click()
    assert "In any words, " in page.locator("#document").input_value()
    ann.context.close()
    assert not ann.complaints
