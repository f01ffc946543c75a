"""Takes the pictures of the site with Chromium: python docs/screenshots.py. Run it after a change of the replay's page.

The page shows an invented replay of a marketplace's policy, since the texts of real ones are abusive.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from safeguard_streams.contract.records import Replay, Replayed, Tokens
from safeguard_streams.policies.files import load_library
from safeguard_streams.quality.proportions import proportion
from safeguard_streams.replay.diff import Diff, FlipCounts, ReplayFlip
from safeguard_streams.replay.page import render

DOCS = Path(__file__).parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WIDTH, HEIGHT = 1000, 1100  # pixels, up to the end of the table of rules
WHEN = datetime(2026, 1, 5, 9, 30, tzinfo=UTC)


def replay_page() -> str:
    """The page of the invented replay."""
    policy = load_library()["fraud-spam"]
    flips = [
        ReplayFlip(
            "listing-20417", "en", "violates", "safe", ("FS3",), ("FS4",), "It is promotion that nobody asked for.",
            "It announces the author's own concert.", "The post links to a ticket page and asks readers to come. "
            "Under FS3 of this version, an unsolicited link is promotion.", "The post links to a ticket page for the "
            "author's own concert. FS4 allows announcements of one's own events.",
            text="My band plays at the Lantern on Friday! Tickets at the door or on our page.",
        ),
        ReplayFlip(
            "listing-20611", "en", "safe", "violates", ("FS5",), ("FS2",), "It is everyday talk.",
            "It lures the reader with a prize.", "The text mentions a prize and asks for nothing.",
            "The text offers a prize for a reply to a premium number, which FS2 names.",
            text="You are our winner of the week. Text PRIZE to 80808 to claim your voucher, 4.50 a text.",
        ),
    ]  # fmt: skip
    result = Diff(
        replay_id="20260105-0930-7c1e", policy_id=policy.id, version=policy.version, before_version="41d09c7ab2f3",
        events=48_210, unreadable=12, escalated=2_140, waiting=0, unknown=3, compared=2_140,
        decisions={"violates": {"violates": 610, "safe": 71}, "safe": {"safe": 1_447, "violates": 12}},
        to_violates=proportion(12, 2_140), to_safe=proportion(71, 2_140), to_safe_by_gate=4, noise=proportion(1, 214),
        violating_before=proportion(681, 48_210), violating_after=proportion(622, 48_210),
        rules={"FS1": FlipCounts(1, 2, 190), "FS2": FlipCounts(9, 3, 260), "FS3": FlipCounts(2, 66, 240),
               "FS4": FlipCounts(3, 60, 700), "FS5": FlipCounts(9, 11, 750)},
        languages={"en": FlipCounts(8, 52, 1_500), "de": FlipCounts(3, 12, 400), "es": FlipCounts(1, 7, 240)},
        versions_before={"41d09c7ab2f3": 2_140}, tokens=Tokens(1_498_000, 1_391_000, 171_000), seconds=2_650.0,
        examples=flips,
    )  # fmt: skip
    judged = Replayed(policy.id, policy.version, policy.document, None, "41d09c7ab2f3", policy.document)
    job = Replay(
        result.replay_id,
        (judged,),
        {"0": 0},
        {"0": result.events},
        "escalated",
        WHEN,
        "ann",
        "events are allowed",
    )
    return render(result, job)


def take(html: str, picture: Path) -> None:
    """Take a picture of a page. Raises SystemExit when there is no browser."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit("no Chromium here: install it to take the pictures")
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        page.write_text(html, encoding="utf-8")
        command = [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
            "--hide-scrollbars", f"--user-data-dir={folder}", f"--window-size={WIDTH},{HEIGHT}",
            f"--screenshot={picture}", page.as_uri(),
        ]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True, timeout=120)


if __name__ == "__main__":
    take(replay_page(), DOCS / "replay-page.png")
