"""Curves of gates: the same shares as one threshold at a time gives, with ties and weights."""

import numpy as np
import pytest

from safeguard_streams.quality.evaluation import ScoredSet, escalated_for
from safeguard_streams.quality.gate_curve import RECALLS, curve


def scored(rows, seed=0, digits=9, weights=None):
    draw = np.random.default_rng(seed)
    violates = draw.random(rows) < 0.3
    scores = (1 / (1 + np.exp(-(draw.normal(size=rows) + 1.5 * violates)))).round(digits)
    return ScoredSet("gate", scores, violates, np.ones(rows) if weights is None else weights)


@pytest.mark.parametrize("digits", [9, 1], ids=["all differ", "many are equal"])
@pytest.mark.parametrize("heavy", [1.0, 40.0])
def test_each_point_is_what_the_threshold_for_its_recall_escalates(digits, heavy):
    weights = np.where(np.arange(300) % 7 == 0, heavy, 1.0)
    one = scored(300, digits=digits, weights=weights)
    points = curve(one)
    assert [point.recall for point in points] == list(RECALLS)
    for point in points:
        expected = escalated_for(one.scores, one.violates, weights, point.recall)
        assert point.escalated.value == pytest.approx(expected, abs=1e-4)


def test_intervals_hold_the_value_and_narrow_with_the_rows():
    few, many = curve(scored(150)), curve(scored(5000))
    for one, other in zip(few, many, strict=True):
        assert one.escalated.low <= one.escalated.value <= one.escalated.high
        assert one.escalated.high - one.escalated.low > other.escalated.high - other.escalated.low


def test_intervals_cover_the_truth():
    whole = scored(200_000, seed=999)
    truth = [escalated_for(whole.scores, whole.violates, whole.weights, recall) for recall in (0.8, 0.9)]
    covered = np.zeros(2)
    for seed in range(60):
        points = curve(scored(400, seed), (0.8, 0.9))
        covered += [p.escalated.low <= true <= p.escalated.high for p, true in zip(points, truth, strict=True)]
    assert (covered >= 53).all()


def test_a_resample_without_violating_rows_is_no_error():
    few = ScoredSet("gate", np.array([0.9, 0.2, 0.1]), np.array([True, False, False]), np.ones(3))
    (point,) = curve(few, (0.95,))
    assert point.escalated.value == pytest.approx(1 / 3, abs=1e-4)
    assert point.escalated.high <= 1
