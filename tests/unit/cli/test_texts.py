"""Texts in terminals: whole characters, bounded columns and lines, and no line that passes for the command's own."""

import io
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len, split_graphemes

from safeguard_streams.cli import texts
from safeguard_streams.cli.output import plain
from safeguard_streams.cli.texts import Labelled, item_text, shortened, show_item, wrapped

ASTRONAUT, FLAG, ACCENT = "👩\u200d🚀", "🇩🇪", "e\u0301"


@given(st.text(max_size=400), st.integers(1, 90))
def test_a_shortened_text_is_one_plain_line_that_fits(text, width):
    line = shortened(text, width)
    assert cell_len(line) <= width
    assert plain(line) == line
    assert line == plain(text) or line.endswith("…")
    assert line == plain(text) or cell_len(plain(text)) > width or len(text) > width


@given(st.text(max_size=600), st.integers(20, 90), st.integers(1, 6), st.booleans())
def test_wrapped_lines_are_plain_few_and_fit(text, width, most, keep_lines):
    lines = wrapped(text, width, most, keep_lines=keep_lines)
    assert len(lines) <= most
    assert all(cell_len(line) <= width and plain(line) == line for line in lines)


@pytest.mark.parametrize("character", [ASTRONAUT, FLAG, ACCENT, "漢"])
@pytest.mark.parametrize("width", range(3, 40))
def test_no_character_is_cut(character, width):
    line = shortened(character * 100, width)
    assert line == character * ((len(line) - 1) // len(character)) + "…"
    assert len(line) > 1 or width < 4
    for shown in wrapped(character * 100, max(width, 20), 3):
        whole, rest = divmod(len(shown.removesuffix("…").rstrip()), len(character))
        assert character == FLAG or (whole, rest) == (whole, 0)


def test_what_fits_is_whole_and_what_does_not_says_so():
    assert shortened("abc", 3) == "abc"
    assert shortened("abcd", 3) == "ab…"
    assert wrapped("one two three", 20, 1) == ["one two three"]
    assert wrapped("one two three four five six", 20, 1) == ["one two three four …"]
    assert wrapped("one two three four five six", 20, 2) == ["one two three four", "five six"]
    assert wrapped("a\n\nb", 20, 4) == ["a b"]
    assert wrapped("a\n\nb", 20, 4, keep_lines=True) == ["a", "", "b"]
    assert wrapped("", 20, 4) == [""]


def test_accents_without_end_and_long_texts_cost_little():
    line = shortened("a" + "\u0301" * 100_000, 10)
    assert len(line) < 500
    assert len("".join(wrapped("x" * 5_000_000, 66, 4))) < 5 * 66
    assert len("".join(wrapped("\n" * 5_000_000, 66, 4, keep_lines=True))) < 10


@given(st.text(max_size=300))
def test_a_text_stays_under_its_label(text):
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", out)
        show_item("heading", [Labelled("text", text, 9, keep_lines=True), Labelled("left out", None)])
    empty, heading, *lines = out.getvalue().splitlines()
    assert (empty, heading) == ("", "heading")
    assert lines[0].startswith("  text")
    assert all(line == "" or line.startswith(" " * 14) for line in lines[1:])
    assert all(cell_len(line) <= texts.WIDEST for line in lines)
    assert "left out" not in out.getvalue()


def test_a_missing_text_is_named_only_if_it_was_asked_for():
    assert item_text("x", asked=True) == Labelled("text", "x")
    assert item_text(None, asked=True).label == "no text"
    assert item_text(None, asked=False).text is None


def test_the_library_knows_characters_as_people_see_them():
    """What `shortened` relies on: zero-width parts belong to the character before them."""
    for character in (ASTRONAUT, ACCENT, "👍🏽"):
        assert len(split_graphemes(character)[0]) == 1
    assert unicodedata.category("\u200d") == "Cf"
