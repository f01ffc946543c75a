"""Unicode's normal forms of texts that are made to be slow."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safeguard_streams.policies.folding import normalized, plain, sent

FORMS = ("NFC", "NFKC", "NFKD")
MARKS = "\u0301\u0316\u0327\u05b0\u0e38\u3099\U000110b9\U0001e8d0"  # of several classes, which have an order


@given(st.text(), st.sampled_from(FORMS))
def test_ordinary_texts_have_the_forms_of_the_standard(text, form):
    assert normalized(form, text) == unicodedata.normalize(form, text)


@pytest.mark.parametrize("form", FORMS)
def test_as_many_marks_as_the_standard_allows_in_a_stream_stay(form):
    text = "a" + "\u0316" * 30 + "b"
    assert normalized(form, text) == text
    assert normalized(form, "a" + "\u0316" * 31 + "b") == text


@pytest.mark.parametrize("marks", ["\u0e38\u3099", "\U0001e8d0\U000110b9", "\u3099\U0001e8d0"])
@pytest.mark.parametrize("form", FORMS)
def test_no_row_of_marks_is_longer(form, marks):
    first, *rest = normalized(form, "a" + marks * 500_000 + "z")  # a quadratic step would take hours
    assert (first, rest[-1]) == ("a", "z")
    assert len(rest) == 31


@pytest.mark.parametrize("fold", [plain, sent])
@given(st.text(st.sampled_from("a\u304b\u00e9" + MARKS), max_size=200))
def test_what_follows_many_marks_is_read_and_folding_twice_changes_nothing(fold, text):
    once = fold(text)
    assert fold(once) == once
    assert fold(text + "z").endswith("z")
