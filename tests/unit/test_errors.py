"""Messages for names that are none of the known ones."""

import pytest

from safeguard_streams.errors import choices, nearest


@pytest.mark.parametrize(
    ("known", "message"),
    [
        (["violates", "safe"], "; did you mean violates? available: safe, violates"),
        (["a", "b", "a"], "; available: a, b"),
        ([], "; available: none"),
    ],
)
def test_an_unknown_name_is_answered_with_the_closest_and_all_known_ones(known, message):
    assert choices("violatess", known) == message


def test_a_setting_of_many_is_answered_with_the_closest_only():
    assert nearest("bootstarp", ["bootstrap", "prefix"]) == "; did you mean bootstrap?"
    assert nearest("zzz", ["bootstrap", "prefix"]) == ""
