"""The console in a real browser, on records of a broker: reviewers sign in, claim, reveal, decide and undo."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlencode

import pytest

pytest.importorskip("playwright")

from oidc_provider_mock import User, run_server_in_thread
from playwright.sync_api import sync_playwright

from safeguard_streams.authors import standings
from safeguard_streams.bus import kafka as kafka_bus
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import (
    Attempt,
    ContentEvent,
    Escalation,
    Message,
    PrefilterResult,
    Rationale,
    Strike,
    Verdict,
    content_sha256,
    encode,
    now,
    verdict_id,
)
from safeguard_streams.enforcement import moderators
from safeguard_streams.enforcement.author_rules import AuthorRules, StrikeRule, Threshold
from safeguard_streams.enforcement.rules import Cap, EnforcementRule, EnforcementRules
from safeguard_streams.infra import brokers
from safeguard_streams.policies.files import load_library
from safeguard_streams.releases import operator
from safeguard_streams.releases.operator import ChangedBy
from tests.conftest import TIMEOUT, enforcing, own_topics, standing_on, until
from tests.integration.test_authors import keeping
from tests.unit.console.web.filling import TEXTS
from tests.unit.console.web.test_pages import HOSTILE

pytestmark = pytest.mark.slow
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
AXE = Path(__file__).parents[1] / "data/axe/axe.min.js"
ITEMS = 8
AUTHORS = AuthorRules(strike=(StrikeRule("any"),), threshold=(Threshold(name="one", action="review", weight=1),))
RULES = EnforcementRules((EnforcementRule("to-review", "review"),), Cap(1000), authors=AUTHORS)
PEOPLE = {"rita": "mods", "rob": "mods", "otto": "leads"}
HOSTILE_ID = f"<b>{HOSTILE}"[:300].replace("\0", "")
LONG = HOSTILE.replace("\0", "") + "x" * 1_000_000
BUSY_MS = TIMEOUT * 1000  # what a page may take on a busy machine
SHOTS = os.environ.get("SAFEGUARD_TEST_SHOTS")  # a folder for screenshots of every page


def run(coroutine):
    """Run a coroutine in a thread: Playwright has a loop of its own in this one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


async def write(current):
    """Items, their escalations, verdicts and rationales, as the pipeline writes them."""
    await kafka_bus.create_topics(current)
    policies = list(load_library().values())[:2]
    await operator.release(current, policies, ChangedBy("first", "mia"))
    async with kafka_bus.producer(current) as producer:

        async def send(topic, key, record):
            await producer.send_and_wait(current.prefix + topic, key=key.encode(), value=encode(record), partition=0)

        for number in range(ITEMS + 1):
            content_id = f"post-{number}" if number < ITEMS else HOSTILE_ID
            text, policy, at = TEXTS[number % 3] if number < ITEMS else LONG, policies[number % 2], now()
            said = "attacks people for where they come from" if number < ITEMS else HOSTILE
            event = ContentEvent(content_id, text, at, "author-1", "comment", "en", (Message("user", text[:200]),))
            gate = PrefilterResult("label", "hate", 0.4, 0.05)
            origin, identifier = f"0@{number}", verdict_id(content_id, policy.id)
            await send(
                topics.ESCALATIONS,
                content_id,
                Escalation(event, policy.id, policy.version, 1, gate, "live", at, origin=origin),
            )
            await send(
                topics.RATIONALES,
                identifier,
                Rationale(
                    identifier, content_id, policy.id, policy.version, "m", (Attempt(f"analysis {said}", "{}"),), at
                ),
            )
            await send(
                topics.VERDICTS,
                content_id,
                Verdict(
                    identifier,
                    content_id,
                    content_sha256(text),
                    policy.id,
                    policy.version,
                    "violates",
                    "reasoner",
                    "live",
                    "m",
                    at,
                    (policy.violating[0],),
                    score=0.9,
                    reason=said,
                    prefilter=gate,
                    origin=origin,
                ),
            )
        for number, author_id in enumerate(("author-1", HOSTILE_ID)):
            given = {"content_id": f"post-{number}", "policy_id": policies[0].id, "rule_ids": (HOSTILE,), "weight": 1}
            strike = Strike(
                f"strike-{number}", author_id, "given", now(), expires_at=now() + timedelta(days=9), **given
            )
            await producer.send_and_wait(current.prefix + topics.STRIKES, key=author_id.encode(), value=encode(strike))


@contextlib.contextmanager
def enforcement(current):
    """An enforcement agent and a ledger of authors in a thread of their own."""
    loop, stop, up = asyncio.new_event_loop(), asyncio.Event(), threading.Event()

    async def work():
        async with enforcing(current, RULES), keeping(current, RULES):
            up.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(work(),))
    thread.start()
    try:
        assert up.wait(TIMEOUT)
        yield
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


@contextlib.contextmanager
def serving(current, provider, folder, **more):
    """`safeguard console serve`, with an OpenID provider and a database of its own. more: variables."""
    port = brokers.free_port()
    environment = {
        **os.environ,
        "SAFEGUARD_BOOTSTRAP": current.bootstrap,
        "SAFEGUARD_PREFIX": current.prefix,
        "SAFEGUARD_CONSOLE_DATABASE": f"sqlite:///{folder}/console.db",
        "SAFEGUARD_CONSOLE_OIDC_ISSUER": provider,
        "SAFEGUARD_CONSOLE_OIDC_CLIENT_ID": "console",
        "SAFEGUARD_CONSOLE_OIDC_CLIENT_SECRET": "s",
        "SAFEGUARD_CONSOLE_ROLES": '{"mods": ["reviewer"], "leads": ["auditor", "operator"]}',
        "SAFEGUARD_CONSOLE_BLIND_SHARE": "0",
        "SAFEGUARD_CONSOLE_GOLDEN_SHARE": "0",
        "SAFEGUARD_CONSOLE_SECOND_SHARE": "0",
        **more,
    }
    log = folder / "console.log"
    command = [sys.executable, "-m", "safeguard_streams", "console", "serve", "--port", str(port)]
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=out)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + TIMEOUT
        while True:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health/ready", timeout=5) as answer:
                if json.load(answer)["projector"]["caught_up"]:
                    break
            time.sleep(0.2)
        yield url, log
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT) == 0, log.read_text()


@pytest.fixture(scope="module")
def console(embedded_address, tmp_path_factory):
    """The address of a console whose queue holds ITEMS items, and a hostile one; its settings; its log."""
    current, folder = own_topics(embedded_address), tmp_path_factory.mktemp("console")
    run(write(current))
    people = [User(sub=name, claims={"preferred_username": name, "groups": [group]}) for name, group in PEOPLE.items()]
    with (
        run_server_in_thread(require_nonce=True, user_claims=people) as provider,
        enforcement(current),
        serving(current, f"http://localhost:{provider.server_port}", folder) as (url, log),
    ):
        yield url, current, log


@pytest.fixture(scope="module")
def chromium():
    if CHROMIUM is None:
        pytest.skip("no Chromium here (Debian: chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"], timeout=BUSY_MS
        )
        yield browser
        browser.close()


class Person:
    """A browser of one person, who signs in at the provider. Collects what the browser complains about."""

    def __init__(self, chromium, url, name, **more):
        self.context = chromium.new_context(base_url=url, **more)
        self.context.set_default_timeout(BUSY_MS)
        self.page = self.context.new_page()
        self.complaints = []
        self.page.goto("/queue")
        self.page.get_by_role("link", name="Sign in").click()
        self.page.get_by_role("button", name=name, exact=True).click()
        self.page.wait_for_url("**/queue")
        self.page.on("console", lambda one: self.complaints.append(one.text) if one.type == "error" else None)
        self.page.on("pageerror", lambda one: self.complaints.append(str(one)))
        self.page.on("dialog", lambda one: (self.complaints.append(f"dialog {one.message}"), one.dismiss()))

    def wait_for_queue(self, count):
        deadline = time.monotonic() + TIMEOUT
        while f"{count} wait for a person" not in self.page.content():
            assert time.monotonic() < deadline, self.page.content()
            time.sleep(0.3)
            self.page.goto("/queue")


@pytest.fixture
def person(chromium, console):
    opened = []

    def open_(name, **more):
        opened.append(Person(chromium, console[0], name, **more))
        return opened[-1]

    yield open_
    for one in opened:
        one.context.close()
        assert not [text for text in one.complaints if "status of 4" not in text], one.complaints


def test_a_reviewer_signs_in_claims_reveals_decides_and_undoes(person, console):
    _, current, log = console
    rita = person("rita")
    page = rita.page
    rita.wait_for_queue(ITEMS + 1)
    page.keyboard.press("n")
    page.wait_for_url("**/item?id=*")
    content_id = page.locator("input[name=content_id]").first.input_value()
    assert page.get_by_text("The text is hidden").is_visible()
    assert page.get_by_text("attacks people").first.is_visible(), "reason first"
    page.keyboard.press("r")
    page.locator("#text .text").first.wait_for()
    text = page.locator("#text .text").first.inner_text()
    assert text in TEXTS

    page.keyboard.press("4")
    assert page.get_by_label("remove").is_checked()
    page.select_option("#rule", index=1)
    page.fill("#why", "it is what the rule says")
    if SHOTS:
        page.screenshot(path=f"{SHOTS}/review.png")
    page.get_by_role("button", name="Decide", exact=True).dblclick()
    page.get_by_text(f"{content_id}: remove.").wait_for()
    assert f"id={content_id}" not in page.url, "the next item is there"
    run(until(lambda: stands(current, content_id, "remove")))
    decided = [one for one in run(moderators.history(current, content_id)) if one.human]
    assert [(one.by, one.why, one.action) for one in decided] == [("rita", "it is what the rule says", "remove")]

    page.keyboard.press("z")
    page.get_by_text("Undone.").wait_for()
    run(until(lambda: stands(current, content_id, "review")))
    shown = log.read_text()
    assert content_id not in shown
    assert text not in shown


async def stands(current, content_id, action):
    return (await standing_on(current)).get(content_id, "allow") == action


def test_a_reviewer_answers_for_an_account_that_waits_and_undoes(person, console):
    _, current, log = console
    page = person("rita").page

    def wait_for(text):
        deadline = time.monotonic() + TIMEOUT
        while not page.get_by_text(text).count():
            assert time.monotonic() < deadline, page.content()
            time.sleep(0.3)
            page.reload()

    page.goto("/accounts")
    wait_for("2 wait for a review")
    page.locator("a.row-link", has_text="author-1").click()
    page.wait_for_url("**/author?id=author-1")
    wait_for("1 strike counts, together 1")
    page.keyboard.press("5")
    assert page.get_by_label("suspend").is_checked()
    page.keyboard.press("w")
    page.keyboard.type("a bought account")
    page.get_by_role("button", name="Decide", exact=True).dblclick()
    page.get_by_text("author-1: suspend.").wait_for()
    run(until(lambda: stands_on_author(current, "suspend", "rita")))
    wait_for("whatever the strikes say")
    page.keyboard.press("z")
    page.get_by_text("Undone.").wait_for()
    run(until(lambda: stands_on_author(current, "review", None)))
    done = run(standings.known(current, "author-1")).actions
    assert [(one.action, one.by) for one in done] == [("review", None), ("suspend", "rita"), ("review", "rita")]
    assert "author-1" not in log.read_text()


async def stands_on_author(current, action, by):
    standing = (await standings.known(current, "author-1")).standing
    return (standing.action, standing.decision and standing.decision.by) == (action, by)


def test_two_browsers_never_hold_one_item(person):
    rita, rob = person("rita"), person("rob")
    held = []
    for one in (rita, rob):
        one.page.goto("/queue")
        one.page.keyboard.press("n")
        one.page.wait_for_url("**/item?id=*")
        held.append(one.page.url)
    assert held[0] != held[1]
    rob.page.goto(held[0])
    assert rob.page.get_by_text("rita works on it now").is_visible()
    assert rob.page.get_by_role("button", name="Decide", exact=True).count() == 0


def test_an_auditor_reads_a_rationale_and_a_reviewer_gets_403(person):
    otto, rita = person("otto"), person("rita")
    otto.page.goto("/item?id=post-1")
    otto.page.get_by_role("link", name="What the model wrote").click()
    otto.page.get_by_text("analysis attacks people").wait_for()
    rita.page.goto("/item?id=post-1")
    assert rita.page.get_by_text("What the model wrote").count() == 0
    assert rita.page.goto(otto.page.url).status == 403
    otto.page.goto("/audit?action=rationale")
    assert otto.page.get_by_role("cell", name="otto", exact=True).count() == 1


def test_a_part_that_does_not_load_leaves_the_page_and_says_why(person):
    rita = person("rita")
    page = rita.page
    page.goto("/item?id=post-1")
    answer = {"status": 401, "content_type": "text/html", "body": "<main><p>You are signed out.</p></main>"}
    for refuse, said in (
        (lambda route: route.abort(), "The console does not answer"),
        (lambda route: route.fulfill(**answer), "You are signed out"),
    ):
        page.route("**/item/text", refuse)
        page.keyboard.press("r")
        page.get_by_role("alert").get_by_text(said).wait_for()
        assert page.get_by_text("The text is hidden").is_visible()
        page.unroute("**/item/text")
    page.keyboard.press("r")
    page.locator("#text .text").first.wait_for()
    assert page.get_by_role("alert").count() == 0
    assert page.evaluate("document.activeElement.matches('#text .text')")
    rita.complaints.clear()  # of the browser, about what was aborted


def test_ctrl_k_goes_to_an_id(person):
    page = person("rita").page
    page.keyboard.press("Control+k")
    page.keyboard.type("post-3")
    page.keyboard.press("Enter")
    page.wait_for_url("**/item?id=post-3")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 820, 400])
def test_every_page_is_accessible_and_fits(person, console, width, scheme):
    otto = person("otto", viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = otto.page
    page.goto("/queue")
    pages = {
        "overview": "/",
        "queue": "/queue",
        "item": "/item?id=post-1",
        "accounts": "/accounts",
        "author": "/author?id=author-1",
        "search": "/search",
        "policies": "/policies",
        "policy": page.locator("table a[href^='/policy']").first.get_attribute("href"),
        "replays": "/replays",
        "quality": "/quality",
        "exposure": "/exposure",
        "own": "/own",
        "audit": "/audit",
        "hostile-author": "/author?" + urlencode({"id": HOSTILE_ID}),
        "hostile": page.locator("a.row-link", has_text="<b>").first.get_attribute("href"),
        "problem": "/item?id=unknown",
    }
    for name, url in pages.items():
        page.goto(url)
        if name in ("item", "hostile"):
            page.keyboard.press("r")
            page.locator("#text .text").first.wait_for()
        if name == "overview":
            page.locator("canvas").wait_for()
            page.locator("summary").click()
        scrolled = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert scrolled <= 0, f"{name} is {scrolled} px too wide"
        if SHOTS:
            page.screenshot(path=f"{SHOTS}/{name}-{width}-{scheme}.png", full_page=name not in ("hostile", "overview"))
        page.evaluate(AXE.read_text())  # as the debugger does: the pages' own policy forbids any other script
        found = page.evaluate("axe.run()")
        violations = [(one["id"], [node["html"] for node in one["nodes"]][:3]) for one in found["violations"]]
        assert not violations, (name, violations)
