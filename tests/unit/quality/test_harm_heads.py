"""Harm heads learn harm and not the source of a text; scores of the same texts are compared on the same resamples."""

from collections import Counter
from datetime import UTC, datetime

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from safeguard_streams.cli import prefilter_tables
from safeguard_streams.cli.policy_tables import print_plan
from safeguard_streams.contract.records import PolicyRelease
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.policies.document import Policy
from safeguard_streams.policies.files import load_library, with_changes
from safeguard_streams.policies.labelled import Labelled
from safeguard_streams.policies.parsing import parse
from safeguard_streams.prefilter.classifier import Classifier
from safeguard_streams.prefilter.encoder import harm_heads as shipped_heads
from safeguard_streams.prefilter.encoder.files import NAME
from safeguard_streams.prefilter.encoder.harm_heads import HarmHeads
from safeguard_streams.prefilter.encoder.passages import PassageVectors
from safeguard_streams.quality import harm_heads, threshold, threshold_labels
from safeguard_streams.quality.paired import RESAMPLES, markdown, mean, paired
from safeguard_streams.releases.operator import PlannedRelease

WIDTH = 512


def texts(source, draw, count, violating, harm, style):
    """Rows and vectors: the first place tells harm, faintly; the second is the style of the source."""
    violates = draw.random(count) < violating
    vectors = draw.normal(0, 0.02, (count, WIDTH)).astype(np.float32)
    vectors[:, 0] += 0.03 * violates
    vectors[:, 1] += style
    return [Labelled("t", bool(v), source, "", harm if v else "none") for v in violates], vectors


def test_a_head_learns_harm_where_the_source_nearly_gives_it_away():
    """Nine in ten texts of one source violate, one in ten of the other: the style predicts best and means nothing."""
    draw = np.random.default_rng(0)
    parts = [texts("a", draw, 1500, 0.9, "hate", 0.2), texts("b", draw, 1500, 0.1, "hate", -0.2)]
    rows = [row for part, _ in parts for row in part]
    heads = harm_heads.fit(rows, np.concatenate([vectors for _, vectors in parts]), NAME)
    assert heads.harms == ("hate",)
    assert heads.table.shape == (WIDTH, 2)
    assert abs(heads.table[1]).max() < heads.table[0].min() / 4, "the style has next to no weight"
    unseen, vectors = texts("c", draw, 1000, 0.5, "hate", 0.0)
    logits = heads.logits(vectors)
    violates = np.array([row.violates for row in unseen])
    assert roc_auc_score(violates, logits[:, 0]) > 0.75
    inside = (logits >= heads.least) & (logits <= heads.most)
    assert inside.mean() > 0.9


def test_heads_need_both_sides():
    with pytest.raises(ConfigurationError, match="at least one harm and rows that violate nothing"):
        harm_heads.fit([Labelled("t", violates=True, harm="hate")], np.ones((1, WIDTH), dtype=np.float32), NAME)
    with pytest.raises(ConfigurationError, match="at least one harm and rows that violate nothing"):
        harm_heads.fit([Labelled("t", violates=False, harm="none")], np.ones((1, WIDTH), dtype=np.float32), NAME)


def test_no_source_and_side_trains_with_more_than_its_share(monkeypatch):
    monkeypatch.setattr(harm_heads, "MAX_ROWS", 30)
    rows = [Labelled(f"{n}", n % 3 == 0, "large") for n in range(300)] + [Labelled("x", violates=True, source="small")]
    chosen = harm_heads.chosen(rows)
    assert Counter((r.source, r.violates) for r in chosen) == {
        ("large", True): 30,
        ("large", False): 30,
        ("small", True): 1,
    }
    assert harm_heads.chosen(rows) == chosen, "the same rows each time"


def test_labels_of_the_library_weigh_each_source_alike():
    policy = load_library()["fraud-spam"]
    rows = [Labelled(f"a{n}", n < 5, "a", "", "fraud_spam" if n < 5 else "none") for n in range(100)]
    rows += [Labelled(f"b{n}", n < 5, "b", "", "hate" if n < 5 else "none") for n in range(15)]
    labels = list(threshold_labels.labels(policy, rows))
    assert len(labels) == 110, "texts of other harms are left out"
    assert sum(label["violates"] for label in labels) == 5
    assert sum(label["weight"] for label in labels if label["text"][0] == "b") == pytest.approx(55, abs=0.1)
    assert sum(label["weight"] for label in labels) == pytest.approx(110, abs=0.1)


def test_a_gain_has_an_interval_far_narrower_than_the_figures():
    draw = np.random.default_rng(1)
    violates = draw.random(600) < 0.4
    before = draw.normal(violates * 0.8, 1)
    one = paired("set", [before, before + 0.3 * violates], violates)
    assert one.estimate(0, 0).value == pytest.approx(roc_auc_score(violates, before))
    assert one.resampled.shape == (RESAMPLES, 2, 2)
    auc, gain, escalated = one.estimate(0, 1), one.gain(0), one.gain(1)
    assert auc.low < auc.value < auc.high
    assert 0 < gain.low < gain.value < gain.high
    assert gain.high - gain.low < (auc.high - auc.low) / 2
    assert escalated.value < 0, "fewer texts for the same recall"
    both = mean("mean", [one, paired("other", [before, before], violates)])
    assert both.gain(0).value == pytest.approx(gain.value / 2)
    assert both.texts == 1200
    lines = list(markdown(("before", "after"), [one, both]))
    assert {line.count("|") for line in lines} == {lines[0].count("|")}


@pytest.fixture
def heads(monkeypatch):
    weights = np.zeros((WIDTH, 2))
    weights[0] = 3.0
    ranges = np.array([[-3.0, -3.0], [3.0, 3.0]])
    made = HarmHeads.of(NAME, ("hate",), weights, np.zeros(2), ranges)
    monkeypatch.setattr(shipped_heads, "shipped", lambda: made)


class Wasps:
    """Stands for the encoder: the first place of a vector is 1 where a text is about wasps, and -1 elsewhere."""

    name = NAME

    def encode(self, given):
        vectors = np.zeros((len(given), WIDTH), dtype=np.float32)
        vectors[:, 0] = [1 if "wasp" in text else -1 for text in given]
        return vectors

    def encode_passages(self, given):
        return PassageVectors.one_each(self.encode(given))


def plain() -> Policy:
    return load_library()["hate-harassment"]


def test_the_threshold_for_prefilters_with_the_encoder_is_written_beside_the_other(tmp_path, capsys, heads):
    lines = [
        f'{{"text": "a wasp {n}", "violates": true}}\n{{"text": "a bee {n}", "violates": false}}' for n in range(30)
    ]
    (tmp_path / "labels.jsonl").write_text("\n".join(lines))
    classifier, policy = Classifier(), plain()
    with_encoder = threshold.score_file(policy, classifier, tmp_path / "labels.jsonl", Wasps())
    result = threshold.calibrate_gate(with_encoder, 0.95)
    assert result.escalated.value == pytest.approx(0.5, abs=0.03), "heads tell them apart"
    written = parse(threshold.with_calibration(policy, result, "labels", encoder=True)).gate
    assert written.threshold_with_encoder == result.threshold
    assert (written.threshold, written.calibration) == (policy.gate.threshold, policy.gate.calibration)
    field = threshold.field(policy, encoder=True)
    prefilter_tables.show_calibration(policy, field, result, with_encoder, None)
    assert f"threshold_with_encoder {result.threshold:g} for recall 0.95 (now not set)" in capsys.readouterr().out
    assert threshold.field(policy, encoder=False) == "threshold"


def test_a_release_says_that_scores_change_and_which_threshold_counts(capsys, heads):
    before = parse(with_changes(plain().document, "gate", general=None))
    released = PolicyRelease(before.id, before.version, 1, before.document, datetime.now(UTC), "test")
    print_plan([PlannedRelease(plain(), released, unchanged=False)], shadow=False)
    shown = " ".join(capsys.readouterr().out.split())
    assert "gate.general" in shown
    assert "its gate gives other scores than before" in shown
    other = parse(with_changes(before.document, "gate", threshold=0.9, threshold_with_encoder=0.5))
    print_plan([PlannedRelease(other, released, unchanged=False)], shadow=False)
    shown = " ".join(capsys.readouterr().out.split())
    assert "its gate gives other scores" not in shown
    assert "prefilters without the extra encoder use gate.threshold" in shown
