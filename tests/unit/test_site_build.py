"""The documentation site, built: every page is whole."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


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
    assert [page for page in pages if "--8" in shown(page)] == []


def test_the_pages_with_includes_contain_the_included_text(site):
    included = {
        "concepts": "Model reasoning stays private",
        "guides/follow": "class FollowVerdicts",
        "guides/secure": heading("SECURITY.md"),
        "guides/runbook": heading("infra/telemetry/RUNBOOK.md"),
    }
    for page, text in included.items():
        assert text in shown(site / page / "index.html"), page


def heading(name):
    return re.search(r"^## (.+)$", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE)[1]


def test_the_pictures_that_pages_show_are_in_the_site(site):
    assert (site / "pipeline.svg").is_file()
    assert 'src="../pipeline.svg"' in (site / "concepts/index.html").read_text(encoding="utf-8")
