"""The cascade encodes every text whose decision a vector could change, and no other."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safeguard_streams.prefilter.encoder.cascade import Reach, undecided, with_vectors

NOTHING_SETTLED = np.zeros((1, 1), dtype=bool)


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize(
    ("logit", "needed"),
    [(-3.0, False), (-2.0, True), (0.0, True), (0.99, True), (1.0, False), (5.0, False)],
)
def test_only_a_text_within_reach_of_the_threshold_needs_its_vector(logit, needed):
    reach = Reach(np.array([-1.0]), np.array([2.0]))
    assert undecided(np.array([[logit]]), np.array([0.0]), reach, NOTHING_SETTLED).tolist() == [needed]


def test_a_settled_policy_wants_no_vector_but_another_policy_may():
    reach = Reach(np.array([-1.0, -1.0]), np.array([1.0, 1.0]))
    settled = np.array([[True, False], [True, True], [False, True]])
    needed = undecided(np.array([[0.0, 0.0], [0.0, 0.0], [-9.0, 0.0]]), np.zeros(2), reach, settled)
    assert needed.tolist() == [True, False, False]


def test_a_policy_without_weights_for_vectors_never_wants_one():
    reach = Reach.certain(np.zeros((1, 512)))
    assert not undecided(np.array([[0.0], [-0.0]]), np.array([0.0]), reach, np.zeros((2, 1), dtype=bool)).any()


def test_no_texts_and_no_policies_need_nothing():
    assert undecided(np.zeros((0, 2)), np.zeros(2), Reach(-np.ones(2), np.ones(2)), np.zeros((0, 2), bool)).shape == (
        0,
    )
    none = np.zeros(0)
    assert not undecided(np.zeros((3, 0)), none, Reach(none, none), np.zeros((3, 0), bool)).any()


@given(st.integers(0, 2**32 - 1))
def test_with_certain_bounds_the_cascade_decides_as_if_every_text_was_encoded(seed):
    rng = np.random.default_rng(seed)
    weights, vectors = rng.normal(size=(3, 8)), unit(rng.normal(size=(40, 8)))
    logits, thresholds = rng.normal(scale=4, size=(40, 3)), rng.normal(size=3)
    needed = undecided(logits, thresholds, Reach.certain(weights), np.zeros((40, 3), dtype=bool))
    everything = with_vectors(logits, weights, vectors, np.ones(40, dtype=bool)) >= thresholds
    cascade = with_vectors(logits, weights, vectors[needed], needed) >= thresholds
    assert (cascade == everything).all()


def test_measured_bounds_are_narrower_and_miss_the_share_that_they_say():
    rng = np.random.default_rng(0)
    weights, vectors = rng.normal(size=(2, 64)), unit(rng.normal(size=(4000, 64)))
    certain, measured = Reach.certain(weights), Reach.measured(weights, vectors, missed=0.01)
    assert (measured.low > certain.low).all()
    assert (measured.high < certain.high).all()
    added = vectors @ weights.T
    assert (np.abs((added > measured.high).mean(axis=0) - 0.01) < 0.002).all()
    assert (np.abs((added < measured.low).mean(axis=0) - 0.01) < 0.002).all()


def test_bounds_from_too_few_texts_are_the_certain_ones():
    weights = np.ones((1, 4))
    few = Reach.measured(weights, unit(np.ones((99, 4))))
    assert (few.low, few.high) == (Reach.certain(weights).low, Reach.certain(weights).high)
