"""Kappa and alpha give the published figures, and say when the items are not enough."""

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from safeguard_streams.quality.agreement import ENOUGH, alpha, kappa

# Rows are raters, columns items; a point is no rating. Each with the alpha that is published for it.
BINARY = ("0100000010", "1110010000")  # Krippendorff 2011, A
TWO_CODERS = ("aabbdcccedda", "babbbccceddd")  # Krippendorff 2011, B
FOUR_CODERS = ("123321412...", "1233224125.3", ".3332342251.", "12332441251.")  # Krippendorff 2011, C
THREE_CODERS = (".....34121133.3", "1.213343.......", "..21344.21133.4")  # Wikipedia, Krippendorff's alpha


def items_of(raters):
    return [[one for one in ratings if one != "."] for ratings in zip(*raters, strict=True)]


@pytest.mark.parametrize(
    ("raters", "published"), [(BINARY, 0.095), (TWO_CODERS, 0.692), (FOUR_CODERS, 0.743), (THREE_CODERS, 0.691)]
)
def test_alpha_is_the_published_one(raters, published):
    found = alpha(items_of(raters), enough=2)
    assert found.value == pytest.approx(published, abs=0.0006)
    assert found.low <= found.value <= found.high
    assert found.items == sum(len(ratings) > 1 for ratings in items_of(raters))


def test_kappa_is_the_published_one():
    """The grant proposals of Cohen's kappa on Wikipedia: 20 yes/yes, 5 yes/no, 10 no/yes, 15 no/no."""
    pairs = [("yes", "yes")] * 20 + [("yes", "no")] * 5 + [("no", "yes")] * 10 + [("no", "no")] * 15
    found = kappa([[pair] for pair in pairs])
    assert (found.value, found.same, found.items) == (pytest.approx(0.4), pytest.approx(0.7), 50)
    # Fleiss, Cohen and Everitt 1969: the standard error is 0.128 here, and the interval 0.15 to 0.65.
    assert found.low == pytest.approx(0.15, abs=0.05)
    assert found.high == pytest.approx(0.65, abs=0.05)


def test_kappa_is_that_of_an_independent_implementation():
    draw = np.random.default_rng(3)
    for _ in range(20):
        first = draw.choice(list("abc"), size=40)
        second = np.where(draw.random(40) < 0.6, first, draw.choice(list("abc"), size=40))
        found = kappa([[(str(a), str(b))] for a, b in zip(first, second, strict=True)])
        assert found.value == pytest.approx(cohen_kappa_score(first, second))


def test_intervals_cover_the_figure_of_all_as_often_as_they_say():
    """Raters agree on 90% of items that violate in half of the cases: kappa is 0.8."""
    draw, covered = np.random.default_rng(5), 0
    for _ in range(200):
        truth = draw.random(120) < 0.5
        said = np.where(draw.random(120) < 0.9, truth, ~truth)
        found = kappa([[(str(a), str(b))] for a, b in zip(truth, said, strict=True)])
        covered += found.low <= 0.8 <= found.high
    assert 178 <= covered <= 200


def test_pairs_of_one_item_are_drawn_together():
    """Ten people who say the same of an item are no ten times as many items."""
    pairs = [("v", "v")] * 12 + [("v", "s")] * 4 + [("s", "s")] * 12
    alone, together = kappa([[pair] for pair in pairs]), kappa([[pair] * 10 for pair in pairs])
    assert (together.value, together.items) == (pytest.approx(alone.value), alone.items)
    assert (together.low, together.high) == (pytest.approx(alone.low), pytest.approx(alone.high))


@pytest.mark.parametrize(
    ("figure", "ratings"),
    [
        (alpha, []),
        (kappa, []),
        (alpha, [["v"]] * 50),  # one rater
        (alpha, [["v", "v"]] * 50),  # one category
        (kappa, [[("v", "v")]] * 50),
        (kappa, [[("v", "v")]] * 20 + [[("v", "s")]] * 20),  # one rater has one category: 0 whatever the other says
        (alpha, [["v", "s"]] * (ENOUGH - 1)),
        (kappa, [[("v", "s")]] * (ENOUGH - 1)),
        (kappa, [[("v", "v")]] * 20 + [[]] * 50),  # items without a pair are none
    ],
)
def test_what_is_not_enough_has_no_figure(figure, ratings):
    found = figure(ratings)
    assert (found.value, found.low, found.high) == (None, None, None)
    assert found.items == sum(len(one) > (figure is alpha) for one in ratings)


def test_full_agreement_is_one_and_full_disagreement_is_below_zero():
    assert kappa([[("v", "v")]] * 20 + [[("s", "s")]] * 20).value == 1
    assert alpha([["v", "v"]] * 20 + [["s", "s", "s"]] * 20).value == 1
    assert kappa([[("v", "s")]] * 20 + [[("s", "v")]] * 20).value == -1
    assert alpha([["v", "s"]] * 40).value < 0


def test_full_agreement_on_few_items_is_no_certainty():
    few, many = (kappa([[("v", "v")]] * count + [[("s", "s")]] * count) for count in (6, 600))
    assert (few.value, few.high, many.value, many.high) == (1, 1, 1, 1)
    assert few.low == pytest.approx(1 - (1 - 12 / (12 + 1.96**2)) / 0.5, abs=0.001)
    assert few.low < 0.6
    assert many.low > 0.98
    assert kappa([[("v", "v")]] * 99 + [[("s", "s")]]).low >= -1
    assert alpha([["v", "v"]] * 6 + [["s", "s"]] * 6).low == pytest.approx(few.low, abs=0.05)
