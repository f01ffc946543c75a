"""The card has a row for each set and language with enough texts, and names the languages without."""

import numpy as np
import orjson
import pytest

from safeguard_streams.policies import labelled
from safeguard_streams.policies.files import load_library
from safeguard_streams.policies.labelled import Labelled
from safeguard_streams.prefilter.classifier import Classifier
from safeguard_streams.prefilter.encoder import harm_heads
from safeguard_streams.prefilter.encoder.files import NAME
from safeguard_streams.prefilter.encoder.harm_heads import HarmHeads
from safeguard_streams.prefilter.encoder.passages import PassageVectors
from safeguard_streams.quality import encoded_labels, encoder_card, paired
from safeguard_streams.quality.distillation import Features

WIDTH = 512


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch):
    monkeypatch.setattr(paired, "RESAMPLES", 10)


class Wasps:
    """Stands for the encoder: the first place of a vector is 1 where a text is about wasps, and -1 elsewhere."""

    name = NAME

    def encode(self, given):
        vectors = np.zeros((len(given), WIDTH), dtype=np.float32)
        vectors[:, 0] = [1 if "wasp" in text else -1 for text in given]
        return vectors


@pytest.fixture
def heads(monkeypatch):
    weights = np.zeros((WIDTH, 2))
    weights[0] = 9.0
    made = HarmHeads.of(NAME, ("hate",), weights, np.zeros(2), np.array([[-9.0, -9.0], [9.0, 9.0]]))
    monkeypatch.setattr(harm_heads, "shipped", lambda: made)
    monkeypatch.setattr(encoder_card, "Encoder", Wasps)


def write(path, texts):
    rows = [{"text": text, "violates": "wasp" in text, "category": "", "harm": "hate"} for text in texts]
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))


def sentences(words, count):
    return [f"{words} {'wasp' if n % 2 else 'bee'} {n}" for n in range(count)]


def test_each_set_and_language_has_its_row(tmp_path, heads, monkeypatch):
    monkeypatch.setattr(labelled, "held_out", lambda _: True)
    train, unseen = tmp_path / "train", tmp_path / "validation"
    train.mkdir()
    unseen.mkdir()
    write(train / "gahd_de.jsonl", sentences("das ist heute eine", 60))
    write(train / "jigsaw_multi.jsonl", sentences("questa mattina ho visto nel giardino di mia nonna una bella", 50))
    write(train / "curse_ko.jsonl", sentences("few", encoder_card.MIN_ROWS - 1))
    write(unseen / "hatecheck.jsonl", sentences("there was a", 60))
    write(unseen / "mhc_dutch.jsonl", sentences("er was een", 60))
    lines = list(encoder_card.card(train, unseen, lambda _: None))
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in lines if line.startswith("| ")}
    assert "1.000 (1.000-1.000)" in rows["hatecheck"], "the heads rank every wasp above every bee"
    assert {"hatecheck", "mhc_dutch", "en", "nl", "de", "it"} <= set(rows)
    assert "ko" not in rows
    (missing,) = [line for line in lines if line.startswith("Languages of the encoder for which there are no")]
    assert missing.endswith("ar, es, fr, ja, ko, pl, pt, ru, th, tr, zh, zh-Hant.")
    text = "\n".join(lines)
    assert text.index("Sources that neither") < text.index(rows["nl"]) < text.index("Held-out texts of training")
    assert text.index("Held-out texts of training") < text.index(rows["de"])
    assert f"Heads `{harm_heads.shipped().name}`" in text


def test_three_classifiers_see_ever_more_and_are_measured_on_the_same_texts():
    texts = [f"a note about a {'wasp' if n % 2 else 'bee'}" for n in range(260)]
    letters = list("abcdefghijklmnopqrstuvwxyz ")
    hidden = ["".join(np.random.default_rng(n).choice(letters, 40)) for n in range(len(texts))]
    violates = np.array(["wasp" in text for text in texts])
    features = Features(load_library()["hate-harassment"], Classifier(), hidden)
    features.passages = PassageVectors.one_each(Wasps().encode(texts))
    found = encoded_labels.compare("set", features, violates, 60, 0)
    letters, odds, vectors = (found.estimate(0, number).value for number in range(3))
    assert max(letters, odds) < 0.7, "letters say nothing"
    assert vectors == 1.0
    assert found.texts == 200
    assert found.gain(1).value < -0.2
    assert (features.odds != 0).any()
    assert not features.without_odds().odds.any()


def test_a_set_of_one_kind_or_of_too_few_texts_is_left_out(tmp_path):
    write(tmp_path / "both.jsonl", sentences("a", 30))
    write(tmp_path / "one.jsonl", ["a wasp"] * 30)
    sets = encoded_labels.read_sets(tmp_path)
    assert list(sets) == ["both"]
    assert sets["both"][1] == Labelled("a wasp 1", violates=True, source="both", harm="hate")
    assert not encoded_labels.read_sets(tmp_path, ["one"])
    assert not list(encoded_labels.measure(sets, 200, Wasps(), Classifier()))
