"""Which gate is proposed, on which verdicts it is measured, and the message where none can be."""

from datetime import timedelta

import msgspec
import numpy as np
import pytest

from safeguard_streams.contract.records import PrefilterResult
from safeguard_streams.policies.distilled import BUCKETS, VECTOR, VectorWeights, vector_weights
from safeguard_streams.policies.golden_gates import Expected, GoldenGate
from safeguard_streams.policies.parsing import parse
from safeguard_streams.prefilter.classifier import Classifier
from safeguard_streams.prefilter.encoder.files import NAME
from safeguard_streams.prefilter.encoder.passages import PassageVectors
from safeguard_streams.quality import distillation, gate_advice, gate_candidates
from safeguard_streams.quality.distillation import propose, with_classifier
from safeguard_streams.quality.evaluation import escalated_for
from safeguard_streams.quality.gate_advice import advise
from safeguard_streams.quality.gate_candidates import LabelledTexts, Scorers, candidates, present_gate
from safeguard_streams.quality.gate_cost import cost_of
from safeguard_streams.quality.gate_rungs import rung_of
from safeguard_streams.quality.verdict_labels import LabeledItem
from safeguard_streams.runtime.settings import Settings
from tests.unit.quality.gate_cases import HARMFUL, WHEN, evidence, policy, rows

EARLIER = WHEN - timedelta(days=1)
TERMS = policy(terms=[HARMFUL[0]], sample=0.5)


@pytest.fixture(scope="module", autouse=True)
def one_candidate():
    """Fitting tries one strength rather than many, in fewer folds, which takes a twentieth of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distillation, "FOLDS", 2)
        patch.setattr(distillation, "INVERSE_STRENGTHS", (6.0,))
        yield


@pytest.fixture(scope="module")
def scorers():
    return Scorers(Classifier(), None)


def advice(given, scorers, target=0.9, **settings):
    return advise(given, scorers, cost_of(given, Settings(**settings)), target)


@pytest.fixture(scope="module")
def distilled(scorers):
    """A policy whose gate was distilled from such labels."""
    proposal = propose(TERMS, scorers.classifier, rows())
    files = with_classifier(TERMS, proposal.file(0.9), proposal.threshold(0.9))
    return parse(files.document, distilled=files.distilled)


def test_the_rung_of_each_gate(distilled):
    assert rung_of(TERMS) == "terms"
    assert rung_of(policy(sample=0.1)) == "terms"
    assert rung_of(policy(harms=["fraud_spam"], threshold=0.2, terms=["x"])) == "label"
    assert rung_of(policy(everything=True)) == rung_of(policy(sample=1.0)) == "everything"
    assert rung_of(distilled) == "distilled"
    weights = VectorWeights(NAME, (0.0, 0.0), 0.0, 1.0, "", 1.0, "", 0.0, 0.0)
    both = msgspec.structs.replace(distilled.distilled, with_vectors=weights)
    vectors = msgspec.structs.replace(distilled, distilled=both)
    assert (rung_of(vectors), rung_of(vectors, encoder=False)) == ("vectors", "distilled")


def test_a_distilled_classifier_is_proposed_where_words_alone_do_not_reach_the_recall(scorers):
    found, gate, scored = advice(evidence(TERMS, rows()), scorers)
    assert (found.rung, found.action, found.proposed.rung) == ("terms", "take", "distilled")
    assert "which terms alone do not reach" in found.why
    assert found.present.curve == []
    assert found.present.recall.value < 0.5
    assert found.proposed.recall.value > 0.85
    assert [point.recall for point in found.proposed.curve][-1] == 0.99
    assert [choice.name for choice in found.choices] == ["general classifier", "distilled"]
    assert [one.name for one in scored] == ["fraud-spam: distilled"], "terms have no curve to plot"
    assert any("extra encoder is not installed" in note for note in found.notes)
    released = parse(gate.files.document, distilled=gate.files.distilled)
    assert released.gate.distilled is not None
    assert released.gate.terms == TERMS.gate.terms
    assert released.gate.threshold == gate.threshold == found.proposed.threshold
    assert released.text == TERMS.text


def test_what_it_saves_or_costs_is_the_difference_in_judgements(scorers):
    found = advice(evidence(TERMS, rows()), scorers, max_in_flight=64).advice
    cost = found.cost
    assert (cost.gpu_seconds, cost.basis, cost.concurrency) == (pytest.approx(0.1), "latency", 64)
    assert cost.judgements_a_day == pytest.approx(1440)
    assert found.gpu_hours_a_day == pytest.approx(1440 * 0.1 / 3600)
    more = found.proposed.escalated.value - found.present.escalated.value
    assert found.saved_gpu_hours_a_day == pytest.approx(-more * cost.items_a_day * 0.1 / 3600)
    assert found.saved_gpu_hours_a_day < 0, "more recall costs more"
    everything = advice(evidence(policy(everything=True), rows()), scorers).advice
    assert everything.action == "take"
    assert everything.saved_gpu_hours_a_day > 0


def test_the_gpu_time_of_a_judgement_is_its_tokens_at_the_speed_that_is_given():
    given = evidence(TERMS, rows())
    by_tokens = cost_of(given, Settings(), gpu_tokens=4000)
    assert (by_tokens.gpu_seconds, by_tokens.basis) == (pytest.approx(200 / 4000), "tokens")
    assert by_tokens.items_a_day == pytest.approx(sum(row.weight for row in rows()) / 159 * 1440)
    assert cost_of(given, Settings(model="small")).concurrency == 8


@pytest.mark.parametrize("minutes", [0, 9])
def test_verdicts_of_minutes_tell_no_daily_cost(minutes):
    few = [row for row in rows() if row.decided_at <= WHEN + timedelta(minutes=minutes)]
    assert cost_of(evidence(TERMS, few), Settings()) is None
    assert cost_of(evidence(TERMS, []), Settings()) is None


def test_a_gate_is_proposed_from_everything_and_its_terms_stay(scorers):
    gate = advice(evidence(policy(everything=True, terms=["kettle"]), rows(drawn=0.0)), scorers).gate
    assert gate.rung == "distilled"
    released = parse(gate.files.document, distilled=gate.files.distilled)
    assert not released.gate.everything
    assert released.gate.terms == ("kettle",)


@pytest.mark.parametrize(
    ("labels", "more", "why"),
    [
        ([], 100, "has judged nothing under this text of the policy yet: 100 are needed, 20 of each side"),
        (rows(60), 40, "60 labels: 100 are needed"),
        (rows(200, violating=0.05), 200, "10 of 200 labels are violating: 100 are needed, 20 of each side"),
        (rows(150, violating=0.0), None, "none of 150 labels is violating"),
        (rows(150, violating=1.0), None, "none of 150 labels is safe"),
        (rows(drawn=0.0), None, "all of 160 labels are of content that the gate escalates"),
    ],
)
def test_what_is_missing_is_named(labels, more, why, scorers):
    found, gate, _ = advice(evidence(TERMS, labels), scorers)
    assert gate is None
    assert found.action == "collect"
    assert why in found.why
    assert found.more_labels == more or (more and found.more_labels > more / 2), found.more_labels
    if more and labels:
        assert found.days == pytest.approx(found.more_labels / 1440)


def test_a_few_drawn_labels_that_stand_for_many_count_as_few(scorers):
    heavy = [msgspec.structs.replace(row, weight=500.0) if n % 32 == 0 else row for n, row in enumerate(rows())]
    found = advice(evidence(TERMS, heavy), scorers).advice
    assert found.action == "collect"
    assert found.labels.usable_violating > 20 > found.labels.counting_as
    assert "labels count as" in found.why
    assert "stands for up to 500 items" in found.why


def test_a_drawn_label_that_stands_for_more_than_may_be_missed_resolves_no_recall(scorers):
    found, gate, _ = advice(evidence(TERMS, rows()), scorers, target=0.99)
    assert gate is None
    assert "one drawn label stands for 2 items, and a gate may miss 1 violating ones for recall 0.99" in found.why
    assert 0 < found.more_labels < 160


def test_texts_that_are_gone_are_named(scorers):
    found = advice(evidence(TERMS, rows(), texts=False), scorers).advice
    assert "no longer holds the texts of its 160 verdicts" in found.why
    assert found.labels.violating == 64


def test_a_distilled_gate_in_force_is_measured_on_what_was_judged_after_its_release(distilled, scorers):
    labels = rows(300)
    since = WHEN + timedelta(minutes=99)
    found = advice(evidence(distilled, labels, unseen_from=since), scorers).advice
    assert found.labels.with_text == 300
    assert found.labels.usable == found.present.rows == 200
    assert found.present.curve
    short = advice(evidence(distilled, labels, unseen_from=WHEN + timedelta(minutes=250)), scorers).advice
    assert short.action == "collect"
    assert "49 labels, judged after its classifier was released: 100 are needed" in short.why
    assert short.more_labels == 51


def live(caught, missed_drawn, rate=0.5, score=0.1):
    """Labels that tell live recall: violating items that were caught, and drawn ones that were missed."""
    passed = PrefilterResult("audit", "hate", score, 0.2, rate, "near")
    safe = [LabeledItem(False, 1 / rate, prefilter=passed, decided_at=WHEN)] * 200
    return [
        *[LabeledItem(True, prefilter=PrefilterResult("label", "hate", 0.9, 0.2), decided_at=WHEN)] * caught,
        *[LabeledItem(True, 1 / rate, prefilter=passed, decided_at=WHEN)] * missed_drawn,
        *safe,
    ]


def test_a_gate_that_no_other_beats_beyond_chance_is_kept(distilled, scorers):
    found, gate, _ = advice(evidence(distilled, rows(), live=live(100, 5), unseen_from=EARLIER), scorers)
    assert gate is None
    assert found.proposed is None
    assert found.saved_gpu_hours_a_day is None
    assert not any(choice.better for choice in found.choices)
    assert (found.action, found.more_labels) in [("keep", None), ("collect", found.more_labels)]


def test_an_open_choice_names_the_labels_that_would_settle_it(distilled, scorers):
    plain = advice(evidence(distilled, rows(), live=live(100, 5), unseen_from=EARLIER), scorers).advice
    wide, narrow = (msgspec.structs.replace(plain.choices[0], more_labels=more) for more in (4000, 720))
    kept = gate_advice._keeping(msgspec.structs.replace(plain, choices=[wide, narrow]))
    assert (kept.action, kept.more_labels, kept.days) == ("collect", 720, pytest.approx(0.5))
    assert "undecided between distilled and the gate in force" in kept.why
    settled = gate_advice._keeping(msgspec.structs.replace(plain, choices=[]))
    assert (settled.action, settled.why) == ("keep", "no other gate is better")


def test_a_threshold_is_proposed_where_live_recall_is_below_the_target_beyond_chance(distilled, scorers):
    high = parse(
        distilled.document.replace(f"threshold: {distilled.gate.threshold}", "threshold: 0.99"),
        distilled=distilled.distilled_file,
    )
    assert high.gate.threshold == 0.99
    found, gate, _ = advice(evidence(high, rows(), live=live(100, 60), unseen_from=EARLIER), scorers)
    assert found.live.high < 0.9
    assert (found.action, found.proposed.rung) == ("take", "distilled")
    released = parse(gate.files.document, distilled=gate.files.distilled)
    assert released.gate.threshold < 0.99
    if released.distilled_file == high.distilled_file:
        assert "below 0.9 beyond chance: lower the threshold" in found.why
    fine = advice(evidence(high, rows(), live=live(100, 5), unseen_from=EARLIER), scorers)
    assert fine.gate is None or fine.gate.files.distilled != high.distilled_file


def test_a_shadow_is_compared_before_another_gate_is_proposed(scorers):
    found, gate, _ = advice(evidence(TERMS, rows(), shadow=True), scorers)
    assert gate is None
    assert found.action == "compare"
    assert "safeguard policy compare fraud-spam" in found.why


@pytest.mark.parametrize(
    ("low", "now", "warns"),
    [(0.96, 0.97, False), (0.93, 0.97, True), (0.93, 0.94, True), (0.93, 0.92, False), (0.93, None, True)],
)
def test_a_lower_bound_that_falls_below_the_target_is_said(low, now, warns, scorers):
    found = advice(evidence(TERMS, rows()), scorers).advice
    recall = msgspec.structs.replace(found.proposed.recall, low=low)
    proposed = msgspec.structs.replace(found.proposed, recall=recall)
    before = msgspec.structs.replace(found.live, low=now or 0.0, recall=None if now is None else 0.98)
    changed = msgspec.structs.replace(found, target_recall=0.95, proposed=proposed, live=before)
    assert bool(changed.lowers) is warns
    if warns:
        assert f"would be {low:.3f}: below the target of 0.95" in changed.lowers


def test_without_the_encoder_a_gate_that_uses_vectors_is_not_measured(monkeypatch, distilled, scorers):
    monkeypatch.setattr(gate_advice, "_vectors_in_use", lambda *_: True)
    found, gate, _ = advice(evidence(distilled, rows()), scorers)
    assert gate is None
    assert "pip install 'safeguard-streams[encoder]'" in found.why


def test_the_last_verdict_tells_whether_vectors_are_in_use(distilled, scorers):
    weights = VectorWeights(NAME, (0.0, 0.0), 0.0, 1.0, "", 1.0, "", 0.0, 0.0)
    with_vectors = msgspec.structs.replace(distilled.distilled, with_vectors=weights)
    both = msgspec.structs.replace(distilled, distilled=with_vectors)
    for encoder in (NAME, None):
        seen = gate_advice.fingerprint(both, scorers.classifier.name, encoder)
        row = LabeledItem(True, prefilter=PrefilterResult("label", fingerprint=seen))
        given = msgspec.structs.replace(evidence(TERMS, [row]), state=evidence(both, []).state)
        assert gate_advice._vectors_in_use(given, scorers.classifier.name) is (encoder is not None)
    assert gate_advice._vectors_in_use(evidence(TERMS, rows()), scorers.classifier.name) is False


def test_all_candidates_are_scored_on_the_same_rows_and_keep_the_terms(scorers):
    labels = LabelledTexts.of(rows())
    present = present_gate(TERMS, labels, scorers, vectors=False)
    found = candidates(evidence(TERMS, rows()).state, present, rows(), scorers, 0.9)
    matched = np.array([HARMFUL[0] in text for text in labels.texts])
    assert matched.any()
    for gate in (present, *found.gates):
        assert (gate.scored.scores[matched] == 1).all(), gate.rung
        assert (gate.certain == matched).all()
    assert set(present.scored.scores[~matched]) == {0.0}
    assert escalated_for(present.scored.scores, labels.violates, labels.weights, 0.9) == 1.0


class Meanings:
    """Stands for the encoder: the first place of a text's vector says whether it has a harmful word."""

    name = NAME

    def encode(self, texts):
        vectors = np.array([np.random.default_rng(sum(map(ord, text))).normal(size=VECTOR) for text in texts])
        vectors[:, 0] += [40.0 * any(word in text for word in HARMFUL) for text in texts]
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)

    def encode_passages(self, texts):
        return PassageVectors.one_each(self.encode(texts))


@pytest.fixture(scope="module")
def golden(scorers):
    """A golden gate that tells harmful words by their vectors."""
    vector = np.zeros(VECTOR)
    vector[0] = 12.0
    fields = {"trust": (0.0, 0.0), "bias": -6.0, "least": -12.0, "most": 12.0, "encoder": NAME}
    weights = vector_weights(np.zeros(BUCKETS), vector, **fields)
    expected = Expected((0.9, 0.8, 1.0), (0.1, 0.0, 0.2))
    return GoldenGate("0123456789ab", TERMS.id, scorers.classifier.name, (), weights, 0.5, 40, expected)


def test_a_golden_gate_in_shadow_is_a_candidate_and_can_be_taken(golden, scorers, monkeypatch):
    monkeypatch.setattr(distillation, "VECTOR_STRENGTHS", {3.0: (2.0,)})
    given = evidence(TERMS, rows())
    given = msgspec.structs.replace(given, state=msgspec.structs.replace(given.state, golden=golden))
    labels = LabelledTexts.of(rows())
    with_vectors = Scorers(scorers.classifier, Meanings())
    present = present_gate(TERMS, labels, with_vectors, vectors=False)
    found = candidates(given.state, present, rows(), with_vectors, 0.9)
    assert [gate.rung for gate in found.gates] == ["label", "golden", "distilled", "vectors"]
    gate = found.gates[1]
    assert gate.measured().recall.value >= 0.9
    assert gate.measured().escalated.value < 0.6
    released = parse(gate.files.document, distilled=gate.files.distilled)
    assert rung_of(released) == rung_of(released, encoder=False) == "golden"
    assert released.gate.threshold == gate.threshold
    without = candidates(given.state, present, rows(), scorers, 0.9)
    assert "golden" not in [gate.rung for gate in without.gates], "it cannot score without the encoder"


def test_a_golden_gate_of_another_classifier_is_no_candidate_and_a_note_says_why(golden, scorers, monkeypatch):
    monkeypatch.setattr(gate_candidates, "_distilled", lambda *_: [])
    other = msgspec.structs.replace(golden, classifier="another")
    state = msgspec.structs.replace(evidence(TERMS, rows()).state, golden=other)
    with_vectors, labels = Scorers(scorers.classifier, Meanings()), LabelledTexts.of(rows())
    present = present_gate(TERMS, labels, with_vectors, vectors=False)
    found = candidates(state, present, rows(), with_vectors, 0.9)
    assert [gate.rung for gate in found.gates] == ["label"]
    (note,) = found.notes
    assert note.startswith("golden gate: it was learned for another classifier or encoder; learn it again: ")
    assert note.endswith("safeguard policy release fraud-spam --library DIR")


def test_without_labels_the_golden_gate_is_named(golden, scorers):
    short = evidence(TERMS, rows(60))
    assert advice(short, scorers).advice.notes == [
        "a golden gate needs no labels: see safeguard policy gate fraud-spam"
    ]
    state = msgspec.structs.replace(short.state, golden=golden)
    assert "runs in shadow" in advice(msgspec.structs.replace(short, state=state), scorers).advice.notes[0]


def test_prefilters_that_differ_are_named(scorers):
    """With and without the extra, say: only those of one kind are measured."""
    for labels in (rows(), rows(60)):
        given = evidence(TERMS, labels)
        mixed = msgspec.structs.replace(given, live=msgspec.structs.replace(given.live, other_gates=70))
        named = [note for note in advice(mixed, scorers).advice.notes if "prefilters differ, or differed" in note]
        assert len(named) == 1
        assert "leave out 70 verdicts whose scores do not compare with the last one's" in named[0]
        assert not any("differ" in note for note in advice(given, scorers).advice.notes)
