"""Calibration of scores."""

import random

import pytest

from safeguard_streams.errors import ConfigurationError
from safeguard_streams.policies.files import load_library, with_changes
from safeguard_streams.policies.parsing import parse
from safeguard_streams.workers.evaluation import score_calibration


def drawn(count, sharpen, seed=1):
    """Scores with the true probability's log odds times `sharpen`: overconfident above 1, underconfident below."""
    draw = random.Random(seed)
    scores, violates = [], []
    for _ in range(count):
        p = min(0.999, max(0.001, draw.betavariate(0.6, 0.6)))
        odds = (p / (1 - p)) ** sharpen
        scores.append(odds / (1 + odds))
        violates.append(draw.random() < p)
    return scores, violates


def test_scores_that_are_probabilities_have_little_error_and_are_hardly_changed():
    fitted = score_calibration.fit(*drawn(4000, 1.0))
    assert fitted.before.error < 0.03
    assert fitted.score_map.slope == pytest.approx(1, abs=0.1)
    assert sum(b.count for b in fitted.before.bins) == 4000


@pytest.mark.parametrize("sharpen", [0.4, 3.0])
def test_overconfident_and_underconfident_scores_are_corrected_on_unseen_texts(sharpen):
    fitted = score_calibration.fit(*drawn(4000, sharpen))
    assert fitted.before.error > 0.05
    assert fitted.after.error < fitted.before.error / 2
    assert fitted.after.brier < fitted.before.brier
    assert fitted.score_map.fitted["error"] == [fitted.before.error, fitted.after.error]


def test_the_error_is_the_weighted_mean_distance():
    measured = score_calibration.measure([0.95] * 10 + [0.05] * 30, [True] * 7 + [False] * 3 + [False] * 30)
    assert measured.error == pytest.approx(0.25 * 0.25 + 0.75 * 0.05, abs=1e-4)


def test_too_few_labels_are_rejected():
    with pytest.raises(ConfigurationError, match="at least 5 of each"):
        score_calibration.fit([0.1] * 10 + [0.9] * 4, [False] * 10 + [True] * 4)


def test_a_score_map_is_stored_in_the_policy_document_and_changes_nothing_else(tmp_path):
    fitted = score_calibration.fit(*drawn(500, 3.0))
    policy = load_library()["hate-harassment"]
    score_map = {"slope": fitted.score_map.slope, "intercept": fitted.score_map.intercept, "fitted": {"rows": 500}}
    changed = parse(with_changes(policy.document, "judging", score_map=score_map, samples=3))
    assert changed.judging.score_map.name == fitted.score_map.name
    assert (changed.judging.samples, changed.text, changed.gate) == (3, policy.text, policy.gate)
    again = parse(with_changes(changed.document, "judging", score_map=None, samples=None))
    assert again.judging.score_map is None
    score_calibration.plot(fitted, tmp_path / "r.svg", "title")
    assert "<svg" in (tmp_path / "r.svg").read_text()
