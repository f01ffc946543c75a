"""One form for many spellings, at a bounded cost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safeguard_streams.policies.folding import plain
from safeguard_streams.prefilter.normalise import fold, read, tokens

LINES = st.text(max_size=200).map(lambda text: " ".join(text.splitlines()))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("HELLO   World", ["hello", "world"]),
        ("\uff28\uff45llo \U0001d421\U0001d41ello", ["hello", "hello"]),  # full width, mathematical bold
        ("he\u200bl\u202elo", ["hello"]),  # zero width, direction
        ("h\u0335e\u0335l\u0335l\u0335o\u0301", ["hello"]),  # struck through, accented
        ("h\u0435ll\u043e fri\u0435nd", ["hello", "friend"]),  # Cyrillic letters in a Latin line
        (
            "\u043f\u0440\u0438\u0432\u0435\u0442 \u043c\u0438\u0440",
            ["\u043f\u0440\u0438\u0432\u0435\u0442", "\u043c\u0438\u0440"],
        ),  # Cyrillic stays
        ("\U0001f177\U0001f170\U0001f183\U0001f174", ["hate"]),  # enclosed
        ("sooooooo", ["sooo"]),
        ("h e l l o   y o u", ["hello", "you"]),
        ("h.e.l.l.o", ["hello"]),
        ("see https://x.example/a?b=c now", ["see", "<url>", "now"]),
        ("hi @some_one!", ["hi", "<user>", "!"]),
        ("mail a@b.example", ["mail", "a", "@", "b", ".", "example"]),
        ("", []),
    ],
)
def test_many_spellings_have_one_form(text, expected):
    assert tokens(text) == expected


@pytest.mark.parametrize(
    ("text", "unmasked"),
    [
        ("k1ll y0u", "kill you"),
        ("cr@zy $h1t!", "crazy shit!"),
        ("stooopiiiid", "stopid"),
        ("id*iot and mo.ron", "idiot and moron"),
    ],
)
def test_an_extra_view_shows_the_text_without_its_disguise(text, unmasked):
    views = read(["good morning", text])
    assert views.lines[1] != unmasked, "the original stays"
    assert views.lines[2:] == [unmasked]
    assert views.text.tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    "text", ["good morning", "the 2nd of 3 rooms at 10am", "don't, it's a well-known 50 km", "1999"]
)
def test_ordinary_text_gets_one_view(text):
    assert len(read([text]).lines) == 1


@given(LINES)
def test_folding_twice_changes_nothing(text):
    once = fold([text]).latin
    assert fold(once).latin == once


@given(st.lists(LINES, max_size=6))
def test_a_text_is_read_the_same_way_in_every_batch(texts):
    together = read(texts)
    for number, text in enumerate(texts):
        alone = read([text])
        assert alone.folded.latin == [together.folded.latin[number]]
        assert alone.folded.plain == [together.folded.plain[number]] == [plain(text)]
        lines = [line for line, owner in zip(together.lines, together.text, strict=True) if owner == number]
        assert alone.lines == lines


@given(LINES)
def test_long_pieces_are_split(text):
    assert all(len(piece) <= 61 for line in read([text * 5]).lines for piece in line.split(" "))


def test_letters_that_are_joined_are_split_again_at_the_longest_piece():
    (line,) = read(["a b " * 1000]).lines
    assert max(map(len, line.split(" "))) <= 61


@pytest.mark.parametrize(
    "text",
    [
        "a" * 1_000_000,
        "a b " * 500_000,
        "&#107;" * 100_000,
        "\ud800" * 100_000,
        "\u0301" * 100_000,
        "a\u0301" * 50_000,
        "\u0e38\u3099\u0301\u0316" * 32_768,
        "\u0e38\u200d\u3099\u0301\u0316" * 26_000,
        "\U000110b9\U0001e8d0\u3099" * 40_000,
        "a." * 100_000,
        "@" * 100_000,
        "\u0430" * 100_000,
        "1a" * 100_000,
        "\u0436\u0430" * 100_000,
    ],
    ids=[
        "one letter",
        "spaced-out letters",
        "references",
        "surrogates",
        "marks",
        "accents",
        "marks out of order",
        "marks out of order between joiners",
        "marks of other planes out of order",
        "dots",
        "mentions",
        "homoglyphs",
        "leetspeak",
        "one word of another script",
    ],
)
def test_a_text_made_to_be_slow_is_read_in_linear_time(text):
    views = read([text])  # a quadratic step would exceed the time limit of the suite
    assert len(views.folded.latin) == 1
