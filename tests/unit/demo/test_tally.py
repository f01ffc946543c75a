"""The demo's tally and its texts."""

import json
import math
from datetime import UTC, datetime
from importlib.resources import files

import pytest

from safeguard_streams.bus.dead_letters import dead_letter
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import (
    Attempt,
    ContentEvent,
    Escalation,
    PrefilterResult,
    Rationale,
    Verdict,
    encode,
)
from safeguard_streams.demo.tally import Tally, percentile
from safeguard_streams.errors import RecordError
from safeguard_streams.policies import labelled
from safeguard_streams.policies.files import load_library
from safeguard_streams.prefilter.classifier import Classifier
from safeguard_streams.prefilter.gates import Gates
from safeguard_streams.runtime.memory_broker import StoredRecord


def stored(topic, key, value):
    return StoredRecord(topic, 0, 0, 0, key, value)


def verdict(key, policy, decision="safe"):
    record = Verdict(f"{key}{policy}", key, "s", policy, "1", decision, "reasoner", "live", "m", datetime.now(UTC))
    return stored(topics.VERDICTS, key.encode(), encode(record))


def cleared(key):
    return encode(Verdict(key, key, "s", "*", "1", "safe", "prefilter", "live", "m", datetime.now(UTC)))


def escalation(key, policy):
    event = ContentEvent(key, "t", datetime.now(UTC))
    record = Escalation(event, policy, "1", 1, PrefilterResult("label"), "live", datetime.now(UTC))
    return stored(topics.ESCALATIONS, key.encode(), encode(record))


@pytest.fixture
def tally():
    tally = Tally()
    for key in "abc":
        tally.sent(key.encode(), key.encode())
    return tally


def test_an_event_is_answered_when_every_policy_that_escalated_it_has_judged(tally):
    assert tally.unanswered() == 3
    tally.take(topics.CLEARED, stored(topics.CLEARED, b"a", cleared("a")))
    tally.take(topics.ESCALATIONS, escalation("b", "x"))
    tally.take(topics.ESCALATIONS, escalation("b", "y"))
    tally.take(topics.VERDICTS, verdict("b", "x"))
    assert tally.unanswered() == 2
    tally.take(topics.VERDICTS, verdict("b", "y", "undetermined"))
    letter = dead_letter(stored("content.events", b"c", b"c"), RecordError("text", "is missing"), stage="s", attempts=1)
    tally.take(topics.DEAD_LETTERS, stored(topics.DEAD_LETTERS, b"c", letter.value))
    summary = tally.summary()
    assert (summary["unanswered"], summary["duplicates"], summary["dead_letters"]) == (0, 0, 1)
    assert summary["undetermined"] == 1
    assert summary["escalated"] == 1


def test_a_second_answer_is_a_duplicate(tally):
    for _ in range(2):
        tally.take(topics.CLEARED, stored(topics.CLEARED, b"a", cleared("a")))
    tally.take(topics.ESCALATIONS, escalation("b", "x"))
    for _ in range(3):
        tally.take(topics.VERDICTS, verdict("b", "x"))
    assert tally.duplicates() == 3
    assert tally.repeated == 3  # each under the id of the first, hence dropped by consumers


def test_a_second_answer_under_another_id_is_a_duplicate_that_nobody_can_drop(tally):
    for name in ("first", "second"):
        record = Verdict(name, "a", "s", "*", "1", "safe", "prefilter", "live", "m", datetime.now(UTC))
        tally.take(topics.CLEARED, stored(topics.CLEARED, b"a", encode(record)))
    assert (tally.duplicates(), tally.repeated) == (1, 0)


def test_rationales_are_kept_for_the_events_of_this_run_only(tally):
    for name in ("a", "someone else"):
        record = Rationale(f"v-{name}", name, "x", "1", "m", (Attempt("because", "{}"),), datetime.now(UTC))
        tally.take(topics.RATIONALES, stored(topics.RATIONALES, record.verdict_id.encode(), encode(record)))
    assert set(tally.rationales) == {"v-a"}
    assert tally.topics[topics.RATIONALES] == 1


def test_records_of_others_are_not_counted(tally):
    tally.take(topics.CLEARED, stored(topics.CLEARED, b"someone else", cleared("someone else")))
    tally.take(topics.VERDICTS, verdict("z", "x"))
    assert tally.summary()["cleared"] == tally.summary()["verdicts"] == 0


def test_percentiles():
    assert percentile([], 0.5) is None
    assert percentile(range(100), 0.5) == 50
    assert percentile(range(100), 0.99) == 99


def test_the_demos_texts_were_never_trained_on_and_state_their_licence():
    events = [
        json.loads(line) for line in files("safeguard_streams.demo").joinpath("events.jsonl").read_bytes().splitlines()
    ]
    assert len(events) >= 600
    assert len({e["language"] for e in events}) >= 6
    for event in events:
        assert event["attributes"]["licence"]
        source = event["attributes"]["source"]
        unseen = any(word in source for word in ("hatecheck", "exaggerated-safety", "prompt-injections, test"))
        assert unseen or labelled.held_out(event["text"]), source


def test_the_demos_texts_are_mostly_harmless_and_the_prefilter_clears_three_in_four():
    lines = files("safeguard_streams.demo").joinpath("events.jsonl").read_bytes().splitlines()
    events = [json.loads(line) for line in lines]
    assert 90 <= sum(e["attributes"]["violates"] for e in events) < len(events) / 10
    policies = [p for p in load_library().values() if p.applies("demo", "en")]
    gates = Gates(policies, Classifier())
    found = gates.evaluate([e["text"] for e in events])
    escalated = found.reached.any(axis=1)
    escalated[[text for text, _ in found.matches]] = True
    unsampled = math.prod(1 - policy.gate.sample for policy in policies)
    assert 0.75 < (1 - escalated.mean()) * unsampled < 0.85


def test_the_first_texts_of_the_demo_are_mixed_as_all_of_them_are():
    lines = files("safeguard_streams.demo").joinpath("events.jsonl").read_bytes().splitlines()
    attributes = [json.loads(line)["attributes"] for line in lines]
    for count in (50, 100, 300, 600):
        for policy in ("hate-harassment", "fraud-spam", "prompt-injection"):
            violating = [a["violates"] and a["labelled_for"] == policy for a in attributes]
            assert abs(sum(violating[:count]) - sum(violating) * count / len(lines)) <= 1, (count, policy)


def test_the_rule_of_a_violating_text_is_one_of_its_policys():
    lines = files("safeguard_streams.demo").joinpath("events.jsonl").read_bytes().splitlines()
    ruled = [e["attributes"] for e in map(json.loads, lines) if "rule" in e["attributes"]]
    assert len(ruled) > 50
    for attributes in ruled:
        policy = load_library()[attributes["labelled_for"]]
        assert attributes["violates"]
        assert attributes["rule"] in policy.violating
