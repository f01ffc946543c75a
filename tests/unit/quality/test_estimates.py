"""Every estimate against the truth: 200 simulated streams each, through the records that the pipeline writes.

A stream's content passes a gate with a threshold and terms. The sample and the audits draw from what passes, at rates
near those by default, and the reasoner leaves a few items undetermined. Intervals must cover the truth in at least 93%
of the streams.
"""

import dataclasses
from collections import Counter
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from safeguard_streams.contract.records import (
    ContentEvent,
    Escalation,
    PrefilterResult,
    Replay,
    Replayed,
    Verdict,
    content_sha256,
)
from safeguard_streams.quality import gate_recall, threshold, verdict_labels
from safeguard_streams.quality.distillation import Proposal
from safeguard_streams.quality.evaluation import ScoredSet
from safeguard_streams.quality.proportions import weighted_proportion
from safeguard_streams.quality.shadow_comparison import compare
from safeguard_streams.quality.weighted import Estimate, share, total
from safeguard_streams.replay import diff
from safeguard_streams.replay.status import ReplayCounts, ReplayStatus
from safeguard_streams.runtime import metrics
from safeguard_streams.workers.judging import judge
from tests.unit.replay.test_diff import joined

STREAMS, ENOUGH = 200, 186
WHEN = datetime(2026, 1, 1, tzinfo=UTC)
GATE, NEAR, FAR, SAMPLE = 0.25, 0.02, 0.002, 0.01
P = "hate-harassment"


@dataclasses.dataclass
class Stream:
    """Content of a stream: whether it violates, its score, and whether a term matches [items]."""

    violates: np.ndarray
    scores: np.ndarray
    terms: np.ndarray

    @classmethod
    def of(cls, draw, size, violating):
        violates = draw.random(size) < violating
        scores = 1 / (1 + np.exp(-(draw.normal(-4, 1.2, size) + draw.uniform(1, 5, size) * violates)))
        return cls(violates, scores, draw.random(size) < np.where(violates, 0.15, 0.001))

    @property
    def caught(self):
        return self.terms | (self.scores >= GATE)

    def recall(self, at=GATE):
        return (self.terms | (self.scores >= at))[self.violates].mean()

    def verdicts(self, draw, *, sample=SAMPLE, undetermined=0.03, fingerprint="gate"):
        """The reasoner's verdicts on what was escalated, sampled or audited, with the prefilter's rates."""
        near = self.scores >= GATE / 2
        rates = sample + (1 - sample) * np.where(near, NEAR, FAR)
        drawn = draw.random(len(self.scores))
        lost = draw.random(len(self.scores)) < undetermined
        for i in np.flatnonzero(self.caught | (drawn < rates)).tolist():
            score = round(float(self.scores[i]), 4)
            stratum = "near" if near[i] else "far"
            if self.scores[i] >= GATE:
                result = PrefilterResult("label", "hate", score, GATE, fingerprint=fingerprint)
            elif self.terms[i]:
                result = PrefilterResult("terms", "a term", score, GATE, fingerprint=fingerprint)
            else:
                gate = "sample" if drawn[i] < sample else "audit"
                result = PrefilterResult(gate, "hate", score, GATE, float(rates[i]), stratum, fingerprint=fingerprint)
            decision = "undetermined" if lost[i] else "violates" if self.violates[i] else "safe"
            yield verdict(f"c{i}", decision, result)


def verdict(content, decision, result, *, version="v1", later=0, lane=None, sha=""):
    lane = lane or ("audit" if result.gate == "audit" else "live")
    at = WHEN + timedelta(seconds=later)
    return Verdict(content, content, sha, P, version, decision, "reasoner", lane, "m", at, prefilter=result)


def covering(name, covered):
    print(f"{name}: {covered} of {STREAMS} intervals cover the truth")
    assert covered >= ENOUGH


@pytest.mark.parametrize(("sample", "size"), [(0.0, 40_000), (SAMPLE, 40_000), (0.1, 10_000)])
def test_recall_covers_the_truth_with_and_without_a_sample(sample, size):
    covered, estimates = 0, []
    for seed in range(STREAMS):
        draw = np.random.default_rng(seed)
        stream = Stream.of(draw, size, draw.uniform(0.003, 0.03))
        labels = verdict_labels.from_verdicts(stream.verdicts(draw, sample=sample), P)
        result = gate_recall.from_labels(labels)
        covered += result.low <= stream.recall() <= result.high
        estimates.append((result.missed, (stream.violates & ~stream.caught).sum()))
    missed, truth = np.sum(estimates, axis=0)
    assert missed == pytest.approx(truth, rel=0.15), "each missed item is counted once, however it was drawn"
    covering(f"recall, sample {sample}", covered)


def test_recall_covers_the_truth_where_rates_change_within_the_window():
    covered = 0
    for seed in range(STREAMS):
        draw = np.random.default_rng(seed)
        streams = [Stream.of(draw, 15_000, 0.01) for _ in range(2)]
        verdicts = [
            msgspec.structs.replace(v, content_id=f"{n}-{v.content_id}")
            for n, stream in enumerate(streams)
            for v in stream.verdicts(draw, sample=(0.0, 0.05)[n])
        ]
        result = gate_recall.from_labels(verdict_labels.from_verdicts(verdicts, P))
        whole = Stream(*(np.concatenate(x) for x in zip(*map(dataclasses.astuple, streams), strict=True)))
        covered += result.low <= whole.recall() <= result.high
    covering("recall, changing rates", covered)


def test_recall_of_verdicts_from_before_the_joint_rate_counts_nothing_twice():
    """Earlier releases recorded the rate of the sample or of the audit alone, and no fingerprint."""
    estimates = []
    for seed in range(30):
        draw = np.random.default_rng(seed)
        stream = Stream.of(draw, 40_000, 0.02)
        verdicts = []
        for v in stream.verdicts(draw, sample=0.02):
            p = msgspec.structs.replace(v.prefilter, fingerprint=None)
            if p.gate == "sample":
                p = msgspec.structs.replace(p, rate=0.02, stratum=None)
            elif p.gate == "audit":
                p = msgspec.structs.replace(p, rate=0.98 * (NEAR if p.stratum == "near" else FAR))
            verdicts.append(msgspec.structs.replace(v, prefilter=p))
        result = gate_recall.from_labels(verdict_labels.from_verdicts(verdicts, P))
        estimates.append((result.missed, (stream.violates & ~stream.caught).sum()))
    missed, truth = np.sum(estimates, axis=0)
    assert missed == pytest.approx(truth, rel=0.1)


def test_the_alert_fires_only_where_recall_is_below_its_bound(monkeypatch):
    counted = Counter()
    found = SimpleNamespace(add=lambda n, attributes: counted.update({attributes["found_by"]: n}))
    monkeypatch.setattr(metrics, "VIOLATIONS", found)
    monkeypatch.setattr(metrics, "VIOLATIONS_VARIANCE", SimpleNamespace(add=lambda n, _: counted.update(variance=n)))
    covered, estimates = 0, []
    for seed in range(STREAMS):
        draw = np.random.default_rng(seed)
        stream = Stream.of(draw, 20_000, 0.02)
        counted.clear()
        for v in stream.verdicts(draw):
            judge._count(v)
        missed = max(0.0, counted["audit"] - 2 * counted["variance"] ** 0.5)
        covered += stream.recall() <= counted["gate"] / (counted["gate"] + missed)
        estimates.append((counted["audit"], (stream.violates & ~stream.caught).sum()))
    missed, truth = np.sum(estimates, axis=0)
    assert missed == pytest.approx(0.97 * truth, rel=0.1)
    covering("the alert's bound", covered)


def test_calibration_covers_the_recall_and_the_cost_of_its_threshold(monkeypatch):
    monkeypatch.setattr(threshold, "_probability", lambda *_: threshold._Probability("platt", 0.0, {}))  # slow
    large = Stream.of(np.random.default_rng(999), 1_000_000, 0.02)
    recalls = shares = 0
    reached = []
    for seed in range(STREAMS):
        draw = np.random.default_rng(seed)
        stream = Stream.of(draw, 30_000, 0.02)
        labels = verdict_labels.from_verdicts(stream.verdicts(draw), P)
        result = threshold.calibrate_gate(threshold.score_labels(labels, P), 0.8)
        taken = large.terms | (large.scores >= result.threshold)
        recalls += result.recall.low <= large.recall(result.threshold) <= result.recall.high
        shares += result.escalated.low <= taken.mean() <= result.escalated.high
        reached.append(large.recall(result.threshold))
    assert np.mean(reached) == pytest.approx(0.8, abs=0.06)
    covering("recall of a calibrated threshold", recalls)
    covering("share escalated by a calibrated threshold", shares)


def test_a_distilled_classifiers_threshold_reaches_its_recall_in_the_stream():
    """Most violating labels are those that the gate caught: without weights they would set the threshold."""
    large = Stream.of(np.random.default_rng(999), 500_000, 0.02)
    reached = []
    for seed in range(10):
        draw = np.random.default_rng(seed)
        stream = Stream.of(draw, 60_000, 0.02)
        rows = verdict_labels.from_verdicts(stream.verdicts(draw, sample=0.05), P, one_gate=False).rows
        scored = ScoredSet(
            "distilled",
            np.array([row.prefilter.score for row in rows]),
            np.array([row.violates for row in rows]),
            np.array([row.weight for row in rows]),
        )
        terms = np.array([row.prefilter.gate == "terms" for row in rows])
        proposal = Proposal(b"", scored, scored, terms)
        reached.append(large.recall(proposal.threshold(0.95)))
    assert np.mean(reached) == pytest.approx(0.95, abs=0.03)


@pytest.mark.slow  # 200 databases, about 20 s
def test_a_replays_noise_floor_covers_what_the_same_version_would_flip():
    policy = Replayed("hate", "new", "document", before_version="old", before_document="document")
    job = Replay("r1", (policy,), {"0": 0}, {"0": 500}, "escalated", WHEN, "test")
    covered, estimates = 0, []
    for seed in range(STREAMS):
        draw = np.random.default_rng(seed)
        size = 250
        tendency = draw.beta(0.3, 0.6, size)  # each item's own probability of being judged violating
        live, gate = draw.random(size) < 0.6, draw.random(size) < 0.8
        violates, lost = draw.random((3, size)) < tendency, draw.random((3, size)) < 0.08
        before, after, again = np.where(lost, "undetermined", np.where(violates, "violates", "safe"))
        drawn = draw.random(size) < 0.3
        result, exposed = _diff_of(policy, job, live, gate | ~live, before, after, again, drawn)
        truth = 2 * 0.3 * 0.6 / (0.9 * 1.9) * exposed / size  # E[2q(1-q)] of the beta distribution
        covered += result.noise.low <= truth <= result.noise.high
        estimates.append((result.noise.value or 0.0, truth))
    noise, truth = np.mean(estimates, axis=0)
    assert noise == pytest.approx(truth, rel=0.05)
    covering("noise floor", covered)


def _diff_of(policy, job, live, gate, before, after, again, drawn):
    escalated, replayed, earlier = [], [], []
    event = ContentEvent("c", "text", WHEN)
    for i in range(len(live)):
        name = PrefilterResult("label" if gate[i] else "live", live=bool(live[i]))
        one = msgspec.structs.replace(event, content_id=f"c{i}")
        escalated.append(Escalation(one, "hate", "new", 0, name, "replay", WHEN, replay_id="r1"))
        replayed.append(msgspec.structs.replace(_judged(i, after[i], "new", "replay"), prefilter=name))
        if live[i]:
            earlier.append(_judged(i, before[i], "old", "live"))
            if drawn[i]:
                replayed.append(_judged(i, again[i], "old", "replay"))
    with joined(policy, escalated, replayed, earlier) as db:
        decided = (before != "undetermined") & (after != "undetermined") & live & gate
        status = ReplayStatus(job, job.total, items=len(live), unreadable=0, counts=ReplayCounts(0, 0, 0))
        return diff.count(db, status, policy, []), decided.sum()


def _judged(i, decision, version, lane):
    return Verdict(
        f"{i}{version}{lane}",
        f"c{i}",
        content_sha256("text"),
        "hate",
        version,
        str(decision),
        "reasoner",
        lane,
        "m",
        WHEN,
    )


def test_scores_of_two_gates_are_never_pooled_and_the_newest_gate_counts():
    draw = np.random.default_rng(1)
    stream = Stream.of(draw, 20_000, 0.02)
    older = [msgspec.structs.replace(v, content_id=f"o{v.content_id}") for v in stream.verdicts(draw, fingerprint="a")]
    newer = [
        msgspec.structs.replace(v, decided_at=WHEN + timedelta(hours=1)) for v in stream.verdicts(draw, fingerprint="b")
    ]
    before_fingerprints = verdict("x", "violates", PrefilterResult("label", "hate", 0.9, GATE), later=9999)
    labels = verdict_labels.from_verdicts([*newer, *older, before_fingerprints], P)
    assert {row.prefilter.fingerprint for row in labels.rows} == {"b"}
    assert labels.other_gates == len(older) + 1
    assert f"{len(older) + 1:,} of other gates, whose scores do not compare" in labels.left_out
    assert "of other gates" in gate_recall.from_labels(labels).left_out
    assert threshold.score_labels(labels, P).left_out == labels.left_out
    every = verdict_labels.from_verdicts([*newer, *older], P, one_gate=False)
    assert len(every.rows) > 1.9 * len(labels.rows), "texts are scored again, which makes them comparable"


def test_terms_count_for_a_calibration_with_or_without_a_score():
    hit, unscored = PrefilterResult("terms", "t", 0.1, GATE), PrefilterResult("terms", "t")
    verdicts = [verdict(f"t{n}", "violates", (hit, unscored)[n % 2]) for n in range(50)]
    verdicts += [verdict(f"l{n}", "violates", PrefilterResult("label", "h", 0.8, GATE)) for n in range(50)]
    verdicts += [verdict(f"s{n}", "safe", PrefilterResult("label", "h", 0.3, GATE)) for n in range(50)]
    scored = threshold.score_labels(verdict_labels.from_verdicts(verdicts, P), P)
    result = threshold.calibrate_gate(scored, 0.5)
    assert (result.rows, result.violating) == (150, 100)
    assert result.threshold == 1.0, "terms alone reach the recall"


def test_an_edited_item_is_two_items_and_one_judged_twice_is_one():
    label = PrefilterResult("label", "h", 0.9, GATE)
    texts = [content_sha256(text) for text in ("first", "second")]
    verdicts = [
        verdict("a", "violates", label, sha=texts[0]),
        verdict("a", "safe", label, sha=texts[0], later=5),
        verdict("a", "violates", label, sha=texts[1], later=1),
        verdict("a", "violates", label, sha=texts[1], lane="shadow", later=9),
        verdict("a", "safe", label, sha=texts[1], lane="replay", later=9),
    ]
    naive = msgspec.structs.replace(verdicts[0], decided_at=datetime(2026, 1, 1), content_id="b")  # noqa: DTZ001  (what a foreign record may have)
    rows = verdict_labels.from_verdicts([*verdicts, naive, naive], P).rows
    assert sorted((row.content_id, row.violates) for row in rows) == [("a", False), ("a", True), ("b", True)]


@pytest.mark.parametrize("count", [0, 1, 3, 40])
def test_a_total_covers_whatever_the_count_and_the_rate(count):
    """Zero items found is no proof of none: the bound is the rule of three's, 3.7 at 95% on each side."""
    for weight in (1.0, 2.0, 50.0, 500.0):
        result = total([weight] * count, weight, finite=True)
        assert count <= result.low <= result.value == count * weight <= result.high
        if weight == 1:
            assert result.low == result.high == count, "all were judged"
        elif not count:
            assert result.high == pytest.approx(3.7 * weight, rel=0.4)
    assert total([], 0.0).high == 0.0


def test_shares_of_nothing_and_of_everything():
    nothing, some = Estimate(0.0, 0.0, 10.0), Estimate(30.0, 20.0, 40.0)
    assert share(nothing, Estimate(0.0, 0.0, 0.0)) is None
    assert share(some, nothing) == Estimate(1.0, 20 / 30, 1.0)
    assert share(nothing, some) == Estimate(0.0, 0.0, 10 / 30)
    both = share(some, some)
    assert both.low < both.value == 0.5 < both.high
    assert both.low == pytest.approx(1 - both.high, abs=0.06)


@pytest.mark.parametrize("rate", [None, 0.0, -1.0, 5.0])
def test_a_rate_that_is_no_share_weighs_nothing_up(rate):
    drawn = verdict("a", "violates", PrefilterResult("audit", rate=rate, stratum="far", fingerprint="f"))
    (row,) = verdict_labels.from_verdicts([drawn], P).rows
    assert row.weight == 1.0
    label = PrefilterResult("label", live=True, rate=rate)
    others = [verdict(c, d, label, version="v2", lane="shadow") for c, d in (("a", "safe"), ("b", "violates"))]
    live = [verdict("a", "violates", label), verdict("b", "violates", label)]
    assert compare(P, live, others).agree.value == 0.5


def test_a_shadow_whose_share_changed_is_weighed():
    def pair(number, live, shadow, rate):
        label = PrefilterResult("label", live=True, rate=rate)
        yield verdict(f"c{number}", live, label)
        yield verdict(f"c{number}", shadow, label, version="v2", lane="shadow")

    early = [v for n in range(200) for v in pair(n, "safe", "violates", 0.5)]  # at half of the content
    late = [v for n in range(200, 300) for v in pair(n, "safe", "safe", 0.05)]
    result = compare(P, [v for v in early + late if v.lane == "live"], [v for v in early + late if v.lane == "shadow"])
    assert result.to_violates.count == 200
    assert result.to_violates.value == pytest.approx(400 / 2400, abs=1e-3)
    assert weighted_proportion([True, False], [2.0, 2.0]) == weighted_proportion([True, False], [1.0, 1.0])


def test_an_audit_is_no_verdict_of_the_gates_in_force():
    audited = verdict("a", "violates", PrefilterResult("audit", rate=0.01, stratum="far"))
    only_shadow = verdict("a", "violates", PrefilterResult("label", live=False, rate=1.0), version="v2", lane="shadow")
    result = compare(P, [audited], [only_shadow])
    assert (result.both, result.only_shadow.count) == (0, 1)
    assert [(s.count, s.of) for s in result.violating] == [(0, 1), (1, 1)]
