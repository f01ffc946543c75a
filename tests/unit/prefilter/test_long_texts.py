"""Texts of any length: what the classifier and the terms see of them, and that the cost does not grow with them."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safeguard_streams.contract import limits, topics
from safeguard_streams.contract.records import Escalation, PolicyRelease, Verdict, decode, encode
from safeguard_streams.policies.files import load_library, with_changes
from safeguard_streams.policies.parsing import parse
from safeguard_streams.prefilter import classifier as classifying
from safeguard_streams.prefilter import normalise
from safeguard_streams.prefilter.batches import is_large, parts
from safeguard_streams.prefilter.classifier import Classifier
from safeguard_streams.prefilter.decision import Prefilter
from safeguard_streams.prefilter.event_batch import AuditRates
from safeguard_streams.prefilter.long_texts import excerpt, sections
from safeguard_streams.releases.feed import PolicyFeed
from safeguard_streams.runtime.memory_broker import StoredRecord

INSULT = "you are a stupid worthless bitch, kill yourself"
KIND = "thank you for the lovely recipe, my family enjoyed the soup "
LONG = KIND * 8000


@pytest.fixture(scope="module")
def classifier():
    return Classifier()


def prefilter_with(classifier, **gate):
    document = load_library()["hate-harassment"].document
    if gate:
        nothing = dict.fromkeys(("harms", "threshold", "sample", "calibration"))
        document = with_changes(document, "gate", **{**nothing, **gate})
    policy, feed = parse(document), PolicyFeed()
    feed.take(policy.id.encode(), encode(PolicyRelease(policy.id, policy.version, 1, document, datetime.now(UTC), "t")))
    return Prefilter(classifier, feed, AuditRates(0, 0))


def event(text, number=0):
    value = {"content_id": f"c{number}", "text": text, "created_at": "2026-01-01T00:00:00Z"}
    return StoredRecord(topics.EVENTS, 0, number, 0, None, json.dumps(value).encode(), [])


def test_a_long_text_is_judged_by_its_beginning_its_end_and_samples_and_marked(classifier):
    prefilter = prefilter_with(classifier)
    middle = len(LONG) // 2
    texts = [INSULT + LONG, LONG + INSULT, LONG[:middle] + f"{INSULT} " * 500 + LONG[middle:]]
    for output in prefilter.decide([event(text) for text in texts]):
        assert output.topic == topics.ESCALATIONS
        assert decode(output.value, Escalation).prefilter.truncated
    (cleared,) = prefilter.decide([event(LONG)])
    assert decode(cleared.value, Verdict).prefilter.truncated
    (short,) = prefilter.decide([event(LONG[: limits.JUDGED_IN_FULL])])
    assert not decode(short.value, Verdict).prefilter.truncated


@pytest.mark.parametrize("place", [0, 1, limits.SECTION - 8, limits.SECTION, 3 * limits.SECTION - 5, 476_000])
@pytest.mark.parametrize(
    "gate", [{"terms": ["magic beans"]}, {"patterns": [r"magic\s+(?:\w+\s+){0,2}beans"]}], ids=["term", "pattern"]
)
def test_terms_and_patterns_are_found_anywhere_in_a_long_text(classifier, gate, place):
    prefilter = prefilter_with(classifier, **gate)
    found = f"{LONG[:place]} magic beans {LONG[place:]}"
    (output,) = prefilter.decide([event(found)])
    assert output.topic == topics.ESCALATIONS
    assert decode(output.value, Escalation).prefilter.truncated
    assert prefilter.decide([event(LONG)])[0].topic == topics.CLEARED


def test_the_joints_of_an_excerpt_are_no_term(classifier):
    prefilter = prefilter_with(classifier, terms=["magic beans"])
    text = ("z " * limits.JUDGED_AT_ENDS)[: limits.JUDGED_AT_ENDS - 5] + "magicbeans" + " z" * limits.JUDGED_IN_FULL
    assert "magic beans" in excerpt(text)
    assert prefilter.decide([event(text)])[0].topic == topics.CLEARED


@given(st.integers(0, 5), st.integers(-3, 3), st.sampled_from(["{:08}", "{} ", "{:9000} "]))
def test_sections_cover_a_text_and_overlap(count, more, unit):
    length = max(0, count * limits.SECTION + more)
    text = "".join(unit.format(number) for number in range(length // len(unit.format(1)) + 1))[:length]
    found = list(sections(text))
    assert all(len(section) <= limits.SECTION for section in found)
    end = 0
    for number, section in enumerate(found):
        start = text.index(section)
        assert start <= max(0, end - limits.SECTION_OVERLAP), number
        end = start + len(section)
    assert end == len(text)


@pytest.mark.parametrize("length", [limits.JUDGED_IN_FULL + 1, limits.EVENT_BYTES])
def test_an_excerpt_has_a_bound(length):
    assert len(excerpt("a" * length)) <= limits.JUDGED_IN_FULL + 200


def test_the_classifier_reads_no_more_words_of_a_longer_text(classifier, monkeypatch):
    """Counts what is read, because times differ from run to run."""
    read = []
    numbers = classifying._Rows.numbers
    monkeypatch.setattr(
        classifying._Rows, "numbers", lambda self, lines: read.append(sum(map(len, lines))) or numbers(self, lines)
    )
    prefilter = prefilter_with(classifier)
    for size in (500_000, 4_000_000):
        prefilter.decide([event("a b " * (size // 4))])
    assert read[1] <= read[0] + 100 <= 2 * limits.JUDGED_IN_FULL


def test_only_what_the_classifier_reads_of_a_long_text_is_repaired(classifier, monkeypatch):
    repaired = []
    repair = normalise._repair
    monkeypatch.setattr(normalise, "_repair", lambda lines: repaired.append(sum(map(len, lines))) or repair(lines))
    prefilter_with(classifier).decide([event("n3w w0rds " * 200_000)])
    assert sum(repaired) <= limits.JUDGED_IN_FULL + 200


def test_a_batch_is_cut_by_bytes_and_a_large_event_is_decided_alone():
    alone, small = limits.LARGE_EVENT + 1, limits.DECISION_BYTES // 100
    sizes = [100, alone, 10, *[small] * 101, alone, alone, 5]
    records = [StoredRecord(topics.EVENTS, 0, n, 0, None, b"x" * size, []) for n, size in enumerate(sizes)]
    cut = [[len(record.value) for record in part] for part in parts(records)]
    assert cut == [[100], [alone], [10, *[small] * 100], [small], [alone], [alone], [5]]
    assert [is_large(part) for part in parts(records)] == [False, True, True, True, True, True, False]
    assert list(parts([])) == []
    tombstone = StoredRecord(topics.EVENTS, 0, 0, 0, None, None, [])
    assert list(parts([tombstone])) == [[tombstone]]
    assert not is_large([tombstone])
