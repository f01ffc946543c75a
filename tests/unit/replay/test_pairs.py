"""What a replay shows is what its promotion writes, on any history of edits; which text of an item is the newest."""

import itertools
import random
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from safeguard_streams.contract.records import (
    EVERY_POLICY,
    ContentEvent,
    Escalation,
    PrefilterResult,
    Replay,
    Replayed,
    Tokens,
    Verdict,
    aware,
    content_sha256,
)
from safeguard_streams.releases.erasures import is_about_erased
from safeguard_streams.replay import diff, diff_tables
from safeguard_streams.replay.pairs import COMPARED, FLIPS, Pair, passed_on_at
from safeguard_streams.replay.promotion import changing, decide
from safeguard_streams.replay.status import ReplayCounts, ReplayStatus

WHEN = datetime(2026, 1, 1, tzinfo=UTC)
FAR = datetime(2100, 1, 1, tzinfo=UTC)
DECISIONS = ("violates", "safe", "undetermined")
POLICY = Replayed("hate", "new", "document", before_version="old", before_document="document")
JOB = Replay("r1", (POLICY,), {"0": 0}, {"0": 100}, "escalated", WHEN, "test")
STATUS = ReplayStatus(JOB, JOB.total, items=0, unreadable=0, counts=ReplayCounts(0, 0, 0))
REPLAYED_AT = 1000  # seconds


def verdict(content, text, decision, seconds, *, place=None, policy="hate", replay=None, live=True, took=0.0):
    """A verdict whose event was passed on `took` seconds before."""
    return Verdict(
        f"{content}-{text}-{place}-{policy}-{replay}-{seconds}",
        content,
        content_sha256(text),
        policy,
        "old" if replay is None else "new",
        decision,
        "reasoner",
        "live" if replay is None else "replay",
        "m",
        WHEN + timedelta(seconds=seconds),
        prefilter=PrefilterResult("label", live=live),
        latency={"queue": 5e6, "reasoner": 1000 * took},
        replay_id=replay,
        origin=place,
    )


def escalation(content, text, seconds, *, place=None, live=True):
    event = ContentEvent(content, text, WHEN)
    moment = WHEN + timedelta(seconds=seconds)
    return Escalation(
        event, "hate", "new", 0, PrefilterResult("label", live=live), "replay", moment, replay_id="r1", origin=place
    )


def of_new(records):
    """The records of the new version, which alone decide what a replay changes."""
    return [one for one in records if one.policy_version == POLICY.version]


class History:
    """What the topics hold about a replay and its items."""

    def __init__(self, escalated=(), replayed=(), judged=(), erased=()):
        self.escalated, self.replayed, self.judged = list(escalated), list(replayed), list(judged)
        self.erased = set(erased)

    def is_erased(self, content, _):
        return content in self.erased

    @classmethod
    def drawn(cls, seed, items=200):
        """Texts that return, partitions that change, places unknown, equal times, late and repeated records.

        Some items are erased, some were judged again by the old version alone, and another replay was promoted.
        """
        draw, history = random.Random(seed), cls()
        offsets = itertools.count()
        for number in range(items):
            content, time = f"c{number}", 0
            if draw.random() < 0.1:
                history.erased.add(content)
            for _ in range(draw.randint(1, 4)):
                time += draw.choice([0, 10, 10, 20])
                history._add_event(draw, content, draw.choice("ABC"), time, f"{draw.choice([0, 0, 1])}@{next(offsets)}")
        for records in (history.escalated, history.replayed, history.judged):
            records.extend(draw.sample(records, len(records) // 10))
        draw.shuffle(history.judged)
        draw.shuffle(history.replayed)
        return history

    def _add_event(self, draw, content, text, time, place):
        live = draw.random() < 0.7
        place = draw.choice([place] * 9 + [None])
        if draw.random() < 0.9:
            late = draw.choice([1, 2, 40, REPLAYED_AT + 500])
            decided = draw.choice([time + late] * 15 + [1e9 * 5])  # the last one is a clock that is far ahead
            policy = draw.choice(["hate", "hate", "spam", EVERY_POLICY])
            decision = "safe" if policy == EVERY_POLICY else draw.choice(DECISIONS)
            judged = verdict(content, text, decision, decided, place=place, policy=policy, took=late - 1)
            self.judged.append(judged)
            if draw.random() < 0.2:
                decided = draw.choice([time + 50, REPLAYED_AT + 600])
                self.judged.append(verdict(content, text, draw.choice(DECISIONS), decided, place=place, replay="r2"))
        if draw.random() < 0.7:
            self.escalated.append(escalation(content, text, REPLAYED_AT, place=place, live=live))
        if draw.random() < 0.7:
            at = REPLAYED_AT + draw.choice([0, 1])
            decision = draw.choice(DECISIONS)
            self.replayed.append(verdict(content, text, decision, at, place=place, replay="r1", live=live))
        if draw.random() < 0.2:
            again = verdict(content, text, draw.choice(DECISIONS), REPLAYED_AT, place=place, replay="r1", live=live)
            self.replayed.append(msgspec.structs.replace(again, policy_version="old"))
            known = escalation(content, text, REPLAYED_AT, place=place, live=live)
            self.escalated.append(msgspec.structs.replace(known, policy_version="old"))

    def plan(self, direction="promote"):
        pairs = defaultdict(Pair)
        for one in of_new(self.escalated):
            pair = pairs[one.event.content_id]
            pair.escalated(content_sha256(one.event.text), one.origin, aware(one.escalated_at).timestamp())
        for one in of_new(self.replayed):
            erased = is_about_erased(one, self.is_erased)
            pairs[one.content_id].partition = len(one.content_id)
            pairs[one.content_id].replayed(one, passed_on_at(one), erased=erased)
        for one in self.judged:
            if one.content_id in pairs:
                pairs[one.content_id].add(one, passed_on_at(one))
        return decide(pairs.values(), direction)

    def plan_on_disk(self, direction):
        """The plan that a promotion makes, which reads the records into tables."""
        with diff_tables.tables(whole=True) as loaded:
            for one in of_new(self.escalated):
                loaded.escalated(one)
            for one in of_new(self.replayed):
                loaded.replayed(one, self.is_erased, partition=len(one.content_id))
            for one in self.judged:
                loaded.judged(one)
            return changing(loaded, POLICY, direction)

    def diff(self):
        """The diff, and each of its flips with the verdicts before and after."""
        with diff_tables.tables() as loaded:
            for one in self.escalated:
                loaded.escalated(one)
            for one in self.replayed:
                loaded.replayed(one, self.is_erased)
            for one in self.judged:
                loaded.judged(one, self.is_erased)
            db = loaded.join(POLICY)
            query = "SELECT content_id, verdict_before, verdict_after FROM pairs WHERE flip IS NOT NULL"
            flips = set(db.execute(query).fetchall())
            return diff.count(db, STATUS, POLICY, []), flips


def newest_text(history, content):
    """The hash of an item's newest text, by looking at all events."""
    seen = [
        *((content_sha256(one.event.text), one.origin, one.escalated_at) for one in of_new(history.escalated)
          if one.event.content_id == content),
        *((one.content_sha256, one.origin, one.decided_at - timedelta(milliseconds=one.latency["reasoner"]))
          for one in (*of_new(history.replayed), *history.judged) if one.content_id == content),
    ]  # fmt: skip
    times = defaultdict(list)
    for text, origin, at in seen:
        partition, offset = map(int, origin.split("@")) if origin else (text, 0)
        times[partition, offset, text].append(at if at < FAR else None)
    events = [(part, offset, text, min(filter(None, at), default=None)) for (part, offset, text), at in times.items()]
    last = [one for one in events if not any(two[0] == one[0] and two[1] > one[1] for two in events)]
    return max(last, key=lambda one: (one[3] or datetime.min.replace(tzinfo=UTC), one[2]))[2]


@pytest.mark.parametrize("seed", range(12))
def test_the_flips_of_a_diff_are_what_its_promotion_writes(seed):
    """Before, the diff ordered texts by offsets of different partitions, and knew nothing of what a plan leaves out."""
    history = History.drawn(seed)
    plan, (found, flips) = history.plan(), history.diff()
    written = {
        (c.after.content_id, c.before.verdict_id if c.before else None, c.after.verdict_id) for c in plan.changes
    }
    assert flips == written
    assert written, "the history holds something to write"
    assert (found.to_violates.count, found.to_safe.count) == (plan.count("violates"), plan.count("safe"))
    named = ("waiting", "unknown", "erased", "edited", "judged_since", "undetermined")
    assert {name: getattr(found, name) for name in named} == {name: plan.outcomes[name] for name in named}
    assert found.compared == plan.compared == sum(plan.outcomes[one] for one in COMPARED)
    assert found.escalated == sum(plan.outcomes.values())
    assert all(plan.outcomes[one] for one in (*FLIPS, "waiting", "unknown", "erased", "edited", "judged_since", "same"))
    for change in plan.changes:
        assert change.after.content_sha256 == newest_text(history, change.after.content_id)


@pytest.mark.parametrize("seed", range(3))
def test_a_diff_stays_the_same_after_its_promotion_and_reversion(seed):
    """Before, a promoted replay showed that it changes nothing."""
    history = History.drawn(seed)
    before = history.diff()
    for direction in ("promote", "revert"):
        changes = history.plan(direction).changes
        assert changes
        history.judged += [change.result(direction) for change in changes]
        assert history.diff() == before
        assert not history.plan(direction).changes, "nothing is written twice"


@pytest.mark.parametrize("chunk", [7, diff_tables.CHUNK])
@pytest.mark.parametrize("seed", range(3))
def test_a_plan_from_tables_is_the_same_to_the_last_field_and_holds_only_what_changes(seed, chunk, monkeypatch):
    """Before, memory held each item of the replay with both verdicts, some 4 KB for each."""
    monkeypatch.setattr(diff_tables, "CHUNK", chunk)
    history = History.drawn(seed)
    for direction in ("promote", "revert"):
        plan, on_disk = history.plan(direction), history.plan_on_disk(direction)
        assert plan.changes
        assert sorted(on_disk.changes, key=_by_item) == sorted(plan.changes, key=_by_item)
        assert (on_disk.compared, on_disk.outcomes) == (plan.compared, plan.outcomes)
        assert on_disk.pairs.keys() == {change.after.content_id for change in plan.changes}
        history.judged += [change.result(direction) for change in plan.changes]


def _by_item(change):
    return change.after.content_id


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_reading_partitions_does_not_matter(seed):
    history = History.drawn(seed)
    for one in history.replayed:  # of one text, the last verdict counts
        history.replayed = [two for two in history.replayed if two.content_sha256 != one.content_sha256 or two is one or
                            two.content_id != one.content_id]  # fmt: skip
    history.judged = [one for one in history.judged if one.policy_id != "hate"]
    outcomes = history.plan().outcomes
    for records in (history.escalated, history.replayed, history.judged):
        records.reverse()
    assert history.plan().outcomes == outcomes


@pytest.mark.parametrize("offsets", [("0@90", "1@4"), ("1@4", "0@90")])
def test_an_edit_in_another_partition_is_ordered_by_time_in_both(offsets):
    """Before, the diff took the text at the greater offset, and the promotion the one that was judged last."""
    first, edit = offsets
    history = History(
        escalated=[escalation("c", "first", 1000, place=first), escalation("c", "edit", 1000, place=edit)],
        replayed=[
            verdict("c", "edit", "violates", 1001, place=edit, replay="r1"),
            verdict("c", "first", "undetermined", 1002, place=first, replay="r1"),
        ],
        # The first text took long to judge: its verdict came after that on the edit.
        judged=[verdict("c", "edit", "safe", 20, place=edit), verdict("c", "first", "safe", 60, place=first, took=59)],
    )
    (change,) = history.plan().changes
    found, flips = history.diff()
    assert (change.after.origin, found.to_violates.count, len(flips)) == (edit, 1, 1)


def test_a_text_that_returns_is_promoted():
    """Before, the text in between barred the item for good, although its author took it back."""
    history = History(
        replayed=[verdict("c", "A", "violates", 1001, place="0@1", replay="r1")],
        judged=[
            verdict("c", "A", "safe", 1, place="0@1"),
            verdict("c", "B", "safe", 2000, place="0@2", policy=EVERY_POLICY),
        ],
    )
    assert (history.plan().changes, history.plan().outcomes) == ([], Counter(edited=1))
    history.judged.append(verdict("c", "A", "safe", 3000, place="0@3", policy=EVERY_POLICY))
    assert [change.after.decision for change in history.plan().changes] == ["violates"]
    assert history.diff()[0].to_violates.count == 1


@pytest.mark.parametrize("text", ["A", "B"])
def test_a_verdict_of_a_clock_that_is_far_ahead_bars_no_item(text):
    """Before, such a verdict counted as newer than any replay of the next centuries."""
    history = History(
        replayed=[verdict("c", "A", "violates", 1001, place="0@2", replay="r1", live=False)],
        judged=[verdict("c", text, "safe", 1e9 * 5, place="0@2" if text == "A" else "1@1")],
    )
    assert len(history.plan().changes) == 1
    assert history.diff()[0].to_violates.count == 1
    later = msgspec.structs.replace(history.judged[0], decided_at=WHEN + timedelta(seconds=2000))
    history.judged.append(later)
    assert not history.plan().changes, "a verdict that can be newer bars it"


def test_an_older_text_is_not_promoted_while_the_newest_waits():
    """Before, the promotion took the newest text that was judged, and the diff the newest that was escalated."""
    history = History(
        escalated=[escalation("c", "A", 1000, place="0@1"), escalation("c", "B", 1000, place="0@2")],
        replayed=[verdict("c", "A", "violates", 1001, place="0@1", replay="r1")],
        judged=[verdict("c", "A", "safe", 1, place="0@1")],
    )
    assert (history.plan().changes, history.diff()[0].waiting) == ([], 1)


@pytest.mark.parametrize("decided", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_a_time_at_the_ends_of_the_calendar_ends_no_diff(decided):
    """Before, a diff failed as long as the topics held one such verdict, whatever its policy."""
    odd = msgspec.structs.replace(
        verdict("c", "A", "safe", 1, place="0@1"),
        decided_at=datetime.fromisoformat(decided),
        tokens=Tokens(2**64 - 1, 0, 2**63),  # as much as a record may hold
    )
    history = History(replayed=[verdict("c", "A", "violates", 1001, place="0@1", replay="r1")], judged=[odd])
    assert len(history.plan().changes) == len(history.diff()[1]) == 1


def test_verdicts_on_other_items_are_not_loaded():
    """Before, each part of them was compared with all items of the replay, which took hours for a large one."""
    with diff_tables.tables() as loaded:
        for number in range(0, 300, 3):
            loaded.escalated(escalation(f"c{number}", "A", 1000))
            loaded.replayed(verdict(f"c{number + 1}", "A", "safe", 1001, replay="r1"))
        for number in range(300):
            loaded.judged(verdict(f"c{number}", "A", "safe", 1))
        db = loaded.join(POLICY)
        assert db.execute("SELECT count(*) FROM judged").fetchall() == [(200,)]


def test_an_item_with_the_hash_of_another_one_changes_nothing(monkeypatch):
    history = History.drawn(1)
    history.judged += [verdict(f"other {number}", "A", "violates", 1) for number in range(9)]
    before = history.diff()
    monkeypatch.setattr(diff_tables._Items, "__contains__", lambda *_: True)
    assert history.diff() == before


def test_an_erased_item_is_named_and_not_written():
    pair, one = Pair(), verdict("c", "A", "violates", 1001, place="0@1", replay="r1", live=False)
    pair.replayed(one, passed_on_at(one), erased=True)
    assert (pair.outcome, decide([pair], "promote").changes) == ("erased", [])
    with diff_tables.tables() as loaded:
        loaded.escalated(escalation("c", "A", 1000, place="0@1", live=False))
        loaded.replayed(one, lambda content_id, written: content_id == "c")
        found = diff.count(loaded.join(POLICY), STATUS, POLICY, [])
    assert (found.erased, found.compared) == (1, 0)
