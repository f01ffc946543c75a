"""The prefilter's decisions, with the shipped classifier and the shipped policies."""

import json
from datetime import UTC, datetime

import numpy as np
import pytest

from safeguard_streams.contract import limits, topics
from safeguard_streams.contract.records import DeadLetter, Escalation, PolicyRelease, Verdict, decode, encode
from safeguard_streams.errors import PolicyError
from safeguard_streams.policies.files import load_library, with_changes
from safeguard_streams.policies.parsing import parse
from safeguard_streams.prefilter import compiled
from safeguard_streams.prefilter.classifier import Classifier
from safeguard_streams.prefilter.decision import Prefilter
from safeguard_streams.prefilter.event_batch import AuditRates
from safeguard_streams.prefilter.sampling import drawn, hashed
from safeguard_streams.releases.feed import PolicyFeed
from safeguard_streams.runtime.memory_broker import StoredRecord

INSULT = "you are a stupid worthless bitch, kill yourself"
KIND = "thank you for the lovely recipe, my family enjoyed the soup"


@pytest.fixture(scope="module")
def classifier():
    return Classifier()


def release(feed, document, number=1, shadow=None):
    policy = parse(document)
    record = PolicyRelease(policy.id, policy.version, number, document, datetime.now(UTC), "test", shadow=shadow)
    feed.take(record.key, encode(record))


def releasing(*documents):
    feed = PolicyFeed()
    for number, document in enumerate(documents, 1):
        release(feed, document, number)
    return feed


@pytest.fixture
def feed():
    library = load_library()
    return releasing(*(library[name].document for name in ("fraud-spam", "hate-harassment", "prompt-injection")))


def event(text, number=0, **more):
    value = {"content_id": f"c{number}", "text": text, "created_at": "2026-01-01T00:00:00Z", **more}
    return StoredRecord(
        topics.EVENTS, 0, number, 0, f"c{number}".encode(), json.dumps(value).encode(), [("traceparent", b"00-t")]
    )


def test_suspicious_content_is_escalated_and_the_rest_is_cleared(classifier, feed):
    outputs = Prefilter(classifier, feed).decide([event(INSULT, 1), event(KIND, 2)])
    assert [o.topic for o in outputs] == [topics.ESCALATIONS, topics.CLEARED]
    escalation = decode(outputs[0].value, Escalation)
    assert escalation.policy_id == "hate-harassment"
    assert escalation.policy_version == feed.policies.released["hate-harassment"].policy.version
    assert escalation.event.text == INSULT
    assert escalation.prefilter.gate == "label"
    assert escalation.prefilter.score >= escalation.prefilter.threshold
    cleared = decode(outputs[1].value, Verdict)
    assert (cleared.policy_id, cleared.decision, cleared.stage) == ("*", "safe", "prefilter")
    assert cleared.policy_version == feed.policies.version
    assert cleared.prefilter.score < cleared.prefilter.threshold
    assert all(("traceparent", b"00-t") in o.headers for o in outputs)


def test_invalid_events_become_dead_letters_and_do_not_block_their_neighbours(classifier, feed):
    broken = StoredRecord(topics.EVENTS, 0, 1, 0, None, b'{"content_id":"x","created_at":"2026-01-01T00:00:00Z"}')
    outputs = Prefilter(classifier, feed).decide([event(KIND, 0), broken, event(KIND, 2, policies=["nonsense"])])
    assert sorted(o.topic for o in outputs) == [topics.CLEARED, topics.DEAD_LETTERS, topics.DEAD_LETTERS]
    letters = [decode(o.value, DeadLetter) for o in outputs if o.topic == topics.DEAD_LETTERS]
    assert [letter.field for letter in letters] == ["text", "policies"]


def test_only_policies_that_cover_the_content_escalate_it(classifier, feed):
    prefilter = Prefilter(classifier, feed)
    (output,) = prefilter.decide([event(INSULT, policies=["fraud-spam"])])
    assert output.topic == topics.CLEARED
    document = load_library()["hate-harassment"].document.replace("surfaces: []", "surfaces: [chat]")
    elsewhere = Prefilter(classifier, releasing(document))
    assert elsewhere.decide([event(INSULT, surface="mail")])[0].topic == topics.CLEARED
    assert elsewhere.decide([event(INSULT, surface="chat")])[0].topic == topics.ESCALATIONS


@pytest.mark.parametrize(
    ("gate", "fires", "passes"),
    [
        ("terms: [magic beans]", "buy MAGIC   beans!", "magic and beans"),
        ("terms: [magic beans]", "(m\u0430gic be\u200bans)", "magic beansprouts"),
        ("terms: ['\u5927\u4fbf\u5b9c']", "\u8fd9\u662f\u5927\u4fbf\u5b9c\u554a", "\u4fbf\u5b9c"),
        ("patterns: ['\\bfree\\s+(?:\\w+\\s+){0,2}crypto\\b']", "FREE bags of Crypto", "free as a bird of crypto"),
        ("everything: true", KIND, None),
        ("sample: 1.0", KIND, None),
    ],
)
def test_gates_that_need_no_training(classifier, gate, fires, passes):
    document = load_library()["fraud-spam"].document
    start, end = document.index("gate:"), document.index("---\n#")
    feed = releasing(f"{document[:start]}gate:\n  {gate}\n{document[end:]}")
    prefilter = Prefilter(classifier, feed)
    (output,) = prefilter.decide([event(fires)])
    assert output.topic == topics.ESCALATIONS
    assert decode(output.value, Escalation).prefilter.gate == gate.split(":")[0].replace("patterns", "terms")
    if passes:
        assert prefilter.decide([event(passes)])[0].topic == topics.CLEARED


def test_a_release_is_applied_between_two_batches_and_a_broken_one_changes_nothing(classifier, feed):
    prefilter = Prefilter(classifier, feed)
    before = feed.policies
    policy = load_library()["self-harm"]
    misplaced = PolicyRelease(policy.id, policy.version, 1, policy.document, datetime.now(UTC), "t")
    nonsense = PolicyRelease("x", "v", 1, "no document", datetime.now(UTC), "t")
    for value in (b"not json", b"{}", encode(nonsense), encode(misplaced)):
        feed.take(b"x", value)
    assert feed.policies is before
    document = load_library()["hate-harassment"].document.replace("[hate, harassment, violence]", "[]")
    feed.take(
        b"hate-harassment",
        encode(PolicyRelease("hate-harassment", parse(document).version, 9, document, datetime.now(UTC), "t")),
    )
    assert prefilter.decide([event(INSULT)])[0].topic == topics.ESCALATIONS, "until the new policies are compiled"
    prefilter.renew()
    assert prefilter.decide([event(INSULT)])[0].topic == topics.CLEARED
    feed.take(b"hate-harassment", None)
    assert "hate-harassment" not in feed.policies.released


def test_equal_events_get_equal_verdict_ids(classifier, feed):
    first, again, other = (
        decode(Prefilter(classifier, feed).decide([e])[0].value, Verdict)
        for e in (event(KIND), event(KIND), event(KIND + "!"))
    )
    assert first.verdict_id == again.verdict_id
    assert first.verdict_id != other.verdict_id


def test_the_same_item_published_again_gets_a_verdict_of_its_own(classifier, feed):
    values = [event(KIND, 0), StoredRecord(topics.EVENTS, 2, 7, 0, b"c0", event(KIND, 0).value, [])]
    first, again = (decode(o.value, Verdict) for o in Prefilter(classifier, feed).decide(values))
    assert first.content_id == again.content_id
    assert first.verdict_id != again.verdict_id
    assert (first.origin, again.origin) == ("0@0", "2@7")


def test_a_sample_is_drawn_at_its_rate_and_is_the_same_every_time():
    items = np.array([hashed(f"content-{n}") for n in range(20_000)], dtype=np.uint64)
    policies = np.array([hashed("p"), hashed("q")], dtype=np.uint64)
    draws = drawn(items, policies)
    assert (draws == drawn(items, policies)).all()
    taken = draws < 0.1
    assert 1850 < taken[:, 0].sum() < 2150
    assert 140 < taken.all(axis=1).sum() < 260, "the samples of two policies are independent"
    assert draws.min() >= 0
    assert draws.max() < 1


def test_content_that_passes_is_audited_by_stratum_and_still_cleared(classifier, feed):
    events = [event(f"{KIND} {n}", n, policies=["fraud-spam"]) for n in range(4000)]
    outputs = Prefilter(classifier, feed, AuditRates(near=0.5, far=0.05)).decide(events)
    audits = [decode(o.value, Escalation) for o in outputs if o.topic == topics.ESCALATIONS_AUDIT]
    cleared = {decode(o.value, Verdict).content_id for o in outputs if o.topic == topics.CLEARED}
    assert {a.event.content_id for a in audits} <= cleared
    assert {(a.lane, a.prefilter.gate) for a in audits} == {("audit", "audit")}
    far = [a for a in audits if a.prefilter.stratum == "far"]
    assert 120 < len(far) < 280
    sample = feed.policies.released["fraud-spam"].policy.gate.sample
    assert all(a.prefilter.rate == pytest.approx(sample + 0.05 * (1 - sample)) for a in far)
    assert all(a.prefilter.score < a.prefilter.threshold / 2 for a in far)
    again = Prefilter(classifier, feed, AuditRates(near=0.5, far=0.05)).decide(events)
    assert [o.key for o in again if o.topic == topics.ESCALATIONS_AUDIT] == [
        a.event.content_id.encode() for a in audits
    ]


def test_an_event_that_one_policy_judges_lists_no_others(classifier):
    feed = releasing(document_with(terms=["beta"]))
    (output,) = Prefilter(classifier, feed, AuditRates(0, 0)).decide([event("beta", 1)])
    assert decode(output.value, Escalation).judged_under == (), "known, unlike in records of earlier versions"
    assert b'"judged_under":[]' in output.value


def test_every_record_of_an_event_names_the_policies_that_judge_it_and_no_shadow(classifier):
    feed = releasing(
        document_with(terms=["alpha"]), document_with(terms=["alpha", "beta"]).replace("fraud-spam", "other")
    )
    release(feed, document_with(everything=True).replace("Judge what", "Weigh what"), 3, shadow=1.0)
    outputs = Prefilter(classifier, feed, AuditRates(1, 1)).decide(
        [event("alpha", 1), event("beta", 2), event("none", 3)]
    )
    found = {}
    for output in outputs:
        kind = Verdict if output.topic == topics.CLEARED else Escalation
        found.setdefault(output.key, set()).add(decode(output.value, kind).judged_under)
    assert found == {
        b"c1": {("other",), ("fraud-spam",)},
        b"c2": {("other",), ("fraud-spam",)},
        b"c3": {("other",), ("fraud-spam",), ("fraud-spam", "other")},
    }, "those that audits judge are among them, and no record names its own policy"
    outputs = Prefilter(classifier, feed, AuditRates(0, 0)).decide([event("beta", 2), event("none", 3)])
    live = [decode(one.value, Escalation) for one in outputs if one.topic == topics.ESCALATIONS]
    assert [one.judged_under for one in live] == [()]
    (cleared,) = [decode(one.value, Verdict) for one in outputs if one.topic == topics.CLEARED]
    assert cleared.judged_under is None
    assert cleared.passed("fraud-spam")


def test_nothing_is_audited_at_rate_zero_and_everything_at_one(classifier, feed):
    events = [event(KIND, n, policies=["fraud-spam"]) for n in range(50)]
    none = Prefilter(classifier, feed, AuditRates(0.0, 0.0)).decide(events)
    assert not any(o.topic == topics.ESCALATIONS_AUDIT for o in none)
    every = Prefilter(classifier, feed, AuditRates(1.0, 1.0)).decide(events)
    counts = [sum(o.topic == name for o in every) for name in (topics.ESCALATIONS_AUDIT, topics.ESCALATIONS)]
    assert sum(counts) == 50


def document_with(**gate):
    """The fraud policy with this gate and nothing else in it."""
    nothing = dict.fromkeys(("harms", "threshold", "sample", "calibration"))
    return with_changes(load_library()["fraud-spam"].document, "gate", **{**nothing, **gate})


def gated(gate):
    return releasing(document_with(**gate))


@pytest.mark.parametrize("text", ["a" * 1_000_000 + "!", "x" * 500_000, "\u0301" * 100_000, "ab " * 300_000])
def test_a_pattern_that_would_backtrack_exponentially_elsewhere_completes(classifier, text):
    feed = gated({"patterns": [r"(a+)+$", r"(x+x+)+y", r"^(a|b|ab)*c"], "terms": ["a b", "never said"]})
    outputs = Prefilter(classifier, feed, AuditRates(0, 0)).decide([event(text)])
    assert len(outputs) == 1


def test_the_escalation_names_a_matching_term(classifier):
    feed = gated({"terms": ["magic beans", "beans"], "patterns": [r"\bbe[a-z]ns\b"]})
    (output,) = Prefilter(classifier, feed, AuditRates(0, 0)).decide([event("magic beans here", 1)])
    assert decode(output.value, Escalation).prefilter.label in {"magic beans", "beans"}


def test_many_terms_and_patterns_are_each_found(classifier):
    terms = [f"word{n} and{n}" for n in range(3000)]
    patterns = [rf"\bpattern{n}\s+\d+" for n in range(300)]
    feed = gated({"terms": terms, "patterns": patterns})
    texts = [f"say word{n} and{n} now" for n in range(0, 3000, 37)] + [f"a pattern{n}  7" for n in range(0, 300, 7)]
    outputs = Prefilter(classifier, feed, AuditRates(0, 0)).decide([event(text, n) for n, text in enumerate(texts)])
    matches = [decode(output.value, Escalation).prefilter.label for output in outputs]
    assert matches == [terms[n] for n in range(0, 3000, 37)] + [patterns[n] for n in range(0, 300, 7)]


@pytest.mark.parametrize("pattern", ["(?<=a)b", r"(a)\1", "(", "a{5000}"])
def test_a_pattern_that_re2_does_not_support_is_refused_by_name(pattern):
    document = with_changes(load_library()["fraud-spam"].document, "gate", patterns=[pattern])
    with pytest.raises(PolicyError, match="gate.patterns: .* is not a valid RE2 expression"):
        parse(document)


def test_surface_and_language_select_before_any_gate(classifier):
    document = with_changes(load_library()["fraud-spam"].document, "gate", everything=True).replace(
        "languages: []", "languages: [de]"
    )
    prefilter = Prefilter(classifier, releasing(document), AuditRates(0, 0))
    topics_of = [prefilter.decide([event(KIND, language=language)])[0].topic for language in ("de", "en", None)]
    assert topics_of == [topics.ESCALATIONS, topics.CLEARED, topics.ESCALATIONS]


def test_a_shadow_escalates_what_either_version_would_and_clears_nothing(classifier):
    feed = releasing(document_with(terms=["alpha", "both"]))
    release(feed, document_with(terms=["beta", "both"]).replace("Judge what", "Weigh what"), 2, shadow=1.0)
    prefilter = Prefilter(classifier, feed, AuditRates(0, 0))
    outputs = prefilter.decide([event("alpha", 1), event("beta", 2), event("both", 3), event("neither", 4)])
    by_topic = {
        topic: [decode(o.value, Escalation) for o in outputs if o.topic == topic]
        for topic in (topics.ESCALATIONS, topics.ESCALATIONS_SHADOW)
    }
    cleared = [decode(o.value, Verdict).content_id for o in outputs if o.topic == topics.CLEARED]
    assert [e.event.content_id for e in by_topic[topics.ESCALATIONS]] == ["c1", "c3"]
    assert cleared == ["c2", "c4"]
    shadows = by_topic[topics.ESCALATIONS_SHADOW]
    reasons = [(e.event.content_id, e.prefilter.gate, e.prefilter.label, e.prefilter.live) for e in shadows]
    assert reasons == [("c1", "live", None, True), ("c2", "terms", "beta", False), ("c3", "terms", "both", True)]
    version = feed.policies.shadows["fraud-spam"].policy.version
    assert {(e.lane, e.policy_revision, e.policy_version) for e in shadows} == {("shadow", 2, version)}
    assert version != feed.policies.released["fraud-spam"].policy.version


def test_a_shadow_takes_its_share_and_ends_with_its_record(classifier):
    feed = releasing(document_with(everything=True))
    release(feed, document_with(everything=True), 2, shadow=0.25)
    prefilter = Prefilter(classifier, feed)
    events = [event("some text", number) for number in range(2000)]
    shadows = [o for o in prefilter.decide(events) if o.topic == topics.ESCALATIONS_SHADOW]
    assert len(shadows) == pytest.approx(500, abs=80)
    assert decode(shadows[0].value, Escalation).prefilter.rate == 0.25
    feed.take(b"fraud-spam.shadow", None)
    assert not prefilter.current
    prefilter.renew()
    assert {o.topic for o in prefilter.decide(events)} == {topics.ESCALATIONS}
    assert "fraud-spam" in feed.policies.released


def test_a_shadow_of_a_policy_that_is_not_in_force_yet_clears_nothing(classifier):
    feed = releasing(load_library()["hate-harassment"].document)
    release(feed, document_with(everything=True), 1, shadow=1.0)
    outputs = Prefilter(classifier, feed, AuditRates(0, 0)).decide([event(KIND)])
    assert [o.topic for o in outputs] == [topics.ESCALATIONS_SHADOW, topics.CLEARED]
    assert decode(outputs[1].value, Verdict).policy_version == feed.policies.version


def test_a_gate_that_does_not_compile_leaves_the_former_release_in_force(classifier, monkeypatch, caplog):
    feed = releasing(document_with(terms=["alpha"]))
    prefilter = Prefilter(classifier, feed, AuditRates(0, 0))
    release(feed, load_library()["self-harm"].document, 2)
    release(feed, document_with(terms=["alpha", "beta", "too much"]), 3)
    compile_gates = compiled.Gates

    def failing(policies, classifier, encoder):
        if any(policy.id == "self-harm" or "too much" in policy.gate.terms for policy in policies):
            raise MemoryError
        return compile_gates(policies, classifier, encoder)

    monkeypatch.setattr(compiled, "Gates", failing)
    prefilter.renew()
    assert prefilter.current
    assert "policy=self-harm revision=2" in caplog.text
    assert "policy=fraud-spam revision=3" in caplog.text
    outputs = prefilter.decide([event("alpha", 1), event("beta", 2)])
    assert [o.topic for o in outputs] == [topics.ESCALATIONS, topics.CLEARED]
    assert decode(outputs[0].value, Escalation).policy_revision == 1


def test_what_was_received_is_passed_on_as_its_own_bytes_under_the_content_id(classifier):
    value = b' {"text":"alpha","n":1E400,"content_id":"c\xc3\xa9","created_at":"2026-01-01T00:00:00Z","n":1e15 }\n'
    records = [StoredRecord(topics.EVENTS, 3, 42, 0, key, value, []) for key in (None, b"other", b"\xff")]
    outputs = Prefilter(classifier, gated({"terms": ["alpha"]}), AuditRates(0, 0)).decide(records)
    assert {(o.topic, o.key) for o in outputs} == {(topics.ESCALATIONS, "c\xe9".encode())}
    for output in outputs:
        assert value.strip() in output.value
        escalation = decode(output.value, Escalation)
        assert (escalation.origin, escalation.repaired, escalation.event.text) == ("3@42", False, "alpha")


def test_the_escalation_of_the_largest_event_fits_its_topic_with_ids_of_any_characters(classifier):
    name = "\U0001f600" * limits.ID_CHARACTERS
    value = json.dumps({"content_id": name, "created_at": "2026-01-01T00:00:00Z", "text": ""}).encode()
    value = value.replace(b'"text": ""', b'"text": "%s"' % (b"a" * (limits.EVENT_BYTES - len(value))))
    assert len(value) == limits.EVENT_BYTES
    record = StoredRecord(topics.EVENTS, 0, 0, 0, None, value, [("tracestate", b"x" * limits.TRACESTATE_BYTES)])
    (output,) = Prefilter(classifier, gated({"everything": True})).decide([record])
    size = len(output.value) + len(output.key) + sum(len(name) + len(data) for name, data in output.headers)
    assert size < limits.EVENT_BYTES + 8 * limits.KiB < limits.ESCALATION_BYTES
    by_name = {topic.name: topic for topic in topics.CATALOGUE}
    for lane in topics.LANES.values():
        assert by_name[lane].largest >= limits.EVENT_BYTES + limits.MiB
    assert by_name[topics.EVENTS].largest == limits.EVENT_BYTES


def test_an_event_that_grows_beyond_the_limit_when_it_is_decompressed_is_a_dead_letter(classifier, feed):
    large = event("a" * limits.EVENT_BYTES)
    outputs = Prefilter(classifier, feed).decide([event(KIND, 1), large])
    assert sorted(o.topic for o in outputs) == [topics.CLEARED, topics.DEAD_LETTERS]


def test_half_an_emoji_is_judged_and_marked(classifier, feed):
    texts = [b"\\ud83d " + INSULT.encode(), b"\xed\xa0\xbd " + KIND.encode()]
    half, clear = (
        StoredRecord(topics.EVENTS, 0, 0, 0, None, event("X").value.replace(b"X", text), []) for text in texts
    )
    escalated, cleared = Prefilter(classifier, feed, AuditRates(0, 0)).decide([half, clear])
    assert decode(escalated.value, Escalation).repaired
    assert decode(escalated.value, Escalation).event.text == f"\ufffd {INSULT}"
    assert decode(cleared.value, Verdict).repaired


def test_after_the_last_policy_nothing_is_cleared_by_none(classifier):
    feed = releasing(document_with(terms=["alpha"]))
    prefilter = Prefilter(classifier, feed, AuditRates(0, 0))
    assert prefilter.in_force
    feed.take(b"fraud-spam", None)
    assert not prefilter.in_force
    prefilter.renew()
    assert prefilter.current
    assert not prefilter.in_force
    assert [o.topic for o in prefilter.decide([event("alpha")])] == [topics.ESCALATIONS], "a batch under way"
    release(feed, document_with(terms=["beta"]), 2)
    assert not prefilter.in_force, "until it is compiled"
    prefilter.renew()
    assert prefilter.in_force
    assert [o.topic for o in prefilter.decide([event("alpha"), event("beta")])] == [topics.CLEARED, topics.ESCALATIONS]


def test_no_policy_is_in_force_at_the_start(classifier):
    feed = PolicyFeed()
    assert not Prefilter(classifier, feed).in_force


@pytest.mark.parametrize(("author", "named"), [("u1", "u1"), ("", None), (None, None), ("a" * 512, "a" * 512)])
def test_a_cleared_verdict_names_the_author(classifier, feed, author, named):
    (output,) = Prefilter(classifier, feed).decide([event(KIND, author_id=author)])
    assert decode(output.value, Verdict).author_id == named


def test_an_author_longer_than_the_limit_is_a_dead_letter_that_names_the_field(classifier, feed):
    (output,) = Prefilter(classifier, feed).decide([event(KIND, author_id="a" * (limits.LABEL_CHARACTERS + 1))])
    assert (output.topic, decode(output.value, DeadLetter).field) == (topics.DEAD_LETTERS, "author_id")
