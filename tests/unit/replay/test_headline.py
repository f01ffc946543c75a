"""What a diff's headline claims, and that its intervals allow it."""

import re

import pytest

from safeguard_streams.contract.records import Tokens
from safeguard_streams.quality.proportions import proportion
from safeguard_streams.replay.diff import Diff
from safeguard_streams.replay.headline import difference, headline


def diff(flips, compared, differ, twice):
    """A diff in which so many of the compared items flip, and so many of those judged twice have two decisions."""
    return Diff(
        replay_id="r1", policy_id="hate", version="new", before_version="old", events=10 * compared, unreadable=0,
        escalated=compared, waiting=0, unknown=0, compared=compared, decisions={},
        to_violates=proportion(flips, compared), to_safe=proportion(0, compared), to_safe_by_gate=0,
        noise=proportion(differ, twice), violating_before=proportion(0, 10), violating_after=proportion(0, 10),
        rules={}, languages={}, versions_before={}, tokens=Tokens(), seconds=0.0, examples=[],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        ((80, 1000, 5, 500), "More items flip than noise explains, by at least 4.98%"),
        ((5, 1000, 80, 500), "No more items flip than noise explains."),
        ((20, 1000, 0, 5), "Whether more items flip than noise explains is undecided."),
        ((10, 1000, 5, 500), "too close for any practical sample"),
        ((0, 1000, 5, 500), "No decision changes: none of 1,000 compared items flips (95% interval: at most 0.38%)."),
        ((20, 1000, 0, 0), "No noise floor was measured"),
        ((0, 0, 0, 0), "There is nothing to compare yet."),
    ],
)
def test_the_interval_decides_what_is_claimed(figures, expected):
    assert expected in headline(diff(*figures))


def test_it_names_the_numbers_and_their_intervals():
    said = headline(diff(80, 1000, 5, 500))
    assert "80 of 1,000 compared items flip: 8.00% (95% interval 6.47% to 9.85%)" in said
    assert "contradicts itself on 5 of 500 items that it judged twice" in said
    assert "1.00% (95% interval 0.43% to 2.32%)" in said


def test_few_items_judged_twice_decide_nothing_although_none_differs():
    """The share of none in five may be 43%."""
    said = headline(diff(60, 1000, 0, 5))
    assert "undecided" in said
    assert "More items flip" not in said


@pytest.mark.parametrize("figures", [(20, 1000, 0, 5), (60, 1000, 2, 60), (3, 40, 0, 40), (12, 400, 14, 300)])
def test_a_sample_as_large_as_it_names_decides_at_the_same_shares(figures):
    flips, compared, differ, twice = figures
    said = headline(diff(*figures))
    named = re.search(r"about ([\d,]+) compared items, ([\d,]+) of", said)
    larger, judged_twice = (int(number.replace(",", "")) for number in named.groups())
    assert larger > compared
    factor = max(larger / compared, judged_twice / twice)
    gap = difference(
        proportion(round(flips * factor), round(compared * factor)),
        proportion(round(differ * factor), round(twice * factor)),
    )
    assert gap.low > 0 or gap.high < 0, gap


def test_the_difference_is_newcombes():
    """The example of Newcombe 1998, method 10: 56 of 70 and 48 of 80."""
    gap = difference(proportion(56, 70), proportion(48, 80))
    assert (round(gap.value, 4), round(gap.low, 4), round(gap.high, 4)) == (0.2, 0.0524, 0.3339)
