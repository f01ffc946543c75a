"""Calibration and recall on live traffic: the figures hold on random streams."""

import json
from datetime import UTC, datetime

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from safeguard_streams.contract.records import PrefilterResult, Verdict
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.policies.files import load_library
from safeguard_streams.policies.parsing import parse
from safeguard_streams.prefilter.classifier import Classifier
from safeguard_streams.quality import evaluation, gate_recall, threshold
from safeguard_streams.quality.verdict_labels import LabeledItem, Labels, from_file
from safeguard_streams.runtime.settings import Settings


def stream(draw, violating, size, threshold=0.25):
    """Scores and truth of a stream, and what passes."""
    truth = draw.random(size) < violating
    scores = 1 / (1 + np.exp(-(draw.normal(-2.5, 1, size) + draw.uniform(0.5, 2.5) * truth)))
    return scores, truth, scores < threshold


def audited(draw, scores, truth, passed, near, far, threshold=0.25):
    rows = [LabeledItem(bool(violates)) for violates in truth[~passed]]
    close = scores >= threshold / 2
    for i in np.flatnonzero(passed & (draw.random(len(scores)) < np.where(close, near, far))):
        rate, stratum = (near, "near") if close[i] else (far, "far")
        result = PrefilterResult("audit", "hate", float(scores[i]), threshold, rate, stratum)
        rows.append(LabeledItem(bool(truth[i]), 1 / rate, prefilter=result))
    return rows


def test_the_interval_covers_the_true_recall():
    covered = 0
    for seed in range(100):
        draw = np.random.default_rng(seed)
        scores, truth, passed = stream(draw, draw.uniform(0.005, 0.05), 50_000)
        rows = audited(draw, scores, truth, passed, near=0.05, far=0.005)
        result = gate_recall.estimate(rows)
        covered += result.low <= (truth & ~passed).sum() / truth.sum() <= result.high
    assert covered >= 93


def test_costs_name_a_threshold_that_reaches_the_recall():
    draw = np.random.default_rng(1)
    scores, truth, passed = stream(draw, 0.05, 100_000)
    result = gate_recall.estimate(audited(draw, scores, truth, passed, near=0.5, far=0.2))
    cost = next(cost for cost in result.costs if cost.recall == 0.90)
    assert cost.threshold is not None
    assert (scores[truth] >= cost.threshold).mean() == pytest.approx(0.90, abs=0.03)
    assert (scores >= cost.threshold).mean() == pytest.approx(cost.escalated, abs=0.03)


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([], "nothing was audited yet"),
        ([LabeledItem(True)] * 10, "nothing was audited yet"),
        (
            [LabeledItem(False, 100.0, prefilter=PrefilterResult("audit", rate=0.01, stratum="far"))] * 5,
            "nothing violating",
        ),
        (
            [LabeledItem(True)] * 3
            + [LabeledItem(False, 500.0, prefilter=PrefilterResult("audit", rate=0.002, stratum="far"))],
            "too small to be informative",
        ),
    ],
)
def test_a_sample_that_is_too_small_is_reported_with_the_reason(rows, why):
    result = gate_recall.estimate(rows)
    assert why in result.why
    assert not result.enough
    assert 0 <= result.low <= result.high <= 1


def test_a_threshold_reaches_its_recall_on_other_texts():
    draw = np.random.default_rng(2)
    scores, truth, _ = stream(draw, 0.2, 4000)
    result = threshold.calibrate(scores[:2000], truth[:2000], 0.95)
    later = (scores[2000:][truth[2000:]] >= result.threshold).mean()
    assert result.recall.low - 0.02 <= later <= result.recall.high + 0.02
    assert result.map in {"isotonic", "platt"}
    assert result.brier[result.map] == min(result.brier.values())


def test_weights_undo_how_content_was_drawn():
    draw = np.random.default_rng(3)
    scores, truth, passed = stream(draw, 0.1, 60_000)
    rate = np.where(passed, 0.1, 1.0)
    kept = draw.random(len(scores)) < rate
    whole = threshold.calibrate(scores, truth, 0.9).threshold
    drawn = threshold.calibrate(scores[kept], truth[kept], 0.9, 1 / rate[kept]).threshold
    biased = threshold.calibrate(scores[kept], truth[kept], 0.9).threshold
    assert abs(drawn - whole) < abs(biased - whole) / 2


def test_content_that_terms_escalate_needs_no_score():
    scores, truth = np.array([0.1] * 50 + [0.8] * 50 + [0.0] * 50), np.array([True] * 100 + [False] * 50)
    certain = np.array([True] * 50 + [False] * 100)
    assert threshold.calibrate(scores, truth, 0.9, certain=certain).threshold == pytest.approx(0.8)


def test_a_gate_is_calibrated_from_a_file_and_its_policy_keeps_the_expectation(tmp_path):
    policy = load_library()["hate-harassment"]
    path = tmp_path / "labels.jsonl"
    rows = [{"text": f"You are scum number {n}, get lost", "violates": True} for n in range(30)]
    rows += [{"text": f"The train leaves at {n} past nine", "decision": "safe", "weight": 2} for n in range(30)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    labels = threshold.score_file(policy, Classifier(), path)
    assert [item.weight for item in labels.items] == [1.0] * 30 + [2.0] * 30
    result = threshold.calibrate_gate(labels, 0.9)
    assert (result.rows, result.violating) == (60, 30)
    assert (labels.scores[:30] >= result.threshold).mean() >= 0.9
    gate = parse(threshold.with_calibration(policy, result, labels.source)).gate
    assert gate.threshold == result.threshold
    assert gate.calibration["source"] == "labels"
    assert gate.calibration["recall"] == [result.recall.value, result.recall.low, result.recall.high]


@pytest.mark.parametrize("scale", [1.0, 1e-4, 1e-7, 3e-12])
def test_a_threshold_keeps_its_digits_and_the_estimate_is_of_what_is_written(scale):
    """The lowest of the scores that the recall needs is far below four decimals, and is written all the same."""
    draw = np.random.default_rng(6)
    scores, truth, _ = stream(draw, 0.3, 1000)
    scores *= scale
    result = threshold.calibrate(scores, truth, 0.95)
    assert result.threshold > 0
    document = threshold.with_calibration(load_library()["hate-harassment"], result, "labels")
    written = parse(document).gate.threshold
    assert (scores[truth] >= written).mean() >= 0.95
    assert result.recall.value == pytest.approx((scores[truth] >= written).mean(), abs=1e-4)
    assert result.escalated.value == pytest.approx((scores >= written).mean(), abs=1e-4)
    assert result.escalated.value < 0.9
    least = scores[truth][scores[truth] >= written].min()
    assert written > least * 0.999, "rounded by no more than its fourth digit"


def test_a_threshold_of_zero_is_refused_with_the_recall_that_is_possible():
    scores, truth = np.array([0.0] * 10 + [0.8] * 30 + [0.0] * 60), np.array([True] * 40 + [False] * 60)
    with pytest.raises(ConfigurationError, match=r"0 would send everything.* 10 of 40 .* recall 0\.75 is possible"):
        threshold.calibrate(scores, truth, 0.9)
    assert threshold.calibrate(scores, truth, 0.75).threshold == pytest.approx(0.8)


def test_a_threshold_that_the_terms_make_needless_is_not_written():
    scores, truth = np.zeros(100), np.array([True] * 50 + [False] * 50)
    result = threshold.calibrate(scores, truth, 0.9, certain=truth)
    with pytest.raises(ConfigurationError, match=r"the terms reach recall 0\.9 without a threshold"):
        threshold.with_calibration(load_library()["hate-harassment"], result, "labels")


def test_a_score_that_a_verdict_holds_rounded_still_reaches_the_threshold():
    """Verdicts hold four decimals: a score of 0.00066 arrives as 0.0007."""
    true_scores = [0.00066] * 30 + [0.00001] * 30
    results = [PrefilterResult("label", "hate", round(score, 4), 0.0001) for score in true_scores]
    rows = [LabeledItem(number < 30, prefilter=result) for number, result in enumerate(results)]
    found = threshold.calibrate_gate(threshold.score_labels(Labels(rows), "p"), 0.9).threshold
    assert 0 < found <= 0.00066


def test_no_cost_names_a_threshold_that_sends_everything():
    caught = [LabeledItem(True)] * 9
    missed = [LabeledItem(True, 1.0, prefilter=PrefilterResult("audit", "hate", 0.0, 0.2, 0.1, "far"))]
    targets = [cost.recall for cost in gate_recall.estimate([*caught, *missed]).costs]
    assert targets == [0.90], "0.95 and 0.99 would need a threshold of 0"


def verdict(policy_id):
    return Verdict("v", "c", "s", policy_id, "1", "violates", "reasoner", "live", "m", datetime.now(UTC))


async def test_the_recall_of_an_unknown_policy_is_refused_with_those_that_were_judged(monkeypatch):
    async def verdicts(*_, **__):
        for name in ("hate-harassment", "fraud-spam"):
            yield None, verdict(name)

    async def up(*_, **__):
        pass

    monkeypatch.setattr(gate_recall.kafka, "read_decoded", verdicts)
    monkeypatch.setattr(gate_recall.kafka, "wait_for_broker", up)
    with pytest.raises(ConfigurationError, match="'fraud-spm' yet; did you mean fraud-spam.* fraud-spam, hate-har"):
        await gate_recall.from_kafka(Settings(), ["fraud-spm"])
    assert set(await gate_recall.from_kafka(Settings(), ["fraud-spam"])) == {"fraud-spam"}


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"text": "a"}', "add the field violates"),
        ('{"text": "a", "violates": true, "weight": 0}', "weight must be above 0, not 0"),
        ("no JSON", "line 1 column 1"),
        ('{"violates": true}', "text"),
    ],
)
def test_a_broken_line_of_labels_is_refused_with_file_and_line(tmp_path, line, problem):
    path = tmp_path / "labels.jsonl"
    path.write_text('{"text": "fine", "violates": false}\n\n' + line, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=rf"labels.jsonl:3: .*{problem}"):
        from_file(path)


def test_too_few_violating_texts_set_no_threshold():
    with pytest.raises(ConfigurationError, match="at least 20 that violate"):
        threshold.calibrate([0.5] * 30, [True] * 5 + [False] * 25, 0.9)


def test_figures_follow_their_definitions():
    draw = np.random.default_rng(4)
    scores, truth, _ = stream(draw, 0.3, 500)
    result = evaluation.figures(evaluation.ScoredSet("set", scores, truth, np.ones(500)))
    assert result.roc_auc.value == pytest.approx(roc_auc_score(truth, scores), abs=1e-4)
    assert result.roc_auc.low < result.roc_auc.value < result.roc_auc.high
    top = np.argsort(-scores)[:50]
    assert result.recall["10%"].value == pytest.approx(truth[top].sum() / truth.sum(), abs=1e-4)
    reached = evaluation.threshold_for(scores, truth, np.ones(500), 0.95)
    assert (scores[truth] >= reached).mean() >= 0.95
    assert result.escalated["0.95"].value == pytest.approx((scores >= reached).mean(), abs=1e-4)


def test_the_order_of_equal_scores_is_irrelevant():
    truth = np.array([True] * 10 + [False] * 90)
    assert evaluation.recall_at(np.zeros(100), truth, np.ones(100), 0.2) == pytest.approx(0.2)


def test_the_plot_is_written_as_svg_and_png(tmp_path):
    draw = np.random.default_rng(5)
    scores, truth, _ = stream(draw, 0.3, 300)
    for name in ("curve.svg", "curve.png"):
        evaluation.plot([evaluation.ScoredSet("gate", scores, truth, np.ones(300))], tmp_path / name, "Recall")
        assert (tmp_path / name).stat().st_size > 5000
