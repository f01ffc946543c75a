"""Which of two gates is better, and how many more labels would settle it; the margin of a threshold from few labels."""

import msgspec
import numpy as np
import pytest

from safeguard_streams.quality.distillation import Proposal
from safeguard_streams.quality.evaluation import ScoredSet
from safeguard_streams.quality.gate_choice import compare, labels_to_resolve, more_labels, standard_error


def scored(name, rows, separation, seed=0, weights=None):
    rng = np.random.default_rng(seed)
    violates = np.arange(rows) % 3 == 0
    scores = 1 / (1 + np.exp(-(rng.normal(size=rows) + separation * violates)))
    return ScoredSet(name, scores, violates, np.ones(rows) if weights is None else weights)


def test_a_clearly_better_gate_needs_no_more_labels():
    choice = compare(scored("new", 600, 4.0), scored("old", 600, 0.5, seed=1), 0.95)
    assert choice.escalated.high < 0
    assert (choice.more_labels, choice.verdict) == (0, "better, beyond chance")
    back = compare(scored("old", 600, 0.5, seed=1), scored("new", 600, 4.0), 0.95)
    assert (back.more_labels, back.verdict) == (0, "worse, beyond chance")
    assert "old v new: escalates +" in str(back)


def test_a_gate_beside_itself_differs_by_nothing():
    one = scored("one", 300, 1.0)
    choice = compare(one, one, 0.95)
    assert (choice.escalated.value, choice.escalated.low, choice.escalated.high) == (0, 0, 0)
    assert choice.more_labels is None
    assert "would not change" in choice.verdict


def test_a_small_difference_is_undecided_and_the_labels_that_settle_it_are_about_those_named():
    few = compare(scored("new", 200, 1.5, seed=3), scored("old", 200, 1.2, seed=4), 0.9)
    assert few.escalated.low < 0 < few.escalated.high
    assert few.more_labels > 0
    assert f"about {float(f'{few.more_labels:.1e}'):,.0f} more labels" in str(few)


def test_the_labels_named_are_rounded():
    few = compare(scored("new", 200, 1.5, seed=3), scored("old", 200, 1.2, seed=4), 0.9)
    assert "about 1,900 more" in str(msgspec.structs.replace(few, more_labels=1876))
    assert "about 7 more" in str(msgspec.structs.replace(few, more_labels=7))


@pytest.mark.parametrize(
    ("interval", "labels", "more"),
    [
        ((-0.1, -0.3, 0.1), 100, 300),  # half as wide, with four times as many labels
        ((0.1, -0.1, 0.2), 100, 300),  # the side towards 0 counts
        ((-0.1, -0.15, -0.05), 100, 0),
        ((-0.0005, -0.1, 0.1), 100, None),
    ],
)
def test_the_interval_narrows_with_the_square_root_of_the_labels(interval, labels, more):
    assert more_labels(*interval, labels) == more


def test_weights_decide_what_a_row_stands_for():
    heavy = np.ones(300)
    heavy[1::3] = 50.0
    plain = compare(scored("new", 300, 3.0), scored("old", 300, 0.5, seed=1), 0.95)
    weighted = compare(scored("new", 300, 3.0, weights=heavy), scored("old", 300, 0.5, seed=1, weights=heavy), 0.95)
    assert weighted.escalated.value != plain.escalated.value


def test_the_standard_error_counts_unequal_weights_as_fewer_rows():
    violates = np.ones(100, dtype=bool)
    assert standard_error(0.9, violates, np.ones(100)) == pytest.approx(0.03)
    assert standard_error(0.9, violates, np.full(100, 7.0)) == pytest.approx(0.03)
    unequal = np.r_[np.full(50, 1e-9), np.ones(50)]
    assert standard_error(0.9, violates, unequal) == pytest.approx(0.03 * 2**0.5, rel=1e-3)
    assert standard_error(1.0, violates, unequal) == 0


def test_a_threshold_from_few_labels_reaches_its_recall_on_other_content_more_often():
    """Without the margin, every second threshold falls short."""

    def short(margin):
        large, missed = scored("all", 30_000, 2.0, seed=99), 0
        for seed in range(60):
            few = scored("few", 150, 2.0, seed)
            proposal = Proposal(b"", few, few, np.zeros(150, dtype=bool))
            threshold = proposal.threshold(0.9) if margin else np.sort(few.scores[few.violates])[5]
            missed += (large.scores[large.violates] >= threshold).mean() < 0.9
        return missed / 60

    assert short(margin=False) > 0.35
    assert short(margin=True) < 0.3


def test_the_margin_ends_at_all_of_the_rows():
    few = scored("few", 90, 2.0)
    proposal = Proposal(b"", few, few, np.zeros(90, dtype=bool))
    assert proposal.aimed_recall(0.99) == 1.0
    assert proposal.threshold(0.99) == pytest.approx(few.scores[few.violates].min(), abs=1e-4)


@pytest.mark.parametrize(
    ("recall", "heaviest", "rows", "more"),
    [(0.95, 1.0, 20, 0), (0.95, 1.0, 10, 10), (0.99, 1.0, 100, 0), (0.99, 1.0, 50, 50), (0.95, 100.0, 901, 901)],
)
@pytest.mark.parametrize("heavy_violates", [True, False])
def test_labels_resolve_a_recall_once_no_row_stands_for_all_that_may_be_missed(
    recall, heaviest, rows, more, heavy_violates
):
    weights, violates = np.ones(rows), np.ones(rows, dtype=bool)
    weights[0], violates[0] = heaviest, heavy_violates
    assert labels_to_resolve(recall, violates, weights) == pytest.approx(more, rel=0.25, abs=4)


@pytest.mark.parametrize(("rate", "resolved"), [(0.2, True), (0.01, False)])
def test_of_two_equally_good_gates_neither_is_called_better_or_worse(rate, resolved):
    """One of them is in force: what it lets pass was drawn at a rate. Few heavy rows settle nothing."""
    draw = np.random.default_rng(0)
    size, streams = 6_000, 30
    claims = 0
    for _ in range(streams):
        violates = draw.random(size) < 0.05
        of_gate = [draw.normal(size=size) + 2.2 * violates for _ in range(2)]
        live = of_gate[1] >= np.quantile(of_gate[1], 0.9)
        kept = live | (draw.random(size) < rate)
        weights = np.where(live, 1, 1 / rate)[kept]
        sets = [ScoredSet("gate", scores[kept], violates[kept], weights) for scores in of_gate]
        claims += compare(*sets, 0.95).more_labels == 0
    assert claims <= (streams // 5 if resolved else 0)
