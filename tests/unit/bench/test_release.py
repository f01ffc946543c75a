"""The figures of the release benchmark."""

from datetime import UTC, datetime

import msgspec
import pytest

from safeguard_streams.bench.release import AnswerCheck, Release, delays, versions
from safeguard_streams.bus.memory import StoredRecord
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import PolicyRelease, Verdict, encode

FIRST, SECOND = versions(0.5)


def released(name, policy, revision, moment):
    fields = {"policy_id": policy.id, "version": policy.version, "revision": revision}
    required = [f for f in msgspec.structs.fields(PolicyRelease) if f.required and f.name not in fields]
    fields |= {f.name: datetime.now(UTC) if f.type is datetime else "" for f in required}
    return Release(name, PolicyRelease(**fields), policy, moment)


RELEASES = [released("first", FIRST, 1, 100.0), released("release", SECOND, 2, 200.0)]


def answer(key, topic, version, moment):
    decided = datetime.fromtimestamp(moment, UTC)
    verdict = Verdict(key, key, "s", "*", version, "safe", "reasoner", "live", "m", decided)
    return topic, StoredRecord(topic, 0, 0, round(moment * 1000), key.encode(), encode(verdict))


@pytest.fixture
def answers():
    return AnswerCheck(RELEASES, {"b": 1, "c": 2, "d": 1})


def test_an_answer_by_a_version_that_was_not_released_is_counted(answers):
    answers.take(*answer("a", topics.CLEARED, "unknown", 150))
    answers.take(*answer("b", topics.VERDICTS, SECOND.version, 150))  # the version was released only at 200
    answers.take(*answer("b", topics.VERDICTS, FIRST.version, 150))
    assert (answers.unreleased, answers.outdated) == (2, 0)
    assert answers.by_key == {b"a": 1, b"b": 2}


def test_a_verdict_older_than_its_escalation_is_counted(answers):
    answers.take(*answer("c", topics.VERDICTS, FIRST.version, 250))
    answers.take(*answer("d", topics.VERDICTS, SECOND.version, 250))
    assert (answers.unreleased, answers.outdated) == (0, 1)


def test_a_dead_letter_is_an_answer_by_no_version(answers):
    answers.take(topics.DEAD_LETTERS, StoredRecord(topics.DEAD_LETTERS, 0, 0, 0, b"e", b"whatever"))
    assert (answers.dead_letters, answers.unreleased, answers.by_key[b"e"]) == (1, 0, 1)


def test_delays_count_from_the_release(answers):
    first, second = RELEASES
    answers.take(*answer("a", topics.CLEARED, first.set_version, 199))  # before the release
    answers.take(*answer("b", topics.CLEARED, first.set_version, 200.5))
    answers.take(*answer("c", topics.CLEARED, second.set_version, 201))
    answers.take(*answer("d", topics.VERDICTS, SECOND.version, 203))
    assert delays(answers, second, first, RELEASES) == {
        "first_cleared_s": 1.0,
        "last_cleared_by_the_former_s": 0.5,
        "first_verdict_s": 3.0,
    }
