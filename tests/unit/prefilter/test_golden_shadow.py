"""Golden gates in shadow: which judged items get their score, and that they decide nothing; and one in force."""

import json
from datetime import UTC, datetime

import msgspec
import numpy as np
import pytest

from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Escalation, PolicyRelease, Verdict, decode, encode
from safeguard_streams.policies import distilled, golden_gates
from safeguard_streams.policies.files import load_library, with_changes
from safeguard_streams.policies.golden_gates import Expected, GoldenGate
from safeguard_streams.policies.parsing import parse
from safeguard_streams.prefilter import golden
from safeguard_streams.prefilter.classifier import Classifier
from safeguard_streams.prefilter.compiled import use_vectors
from safeguard_streams.prefilter.decision import Prefilter
from safeguard_streams.prefilter.encoder.files import NAME
from safeguard_streams.prefilter.encoder.passages import PassageVectors
from safeguard_streams.prefilter.event_batch import AuditRates
from safeguard_streams.releases.feed import PolicyFeed
from safeguard_streams.runtime.memory_broker import StoredRecord


class Meanings:
    """Stands for the encoder: the first place of a vector is 1 where a text is about wasps, and -1 elsewhere."""

    name = NAME

    def __init__(self):
        self.seen = []

    def encode(self, texts):
        self.seen += texts
        vectors = np.zeros((len(texts), distilled.VECTOR), dtype=np.float32)
        vectors[:, 0] = [1 if "wasp" in text else -1 for text in texts]
        return vectors

    def encode_passages(self, texts):
        return PassageVectors.one_each(self.encode(texts))


@pytest.fixture(scope="module")
def classifier():
    return Classifier()


@pytest.fixture(scope="module")
def gate(classifier):
    """Knows that wasps violate: the score is the sigmoid of 2 or -2, whatever the present gate says."""
    vector = np.zeros(distilled.VECTOR)
    vector[0] = 2.0
    fields = {"encoder": NAME, "trust": (0, 0), "bias": 0.0, "least": -2.0, "most": 2.0}
    weights = distilled.vector_weights(np.zeros(distilled.BUCKETS), vector, **fields)
    expected = Expected((0.9, 0.8, 1.0), (0.1, 0.0, 0.2))
    return GoldenGate("0123456789ab", "self-harm", classifier.name, (), weights, 0.5, 30, expected)


def policy(**changes):
    settings = {"terms": ["magic"], "patterns": [], "sample": 0.3, "calibration": None, **changes}
    return parse(with_changes(load_library()["self-harm"].document, "gate", **settings))


def put(feed, one, golden_file=None, revision=1, distilled_file=None):
    fields = (one.id, one.version, revision, one.document, datetime.now(UTC), "test")
    release = PolicyRelease(*fields, golden=golden_file, distilled=distilled_file)
    feed.take(release.key, encode(release))


def decided(classifier, feed, encoder, texts, audit=None):
    """What is escalated and cleared, by the number of the text, in order."""
    records = [
        StoredRecord(
            topics.EVENTS, 0, n, 0, f"c{n}".encode(),
            json.dumps({"content_id": f"c{n}", "text": text, "created_at": "2026-01-01T00:00:00Z"}).encode(),
        )
        for n, text in enumerate(texts)
    ]  # fmt: skip
    prefilter = Prefilter(classifier, feed, audit or AuditRates(0, 0), load_encoder=lambda: encoder)
    outputs = prefilter.decide(records)
    return [decode(o.value, Escalation if "escalations" in o.topic else Verdict) for o in outputs]


def test_drawn_items_and_a_share_of_what_is_escalated_get_a_golden_score(classifier, gate):
    feed, encoder = PolicyFeed(), Meanings()
    put(feed, policy(), golden_gates.write(gate))
    texts = [f"{'wasp' if n % 2 else 'bee'} {'magic' if n < 400 else 'day'} {n}" for n in range(800)]
    results = decided(classifier, feed, encoder, texts, AuditRates(0.2, 0.2))
    by_gate = {}
    for one in results:
        if isinstance(one, Escalation):
            by_gate.setdefault(one.prefilter.gate, []).append((one.event.text, one.prefilter.golden))
        else:
            assert one.prefilter is None or one.prefilter.golden is None, "nothing tells what cleared items are"
    scored = [(text, score) for text, score in by_gate["terms"] if score]
    assert len(by_gate["terms"]) == 400
    assert 8 < len(scored) < 40
    assert {(s.score, s.rate) for _, s in scored} == {(1.0, golden.RATE)}, "a term escalates, whatever the score"
    for draw in ("sample", "audit"):
        assert by_gate[draw]
        for text, score in by_gate[draw]:
            assert (score.name, score.threshold, score.rate) == ("0123456789ab", 0.5, 1.0)
            assert score.score == pytest.approx(0.8808 if "wasp" in text else 0.1192)
    drawn = sum(len(by_gate[draw]) for draw in ("sample", "audit"))
    assert len(encoder.seen) == len(scored) + drawn


@pytest.mark.parametrize("harms", [{}, {"harms": ["self_harm", "violence"], "threshold": 0.3}], ids=["terms", "label"])
def test_a_golden_gate_in_shadow_decides_nothing(classifier, gate, harms):
    texts = [f"{word} {n}" for n in range(60) for word in ("wasp", "bee", "magic", "i will kill you")]
    with_golden, without = PolicyFeed(), PolicyFeed()
    put(with_golden, policy(**harms), golden_gates.write(gate))
    put(without, policy(**harms))
    bare = [
        [_undated(one) for one in decided(classifier, feed, Meanings(), texts, AuditRates(0.3, 0.1))]
        for feed in (with_golden, without)
    ]
    assert bare[0] == bare[1]


def _undated(one):
    """Without the golden score and the times."""
    result = one.prefilter and msgspec.structs.replace(one.prefilter, golden=None)
    changed = {"escalated_at": None} if isinstance(one, Escalation) else {"decided_at": None}
    return msgspec.structs.replace(one, prefilter=result, latency={}, **changed)


def test_without_the_encoder_the_golden_gate_is_ignored_and_the_log_says_it_once(classifier, gate, monkeypatch, caplog):
    monkeypatch.setattr(golden, "_ignored", set())
    feed = PolicyFeed()
    put(feed, policy(), golden_gates.write(gate))
    for revision in (1, 2):
        put(feed, policy(), golden_gates.write(gate), revision)
        results = decided(classifier, feed, None, ["a magic wasp", "a bee"])
        assert all(one.prefilter is None or one.prefilter.golden is None for one in results)
    lines = [record.getMessage() for record in caplog.records if "golden gate ignored" in record.getMessage()]
    assert lines == ["golden gate ignored, it needs the extra encoder policy=self-harm name=0123456789ab"]


def test_a_golden_gate_of_other_models_is_ignored(classifier, gate, monkeypatch):
    monkeypatch.setattr(golden, "_ignored", set())
    other_encoder = msgspec.structs.replace(gate, weights=msgspec.structs.replace(gate.weights, encoder="other"))
    for other in (msgspec.structs.replace(gate, classifier="fasttext-other"), other_encoder):
        feed = PolicyFeed()
        put(feed, policy(sample=1.0), golden_gates.write(other))
        (result,) = decided(classifier, feed, Meanings(), ["a wasp"])
        assert result.prefilter.golden is None
    assert not use_vectors(feed.policies), "nothing needs the encoder"


def test_a_broken_golden_gate_leaves_the_release_in_force(classifier, caplog):
    feed = PolicyFeed()
    put(feed, policy(), '{"name": 1}')
    assert feed.policies.released["self-harm"].golden is None
    (result,) = decided(classifier, feed, Meanings(), ["magic"])
    assert result.prefilter.gate == "terms"
    assert "golden gate ignored policy=self-harm revision=1" in caplog.text


def test_a_golden_gate_in_force_is_named_in_results_and_falls_back_without_the_encoder(classifier, gate):
    from hashlib import sha256

    written = msgspec.json.encode(gate.in_force(policy().gate, 0.6)).decode()
    digest = sha256(written.encode()).hexdigest()[:12]
    document = with_changes(policy(sample=0.0).document, "gate", distilled=digest, threshold=0.6)
    feed = PolicyFeed()
    put(feed, parse(document, distilled=written), distilled_file=written)
    found = {}
    for encoder in (Meanings(), None):
        results = decided(classifier, feed, encoder, ["a wasp", "a bee", "magic"])
        found[encoder and encoder.name] = [
            (isinstance(one, Escalation), one.prefilter.gate, one.prefilter.score) for one in results
        ]
    assert found[NAME] == [(True, "golden", 0.8808), (False, "golden", 0.1192), (True, "terms", 0.5)]
    assert [gate for _, gate, _ in found[None]] == ["label", "label", "terms"]
    assert [escalated for escalated, _, _ in found[None]] == [False, False, True]
