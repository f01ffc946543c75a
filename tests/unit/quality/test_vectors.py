"""Classifiers distilled with the encoder's vectors: two sets of weights in one file, and one threshold for both."""

import base64
import hashlib
import sys

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from safeguard_streams.cli import prefilter
from safeguard_streams.cli.policy_tables import print_checks, print_plan, release_rows
from safeguard_streams.cli.prefilter_tables import show_proposal
from safeguard_streams.errors import ConfigurationError, PolicyError
from safeguard_streams.policies import distilled
from safeguard_streams.policies.check import check
from safeguard_streams.policies.distilled import log_odds
from safeguard_streams.policies.files import load, load_library
from safeguard_streams.policies.parsing import parse
from safeguard_streams.prefilter.classifier import Classifier
from safeguard_streams.prefilter.encoder.files import NAME
from safeguard_streams.prefilter.encoder.passages import PassageVectors
from safeguard_streams.quality import distillation
from safeguard_streams.quality.distillation import Features, fit, propose, write
from safeguard_streams.quality.evaluation import roc_auc_score
from safeguard_streams.quality.scoring import gate_answers
from safeguard_streams.quality.threshold import score_file
from safeguard_streams.quality.verdict_labels import LabeledItem
from safeguard_streams.releases.operator import PlannedRelease

WORDS = [f"{first}{second}" for first in ("ba", "ko", "mi", "tu", "re") for second in ("lan", "sef", "dor", "pim")]


def means_harm(text):
    """What no letter tells."""
    return sum(map(ord, text)) % 3 == 0


class Meanings:
    """Stands for the encoder: the first place of a text's vector says, with noise, what the text is about."""

    name = NAME

    def encode(self, texts):
        vectors = np.array([np.random.default_rng(sum(map(ord, text))).normal(size=512) for text in texts])
        vectors[:, 0] += [40.0 * (2 * means_harm(text) - 1) for text in texts]
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)

    def encode_passages(self, texts):
        return PassageVectors.one_each(self.encode(texts))


@pytest.fixture(scope="module", autouse=True)
def one_candidate():
    """Fitting tries one strength rather than many, in fewer folds, which takes a twentieth of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distillation, "FOLDS", 2)
        patch.setattr(distillation, "VECTOR_STRENGTHS", {3.0: (2.0,)})
        patch.setattr(distillation, "INVERSE_STRENGTHS", (6.0,))
        yield


@pytest.fixture(scope="module")
def classifier():
    return Classifier()


@pytest.fixture(scope="module")
def rows():
    """Texts that violate where their meaning does harm; labels have a little noise."""
    texts = [" ".join(np.random.default_rng(number).choice(WORDS, 6)) for number in range(130)]
    return [LabeledItem(means_harm(t) != (n % 23 == 5), 1.0, str(n), t) for n, t in enumerate(texts)]


@pytest.fixture(scope="module")
def proposal(classifier, rows):
    return propose(load_library()["hate-harassment"], classifier, rows, encoder=Meanings())


def test_both_sets_of_weights_travel(proposal, classifier, rows):
    read = distilled.read(proposal.distilled)
    assert read.with_vectors.encoder == NAME
    assert read.beside(None) == read.beside("another encoder") == read
    beside = read.beside(NAME)
    assert (beside.bias, beside.weights) == (read.with_vectors.bias, read.with_vectors.weights)
    assert beside.weights != read.weights
    vector = read.with_vectors.vector_table
    assert vector.shape == (512,)
    assert abs(vector[0]) == np.abs(vector).max()
    added = Meanings().encode([row.text for row in rows]) @ vector
    assert ((read.with_vectors.least < added) & (added < read.with_vectors.most)).mean() > 0.9
    assert read.with_vectors.least > added.min() - 3 * added.std()
    without = distilled.read(propose(load_library()["hate-harassment"], classifier, rows).distilled)
    assert without == msgspec.structs.replace(read, with_vectors=None)


def test_the_file_scores_as_the_model_that_was_measured(proposal, classifier, rows):
    policy = load_library()["hate-harassment"]
    features = Features(policy, classifier, [row.text for row in rows], Meanings())
    violates, every = np.array([row.violates for row in rows]), np.arange(len(rows))
    model = fit(features, every, violates, np.ones(len(rows)), 0, vectors=True)
    beside = distilled.read(proposal.distilled).beside(NAME)
    vector = beside.with_vectors.vector_table
    own = features.groups @ beside.table + beside.bias + features.vectors @ vector
    found = beside.probability(*(1 / (1 + np.exp(-features.odds.T))), own)
    assert np.abs(log_odds(found) - log_odds(model.scores(features, every))).max() < 0.1


def test_vectors_are_compared_on_rows_that_none_saw(proposal):
    scored = {s.name: s for s in proposal.scored}
    assert list(scored) == ["gate in force", "distilled classifier", "with the encoder"]
    assert [f.name for f in proposal.figures] == list(scored)
    aucs = {name: roc_auc_score(s.violates, s.scores) for name, s in scored.items()}
    assert aucs["with the encoder"] > 0.85
    assert aucs["distilled classifier"] < 0.7
    assert proposal.after_vectors.roc_auc.value == pytest.approx(aucs["with the encoder"], abs=1e-3)


def test_one_threshold_serves_both_sets(proposal, tmp_path):
    policy = load_library()["hate-harassment"]
    document, content = [p.read_bytes() for p in reversed(write(policy, proposal, 0.8, tmp_path))]
    released = parse(document.decode(), distilled=content.decode())
    assert released.gate.distilled == hashlib.sha256(content).hexdigest()[:12]
    threshold, unseen = proposal.threshold(0.8), proposal.scored_vectors
    assert released.gate.threshold == threshold
    before, after = distilled.read(proposal.distilled), distilled.read(content)
    moved = after.with_vectors.bias - before.with_vectors.bias
    reached = log_odds(unseen.scores) + moved >= log_odds(np.array([threshold]))[0] - 1e-9
    assert reached[unseen.violates].mean() >= 0.8
    assert after.beside(None) == msgspec.structs.replace(before, with_vectors=after.with_vectors)


def test_the_gate_in_force_is_scored_as_prefilters_with_the_encoder_do(proposal, classifier, rows, tmp_path):
    policy = load_library()["hate-harassment"]
    document, content = [p.read_text() for p in reversed(write(policy, proposal, 0.8, tmp_path))]
    second, texts = parse(document, distilled=content), [row.text for row in rows]
    features = Features(policy, classifier, texts, Meanings())
    own = distilled.read(content).beside(NAME)
    logits = features.groups @ own.table + own.bias + features.vectors @ own.with_vectors.vector_table
    expected = log_odds(own.probability(*(1 / (1 + np.exp(-features.odds.T))), logits))
    with_vectors = gate_answers(second, classifier, texts, Meanings()).scores
    assert np.abs(log_odds(with_vectors) - expected).max() < 0.1
    without = gate_answers(second, classifier, texts).scores
    assert np.abs(log_odds(without) - log_odds(with_vectors)).max() > 1
    labels = tmp_path / "labels.jsonl"
    labels.write_bytes(b"\n".join(msgspec.json.encode({"text": r.text, "violates": r.violates}) for r in rows))
    assert (score_file(second, classifier, labels, Meanings()).scores == with_vectors).all()
    assert (score_file(second, classifier, labels).scores == without).all()


def test_distilling_says_what_would_change_the_choice_and_the_margin(proposal, capsys):
    show_proposal(proposal, 0.8, proposal.threshold(0.8), [])
    shown = " ".join(capsys.readouterr().out.split())
    assert "distilled classifier v gate in force: escalates" in shown
    assert "with the encoder v distilled classifier: escalates -" in shown
    assert "better, beyond chance" in shown
    assert f"set for {proposal.aimed_recall(0.8):.3f} on these rows" in shown


def test_a_check_and_a_release_say_which_prefilters_use_which_weights(proposal, tmp_path, capsys):
    policy = load_library()["hate-harassment"]
    write(policy, proposal, 0.8, tmp_path)
    with_vectors = load(tmp_path / "policy.md")
    print_plan([PlannedRelease(with_vectors, None, unchanged=False)], shadow=False)
    print_checks([check(tmp_path / "policy.md")])
    note = "prefilters without the extra encoder use its other weights"
    assert " ".join(capsys.readouterr().out.split()).count(note) == 2
    assert check(tmp_path / "policy.md").report().encoder == NAME
    (row,) = release_rows([PlannedRelease(with_vectors, None, unchanged=False)], [])
    assert row["encoder"] == NAME

    other = msgspec.structs.replace(with_vectors.distilled.with_vectors, encoder="another encoder")
    foreign = msgspec.structs.replace(with_vectors.distilled, with_vectors=other)
    for changed in (msgspec.structs.replace(with_vectors, distilled=foreign), policy):
        print_plan([PlannedRelease(changed, None, unchanged=False)], shadow=False)
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.count("weights for another encoder, another encoder") == 1
    assert note not in shown
    assert release_rows([PlannedRelease(policy, None, unchanged=False)], [])[0]["encoder"] is None


@pytest.mark.parametrize("size", [0, 511, 513])
def test_a_vector_of_another_length_is_refused(size):
    fields = {"policy_id": "p", "classifier": "c", "harms": (), "trust": (0, 0), "bias": 0.0, "rows": 9}
    table = np.ones(distilled.BUCKETS)
    other = distilled.vector_weights(table, np.ones(512), encoder="e", trust=(0, 0), bias=0.0, least=-1.0, most=1.0)
    good = distilled.write(table, with_vectors=other, **fields)
    assert distilled.read(good).with_vectors == other
    bad = msgspec.structs.replace(other, vector=base64.b64encode(bytes(size)).decode())
    with pytest.raises(PolicyError, match=f"has {size} weights of the vector, not 512"):
        distilled.read(distilled.write(table, with_vectors=bad, **fields))
    short = msgspec.structs.replace(other, weights=base64.b64encode(b"\x78\x9c\x03\x00\x00\x00\x00\x01").decode())
    with pytest.raises(PolicyError, match="has 0 weights, not"):
        distilled.read(distilled.write(table, with_vectors=short, **fields))


def test_a_file_without_vectors_is_as_it_was():
    fields = {"policy_id": "p", "classifier": "c", "harms": (), "trust": (0, 0), "bias": 0.0, "rows": 9}
    assert b"with_vectors" not in distilled.write(np.ones(distilled.BUCKETS), **fields)


def test_the_command_names_the_extra_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    ran = CliRunner().invoke(prefilter.app, ["distill", "hate-harassment", "--encoder"])
    assert isinstance(ran.exception, ConfigurationError)
    assert "safeguard-streams[encoder]" in str(ran.exception)


def test_a_gate_whose_terms_find_enough_alone_is_not_written(proposal, tmp_path):
    """Its threshold would be 1, with which the policy fails its check."""
    every = msgspec.structs.replace(proposal, matched=np.ones(len(proposal.matched), dtype=bool))
    with pytest.raises(ConfigurationError, match="the terms reach the recall without a threshold"):
        write(load_library()["hate-harassment"], every, 0.8, tmp_path / "out")
    assert not (tmp_path / "out").exists()
