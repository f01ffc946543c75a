"""The page of a replay's diff: what it says, that nothing in it runs, and that it fits a browser."""

import re
import shutil
import struct
import subprocess
from datetime import UTC, datetime
from html.parser import HTMLParser

import msgspec
import pytest

from safeguard_streams.contract.records import Replay, Replayed, Tokens
from safeguard_streams.policies.files import load_library
from safeguard_streams.quality.proportions import proportion
from safeguard_streams.replay.diff import Diff, FlipCounts, ReplayFlip
from safeguard_streams.replay.headline import headline
from safeguard_streams.replay.page import render
from tests.conftest import TIMEOUT

WHEN = datetime(2026, 1, 1, tzinfo=UTC)
HOSTILE = "</pre><script>document.title='ran'</script><img src=x onerror=\"document.title='ran'\">" + "long" * 200
LONG = "\u202e" + "👩\u200d🚀" * 2000
STRICT = load_library()["hate-harassment"]
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def flip(number, before="violates", after="safe"):
    return ReplayFlip(
        f"content-{number}", "en", before, after, ("HH2",), ("HH5",), f"It insults. {HOSTILE}", "It is rude, no more.",
        f"The words are {HOSTILE}", "The policy tolerates insults.", f"You are {HOSTILE} {LONG}",
    )  # fmt: skip


def diff(**more):
    rules = {"HH2": FlipCounts(3, 60, 400), "HH1": FlipCounts(12, 5, 300), "HH5": FlipCounts(15, 65, 650)}
    languages = {
        "en": FlipCounts(9, 40, 700),
        "de": FlipCounts(4, 20, 250),
        "": FlipCounts(2, 5, 50),
        **{f"x{n}": FlipCounts(0, 1, 3) for n in range(30)},
    }
    known = {
        "replay_id": "20260101-120000-ab12",
        "policy_id": "hate-harassment",
        "version": "b27594ece489",
        "before_version": "a1b2c3d4e5f6",
        "events": 12_000,
        "unreadable": 3,
        "escalated": 1100,
        "waiting": 0,
        "unknown": 12,
        "compared": 1000,
        "decisions": {
            "violates": {"violates": 200, "safe": 65},
            "safe": {"safe": 700, "violates": 15, "undetermined": 3},
        },
        "to_violates": proportion(15, 1000),
        "to_safe": proportion(65, 1000),
        "to_safe_by_gate": 7,
        "to_violates_past_gate": 4,
        "violating_past_gate": 2,
        "undetermined": 3,
        "edited": 5,
        "judged_since": 6,
        "noise": proportion(1, 200),
        "violating_before": proportion(265, 12_000),
        "violating_after": proportion(215, 12_000),
        "rules": rules,
        "languages": languages,
        "versions_before": {"a1b2c3d4e5f6": 1000},
        "tokens": Tokens(700_000, 650_000, 90_000),
        "seconds": 5321.5,
        "examples": [flip(n) for n in range(8)],
    } | more
    return Diff(**known)


def nothing():
    return diff(
        to_violates=proportion(0, 1000), to_safe=proportion(0, 1000), to_safe_by_gate=0, noise=proportion(0, 0),
        rules={"HH1": FlipCounts(0, 0, 1000)},
        languages={"en": FlipCounts(0, 0, 1000)}, examples=[], decisions={"safe": {"safe": 1000}},
    )  # fmt: skip


REPLAY = Replay(
    "20260101-120000-ab12",
    (Replayed("hate-harassment", STRICT.version, STRICT.document, None, STRICT.version, STRICT.document),),
    {"0": 0},
    {"0": 12_000},
    "escalated",
    WHEN,
    "ann",
    f"profanity is tolerated {HOSTILE}",
)


class Reading(HTMLParser):
    """The elements of a page, and its text."""

    def __init__(self):
        super().__init__()
        self.elements, self.attributes, self.text = [], [], []

    def handle_starttag(self, tag, attributes):
        self.elements.append(tag)
        self.attributes += [name for name, _ in attributes]

    def handle_data(self, data):
        self.text.append(data)


def read(html):
    reading = Reading()
    reading.feed(html)
    return reading, " ".join(" ".join(reading.text).split())


def test_the_page_states_the_figures():
    _, text = read(render(diff(), REPLAY))
    for part in (
        "hate-harassment: what the new version changes",
        "More items flip than noise explains",
        "15 become violating 1.50% of the items compared",
        "65 become safe 6.50% of the items compared; the new gate lets 7 of them pass",
        (
            "1,000 items compared of 12,000 events (without 3 dead letters); 12 without an earlier verdict; "
            "5 edited since; 6 judged again since"
        ),
        "It leaves 3 items as they are, on which the new version reached no decision.",
        "The new gate lets 4 of the flips to violates pass. It lets 2 items pass that violate by both versions",
        "1 of 200 decisions differ when the same version judges twice",
        "HH2 Insults, demeans or harasses a person",
        "not specified",
        "21 more languages have no more flips than these.",
        "The policy tolerates insults.",
        "You are </pre><script>",
        "700,000 prompt tokens (650,000 of them cached)",
        "safeguard replay promote 20260101-120000-ab12",
    ):
        assert part in text


def test_nothing_in_the_page_runs_or_is_fetched():
    reading, text = read(render(diff(), REPLAY))
    assert not {"script", "img", "link", "iframe", "object", "form", "a"} & set(reading.elements)
    assert not {name for name in reading.attributes if name.startswith("on")} | {"src", "href"} & set(
        reading.attributes
    )
    assert "<script>document.title" in text, "it is shown as text"
    assert "default-src 'none'" in render(diff(), REPLAY)
    assert "http" not in re.sub(r"http-equiv", "", render(nothing(), msgspec.structs.replace(REPLAY, why="")))


def test_a_long_text_is_cut_between_characters_and_an_example_without_one_has_no_row():
    _, text = read(render(diff(), REPLAY))
    assert "👩\u200d🚀…" in text
    assert "👩…" not in text
    assert "\u200d…" not in text
    without = [msgspec.structs.replace(flip(1), text=None)]
    html = render(diff(examples=without), REPLAY)
    assert '<tr class="text">' not in html
    assert "content-1" in html


def test_pages_without_flips_or_without_a_version_before_are_complete():
    _, text = read(render(nothing(), REPLAY))
    assert "No decision changes: none of 1,000 compared items flips" in text
    assert "By rule" not in text
    assert "replay promote" not in text
    _, text = read(render(diff(before_version=None, compared=0), msgspec.structs.replace(REPLAY, policies=())))
    assert "no version was in force before" in text


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (diff(), "More items flip than noise explains"),
        (diff(noise=proportion(10, 100)), "is undecided"),
        (diff(noise=proportion(0, 0)), "No noise floor was measured"),
        (diff(compared=0), "There is nothing to compare"),
        (nothing(), "No decision changes"),
    ],
)
def test_the_summary_claims_no_more_than_the_figures(result, expected):
    assert expected in headline(result)


def browse(tmp_path, html, width, *arguments):
    path = tmp_path / "page.html"
    path.write_text(html, encoding="utf-8")
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", "--disable-quic", f"--user-data-dir={tmp_path / 'profile'}",
        "--force-device-scale-factor=1", f"--window-size={width},900", *arguments, path.as_uri(),
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=True).stdout


MEASURE = """<script>
const wide = document.documentElement;
const bars = [...document.querySelectorAll('.bar i, .both i')].map(bar => bar.getBoundingClientRect());
const outside = bars.filter(bar => { return bar.right > wide.clientWidth || bar.left < 0; }).length;
document.title = JSON.stringify([wide.scrollWidth, wide.clientWidth, bars.length, outside]);
</script></body>"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
@pytest.mark.parametrize("width", [1280, 820, 500])
@pytest.mark.parametrize("result", [diff(), nothing()], ids=["flips", "no flips"])
def test_in_a_browser_the_page_fits_and_its_bars_are_drawn(tmp_path, result, width):
    html = render(result, REPLAY)
    measured = re.sub(r"<meta http-equiv=.*?>", "", html).replace("</body>", MEASURE)
    # Hostile words would set the title as well, if they ran.
    dom = browse(tmp_path, measured, width, "--dump-dom")
    title = re.search(r"<title>\[(\d+),(\d+),(\d+),(\d+)\]</title>", dom)
    assert title, dom[:500]
    scrolled, shown, bars, outside = map(int, title.groups())
    assert scrolled <= shown
    assert bars >= (20 if result.examples else 4)
    assert outside == 0


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_in_a_browser_no_text_of_the_page_runs(tmp_path):
    assert "<title>Replay of hate-harassment: what changes</title>" in browse(
        tmp_path, render(diff(), REPLAY), 1280, "--dump-dom"
    )
    shot = tmp_path / "page.png"
    browse(tmp_path, render(diff(), REPLAY), 1280, f"--screenshot={shot}")
    assert struct.unpack(">II", shot.read_bytes()[16:24]) == (1280, 900)
