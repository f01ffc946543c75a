"""Fingerprints of gates: equal exactly where the scores compare."""

import json
from datetime import UTC, datetime

import pytest

from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Escalation, PolicyRelease, decode, encode
from safeguard_streams.policies.files import load_library, with_changes
from safeguard_streams.policies.parsing import parse
from safeguard_streams.prefilter.classifier import Classifier
from safeguard_streams.prefilter.decision import Prefilter
from safeguard_streams.prefilter.event_batch import AuditRates
from safeguard_streams.prefilter.fingerprint import fingerprint
from safeguard_streams.releases.feed import PolicyFeed
from safeguard_streams.runtime.memory_broker import StoredRecord


@pytest.fixture(scope="module")
def document():
    return load_library()["hate-harassment"].document


def test_only_what_scores_a_text_is_part_of_a_fingerprint(document):
    name = fingerprint(parse(document), "fasttext-1")
    assert len(name) == 16
    for same in ({"threshold": 0.9}, {"terms": ["a term"]}, {"sample": 0.2}, {"patterns": ["a+b"]}):
        assert fingerprint(parse(with_changes(document, "gate", **same)), "fasttext-1") == name
    assert fingerprint(parse(document), "fasttext-2") != name, "another classifier"
    assert fingerprint(parse(with_changes(document, "gate", harms=["sexual"])), "fasttext-1") != name, "other harms"


def test_another_normaliser_is_another_fingerprint(document, monkeypatch):
    from safeguard_streams.prefilter import fingerprint as module

    before = fingerprint(parse(document), "fasttext-1")
    module._normaliser.cache_clear()
    monkeypatch.setattr(module, "_PROBES", ("another text",))
    assert fingerprint(parse(document), "fasttext-1") != before
    module._normaliser.cache_clear()


def test_every_escalation_names_its_gate_and_a_term_has_the_score_beside_it(document):
    feed = PolicyFeed()
    policy = parse(with_changes(document, "gate", terms=["blue train"], sample=0.3))
    release = PolicyRelease(policy.id, policy.version, 1, policy.document, datetime.now(UTC), "test")
    feed.take(release.key, encode(release))
    classifier = Classifier()
    records = []
    for n in range(300):
        text = f"the blue train {n}" if n % 2 else f"thank you for the recipe {n}"
        value = {"content_id": f"c{n}", "text": text, "created_at": "2026-01-01T00:00:00Z"}
        records.append(StoredRecord(topics.EVENTS, 0, n, 0, b"c", json.dumps(value).encode()))
    outputs = Prefilter(classifier, feed, AuditRates(0.5, 0.5)).decide(records)
    results = [
        decode(o.value, Escalation).prefilter
        for o in outputs
        if o.topic in (topics.ESCALATIONS, topics.ESCALATIONS_AUDIT)
    ]
    assert {r.gate for r in results} == {"terms", "sample", "audit"}
    assert {r.fingerprint for r in results} == {fingerprint(policy, classifier.name)}
    assert all(r.score is not None and r.threshold is not None for r in results)
    drawn = [r for r in results if r.gate != "terms"]
    assert {(round(r.rate, 6), r.stratum) for r in drawn} == {(0.65, "far")}
    assert len(drawn) == pytest.approx(150 * 0.65, abs=25), "items are drawn at the rate that they name"
