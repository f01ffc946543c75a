"""The documentation site, built: every page is whole, opens from disk, and is found under the words that people use."""

import importlib
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from html import unescape
from pathlib import Path
from urllib.parse import urlsplit
from xml.etree import ElementTree as ET

import pytest

from tests.conftest import TIMEOUT

ROOT = Path(__file__).parents[2]
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# What people type into the search, and the page that answers it.
SEARCHED = {
    "sizing": "guides/capacity.html",
    "monitoring": "guides/watch.html",
    "audit log": "guides/enforce.html",
    "export": "guides/export.html",
    "appeal": "guides/appeals.html",
    "rate limit": "guides/model.html",
    "canary": "guides/canary.html",
    "rollback": "guides/write-a-policy.html",
    "backfill": "guides/replay.html",
    "GDPR erasure": "guides/secure.html",
    "dashboards": "reference/dashboards.html",
}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [Path(sys.executable).with_name("mkdocs"), "build", "--strict", "--quiet", "--site-dir", folder]
    subprocess.run(command, cwd=ROOT, check=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True)
    return folder


def shown(page):
    """The text of a page without its tags: a highlighted marker has tags inside."""
    return re.sub(r"<[^>]*>", "", page.read_text(encoding="utf-8"))


def test_no_page_contains_an_include_marker(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 15
    for page in pages:
        assert "--8" not in shown(page)
        assert not re.search(r"<!-- (include|part)", page.read_text(encoding="utf-8")), page


def test_no_include_marker_shows_where_the_markdown_itself_is_read():
    """A forge shows a page's Markdown: comments are hidden there, and each include has a link in its place."""
    includes = 0
    for path in (ROOT / "docs").rglob("*.md"):
        text = path.read_text(encoding="utf-8")
        assert "--8" not in text, path
        for target, instead in re.findall(r"<!-- include: ([^\s#]+)\S* -->\n(.*?)<!-- included -->", text, re.DOTALL):
            includes += 1
            (link,) = re.findall(r"\]\(([^)#]+)", instead)
            assert (path.parent / link).resolve() == ROOT / target, path
    assert includes > 5


def test_the_pages_with_includes_contain_the_included_text(site):
    included = {
        "concepts": "Model reasoning stays private",
        "guides/follow": "class FollowVerdicts",
        "guides/test-your-code": "MemoryBroker(",
        "guides/secure": heading("SECURITY.md"),
        "guides/runbook": heading("infra/telemetry/RUNBOOK.md"),
    }
    for page, text in included.items():
        assert text in shown(site / f"{page}.html"), page


def heading(name):
    return re.search(r"^## (.+)$", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE)[1]


def test_the_pictures_that_pages_show_are_in_the_site(site):
    pictures = 0
    for page in site.rglob("*.html"):
        for source in re.findall(r'<img[^>]* src="([^"]+)"', page.read_text(encoding="utf-8")):
            pictures += 1
            assert (page.parent / source).is_file(), (page, source)
    assert pictures >= 2


def test_every_link_between_pages_leads_to_a_file_and_nothing_comes_from_another_host(site):
    """A file is what a browser opens from disk; a folder would show a listing."""
    links = 0
    for page in site.rglob("*.html"):
        if page.name == "404.html":  # a server shows it in any folder, hence its links begin with a slash
            continue
        text = page.read_text(encoding="utf-8")
        for link in re.findall(r'<a[^>]* href="([^"]+)"', text):
            parts = urlsplit(link)
            if not parts.scheme and parts.path:
                links += 1
                assert (page.parent / parts.path).is_file(), (page, link)
        assert re.findall(r'<(?:script|link|img|iframe)[^>]* (?:src|href)="(?:https?:)?//', text) == []
    assert links > 500


def test_names_in_text_do_not_break_and_code_blocks_are_left_alone(site):
    text = (site / "guides/kafka.html").read_text(encoding="utf-8")
    assert '<span class="name">--reset-offsets</span>' in text
    assert '<td><span class="name">safeguard-streams</span></td>' in (site / "comparison.html").read_text("utf-8")
    for page in site.rglob("*.html"):
        blocks = re.findall(r"<pre.*?</pre>", page.read_text(encoding="utf-8"), re.DOTALL)
        assert not [block for block in blocks if 'class="name"' in block], page


def test_a_command_breaks_before_an_option_and_its_output_keeps_its_columns(site):
    """Browsers would break `--port` after its first hyphen, and wrap the rows of tables that commands print."""
    text = (site / "guides/own-policy.html").read_text(encoding="utf-8")
    assert '<span class="option">--port</span>' in text
    for block in re.findall(r'<div class="([^"]*)highlight"><pre>', text):
        assert block.startswith("language-"), "the style sheet knows outputs by their language, text"
    assert 'class="language-text highlight"' in text


def test_every_block_of_the_pages_names_its_language():
    for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        fences = re.findall(r"^ *```(.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
        assert all(fences[::2]), path


def test_every_table_has_headers(site):
    for page in site.rglob("*.html"):
        for row in re.findall(r"<thead>(.*?)</thead>", page.read_text(encoding="utf-8"), re.DOTALL):
            cells = re.findall(r"<th[^>]*>(.*?)</th>", row, re.DOTALL)
            assert cells, page
            assert all(re.sub(r"<[^>]*>", "", cell).strip() for cell in cells), (page, cells)


def test_every_field_of_a_record_and_every_setting_is_described(site):
    for name in ("topics", "settings"):
        text = (site / f"reference/{name}.html").read_text(encoding="utf-8")
        rows = re.findall(r"<tr>\n(.*?)</tr>", text, re.DOTALL)
        cells = [re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL) for row in rows]
        described = [row for row in cells if row and "<code>" in row[0]]
        assert len(described) > 40
        assert [row[0] for row in described if not row[1].strip()] == []


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
@pytest.mark.parametrize(("words", "page"), SEARCHED.items())
def test_the_search_works_from_disk_and_finds_the_right_page_first(site, tmp_path, words, page):
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
        f"--user-data-dir={tmp_path}", "--virtual-time-budget=20000", "--dump-dom",
        f"{(site / 'index.html').as_uri()}?q={words.replace(' ', '+')}",
    ]  # fmt: skip
    dom = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=True).stdout
    found = re.findall(r'href="([^"#?]+)[^"]*" class="md-search-result__link"', dom)
    assert found[:1] == [(site / page).as_uri()]


def of_docs(name):
    """A module of the folder docs, which is no package."""
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.pop(0)


def test_the_picture_of_the_replays_page_is_of_a_page_that_renders():
    html = of_docs("screenshots").replay_page()
    assert "fraud-spam: what the new version changes" in html
    assert (ROOT / "docs/replay-page.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_the_pictures_of_the_dashboards_show_the_queries_of_their_panels():
    """A picture whose panel has changed since is wrong: python docs/panels.py draws all of them again."""
    panels = of_docs("panels")
    charts = dict(panels.charts())
    found = {path.name: path.read_text(encoding="utf-8") for path in panels.PICTURES.iterdir()}
    for name, picture in found.items():
        assert name in charts, f"{name} is of no panel"
        assert ET.fromstring(picture).find("{*}g/{*}desc").text == panels.queries(charts[name]), name
    assert len(charts.keys() - found.keys()) <= 3, "run python docs/panels.py"
    empty = [name for name, picture in found.items() if ">No data<" in picture]
    assert len(empty) < len(found) / 2


def test_the_page_of_dashboards_says_what_its_pictures_are_and_describes_each(site):
    page = shown(site / "reference/dashboards.html")
    assert "not screenshots of Grafana" in page
    for _, panel in of_docs("panels").charts():
        assert panel["description"].replace("`", "") in unescape(page)


def test_a_panel_is_drawn_with_its_scale_its_gaps_and_its_highest_lines():
    panels = of_docs("panels")
    panel = dict(panels.charts())["pipeline-share-escalated.svg"]
    lines = [panels.Line(f"policy-{number} <b>", [0.01 * number, None, 0.0, 0.0]) for number in range(1, 10)]
    picture = ET.fromstring(panels.draw(panel, lines))
    texts = [text.text for text in picture.findall(".//{*}text")]
    assert texts[0] == "Share escalated"
    assert {"0%", "2.5%", "10%", "0 min", "policy-9 <b>", "and 3 more"} <= set(texts)
    assert "policy-3 <b>" not in texts
    curves = [path.get("d") for path in picture.findall(".//{*}path") if path.get("fill") == "none"]
    assert len(curves) == 9
    assert all(curve.count("M") == 2 and curve.count("L") == 1 for curve in curves)
    assert "No data" in panels.draw(panel, [])


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl here")
def test_the_guide_to_kubernetes_counts_the_objects_of_the_manifests():
    command = ["kubectl", "kustomize", ROOT / "infra/kubernetes"]
    manifests = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    kinds = Counter(re.findall(r"^kind: (\w+)$", manifests, re.MULTILINE))
    guide = (ROOT / "docs/guides/kubernetes.md").read_text(encoding="utf-8")
    block = re.search(r"<!-- kustomize -->\n *```text\n(.*?)```", guide, re.DOTALL)[1]
    assert {kind: int(number) for number, kind in re.findall(r"(\d+) kind: (\w+)", block)} == kinds
