"""The classifier gives the same probabilities as fastText for each window, whatever the batch."""

import fasttext
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safeguard_streams.errors import ConfigurationError, PolicyError
from safeguard_streams.policies import distilled
from safeguard_streams.prefilter.classifier import NONE, SHIPPED, STRIDE, WINDOW, Classifier
from safeguard_streams.prefilter.normalise import read

KIND = "thank you for the lovely recipe, my family enjoyed the soup"
INSULT = "you are a stupid worthless bitch, kill yourself"


@pytest.fixture(scope="module")
def classifier():
    return Classifier()


@pytest.fixture(scope="module")
def model():
    return fasttext.load_model(str(SHIPPED))


def by_fasttext(model, classifier, line):
    """Probabilities of each window of a line, as fastText itself sees them."""
    pieces = line.split(" ")
    starts = [0] if len(pieces) <= WINDOW else range(0, len(pieces) - WINDOW + STRIDE, STRIDE)
    for start in starts:
        labels, probabilities = model.predict(
            " ".join(w for p in pieces[start : start + WINDOW] for w in classifier.words(p)), k=-1
        )
        by_class = {label.removeprefix("__label__"): p for label, p in zip(labels, probabilities, strict=True)}
        yield [by_class[name] for name in classifier.classes]


@settings(max_examples=60)
@given(st.lists(st.one_of(st.text(max_size=80), st.sampled_from([KIND, INSULT, f"{KIND} " * 9 + INSULT])), min_size=1))
def test_it_agrees_with_fasttext(classifier, model, texts):
    views = read(texts)
    expected = [row for line in views.lines for row in by_fasttext(model, classifier, line)]
    assert classifier.windows(views).probabilities == pytest.approx(np.array(expected), abs=2e-3)
    none = classifier.classes.index(NONE)
    owners = classifier.windows(views).text.tolist()
    for number, scores in enumerate(classifier.score(texts)):
        worst = min(row[none] for row, owner in zip(expected, owners, strict=True) if owner == number)
        assert scores[NONE] == pytest.approx(worst, abs=2e-3)


def test_words_that_are_run_together_are_split(classifier):
    assert classifier.words("killyourselfnow!") == ["kill", "yourself", "now", "!"]
    assert classifier.words("thankful") == ["thankful"]
    assert classifier.words("xqzwvkjhgfdsq") == ["xqzwvkjhgfdsq"]
    assert classifier.words("killyourself2024") == ["kill", "yourself", "2024"]
    assert classifier.words("a1b22love3c4dd5kill") == ["a1b22love3c4dd5kill"], "a hash"


@given(st.lists(st.text(max_size=60), min_size=1, max_size=8))
def test_scores_do_not_depend_on_the_batch(classifier, texts):
    assert classifier.score(texts) == [classifier.score([text])[0] for text in texts]


def test_the_table_is_cleared_when_it_is_full(classifier, monkeypatch):
    before = classifier.score([INSULT])
    monkeypatch.setattr("safeguard_streams.prefilter.classifier._MAX_PIECES", 100)
    for n in range(5):
        classifier.score([" ".join(f"w{n}x{i}" for i in range(300))])
    assert len(classifier._rows) < 700, "those of the last text and of the one before it"
    assert classifier.score([INSULT]) == before


def test_the_worst_window_of_a_long_text_counts(classifier):
    hidden = f"{KIND} " * 40 + INSULT + f" {KIND}" * 40
    plain, mixed = classifier.score([f"{KIND} " * 80, hidden])
    assert mixed["none"] < 0.5 < plain["none"]


@pytest.mark.parametrize(
    "text", ["", " ", "\x00", "\n\n", "\u200b", "\u0301" * 100_000, "a" * 1_000_000, "\ud7ff\U0010ffff"]
)
def test_odd_texts_are_scored(classifier, text):
    (scores,) = classifier.score([text])
    assert sum(scores.values()) == pytest.approx(1, abs=1e-6)


def test_a_distilled_classifier_scores_as_defined(classifier):
    weights = np.zeros(distilled.BUCKETS)
    for bucket in distilled.groups("zebra"):
        weights[bucket] = 0.5
    own = distilled.read(
        distilled.write(weights, policy_id="p", classifier=classifier.name, harms=(), trust=(0, 0), bias=-1.0, rows=9)
    )
    windows = classifier.with_distilled([own]).windows(read(["a zebra crossing", KIND]))
    groups = sum(len(distilled.groups(word)) for word in ("a", "zebra", "crossing"))
    overlap = sum(weights[g] for word in ("a", "zebra", "crossing") for g in distilled.groups(word))
    assert windows.distilled_logits[0, 0] == pytest.approx(overlap / groups**0.5 - 1, abs=0.02)
    assert own.probability(np.array([0.5]), np.array([0.5]), windows.distilled_logits[:1, 0])[0] > 0.5
    assert classifier.windows(read(["a zebra"])).distilled_logits.size == 0, "the classifier itself is unchanged"


@pytest.mark.parametrize("value", [b"", b"{}", b"[1]", b'{"policy_id": 5}'])
def test_a_value_that_is_not_a_distilled_classifier_is_refused(value):
    with pytest.raises(PolicyError, match="safeguard prefilter distill"):
        distilled.read(value)


def test_a_file_without_a_model_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="no such fastText model"):
        Classifier(tmp_path / "none.bin")
    (tmp_path / "bad.bin").write_bytes(b"not a model")
    with pytest.raises(ConfigurationError, match="not a fastText model"):
        Classifier(tmp_path / "bad.bin")
