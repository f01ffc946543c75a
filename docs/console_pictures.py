"""Takes the pictures of the console with Chromium: python docs/console_pictures.py. Run it after a change of a page.

It needs Chromium and Playwright. The pages show the rows that the console's tests fill a database with. A new page
takes one line of `PICTURES`.
"""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import uvicorn
from playwright.sync_api import Page, sync_playwright
from screenshots import BROWSERS, DOCS
from sqlalchemy import select

from safeguard_streams.console.database import engine_of
from safeguard_streams.console.migrations import upgrade
from safeguard_streams.console.schema import items, reports
from safeguard_streams.console.web.app import build
from safeguard_streams.contract.records import now, verdict_id
from safeguard_streams.infra.brokers import free_port
from safeguard_streams.runtime import settings

sys.path.insert(0, str(DOCS.parent))  # the tests are not installed
from tests.unit.console.web.filling import REPLAY, fill, policies

FOLDER = DOCS / "console"
ITEM = "post-013"  # it waits for review
REPORTS = (("trusted_flagger", "The number belongs to a known fraud."), ("user", ""))
SIZE = {"width": 1280, "height": 800}
QUALITY = 80  # of WebP


class Picture(NamedTuple):
    """A page of the console. revealed: with its text. dark: in both schemes."""

    name: str
    path: str
    dark: bool = False
    revealed: bool = False


PICTURES = (
    Picture("overview", "/?window=day"),
    Picture("queue", "/queue", dark=True),
    Picture("item", f"/item?id={ITEM}", dark=True, revealed=True),
    Picture("rationale", f"/rationale?verdict={verdict_id(ITEM, 'live')}"),
    Picture("search", "/search?words=prize"),
    Picture("author", "/author?id=author-3"),
    Picture("accounts", "/accounts"),
    Picture("policies", "/policies"),
    Picture("policy", f"/policy?id={policies()[0].id}"),
    Picture("editor", f"/policy/edit?id={policies()[0].id}"),
    Picture("replays", "/replays"),
    Picture("replay", f"/replay?id={REPLAY}"),
    Picture("quality", "/quality"),
    Picture("exposure", "/exposure"),
    Picture("audit", "/audit"),
)


@contextlib.contextmanager
def served(database: Path) -> Iterator[str]:
    """The address of a console on rows of the tests, for this machine's user."""
    engine, port = engine_of(f"sqlite:///{database}"), free_port()
    upgrade(engine)
    fill(engine)
    with engine.begin() as connection:
        sha = connection.scalar(select(items.c.content_sha256).where(items.c.content_id == ITEM))
        for number, (reporter, reason) in enumerate(REPORTS):
            values = {"content_id": ITEM, "report_id": str(number), "content_sha256": sha, "reported_at": now()}
            connection.execute(reports.insert().values(**values, reporter=reporter, reason=reason))
    config = uvicorn.Config(build(settings.load(console_blind_share=0), engine), port=port, log_config=None)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()
        engine.dispose()


def take(page: Page, one: Picture, scheme: str) -> None:
    """Take one picture, as WebP, which is smaller than PNG."""
    page.goto(one.path)
    if one.revealed:
        page.keyboard.press("r")
        page.locator("#text .text").first.wait_for()
    page.evaluate("for (const notice of document.querySelectorAll('body > .notice')) notice.remove()")
    shot = page.context.new_cdp_session(page).send("Page.captureScreenshot", {"format": "webp", "quality": QUALITY})
    (FOLDER / f"{one.name}{'-dark' if scheme == 'dark' else ''}.webp").write_bytes(base64.b64decode(shot["data"]))


def main() -> None:
    os.environ["LOGNAME"] = "mia"  # who works at this machine
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        sys.exit("no Chromium here: install it to take the pictures")
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    with (
        tempfile.TemporaryDirectory() as folder,
        served(Path(folder) / "console.db") as address,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        for scheme in ("light", "dark"):
            context = browser.new_context(base_url=address, viewport=SIZE, color_scheme=scheme)
            for one in PICTURES:
                if scheme == "light" or one.dark:
                    take(context.new_page(), one, scheme)
        browser.close()


if __name__ == "__main__":
    main()
