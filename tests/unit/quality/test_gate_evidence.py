"""What advice rests on: labels of all versions that judge alike, in bounded memory, and what was unseen."""

import asyncio
from datetime import UTC, datetime, timedelta

import msgspec
import numpy as np
import pytest

from safeguard_streams.contract import topics
from safeguard_streams.contract.records import (
    ContentEvent,
    ErasureRequest,
    Escalation,
    PolicyChange,
    PolicyRelease,
    PrefilterResult,
    Tokens,
    Verdict,
    content_sha256,
    encode,
)
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.policies.files import load_library, with_changes
from safeguard_streams.policies.parsing import parse
from safeguard_streams.quality import gate_evidence
from safeguard_streams.quality.gate_evidence import VerdictStore, state_of
from safeguard_streams.quality.verdict_labels import from_verdicts
from safeguard_streams.releases.operator import ReleaseHistory
from safeguard_streams.runtime.memory_broker import StoredRecord
from safeguard_streams.runtime.settings import Settings

WHEN = datetime(2026, 1, 1, tzinfo=UTC)
SPAM = load_library()["fraud-spam"]
CAUGHT = PrefilterResult("label", "fraud_spam", 0.9, 0.2, fingerprint="f")
DRAWN = PrefilterResult("audit", "fraud_spam", 0.05, 0.2, 0.1, "far", fingerprint="f")


def verdict(content_id, decision="safe", result=CAUGHT, version="1", minutes=0, **more):
    digest = content_sha256(f"text of {content_id}")
    at = WHEN + timedelta(minutes=minutes)
    lane = more.pop("lane", "audit" if result.gate == "audit" else "live")
    return Verdict(
        f"v{content_id}",
        content_id,
        digest,
        SPAM.id,
        version,
        decision,
        "reasoner",
        lane,
        "m",
        at,
        prefilter=result,
        **more,
    )


def release(policy, revision=1, days=0, shadow=None):
    return PolicyRelease(
        policy.id,
        policy.version,
        revision,
        policy.document,
        WHEN + timedelta(days=days),
        "ann",
        distilled=policy.distilled_file,
        shadow=shadow,
    )


def history(*releases):
    changes = [PolicyChange("release", one.policy_id, one.released_at, "ann", "", one) for one in releases]
    return ReleaseHistory(changes, {releases[-1].policy_id: releases[-1]}, {})


def changed(**gate):
    return parse(with_changes(SPAM.document, "gate", **gate))


def test_versions_that_differ_in_their_gate_judge_alike():
    earlier, now = changed(threshold=0.5), changed(threshold=0.3)
    other_text = parse(SPAM.document.replace("effort: low", "effort: high", 1))
    assert other_text.version != SPAM.version
    state = state_of(history(release(other_text), release(earlier, 2), release(now, 3)), SPAM.id)
    assert state.judged_alike == {earlier.version, now.version}
    assert state.unseen_from is None


def test_an_earlier_release_that_no_longer_parses_is_no_label_and_no_error():
    broken = msgspec.structs.replace(release(SPAM), document="---\n---\n", version="broken")
    assert state_of(history(broken, release(SPAM, 2)), SPAM.id).judged_alike == {SPAM.version}


def test_all_that_was_judged_before_a_classifier_was_first_released_may_have_trained_it():
    plain = release(SPAM)
    first, again = (
        msgspec.structs.replace(release(SPAM, number, days=number, shadow=shadow), distilled="{}")
        for number, shadow in ((2, 0.1), (5, None))
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gate_evidence, "parse", lambda *_: SPAM)
        assert state_of(history(plain, first, again), SPAM.id).unseen_from == WHEN + timedelta(days=2)
        assert state_of(history(first, again, plain), SPAM.id).unseen_from is None


def test_labels_are_those_of_from_verdicts_where_all_fit():
    verdicts = [verdict(f"c{n}", "violates" if n % 3 == 0 else "safe", DRAWN if n % 2 else CAUGHT) for n in range(60)]
    verdicts += [
        verdict("c3", "safe", minutes=5),
        verdict("c6", "undetermined", minutes=5),
        verdict("old", version="0"),
    ]
    store = VerdictStore([SPAM.id])
    for one in verdicts:
        store.take(one)
    found, expected = (
        sorted((row.content_id, row.violates, row.weight) for row in labels.rows)
        for labels in (store.labels(SPAM.id, {"1"}, one_gate=True), from_verdicts(verdicts, SPAM.id, {"1"}))
    )
    assert found == expected
    assert len(store.labels(SPAM.id, {"0", "1"}, one_gate=False).rows) == len(expected) + 1


@pytest.mark.parametrize(
    "other",
    [
        {"stage": "prefilter"},
        {"lane": "canary"},
        {"lane": "shadow"},
        {"policy_id": "another"},
    ],
)
def test_other_verdicts_are_not_kept(other):
    store = VerdictStore([SPAM.id])
    store.take(msgspec.structs.replace(verdict("c"), **other))
    assert store.labels(SPAM.id, {"1"}, one_gate=False).rows == []
    assert store.usage(SPAM.id, "1").judged == 0


def test_many_verdicts_are_kept_in_part_and_stand_for_all():
    draw = np.random.default_rng(0)
    store, size, violating = VerdictStore([SPAM.id], kept=500), 20_000, 0
    for number in range(size):
        harmful = bool(draw.random() < 0.2)
        violating += harmful
        store.take(verdict(f"c{number}", "violates" if harmful else "safe", minutes=number))
        assert len(store._kept[SPAM.id][False].verdicts) <= 500
    rows = store.labels(SPAM.id, {"1"}, one_gate=True).rows
    assert 200 < len(rows) <= 500
    assert sum(row.weight for row in rows) == pytest.approx(size, rel=0.15)
    assert sum(row.weight for row in rows if row.violates) == pytest.approx(violating, rel=0.3)
    assert store.usage(SPAM.id, "1").judged == size


def test_drawn_items_are_kept_although_there_are_many_caught_ones():
    store = VerdictStore([SPAM.id], kept=100)
    for number in range(3000):
        store.take(verdict(f"c{number}", result=DRAWN if number % 50 == 0 else CAUGHT))
    rows = [row for row in store.labels(SPAM.id, {"1"}, one_gate=True).rows if row.drawn]
    assert len(rows) == 60
    assert {row.weight for row in rows} == {10.0}


def test_an_item_that_is_edited_all_the_time_displaces_no_other():
    store = VerdictStore([SPAM.id], kept=100)
    for number in range(80):
        store.take(verdict(f"c{number}"))
    for number in range(200):  # with place 7e-6 of all ids: one that a producer has searched for
        store.take(msgspec.structs.replace(verdict("x115569"), content_sha256=content_sha256(f"edit {number}")))
    rows = store.labels(SPAM.id, {"1"}, one_gate=True).rows
    assert len({row.content_id for row in rows}) > 10
    assert sum(row.weight for row in rows) == pytest.approx(280, rel=0.3)


def test_the_rows_to_learn_from_stand_for_those_left_out():
    store = VerdictStore([SPAM.id])
    for number in range(900):
        store.take(verdict(f"c{number}", result=DRAWN if number % 3 == 0 else CAUGHT))
    rows = gate_evidence._fewer(store.labels(SPAM.id, {"1"}, one_gate=False).rows, limit=100)
    assert [sum(row.drawn is drawn for row in rows) for drawn in (False, True)] == [100, 100]
    assert sum(row.weight for row in rows) == pytest.approx(600 + 300 * 10)


def test_usage_counts_what_judgements_took():
    store = VerdictStore([SPAM.id])
    took = {"tokens": Tokens(100, 0, 200), "latency": {"reasoner": 3000.0}}
    store.take(verdict("a", minutes=60, **took))
    store.take(verdict("b", **took))
    store.take(verdict("c", minutes=30, replay_id="r", **took))  # promoted: not live traffic
    usage = store.usage(SPAM.id, "1")
    assert (usage.judged, usage.completion_tokens, usage.seconds, usage.span) == (
        2,
        400,
        6.0,
        3600.0,
    )


@pytest.fixture
def topic(monkeypatch):
    """Records by topic without a broker."""
    records = {topics.VERDICTS: [], topics.ESCALATIONS: [], topics.ERASURES: []}
    reads = []

    async def read_decoded(_settings, names, _kind, **_):
        reads.append(names)
        for name in names:
            for number, one in enumerate(records.get(name, ())):
                yield StoredRecord(name, 0, number, 1_767_225_600_000, None, b""), one

    async def up(*_, **__):
        pass

    async def read(erasures, _settings):
        for one in records[topics.ERASURES]:
            erasures.take(StoredRecord(topics.ERASURES, 0, 0, 0, b"", encode(one)))

    async def released(_settings):
        return history(release(SPAM))

    monkeypatch.setattr(gate_evidence.kafka, "read_decoded", read_decoded)
    monkeypatch.setattr(gate_evidence.kafka, "wait_for_broker", up)
    monkeypatch.setattr(gate_evidence.ErasureList, "read", read)
    monkeypatch.setattr(gate_evidence.operator, "history", released)
    records["reads"] = reads
    return records


def test_each_topic_is_read_once_and_texts_of_erased_items_are_left_out(topic):
    event = ContentEvent
    for name in ("c1", "c2", "c3"):
        topic[topics.VERDICTS].append(verdict(name, version=SPAM.version))
    for name in ("c1", "c2"):
        topic[topics.ESCALATIONS].append(
            Escalation(event(name, f"text of {name}", WHEN), SPAM.id, SPAM.version, 1, CAUGHT, "live", WHEN)
        )
    topic[topics.ERASURES].append(ErasureRequest("c1", WHEN + timedelta(days=1), "ann"))
    read = asyncio.run(gate_evidence.read(Settings()))
    assert topic["reads"] == [[topics.VERDICTS], [topics.ESCALATIONS, topics.ESCALATIONS_AUDIT]]
    evidence = read.policies[SPAM.id]
    assert len(evidence.live.rows) == len(evidence.labels.rows) == 3
    assert [row.text for row in evidence.learned] == ["text of c2"]


def test_a_policy_that_is_not_in_force_is_refused_with_those_that_are(topic):
    with pytest.raises(ConfigurationError, match="fraud-spm is not in force; did you mean fraud-spam"):
        asyncio.run(gate_evidence.read(Settings(), ["fraud-spm"]))


def test_a_release_that_no_longer_parses_is_named_and_hides_no_other(topic, monkeypatch):
    broken = PolicyRelease("broken", "v", 1, "---\n---\n", WHEN, "ann")

    async def released(_settings):
        whole = history(release(SPAM))
        return msgspec.structs.replace(whole, in_force={**whole.in_force, "broken": broken})

    monkeypatch.setattr(gate_evidence.operator, "history", released)
    read = asyncio.run(gate_evidence.read(Settings()))
    assert set(read.policies) == {SPAM.id}
    assert "no longer parses" in read.unread["broken"]


def judged_under(topic, monkeypatch, *policies):
    """Three items judged under each of these policies, which were released in this order."""
    for policy in policies:
        for number in range(3):
            name = f"{policy.version}-{number}"
            event = ContentEvent(name, f"text of {name}", WHEN)
            topic[topics.VERDICTS].append(verdict(name, version=policy.version))
            topic[topics.ESCALATIONS].append(Escalation(event, SPAM.id, policy.version, 1, CAUGHT, "live", WHEN))

    async def released(_settings):
        return history(*(release(policy, number) for number, policy in enumerate(policies, 1)))

    monkeypatch.setattr(gate_evidence.operator, "history", released)


def test_labels_from_before_a_gate_changed_still_teach_and_those_of_another_text_do_not(topic, monkeypatch):
    other_text = parse(SPAM.document.replace("effort: low", "effort: high", 1))
    earlier, now = changed(threshold=0.5), changed(threshold=0.3)
    judged_under(topic, monkeypatch, other_text, earlier, now)
    for at_hand in (now, changed(threshold=0.4)):
        labels = asyncio.run(gate_evidence.labels_to_learn_from(Settings(), at_hand))
        assert {row.content_id.split("-")[0] for row in labels.rows} == {earlier.version, now.version}
        assert labels.left_out == "3 under other versions"
    with pytest.raises(ConfigurationError, match="all 9 verdicts are under versions that judge by another text"):
        asyncio.run(gate_evidence.labels_to_learn_from(Settings(), parse(SPAM.document + "\nMore words.\n")))


def test_without_a_verdict_there_is_nothing_to_learn_from_and_no_error(topic, monkeypatch):
    judged_under(topic, monkeypatch, SPAM)
    topic[topics.VERDICTS].clear()
    assert not asyncio.run(gate_evidence.labels_to_learn_from(Settings(), SPAM)).rows
