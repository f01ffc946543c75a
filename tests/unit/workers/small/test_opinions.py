"""Second opinions on the labels that the small model learns from."""

import pytest

pytest.importorskip("vllm")

import numpy as np

from safeguard_streams.workers.small import meanings
from safeguard_streams.workers.small.examples import Example
from safeguard_streams.workers.small.opinions import opinions

WORDS = {"those rats": True, "a fine day": False}
TEXTS = {f"{words} number {n}": violates for words, violates in WORDS.items() for n in range(60)}


def example(text, violates):
    return Example("hate-harassment", "a set", text, violates, "HH1" if violates else "HH5", "high")


def test_a_wrong_label_is_doubted_and_right_ones_are_not(monkeypatch):
    noise = np.random.default_rng(0)
    monkeypatch.setattr(meanings, "vectors", lambda texts: noise.normal(size=(len(texts), 8)).astype(np.float16))
    found = opinions([example(text, TEXTS.get(text, False)) for text in (*TEXTS, "those rats again")])
    assert found["those rats again"] > 0.7
    assert all((found[text] > 0.5) is violates for text, violates in TEXTS.items())
    assert all(0 < one < 1 for one in found.values())
