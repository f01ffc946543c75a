"""The transparency report in a real browser: nothing is loaded, nothing overflows, and axe finds no violation."""

from pathlib import Path

import pytest

pytest.importorskip("playwright")

from playwright.sync_api import sync_playwright

from safeguard_streams.exporting.transparency import counting, page
from safeguard_streams.exporting.transparency.source import Source
from tests import exported
from tests.conftest import TIMEOUT
from tests.integration.test_console_pages import AXE, CHROMIUM, SHOTS

pytestmark = pytest.mark.slow
LONG = "a-policy-with-a-long-name-" * 8


@pytest.fixture
def report(tmp_path):
    """The page of a year, with a policy whose name is long and one in another script."""
    made = exported.Year(items=150)
    at = made.records["actions"][-1].acted_at.replace(year=exported.YEAR)
    named = [made.action("c", "label", at, policy_id=name, decision="violates") for name in (LONG, "猫の方針")]
    made.records["actions"] += named
    for kind, records in made.records.items():
        exported.write(tmp_path / "from", kind, records)
    path = tmp_path / "report.html"
    path.write_text(page.render(counting.count(Source(tmp_path / "from"), exported.YEAR), "Forum"), encoding="utf-8")
    return path


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_the_page_stands_alone_and_fits_wide_and_narrow_screens_light_and_dark(report):
    with sync_playwright() as playwright:
        busy = TIMEOUT * 1000  # what a page may take on a busy machine
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=busy)
        asked = []
        for scheme in ("light", "dark"):
            # The policy of the page forbids scripts, axe included.
            context = browser.new_context(color_scheme=scheme, bypass_csp=True)
            context.set_default_timeout(busy)
            shown = context.new_page()
            shown.on("request", lambda request: asked.append(request.url))
            for width in (1280, 400):
                shown.set_viewport_size({"width": width, "height": 900})
                shown.goto(report.as_uri())
                assert shown.evaluate("document.documentElement.scrollWidth") == width
                if SHOTS:
                    shown.screenshot(path=Path(SHOTS) / f"transparency-{scheme}-{width}.png", full_page=True)
            assert set(asked) == {report.as_uri()}
            shown.evaluate(AXE.read_text(encoding="utf-8"))
            violations = shown.evaluate("axe.run().then(found => found.violations)")
            assert not [(one["id"], [node["html"] for node in one["nodes"]]) for one in violations]
        browser.close()
