"""Unicode's normal forms of texts that are made to be slow."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safeguard_streams.policies.folding import normalized, plain, removes_more, sent
from safeguard_streams.prefilter.normalise import fold as folded

FORMS = ("NFC", "NFKC", "NFKD")
# Of several classes, which have an order. Some turn into marks only in a normal form.
MARKS = "\u0301\u0316\u0327\u0344\u05b0\u0e38\u0f73\u3099\uff9e\U000110b9\U0001e8d0"


@given(st.text(), st.sampled_from(FORMS))
def test_ordinary_texts_have_the_forms_of_the_standard(text, form):
    assert normalized(form, text) == unicodedata.normalize(form, text)


@given(st.text(st.sampled_from("a" + MARKS), min_size=25, max_size=100), st.sampled_from(FORMS))
def test_so_have_long_rows_of_marks(text, form):
    assert normalized(form, text) == unicodedata.normalize(form, text)


@pytest.mark.parametrize(
    "marks", ["\u0e38\u3099", "\U0001e8d0\U000110b9", "\u3099\U0001e8d0", "\u0f73", "\uff9e\u0316"]
)
@pytest.mark.parametrize("form", FORMS)
def test_rows_of_any_length_take_linear_time(form, marks):
    first, *rest = normalized(form, "a" + marks * 500_000 + "z")  # a quadratic step would take hours
    assert (first, rest[-1]) == ("a", "z")
    assert len(rest) >= 500_000


@pytest.mark.parametrize("word", ["\u304c", "\u0915\u094d\u0937", "\u0e01\u0e38"])
def test_accents_hide_no_mark_that_is_part_of_a_word(word):
    apart = unicodedata.normalize("NFD", word)
    assert plain(apart[0] + "\u0301" * 40 + apart[1:]) == word


def test_what_a_fold_looks_for_is_made_once():
    folded(["h\u00e9llo"])
    made = removes_more.cache_info().misses
    folded(["h\u00e9llo", "w\u00f6rld"])
    assert removes_more.cache_info().misses == made


@pytest.mark.parametrize("fold", [plain, sent])
@given(st.text(st.sampled_from("a\u304b\u00e9" + MARKS), max_size=200))
def test_what_follows_many_marks_is_read_and_folding_twice_changes_nothing(fold, text):
    once = fold(text)
    assert fold(once) == once
    assert fold(text + "z").endswith("z")
