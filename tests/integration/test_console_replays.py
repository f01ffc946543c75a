"""Replays in a real browser: estimated, started, watched, compared, worked through by keys, promoted and reverted."""

import asyncio
import re

import pytest

pytest.importorskip("playwright")

from oidc_provider_mock import User, run_server_in_thread

from safeguard_streams.bus import kafka as kafka_bus
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Escalation
from tests import replaying
from tests.conftest import TIMEOUT, own_topics
from tests.integration.test_console_pages import AXE, SHOTS, Person, chromium, run, serving
from tests.replaying import EVENTS, NAME, NEW

__all__ = ["chromium"]  # a fixture
pytestmark = pytest.mark.slow
PEOPLE = {"ola": "ops", "rita": "mods", "aut": "policy"}
ROLES = '{"mods": ["reviewer"], "ops": ["operator"], "policy": ["author"]}'
FLIPS = sum(number % 3 != 2 for number in range(EVENTS))


@pytest.fixture(scope="module")
def console(embedded_address, tmp_path_factory):
    """The address of a console, and its settings."""
    current, folder = own_topics(embedded_address), tmp_path_factory.mktemp("console")
    run(replaying.deploy(current))
    people = [User(sub=name, claims={"preferred_username": name, "groups": [group]}) for name, group in PEOPLE.items()]
    with (
        run_server_in_thread(require_nonce=True, user_claims=people) as provider,
        serving(current, f"http://localhost:{provider.server_port}", folder, SAFEGUARD_CONSOLE_ROLES=ROLES) as (url, _),
    ):
        yield url, current


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


async def judged_once_escalated(current, replay_id, count):
    async with asyncio.timeout(TIMEOUT):
        while True:
            read = kafka_bus.read_decoded(current, [topics.ESCALATIONS_REPLAY], Escalation)
            if len([one async for _, one in read if one.replay_id == replay_id]) == count:
                break
            await asyncio.sleep(0.2)
    await replaying.judge(current, replay_id)


def check(page, name):
    """Take a picture of a page, and look for what axe-core finds, at each width in each scheme."""
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for width in (1280, 400):
            page.set_viewport_size({"width": width, "height": 900})
            if SHOTS:
                page.screenshot(path=f"{SHOTS}/{name}-{width}-{scheme}.png", full_page=True)
            scrolled = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert scrolled <= 0, f"{name} is {scrolled} px too wide at {width}"
        page.evaluate(AXE.read_text())
        found = page.evaluate("axe.run()")
        violations = [(one["id"], [node["html"] for node in one["nodes"]][:3]) for one in found["violations"]]
        assert not violations, (name, scheme, violations)
    page.set_viewport_size({"width": 1280, "height": 900})
    page.emulate_media(color_scheme="light")


def start(page, current):
    """Start a replay, see it judged, and compare its verdicts. Returns its id."""
    page.goto("/replays")
    page.keyboard.press("n")
    page.wait_for_url("**/replays/new")
    check(page, "replay-start")
    page.select_option("#release", value=f"{NAME}@{NEW.version}")
    page.fill("#noise", "100")
    page.fill("#why", "stricter about gifts")
    page.get_by_role("button", name="Estimate the cost").dblclick()
    page.get_by_text("What it would cost").wait_for()
    assert page.get_by_text("about 12, 1 per event").is_visible()
    check(page, "replay-estimate")
    page.get_by_role("button", name="Start").dblclick()
    page.wait_for_url("**/replay?id=*")
    replay_id = page.url.partition("id=")[2]
    page.get_by_text("Pause…").click()
    page.get_by_text("You can resume it").wait_for()
    check(page, "replay-watch")
    run(judged_once_escalated(current, replay_id, 12))
    page.get_by_text("12 of 12 judgements").wait_for()  # live: nobody loads the page
    page.get_by_role("button", name="Compare the verdicts").click()
    page.get_by_text("More items flip than noise explains").wait_for()
    told = page.locator("svg.bar").first.locator("title").text_content()
    assert told.startswith(f"to violates: {FLIPS} of {FLIPS}, 100.00%")
    check(page, "replay-compared")
    return replay_id


def work_through(page, replay_id):
    """Answer all flips by keys: the old verdict is right once, and the new one otherwise."""
    page.goto(f"/replay?id={replay_id}")
    assert page.get_by_role("button", name="Promote…").count() == 0
    page.keyboard.press("n")
    page.wait_for_url("**/replay/flip?*")
    assert page.get_by_text("offers a gift that is none").is_visible()
    assert page.get_by_text("The text is hidden").is_visible()
    page.keyboard.press("r")
    page.locator("#text .text").wait_for()
    check(page, "replay-flip")
    for number in range(FLIPS):
        name = page.locator("h1").inner_text()
        page.keyboard.press("2" if number == 0 else "1")
        page.get_by_text(f"{name}: the").wait_for()
    page.wait_for_url("**/replay/flips?*")
    assert page.get_by_text(f"{FLIPS} of {FLIPS} answered").is_visible()
    assert "87.50%" in page.get_by_role("row").filter(has_text=re.compile("^all flips")).inner_text()
    check(page, "replay-flips")


def publish(page, button):
    """Answer the question, with two clicks on its button, and wait until all is written."""
    page.get_by_role("button", name=button).dblclick()
    page.get_by_text(f"{FLIPS} of {FLIPS} superseding verdicts were written").wait_for()


def superseding(current):
    return [one.decision for one in run(replaying.verdicts(current)) if one.replay_id]


def test_a_replay_is_started_worked_through_promoted_and_reverted(person, console):
    _, current = console
    page = person("ola").page
    replay_id = start(page, current)
    work_through(person("rita").page, replay_id)
    page.get_by_text(f"{FLIPS} of {FLIPS} flips were answered").wait_for()  # live, too
    assert page.get_by_role("cell", name="87.50%", exact=True).first.is_visible()
    page.get_by_role("button", name="Promote…").click()
    page.get_by_text(f"Publish {FLIPS} verdicts under").wait_for()
    check(page, "replay-promote")
    page.get_by_role("button", name=f"Publish {FLIPS} verdicts").click()
    page.get_by_text("more than the budget of 5.0%").wait_for()
    page.go_back()
    page.fill("#budget", "100")
    page.fill("#why", "people agree")
    publish(page, f"Publish {FLIPS} verdicts")
    assert superseding(current) == ["violates"] * FLIPS
    page.goto(f"/replay?id={replay_id}")
    page.get_by_role("button", name="Revert…").click()
    publish(page, f"Take back {FLIPS} verdicts")
    assert sorted(superseding(current)) == ["safe"] * FLIPS + ["violates"] * FLIPS
