"""The prefilter's decisions, with the shipped classifier and the shipped policies."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.document import load_library, parse
from streams import topics
from streams.classifier import Classifier
from streams.errors import ConfigurationError
from streams.memory import StoredRecord
from streams.normalise import STRIDE, WINDOW, tokens, windows
from streams.policy_feed import PolicyFeed
from streams.prefilter import Prefilter, _number, drawn
from streams.records import DeadLetter, Escalation, PolicyRelease, Verdict, decode, encode

INSULT = "you are a stupid worthless bitch, kill yourself"
KIND = "thank you for the lovely recipe, my family enjoyed the soup"


@pytest.fixture(scope="module")
def classifier():
    return Classifier()


def releasing(*documents):
    feed = PolicyFeed()
    for number, document in enumerate(documents, 1):
        policy = parse(document)
        release = PolicyRelease(policy.id, policy.version, number, document, datetime.now(UTC), "test")
        feed.take(policy.id.encode(), encode(release))
    return feed


@pytest.fixture
def feed():
    return releasing(*(p.document for p in load_library().values()))


def event(text, number=0, **more):
    value = {"content_id": f"c{number}", "text": text, "created_at": "2026-01-01T00:00:00Z", **more}
    return StoredRecord(
        topics.EVENTS, 0, number, 0, f"c{number}".encode(), json.dumps(value).encode(), [("traceparent", b"00-t")]
    )


def test_what_is_suspicious_is_escalated_and_the_rest_is_cleared(classifier, feed):
    outputs = Prefilter(classifier, feed).judge([event(INSULT, 1), event(KIND, 2)])
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


def test_invalid_events_become_dead_letters_and_harm_no_neighbour(classifier, feed):
    broken = StoredRecord(topics.EVENTS, 0, 1, 0, None, b'{"content_id":"x","created_at":"2026-01-01T00:00:00Z"}')
    outputs = Prefilter(classifier, feed).judge([event(KIND, 0), broken, event(KIND, 2, policies=["nonsense"])])
    assert sorted(o.topic for o in outputs) == [topics.CLEARED, topics.DEAD_LETTERS, topics.DEAD_LETTERS]
    letters = [decode(o.value, DeadLetter) for o in outputs if o.topic == topics.DEAD_LETTERS]
    assert [letter.field for letter in letters] == ["text", "policies"]


def test_only_policies_that_apply_are_asked(classifier, feed):
    prefilter = Prefilter(classifier, feed)
    (output,) = prefilter.judge([event(INSULT, policies=["fraud-spam"])])
    assert output.topic == topics.CLEARED
    document = load_library()["hate-harassment"].document.replace("surfaces: []", "surfaces: [chat]")
    elsewhere = Prefilter(classifier, releasing(document))
    assert elsewhere.judge([event(INSULT, surface="mail")])[0].topic == topics.CLEARED
    assert elsewhere.judge([event(INSULT, surface="chat")])[0].topic == topics.ESCALATIONS


@pytest.mark.parametrize(
    ("gate", "fires", "passes"),
    [
        ("terms: [magic beans]", "buy MAGIC   beans!", "magic and beans"),
        ("everything: true", KIND, None),
        ("sample: 1.0", KIND, None),
    ],
)
def test_gates_that_need_no_training(classifier, gate, fires, passes):
    document = load_library()["fraud-spam"].document
    start, end = document.index("gate:"), document.index("---\n#")
    feed = releasing(f"{document[:start]}gate:\n  {gate}\n{document[end:]}")
    prefilter = Prefilter(classifier, feed)
    (output,) = prefilter.judge([event(fires)])
    assert output.topic == topics.ESCALATIONS
    assert decode(output.value, Escalation).prefilter.gate == gate.split(":")[0]
    if passes:
        assert prefilter.judge([event(passes)])[0].topic == topics.CLEARED


def test_a_release_is_taken_between_two_batches_and_a_broken_one_changes_nothing(classifier, feed):
    prefilter = Prefilter(classifier, feed)
    before = feed.policies
    for value in (b"not json", b"{}", encode(PolicyRelease("x", "v", 1, "no document", datetime.now(UTC), "t"))):
        feed.take(b"x", value)
    assert feed.policies is before
    document = load_library()["hate-harassment"].document.replace("[hate, harassment, violence]", "[]")
    feed.take(
        b"hate-harassment",
        encode(PolicyRelease("hate-harassment", parse(document).version, 9, document, datetime.now(UTC), "t")),
    )
    assert prefilter.judge([event(INSULT)])[0].topic == topics.CLEARED
    feed.take(b"hate-harassment", None)
    assert "hate-harassment" not in feed.policies.released


def test_equal_events_get_equal_verdict_ids(classifier, feed):
    first, again, other = (
        Prefilter(classifier, feed).judge([e])[0] for e in (event(KIND), event(KIND), event(KIND + "!"))
    )
    assert decode(first.value, Verdict).verdict_id == decode(again.value, Verdict).verdict_id
    assert decode(first.value, Verdict).verdict_id != decode(other.value, Verdict).verdict_id


def test_the_worst_window_of_a_long_text_counts(classifier):
    hidden = f"{KIND} " * 40 + INSULT + f" {KIND}" * 40
    plain, found = classifier.score([f"{KIND} " * 80, hidden])
    assert found["none"] < 0.5 < plain["none"]


@pytest.mark.parametrize(
    "text", ["", " ", "\x00", "\n\n", "\u200b", "\u0301" * 100_000, "a" * 1_000_000, "\ud7ff\U0010ffff"]
)
def test_odd_texts_are_scored(classifier, text):
    (scores,) = classifier.score([text])
    assert sum(scores.values()) == pytest.approx(1, abs=0.02)


def test_a_sample_is_drawn_at_its_rate_and_always_alike():
    contents = [_number(f"content-{n}") for n in range(20_000)]
    p, q = _number("p"), _number("q")
    taken = {c for c in contents if drawn(c, p, 0.1)}
    assert 1850 < len(taken) < 2150
    assert taken == {c for c in contents if drawn(c, p, 0.1)}
    both = taken & {c for c in contents if drawn(c, q, 0.1)}
    assert 140 < len(both) < 260, "the samples of two policies are independent"
    assert not any(drawn(c, p, 0.0) for c in contents)
    assert all(drawn(c, p, 1.0) for c in contents)


def test_many_spellings_have_one_form():
    assert tokens("HELLO   World") == ["hello", "world"]
    assert tokens("\uff28\uff45llo") == ["hello"]
    assert tokens("he\u200bllo") == ["hello"]
    assert tokens("sooooooo") == ["sooo"]
    assert tokens("see https://x.example/a?b=c now") == ["see", "<url>", "now"]
    assert tokens("hi @some_one!") == ["hi", "<user>", "!"]
    assert tokens("mail a@b.example") == ["mail", "a", "@", "b", ".", "example"]


@given(st.text(max_size=300))
def test_normalising_twice_changes_nothing(text):
    once = tokens(text)
    assert tokens(" ".join(once)) == once or any(t in {"<url>", "<user>"} for t in once)


@given(st.integers(0, 200))
def test_windows_cover_every_token(count):
    words = [f"w{n}" for n in range(count)]
    parts = windows(" ".join(words))
    assert {w for part in parts for w in part.split()} == set(words)
    assert all(len(part.split()) <= WINDOW for part in parts)
    assert len(parts) <= 1 + max(0, count - WINDOW + STRIDE - 1) // STRIDE


def test_a_model_that_is_none_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="no such fastText model"):
        Classifier(tmp_path / "none.ftz")
    (tmp_path / "bad.ftz").write_bytes(b"not a model")
    with pytest.raises(ConfigurationError, match="not a fastText model"):
        Classifier(tmp_path / "bad.ftz")
