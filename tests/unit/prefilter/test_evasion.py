"""Common evasions of a filter cost little recall."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from safeguard_streams.policies.document import Gate
from safeguard_streams.policies.files import load_library
from safeguard_streams.prefilter.classifier import Classifier
from safeguard_streams.prefilter.gates import Gates
from safeguard_streams.quality.scoring import gate_scores
from safeguard_streams.quality.threshold import calibrate

ROWS = [json.loads(line) for line in Path("tests/data/labelled.jsonl").read_text(encoding="utf-8").splitlines()]
VIOLATING = [row["text"] for row in ROWS if row["violates"]]
LATIN = "abcdefghijklmnopqrstuvwxyz"
CYRILLIC = str.maketrans("aeopcyxiskhmtb", "аеорсухіѕкһмтЬ")
GREEK = str.maketrans("aopvniu", "αορνηιυ")
LEET = str.maketrans("aeiostl", "431057|")


def shifted(first):
    return str.maketrans({letter: chr(first + i) for i, letter in enumerate(LATIN)})


def letters(text, change):
    return " ".join(change(word) if word.isalpha() and len(word) > 2 else word for word in text.split())


def draw(text):
    return random.Random(text)


EVASIONS = {
    "upper case": str.upper,
    "alternating case": lambda t: "".join(c.upper() if i % 2 else c.lower() for i, c in enumerate(t)),
    "full width": lambda t: t.lower().translate(shifted(0xFF41)),
    "mathematical bold": lambda t: t.lower().translate(shifted(0x1D41A)),
    "enclosed letters": lambda t: t.lower().translate(shifted(0x1F170)),
    "zero width": "\u200b".join,
    "soft hyphens": lambda t: letters(t, lambda w: w[:2] + "\u00ad" + w[2:]),
    "direction marks": lambda t: letters(t, lambda w: "\u202e" + w + "\u202c"),
    "combining marks": lambda t: "".join(c + "\u0336\u0301" if c.isalpha() else c for c in t),
    "accents": lambda t: t.lower().translate(str.maketrans("aeiou", "áéíóú")),
    "Cyrillic homoglyphs": lambda t: t.lower().translate(CYRILLIC),
    "Greek homoglyphs": lambda t: t.lower().translate(GREEK),
    "spaced-out letters": lambda t: letters(t, " ".join),
    "dotted letters": lambda t: letters(t, ".".join),
    "a mark in each word": lambda t: letters(t, lambda w: w[: len(w) // 2] + "*" + w[len(w) // 2 :]),
    "stretched letters": lambda t: letters(t, lambda w: w[:-1] + w[-1] * draw(w).randint(4, 9)),
    "leetspeak": lambda t: t.lower().translate(LEET),
    "padding": lambda t: "the weather is fine and the train was on time today. " * 8 + t,
    "addresses": lambda t: t + " https://example.org/a?b=c @friend",
}


@pytest.fixture(scope="module")
def gate():
    """1 - P(none), by the gate of a policy that looks for every harm."""
    classifier = Classifier()
    policy = load_library()["hate-harassment"]
    policy = replace(policy, gate=replace(policy.gate, harms=tuple(classifier.harms)))
    scores = gate_scores(policy, classifier, [row["text"] for row in ROWS])
    threshold = calibrate(scores, [row["violates"] for row in ROWS], 0.90).threshold
    return policy, classifier, threshold


@pytest.mark.parametrize("evasion", EVASIONS)
def test_an_evasion_costs_at_most_five_points_of_recall(gate, evasion):
    policy, classifier, threshold = gate
    plain = (gate_scores(policy, classifier, VIOLATING) >= threshold).mean()
    assert plain >= 0.88
    evaded = (gate_scores(policy, classifier, [EVASIONS[evasion](text) for text in VIOLATING]) >= threshold).mean()
    print(f"{evasion}: {plain:.3f} -> {evaded:.3f}")
    assert np.round(plain - evaded, 6) <= 0.05


@pytest.fixture(scope="module")
def gates():
    return {"library": Gates(list(load_library().values()), Classifier())}


def matched(gates, text):
    return set(gates.evaluate(["good morning", text, "good night"]).matches.values())


@pytest.mark.parametrize(
    ("term", "text"),
    [
        ("хочу умереть", "я просто хочу умереть сегодня"),
        ("рак", "у него рак, и всё"),
        ("удали игру", "Удали игру, нуб"),
        ("kill yourself", "just kill\tyourself"),
        ("kill yourself", "kiiilll yourself"),
        ("kill yourself", "k i l l  y o u r s e l f"),
        ("kill yourself", "k 1 l l y 0 u r s 3 l f"),
        ("kill yourself", "ki\ufffall your\u2800self"),
        ("goal weight", "my gooooal weeeight"),
        ("انتحار", "فكرة انتِحَـــار اليوم"),
        ("죽고 싶", "나는 죽고 싶다"),
        ("vaccines", "vac&#99;ines"),
    ],
)
def test_a_shipped_term_is_found_through_the_gate(gates, term, text):
    assert term in matched(gates["library"], text)


@pytest.mark.parametrize("text", ["pak army is here", "k i t e", "skills and drills", "he'll be there"])
def test_ordinary_text_matches_no_shipped_term(gates, text):
    assert matched(gates["library"], text) == set()


@pytest.mark.parametrize(
    ("gate", "text", "expected"),
    [
        ({"terms": ("https://evil.example/a",)}, "see https://good.example/b", False),
        ({"terms": ("https://evil.example/a",)}, "see https://evil.example/a", True),
        ({"terms": ("@mallory",)}, "hi @alice", False),
        ({"terms": ("@mallory",)}, "hi @mallory", True),
        ({"terms": ("evil.example",)}, "see https://evil.example/a", True),
        ({"patterns": ("adiós",)}, "adiós a todos", True),
        ({"patterns": (r"\bрак\b",)}, "у него рак", True),
        ({"patterns": (r"\bрак\b",)}, "брак", False),
        ({"patterns": (r"evil\.example/\d+",)}, "https://evil.example/123", True),
    ],
)
def test_addresses_and_accents_reach_terms_and_patterns(gate, text, expected):
    policy = load_library()["fraud-spam"]
    gates = Gates([replace(policy, gate=Gate(**gate))], Classifier())
    assert bool(matched(gates, text)) == expected
