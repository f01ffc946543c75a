"""The pictures of the console in the documentation: each of a page that is there, and shown where people look."""

import importlib
import sys
from pathlib import Path

import pytest

pytest.importorskip("playwright")

from tests.unit.console.web.filling import REPLAY

DOCS = Path(__file__).parents[4] / "docs"


@pytest.fixture(scope="module")
def pictures():
    sys.path.insert(0, str(DOCS))
    try:
        return importlib.import_module("console_pictures")
    finally:
        sys.path.remove(str(DOCS))


def names(pictures):
    return {one.name for one in pictures.PICTURES} | {f"{one.name}-dark" for one in pictures.PICTURES if one.dark}


def test_each_is_of_a_page_that_is_there(pictures, browser):
    ann = browser("ann", "admin")
    for one in pictures.PICTURES:
        answered = ann.get(one.path)
        assert answered.status_code == 200, one
        assert "There is no" not in answered.text
    assert REPLAY in "".join(one.path for one in pictures.PICTURES)


def test_all_are_taken_shown_in_the_guide_and_small(pictures):
    files = {path.stem: path for path in pictures.FOLDER.iterdir()}
    assert files.keys() == names(pictures), "run: python docs/console_pictures.py"
    guide = (DOCS / "guides/console.md").read_text(encoding="utf-8")
    assert [name for name in files if f"../console/{name}.webp" not in guide] == []
    assert all(path.read_bytes()[8:12] == b"WEBP" for path in files.values())
    assert sum(path.stat().st_size for path in files.values()) < 1_500_000
