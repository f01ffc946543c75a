"""Labels of texts that senders copied: they are measured together, and count as one."""

import msgspec
import numpy as np
import pytest
from sklearn.model_selection import StratifiedKFold

from safeguard_streams.errors import ConfigurationError
from safeguard_streams.policies.files import load_library
from safeguard_streams.prefilter.classifier import Classifier
from safeguard_streams.quality import distillation, evaluation
from safeguard_streams.quality.copies import copies, folds, resamples, together
from safeguard_streams.quality.distillation import Features, learn, propose
from safeguard_streams.quality.evaluation import ScoredSet
from safeguard_streams.quality.gate_advice import advise
from safeguard_streams.quality.gate_candidates import Scorers
from safeguard_streams.quality.gate_choice import aimed_recall, compare
from safeguard_streams.quality.gate_curve import curve
from safeguard_streams.quality.verdict_labels import LabeledItem
from tests.unit.quality.gate_cases import LETTERS, evidence, policy, rows


@pytest.fixture(scope="module")
def classifier():
    return Classifier()


@pytest.fixture
def one_candidate(monkeypatch):
    """Fitting tries one strength rather than many, in fewer folds."""
    monkeypatch.setattr(distillation, "INVERSE_STRENGTHS", (6.0,))
    monkeypatch.setattr(distillation, "FOLDS", 2)


def text(number):
    """A text like no other."""
    draw = np.random.default_rng(number)
    return " ".join("".join(draw.choice(LETTERS, 6)) for _ in range(8))


def test_texts_that_differ_by_digits_links_and_case_are_copies():
    found = copies(
        [
            "Win 500 coins today at https://one.example/a",
            "is this seat taken",
            "win 720 coins TODAY at https://two.example/b",
            "\u200b",
            "Is this seat taken",
            "",
        ]
    )
    assert found.tolist() == [0, 1, 0, 2, 1, 2]
    assert copies([]).tolist() == []


def test_other_texts_are_no_copies():
    assert copies([text(number) for number in range(300)]).tolist() == list(range(300))


def test_a_campaign_with_changed_words_is_one_group_unless_the_texts_are_very_many(monkeypatch):
    words = text(0).split()
    campaign = [" ".join([*words, *text(1).split(), *text(2).split(), word]) for word in text(3).split()]
    assert len(set(copies(campaign))) < len(campaign)
    monkeypatch.setattr("safeguard_streams.quality.copies.MANY", 3)
    assert len(set(copies(campaign))) == len(campaign)
    assert len(set(copies([*campaign, *campaign]))) == len(campaign)


def test_all_copies_of_a_text_are_on_one_side():
    groups = np.random.default_rng(0).integers(0, 60, 400)
    violates = groups % 3 == 0
    tested = []
    for train, test in folds(violates, groups, 4, 0):
        assert not set(groups[train]) & set(groups[test])
        assert 0 < violates[train].mean() < 1
        tested += test.tolist()
    assert sorted(tested) == list(range(400))


def test_without_copies_the_folds_and_resamples_are_those_of_rows():
    violates = np.arange(90) % 4 == 0
    expected = StratifiedKFold(4, shuffle=True, random_state=3).split(violates, violates)
    for found, wanted in zip(folds(violates, np.arange(90), 4, 3), expected, strict=True):
        assert all((one == other).all() for one, other in zip(found, wanted, strict=True))
    draw = np.random.default_rng(5)
    for times in resamples(np.arange(90), 3, 5):
        assert (times == np.bincount(draw.integers(0, 90, 90), minlength=90)).all()


@pytest.mark.usefixtures("one_candidate")
def test_labels_by_chance_on_copied_texts_make_no_gate_better(classifier):
    """A classifier that knows a text by heart knows all of its copies."""
    judged = [LabeledItem(n % 3 == 0, 1.0, f"{n}-{k}", f"{text(n)} {k}") for n in range(120) for k in range(4)]
    proposal = propose(load_library()["fraud-spam"], classifier, judged)
    assert proposal.after.roc_auc.low < 0.55
    assert not any(choice.better for choice in proposal.choices(0.95))


def test_copies_of_a_few_texts_are_too_few_to_learn_from(classifier):
    judged = [LabeledItem(n % 3 == 0, 1.0, f"{n}-{k}", f"{text(n)} {k}") for n in range(45) for k in range(5)]
    with pytest.raises(ConfigurationError, match=r"225 judged texts, 45 of them different, 15 of these violating"):
        propose(load_library()["fraud-spam"], classifier, judged)


@pytest.mark.usefixtures("one_candidate")
def test_what_is_learned_does_not_depend_on_the_scale_of_the_weights(classifier):
    """Labels that were all drawn at 1% teach what as many labels of all content teach."""
    texts = [row.text for row in rows()]
    violates = np.array([row.violates for row in rows()])
    features = Features(policy(terms=["kettle"], sample=0.01), classifier, texts)
    once, hundred = (learn(features, violates, np.full(len(texts), weight), 0).unseen for weight in (1.0, 100.0))
    assert np.abs(once - hundred).max() < 0.005


def scored(times, *, told):
    """A gate's scores of 150 texts, each so often; told: whether the set says which texts are copies."""
    draw = np.random.default_rng(0)
    violates = draw.random(150) < 0.3
    scores = draw.normal(size=150) + 1.5 * violates
    groups = np.repeat(np.arange(150), times)
    each = (np.repeat(values, times) for values in (1 / (1 + np.exp(-scores)), violates))
    return ScoredSet("gate", *each, np.ones(len(groups)), groups if told else None)


def width(estimate):
    return estimate.high - estimate.low


def test_copies_narrow_no_interval():
    once, untold, told = scored(1, told=False), scored(9, told=False), scored(9, told=True)
    for measure in (
        lambda one: curve(one, (0.9,))[0].escalated,
        lambda one: evaluation.figures(one).roc_auc,
    ):
        assert width(measure(told)) == pytest.approx(width(measure(once)), rel=0.15)
        assert width(measure(untold)) < 0.5 * width(measure(told))


def test_copies_settle_no_choice():
    """A difference that a few texts make is not beyond chance because each was sent a hundred times."""
    groups = np.repeat(np.arange(30), 100)
    violates = groups % 2 == 0
    draw = np.random.default_rng(4)
    sets = [
        ScoredSet(name, (draw.random(30) + 0.3 * (np.arange(30) % 2 == 0))[groups], violates, np.ones(3000), groups)
        for name in ("one", "other")
    ]
    choice = compare(*sets, 0.8)
    assert choice.escalated.low < 0 < choice.escalated.high
    assert choice.more_labels != 0


def test_copies_do_not_lessen_a_thresholds_margin():
    violates, groups = np.ones(200, dtype=bool), np.repeat(np.arange(20), 10)
    alone = aimed_recall(0.9, violates[:20], np.ones(20))
    assert aimed_recall(0.9, violates, np.ones(200), groups) == pytest.approx(alone)
    assert aimed_recall(0.9, violates, np.ones(200)) < alone
    assert together(np.array([1.0, 2.0, 4.0]), np.array([7, 3, 7])).tolist() == [5.0, 2.0]


def test_advice_asks_for_labels_of_different_texts(classifier):
    labels = [
        msgspec.structs.replace(row, content_id=f"{row.content_id}-{k}", text=f"{row.text} {k}")
        for row in rows(60)
        for k in range(5)
    ]
    found = advise(evidence(policy(terms=["kettle"], sample=0.5), labels), Scorers(classifier, None), None, 0.95).advice
    assert found.action == "collect"
    assert "300 labels of 60 different texts: 100 are needed" in found.why
    assert found.more_labels == 200
    assert found.labels.counting_as <= 24
