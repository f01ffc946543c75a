"""Ids of golden items: of the shape of others, near no single one of them."""

import re
from uuid import UUID, uuid4

import pytest

from safeguard_streams.console.web.disguise import disguise

HEX = [
    f"{n:016x}"
    for n in (0x3F9A8C1E5B2D4F60, 0x9B1C7E2A0F4D6853, 0x12EF45AB90CD7836, 0xC0FFEE11D00DFEED, 0x77A1B2C3D4E5F609)
]
TIMED = ["01HZX3K9QW5T8RPM", "01HZX3KA2N7V4BCD", "01HZX3KB9F1G6HJK", "01HZX3KC5P8Q3RST", "01HZX3KD7W2X4YZ0"]


@pytest.mark.parametrize(
    ("ids", "pattern"),
    [
        (["post-101", "post-109", "post-164"], r"post-1[0-6]\d"),
        (["1042917", "1042999", "1043105"], r"104[23]\d{3}"),
        (HEX, r"[0-9a-f]{16}"),
        (TIMED, r"01HZX3K[9A-D][0-9A-Z]{8}"),
        (["t3_a1b2c3/x", "t3_d9e8f7/x", "t3_g5h4i6/x"], r"t3_[adg][159][beh][248][cfi][367]/x"),
    ],
)
def test_an_id_has_the_shape_of_others_and_is_none_of_them(ids, pattern):
    made = {disguise(ids[0], ids, ()) for _ in range(50)}
    assert len(made) > 5
    assert all(re.fullmatch(pattern, one) for one in made)
    assert not made & set(ids)


def test_a_number_lies_between_those_that_are_known():
    made = {int(disguise("post-250", ["post-120", "post-450", "post-300"], ())[5:]) for _ in range(99)}
    assert min(made) > 120
    assert max(made) < 450


def test_a_random_id_shares_no_more_with_one_real_id_than_real_ids_do():
    ids = [f"post-{uuid4()}" for _ in range(20)]
    for _ in range(50):
        made = disguise(ids[0], ids, ())
        assert UUID(made.removeprefix("post-")).version == 4
        assert max(sum(a == b for a, b in zip(made[5:], one[5:], strict=True)) for one in ids) < 24


@pytest.mark.parametrize(
    ("like", "others", "taken"),
    [
        ("post-1", [], ()),
        ("post-1", ["post-17", "comment-1"], ()),
        ("post-1", ["post-2"], ()),
        ("post-1", ["post-3"], ("post-2",)),
        ("", [""], ()),
        ("\u0663-1", ["\u0664-1"], ()),
    ],
)
def test_where_no_id_is_free_or_nothing_varies_there_is_none(like, others, taken):
    assert disguise(like, others, taken) is None
