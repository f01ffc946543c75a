"""Figures of a benchmark against scikit-learn and golden sets, on rows made by hand."""

import numpy as np
import pytest
from sklearn import metrics

from safeguard_streams.policies.golden import Golden
from safeguard_streams.workers.evaluation import golden_eval
from safeguard_streams.workers.evaluation.benchmark.data import Row
from safeguard_streams.workers.evaluation.benchmark.figures import average_precision, measure
from safeguard_streams.workers.evaluation.benchmark.journal import Result

NUMBER = 300


@pytest.fixture(scope="module")
def made():
    """Rows with two labels, a tenth of them unknown, and two runs with ties, undetermined and missing scores."""
    random = np.random.default_rng(5)
    rows, runs = [], [{}, {}]
    for n in range(NUMBER):
        labels = {p: bool(random.random() < 0.3) for p in ("x", "y") if random.random() < 0.9} or {"x": True}
        rows.append(Row(f"t{n}", labels, f"h{n}"))
        for run in runs:
            run[f"h{n}"] = {p: _result(random, violates) for p, violates in labels.items()}
    return rows, runs


def _result(random, violates):
    score = round(float(np.clip(random.normal(0.7 if violates else 0.3, 0.25), 0, 1)), 1)
    if random.random() < 0.1:
        return Result("undetermined")
    return Result("violates" if score >= 0.5 else "safe", (), score if random.random() < 0.95 else None)


def arrays(rows, run, policy):
    known = [row for row in rows if policy in row.labels]
    return [row.labels[policy] for row in known], [run[row.sha256][policy] for row in known]


def test_every_figure_of_a_policy_is_that_of_scikit_learn(made):
    rows, runs = made
    found = measure(rows, ["x", "y"], runs).figures["x"]
    by_run = []
    for run in runs:
        truth, results = arrays(rows, run, "x")
        for undetermined in (False, True):
            flagged = [r.decision == "violates" or (undetermined and r.decision == "undetermined") for r in results]
            precision, recall, f1, _ = metrics.precision_recall_fscore_support(truth, flagged, average="binary")
            by_run.append((f1, precision, recall))
    means = np.mean(by_run[::2], axis=0)
    assert [e.value for e in (found.f1, found.precision, found.recall)] == pytest.approx(list(means), abs=1e-4)
    assert found.f1_by_run == pytest.approx([by_run[0][0], by_run[2][0]], abs=1e-4)
    assert found.f1_undetermined_flagged.value == pytest.approx((by_run[1][0] + by_run[3][0]) / 2, abs=1e-4)
    truth, first = arrays(rows, runs[0], "x")
    _, second = arrays(rows, runs[1], "x")
    given = [[r.score for r in pair if r.score is not None] for pair in zip(first, second, strict=True)]
    mean = [np.mean(pair or [np.nan]) for pair in given]
    scored = [(t, s) for t, s in zip(truth, mean, strict=True) if not np.isnan(s)]
    area = metrics.average_precision_score(*zip(*scored, strict=True))
    assert found.auprc.value == pytest.approx(area, abs=1e-4)
    assert (found.rows, found.violating, found.scored) == (len(truth), sum(truth), len(scored))
    assert found.undetermined.count == sum(r.decision == "undetermined" for r in [*first, *second])
    assert found.noise.count == sum(a.decision != b.decision for a, b in zip(first, second, strict=True))


def test_f1_is_that_of_golden_sets(made):
    rows, runs = made
    truth, results = arrays(rows, runs[0], "y")
    golden = [Golden("t", "violates" if violates else "safe", "R1", "clear") for violates in truth]
    assert measure(rows, ["y"], runs[:1]).figures["y"].f1.value == golden_eval.f1(golden, results)


def test_union_and_exact_match_by_hand():
    rows = [
        Row("a", {"x": True, "y": False}, "a"),
        Row("b", {"x": False}, "b"),
        Row("c", {"x": False, "y": True}, "c"),
        Row("d", {"x": False, "y": False}, "d"),
        Row("e", {"y": False}, "e"),
    ]
    run = {
        "a": {"x": Result("violates", (), 0.9), "y": Result("undetermined")},
        "b": {"x": Result("safe", (), 0.2)},
        "c": {"x": Result("violates", (), 0.6), "y": Result("violates", (), 0.8)},
        "d": {"x": Result("safe", (), 0.1), "y": Result("undetermined")},
        "e": {"y": Result("safe", (), 0.3)},
    }
    found = measure(rows, ["x", "y"], [run])
    union = found.figures["union"]
    assert (union.rows, union.violating, union.f1.value) == (5, 2, 1.0)
    assert (union.undetermined.count, union.f1_undetermined_flagged.value) == (1, 0.8)
    assert (union.scored, union.auprc.value) == (3, 1.0), "a and d have a policy without a score"
    assert found.exact_match.value == 0.4, "b and e"
    assert measure(rows, ["x"], [run]).exact_match is None


def test_the_area_under_resampled_rows_is_that_of_scikit_learn_with_weights():
    random = np.random.default_rng(1)
    scores, violates = np.round(random.random(80), 1), random.random(80) < 0.4
    weights = random.multinomial(80, np.full(80, 1 / 80), size=20).astype(float)
    expected = [metrics.average_precision_score(violates, scores, sample_weight=w) for w in weights]
    assert average_precision(violates, scores, weights) == pytest.approx(expected)


def test_intervals_hold_the_value_narrow_with_rows_and_are_the_same_each_time(made):
    rows, runs = made
    found = measure(rows, ["x"], runs).figures["x"]
    again = measure(rows, ["x"], runs).figures["x"]
    assert found == again
    few = measure(rows[:60], ["x"], runs).figures["x"]
    for name in ("f1", "precision", "recall", "auprc"):
        one, other = getattr(found, name), getattr(few, name)
        assert one.low < one.value < one.high
        assert one.high - one.low < other.high - other.low
    # of a proportion, the bootstrap's interval is about the normal one
    share = measure(rows, ["x"], runs[:1]).figures["x"].recall
    half = 1.96 * np.sqrt(share.value * (1 - share.value) / found.violating)
    assert share.high - share.low == pytest.approx(2 * half, rel=0.3)


def test_figures_that_are_not_defined_are_none_and_not_zero():
    rows = [Row("a", {"x": False}, "a"), Row("b", {"x": False}, "b")]
    found = measure(rows, ["x"], [{"a": {"x": Result("safe")}, "b": {"x": Result("safe")}}]).figures["x"]
    assert [e.value for e in (found.f1, found.precision, found.recall, found.auprc)] == [None] * 4
    assert (str(found.f1), found.f1_by_run, found.noise, found.scored) == ("-", (None,), None, 0)
    missed = measure([Row("a", {"x": True}, "a")], ["x"], [{"a": {"x": Result("safe", (), 0.1)}}]).figures["x"]
    assert (missed.f1.value, missed.recall.value, missed.precision.value, missed.auprc.value) == (0.0, 0.0, None, 1.0)
