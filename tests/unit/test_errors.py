"""Messages for names that are none of the known ones."""

import pytest

from safeguard_streams.errors import ConfigurationError, unknown


@pytest.mark.parametrize(
    ("known", "message"),
    [
        (["safe", "violates"], "no decision 'violatess'; did you mean violates? There are: safe, violates"),
        (["a", "b", "a"], "no decision 'violatess'. There are: a, b"),
        ([], "no decision 'violatess'. There are none yet"),
    ],
)
def test_an_unknown_name_is_answered_with_the_closest_and_all_known_ones(known, message):
    error = unknown("decision", "violatess", known)
    assert isinstance(error, ConfigurationError)
    assert str(error) == message


def test_a_long_list_of_known_names_is_cut_and_the_place_is_named():
    message = str(unknown("policy", "x", [f"p{number:02}" for number in range(25)], "in library"))
    assert message.startswith("no policy 'x' in library. There are: p00, ")
    assert message.endswith("p19 and 5 more")
