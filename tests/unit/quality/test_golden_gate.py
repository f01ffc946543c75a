"""Golden gates: what they are learned from, what they find, and what they decide once they are in force."""

import gzip
import json

import msgspec
import numpy as np
import pytest

from safeguard_streams.errors import ConfigurationError, PolicyError
from safeguard_streams.policies import distilled, golden_gates, labelled
from safeguard_streams.policies.document import Gate
from safeguard_streams.policies.files import load_library
from safeguard_streams.policies.golden import Golden
from safeguard_streams.prefilter.classifier import Classifier
from safeguard_streams.prefilter.encoder.files import NAME
from safeguard_streams.prefilter.encoder.passages import PassageVectors
from safeguard_streams.prefilter.gates import Gates
from safeguard_streams.quality import benign_bank, golden_corpus
from safeguard_streams.quality.golden_corpus import corpus
from safeguard_streams.quality.golden_gate import TextVectors, learn, table_lines

TERMS, LABEL = load_library()["self-harm"], load_library()["hate-harassment"]


class Meanings:
    """Stands for the encoder: the first place of a text's vector says, with noise, whether it is about wasps."""

    name = NAME

    def __init__(self):
        self.encoded = 0

    def encode(self, texts):
        self.encoded += len(texts)
        seeds = [sum(map(ord, text)) for text in texts]
        vectors = np.array([np.random.default_rng(seed).normal(size=512) for seed in seeds]).reshape(-1, 512)
        vectors[:, 0] += [30.0 * ("wasp" in text) for text in texts]
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def classifier():
    return Classifier()


@pytest.fixture(scope="module", autouse=True)
def small_bank():
    """A part of the bank, which takes a tenth of the time."""
    bank = benign_bank.load()[::10]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(golden_corpus.benign_bank, "load", lambda: bank)
        yield


def rows(violating=20, safe=10):
    wasps = [Golden(f"number {n} is a wasp", "violates", "X1", "clear") for n in range(violating)]
    return [*wasps, *(Golden(f"number {n} is a bee", "safe", "X2", "clear") for n in range(safe))]


@pytest.fixture(scope="module")
def fitted(classifier):
    return learn(TERMS, corpus(TERMS, rows()), classifier, TextVectors(Meanings()), 0.95)


def test_a_golden_gate_finds_texts_like_the_golden_ones_that_the_present_gate_misses(fitted):
    assert fitted.present.recall.value == 0
    assert fitted.golden.recall.value >= 0.9
    assert fitted.golden.benign.value < 0.15
    assert fitted.present.for_recall.value > 0.3
    assert fitted.golden.auc["safe"].value > 0.95, "safe golden texts are told apart by what they mean"
    assert fitted.gate.expected.recall == (
        fitted.golden.recall.value, fitted.golden.recall.low, fitted.golden.recall.high
    )  # fmt: skip
    header, _, present, own = table_lines([fitted])
    assert present.startswith("| self-harm | present | 0.000 (0.000-")
    assert own.startswith("| self-harm | golden | ")
    assert header.count("|") == present.count("|") == own.count("|")


def test_the_figures_are_of_texts_that_the_gate_has_not_seen(classifier):
    """Vectors that say nothing could be learned by heart: on unseen texts they are worth nothing."""

    class Noise(Meanings):
        def encode(self, texts):
            return super().encode([text.replace("wasp", "w") for text in texts])

    gate = learn(TERMS, corpus(TERMS, rows()), classifier, TextVectors(Noise()), 0.95)
    assert gate.golden.auc["safe"].value < 0.85
    assert gate.golden.for_recall.value > 0.2


def test_the_only_safe_golden_text_is_scored_by_a_gate_that_did_not_learn_from_it(classifier):
    fitted = learn(TERMS, corpus(TERMS, rows(safe=1)), classifier, TextVectors(Meanings()), 0.95)
    assert fitted.golden.safe.value == 0
    assert fitted.golden.auc["safe"].value == 1


def test_equal_texts_give_the_same_gate_and_each_text_is_encoded_once(fitted, classifier):
    encoder = Meanings()
    vectors = TextVectors(encoder)
    texts = corpus(TERMS, rows())
    again = learn(TERMS, texts, classifier, vectors, 0.95)
    assert golden_gates.write(again.gate) == golden_gates.write(fitted.gate)
    assert encoder.encoded == len(texts.texts) == len(set(texts.texts))
    learn(TERMS, texts, classifier, vectors, 0.9)
    assert encoder.encoded == len(texts.texts)


def test_a_gates_name_tells_what_it_was_learned_from(classifier):
    def name(policy=TERMS, golden=None, encoder=NAME):
        return corpus(policy, golden or rows()).name(policy, classifier.name, encoder)

    harms = msgspec.structs.replace(TERMS, gate=msgspec.structs.replace(TERMS.gate, harms=("self_harm",)))
    examples = msgspec.structs.replace(TERMS, document=TERMS.document.replace("-> violates", "-> safe", 1))
    moved = [msgspec.structs.replace(rows()[0], decision="safe"), *rows()[1:]]
    others = [
        name(golden=rows(violating=21)), name(golden=moved), name(encoder="other"), name(harms), name(examples)
    ]  # fmt: skip
    assert len({name(), *others}) == 6
    assert name() == name(golden=rows())
    terms = msgspec.structs.replace(TERMS, gate=msgspec.structs.replace(TERMS.gate, terms=("wasp",)))
    assert name(terms) == name(), "terms are no part of a score"


def test_what_cannot_be_learned_says_what_to_do(fitted):
    with pytest.raises(ConfigurationError, match="9 violating and 10 safe golden texts: too few.*golden add"):
        corpus(TERMS, rows(violating=9))
    with pytest.raises(ConfigurationError, match="20 violating and 0 safe"):
        corpus(TERMS, rows(safe=0))
    with pytest.raises(ConfigurationError, match="learned from its golden set.*prefilter distill"):
        corpus(fitted.gate.deciding(TERMS), rows())


def test_a_text_of_several_kinds_counts_once_and_other_policies_are_those_of_the_library():
    bank = benign_bank.load()[0].text
    texts = corpus(TERMS, [*rows(), Golden(bank.upper(), "violates", "X1", "clear")])
    assert bank not in texts.benign
    assert bank.upper() in texts.violating
    assert len(texts.others) > 300
    assert texts.shown
    assert texts.texts[texts.rows("others")[0]] == texts.others[0]


EVERYTHING = msgspec.structs.replace(TERMS, gate=Gate(everything=True))


@pytest.mark.parametrize("policy", [TERMS, LABEL, EVERYTHING], ids=["terms", "label", "everything"])
def test_a_gate_in_force_decides_by_vectors_and_without_the_encoder_as_the_present_gate_does(policy, classifier):
    encoder = Meanings()
    gate = learn(policy, corpus(policy, rows()), classifier, TextVectors(encoder), 0.95).gate
    deciding = gate.deciding(policy)
    texts = ["a wasp", "a bee", "i hope you die, you worthless rat", "those people are rats", "good morning"]
    present = Gates([policy], classifier).evaluate(texts)
    without = Gates([deciding], classifier).evaluate(texts)
    assert without.reached.tolist() == (present.reached | policy.gate.everything).tolist()
    assert without.matches == present.matches
    gates = Gates([deciding], classifier, NAME)
    with_vectors = gates.with_vectors(
        gates.evaluate(texts), PassageVectors.one_each(encoder.encode(texts)), np.ones(len(texts), dtype=bool)
    )
    assert with_vectors.reached[:2, 0].tolist() == [True, False]
    assert with_vectors.reached[4, 0] == False  # noqa: E712  (a numpy bool)
    assert distilled.read(msgspec.json.encode(deciding.distilled)) == deciding.distilled


def test_only_a_golden_gate_is_read_as_one(fitted):
    assert golden_gates.read(golden_gates.write(fitted.gate)) == fitted.gate
    changes = ({"vector": fitted.gate.weights.vector[:40]}, {"weights": "AAAA"}, {"weights": "!"}, {"weights": ""})
    weights = [msgspec.structs.replace(fitted.gate.weights, **change) for change in changes]
    cut = [golden_gates.write(msgspec.structs.replace(fitted.gate, weights=one)) for one in weights]
    for broken in (b"{}", b"\xff", *cut):
        with pytest.raises(PolicyError, match="safeguard policy gate"):
            golden_gates.read(broken)


def test_the_bank_is_small_in_many_languages_and_each_source_has_a_licence(monkeypatch):
    monkeypatch.undo()
    lines = gzip.decompress(benign_bank.BANK.read_bytes()).splitlines()
    texts = [msgspec.json.decode(line, type=benign_bank.Benign) for line in lines]
    assert len(texts) > 1500
    assert benign_bank.BANK.stat().st_size < 1_000_000
    assert len({text.language for text in texts} - {"en"}) >= 6
    assert sum(text.language != "en" for text in texts) > len(texts) / 3
    notice = benign_bank.NOTICE.read_text("utf-8")
    listed = [line.split(" | ") for line in notice.splitlines() if line.startswith("| ")][2:]
    assert sum(int(row[-1].rstrip(" |")) for row in listed) == len(texts)
    assert {row[2].split("-")[0] for row in listed} <= {"Apache", "MIT", "CC", "CC0"}
    whole = [text.text for text in texts if "@user" not in text.text and "  " not in text.text]
    assert sum(map(labelled.held_out, whole)) > 0.98 * len(whole), "the classifier has not seen them"


def test_the_bank_takes_what_its_sources_say_and_leaves_out_addresses(tmp_path):
    for name in benign_bank._SOURCES:
        texts = (f"{name} text {n} of @someone" for n in range(60))
        lines = [{"text": text, "violates": False, "category": "es", "source": name} for text in texts]
        lines += [{**lines[0], "text": t} for t in (f"{name} at a@b.org", f"{name} 0123456789", "short")]
        lines += [{**lines[0], "text": f"{name} violating {n}", "violates": True} for n in range(60)]
        content = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / f"{name}.jsonl.gz").write_bytes(gzip.compress(content.encode()))
    chosen = benign_bank.choose(tmp_path, set())
    assert {text.source for text in chosen} == set(benign_bank._SOURCES)
    assert all(text.text.endswith("of @user") for text in chosen)
    shown = {chosen[0].text}
    assert chosen[0] not in benign_bank.choose(tmp_path, shown)
