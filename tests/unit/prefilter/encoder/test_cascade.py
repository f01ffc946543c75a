"""The cascade encodes every text whose decision a vector within its range could change, and no other."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safeguard_streams.policies import distilled
from safeguard_streams.prefilter.encoder.cascade import VectorGates
from safeguard_streams.prefilter.encoder.passages import PassageVectors
from safeguard_streams.prefilter.encoder.vector_terms import DistilledTerm

one_each = PassageVectors.one_each
ENCODER = "an encoder"
TABLE = np.zeros(distilled.BUCKETS)
OPEN = np.zeros((1, 1), dtype=bool)


def classifier(vector=None, least=-1.0, most=2.0, encoder=ENCODER):
    other = None
    if vector is not None:
        fields = {"encoder": encoder, "trust": (0, 0), "bias": 0.0, "least": least, "most": most}
        other = distilled.vector_weights(TABLE, vector, **fields)
    fields = {"policy_id": "p", "classifier": "c", "harms": (), "trust": (0, 0), "bias": 0.0, "rows": 9}
    return distilled.read(distilled.write(TABLE, with_vectors=other, **fields))


def sigmoid(logits):
    return 1 / (1 + np.exp(-np.asarray(logits, dtype=np.float64)))


def gates(*classifiers, threshold=0.5):
    terms = [DistilledTerm(one.with_vectors) if one and one.uses(ENCODER) else None for one in classifiers]
    return VectorGates(terms, np.full(len(classifiers), threshold))


@pytest.mark.parametrize(
    ("logit", "needed"), [(-3.0, False), (-1.999, True), (0.0, True), (0.999, True), (1.001, False), (5.0, False)]
)
def test_only_a_text_within_reach_of_the_threshold_needs_its_vector(logit, needed):
    assert gates(classifier(np.ones(512))).undecided(sigmoid([[logit]]), OPEN).tolist() == [needed]


def test_a_settled_policy_wants_no_vector_but_another_policy_may():
    two = gates(classifier(np.ones(512)), classifier(np.ones(512)))
    settled = np.array([[True, False], [True, True], [False, True]])
    assert two.undecided(sigmoid([[0, 0], [0, 0], [-9, 0]]), settled).tolist() == [True, False, False]


def test_gates_without_weights_for_this_encoder_use_no_vectors():
    three = gates(None, classifier(), classifier(np.ones(512), encoder="another"))
    scores = np.array([[0.5, 0.4, 0.3], [0.0, 1.0, 0.5]])
    assert not three.uses_vectors.any()
    assert not three.undecided(scores, np.zeros((2, 3), bool)).any()
    vectors = np.ones((1, 512), dtype=np.float32)
    assert (three.scores(scores, one_each(vectors), np.array([True, False])) == scores).all()


def test_no_texts_and_no_policies_need_nothing():
    one = gates(classifier(np.ones(512)))
    assert one.undecided(np.zeros((0, 1)), np.zeros((0, 1), bool)).shape == (0,)
    assert one.scores(np.zeros((0, 1)), one_each(np.zeros((0, 512), np.float32)), np.zeros(0, bool)).shape == (0, 1)
    assert gates().undecided(np.zeros((3, 0)), np.zeros((3, 0), bool)).tolist() == [False] * 3
    assert gates().scores(np.zeros((3, 0)), one_each(np.zeros((0, 512), np.float32)), np.zeros(3, bool)).shape == (3, 0)


def test_scores_add_the_vector_or_else_the_middle_of_the_range():
    vector = np.zeros(512)
    vector[7] = 2.0
    vectors = np.zeros((1, 512), dtype=np.float32)
    vectors[0, 7] = 0.75
    scores = gates(classifier(vector), None).scores(
        sigmoid([[1, 1], [1, 1]]), one_each(vectors), np.array([False, True])
    )
    assert scores == pytest.approx(sigmoid([[1.5, 1], [2.5, 1]]), abs=1e-9)


def within(weights, vectors):
    """A classifier whose range holds what these vectors add."""
    added = vectors @ classifier(weights).with_vectors.vector_table
    return classifier(weights, least=float(added.min()) - 0.01, most=float(added.max()) + 0.01)


@given(st.integers(0, 2**32 - 1), st.floats(0.05, 0.95))
def test_the_cascade_decides_as_if_every_text_was_encoded(seed, threshold):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(40, 512))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    first, second = [within(weights, vectors) for weights in rng.normal(size=(2, 512))]
    classifiers = [first, classifier(), second]
    both, scores = gates(*classifiers, threshold=threshold), sigmoid(rng.normal(scale=4, size=(40, 3)))
    needed = both.undecided(scores, np.zeros((40, 3), dtype=bool))
    everything = both.scores(scores, one_each(vectors), np.ones(40, dtype=bool)) >= threshold
    assert (both.scores(scores, one_each(vectors[needed]), needed) >= threshold).tolist() == everything.tolist()
    assert needed.any()


@pytest.mark.parametrize(("logit", "added"), [(1.5, -3.0), (-2.5, 4.0)])
def test_a_vector_that_was_made_for_another_policy_changes_no_decision(logit, added):
    vector = np.zeros(512)
    vector[0] = added
    vectors = np.eye(1, 512, dtype=np.float32)
    one, scores = gates(classifier(vector, least=-1.0, most=2.0)), sigmoid([[logit]])
    assert not one.undecided(scores, OPEN).any()
    without = one.scores(scores, one_each(vectors[:0]), np.array([False]))
    assert (one.scores(scores, one_each(vectors), np.array([True])) >= 0.5) == (without >= 0.5)
