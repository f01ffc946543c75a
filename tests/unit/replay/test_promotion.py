"""What promoting a replay writes: decided item by item, and equal to a plain model on any stream of verdicts."""

import random
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import msgspec
import pytest

from safeguard_streams.contract.records import EVERY_POLICY, PrefilterResult, Verdict
from safeguard_streams.replay import pairs as rule
from safeguard_streams.replay.pairs import Pair, passed_on_at, superseding_id
from safeguard_streams.replay.promotion import decide

WHEN = datetime(2026, 1, 1, tzinfo=UTC)
DECISIONS = ("violates", "safe", "undetermined")


class ReplayedVerdict(NamedTuple):
    """A verdict of a replay and its place on moderation.replays."""

    partition: int
    offset: int
    verdict: Verdict


def verdict(name, content, decision, *, minutes=0, live=None, version="new"):
    result = None if live is None else PrefilterResult("label", live=live)
    decided_at = WHEN + timedelta(minutes=minutes)
    return Verdict(
        name, content, "sha", "hate", version, decision, "reasoner", "live", "m", decided_at, prefilter=result
    )


def stream(seed, items=200):
    """Verdicts of a replay, and those on moderation.verdicts: earlier, newer, promoted, reverted, in random order."""
    draw = random.Random(seed)
    replayed, verdicts = [], []
    for number in range(items):
        content = f"c{number}"
        for again in range(draw.choice([1, 1, 1, 2])):
            live = draw.choice([True, False, None])
            after = verdict(f"{content}-r{again}", content, draw.choice(DECISIONS), minutes=10, live=live)
            replayed.append(after)
        history = []
        for place in range(draw.randint(0, 2)):
            minutes = draw.choice([0, 5, 20])
            history.append(verdict(f"{content}-{place}", content, draw.choice(DECISIONS), minutes=minutes))
        for direction in ("promote", "revert")[: draw.choice([0, 0, 1, 2])]:
            name = superseding_id(after, direction)
            history.append(verdict(name, content, after.decision, minutes=30))
        history += [verdict(f"{content}-9", content, "safe", minutes=40)] * draw.choice([0, 0, 1])
        verdicts.append(history)
    draw.shuffle(replayed)
    topic = [history.pop(0) for history in draw.sample(verdicts * 5, 5 * items) if history]
    last = {v.content_id: v for v in replayed}
    assert len(last) == items
    places = [ReplayedVerdict(number % 3, number, v) for number, v in enumerate(replayed)]
    return places, topic


def pair_up(replayed):
    pairs = defaultdict(Pair)
    for partition, _, one in replayed:
        pairs[one.content_id].partition = partition
        pairs[one.content_id].replayed(one, passed_on_at(one))
    return pairs


def planned(replayed, topic, direction):
    pairs = pair_up(replayed)
    for one in topic:
        pairs[one.content_id].add(one, passed_on_at(one))
    return decide(pairs.values(), direction)


EDITS = {
    "cleared": {"policy_id": EVERY_POLICY, "decision": "safe"},
    "judged under another policy": {"policy_id": "spam", "decision": "violates"},
    "judged under the same policy": {"policy_id": "hate", "decision": "safe"},
}


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("direction", ["promote", "revert"])
@pytest.mark.parametrize(
    ("origin", "decided", "edited"),
    [("1@9", 0, True), ("1@3", 99, False), (None, 99, True), (None, 0, False), ("2@9", 99, True)],
)
def test_the_verdict_on_a_text_that_is_gone_is_neither_promoted_nor_reverted(edit, direction, origin, decided, edited):
    """Before, only a verdict under the same policy told of a newer text; an edit that was cleared went unseen."""
    after = msgspec.structs.replace(verdict("r0", "c0", "violates", live=False, minutes=10), origin="1@5")
    other = verdict("e", "c0", "safe", minutes=decided)
    other = msgspec.structs.replace(other, content_sha256="newer", origin=origin, **EDITS[edit])
    replayed = [ReplayedVerdict(0, 0, after)]
    (change,) = planned(replayed, [], "promote").changes
    promoted = [change.promoted] if direction == "revert" else []
    assert len(planned(replayed, [*promoted, other], direction).changes) == (not edited)
    same = msgspec.structs.replace(other, content_sha256=after.content_sha256)
    if edit != "judged under the same policy":
        assert len(planned(replayed, [*promoted, same], direction).changes) == 1, "the text is the same"


@pytest.mark.parametrize("text", ["sha", "newer"])
def test_a_time_without_an_offset_is_utc(text):
    """Before, one such verdict on an item of the replay ended a promotion with a traceback."""
    replayed = [ReplayedVerdict(0, 0, verdict("r0", "c0", "violates", live=False, minutes=10))]
    for minutes, changes in ((9, 1), (11, 0)):
        other = verdict("e", "c0", "safe", minutes=minutes)
        naive = msgspec.structs.replace(other, decided_at=other.decided_at.replace(tzinfo=None), content_sha256=text)
        assert len(planned(replayed, [naive], "promote").changes) == changes


def test_a_preview_counts_the_decisions_that_stand_afterwards():
    """One cleared item became violating, one violating became safe, one undetermined became violating."""
    replayed = [
        ReplayedVerdict(0, 0, verdict("r0", "c0", "violates", live=False)),
        ReplayedVerdict(0, 1, verdict("r1", "c1", "safe", live=True, minutes=10)),
        ReplayedVerdict(0, 2, verdict("r2", "c2", "violates", live=True, minutes=10)),
    ]
    before = [verdict("b1", "c1", "violates"), verdict("b2", "c2", "undetermined")]
    promoting = planned(replayed, before, "promote")
    assert [promoting.count(decision) for decision in DECISIONS] == [2, 1, 0]
    promoted = [change.result("promote") for change in promoting.changes]
    reverting = planned(replayed, [*before, *promoted], "revert")
    assert [reverting.count(decision) for decision in DECISIONS] == [1, 1, 1], "as before the promotion"
    restored = {change.after.content_id: change.result("revert").decision for change in reverting.changes}
    assert restored == {"c0": "safe", "c1": "violates", "c2": "undetermined"}


def model(replayed, topic, direction):
    """The same by looking at everything for each item."""
    changes, compared = [], 0
    for partition, offset, after in sorted(replayed, key=lambda one: one[:2]):
        later = [one for one in replayed if one.verdict.content_id == after.content_id and one.offset > offset]
        if later:
            continue
        history = [v for v in topic if v.content_id == after.content_id]
        names = [v.verdict_id for v in history]
        promote, revert = (superseding_id(after, way) for way in ("promote", "revert"))
        until = names.index(promote) if promote in names else len(names)
        earlier = [v for v in history[:until] if v.verdict_id != revert]
        before = earlier[-1] if earlier else None
        if direction == "revert":
            compared += promote in names
            chosen = bool(names) and names[-1] == promote
        else:
            lost = before is None and after.prefilter is not None and bool(after.prefilter.live)
            newer = before is not None and before.decided_at > after.decided_at
            compared += not lost and not newer
            was = before.decision if before else "safe"
            differs = after.decision not in ("undetermined", was)
            chosen = differs and not lost and not newer and promote not in names
        if chosen:
            changes.append((before, after, partition))
    return changes, compared


def _by_item(change):
    return change[1].content_id


@pytest.mark.parametrize("direction", ["promote", "revert"])
@pytest.mark.parametrize("seed", range(20))
def test_a_plan_equals_one_made_by_looking_at_everything_for_each_item(seed, direction):
    replayed, topic = stream(seed)
    plan = planned(replayed, topic, direction)
    changes, compared = model(replayed, topic, direction)
    found = [(change.before, change.after, change.partition) for change in plan.changes]
    assert sorted(found, key=_by_item) == sorted(changes, key=_by_item)
    assert plan.compared == compared
    assert changes, "the stream holds something to write"
    assert plan.count("violates") + plan.count("safe") + plan.count("undetermined") == len(changes)


@pytest.mark.parametrize("items", [50, 500])
def test_its_cost_is_linear_in_the_replay(items, monkeypatch):
    """Each verdict is added once, to its own item, and costs at most two ids."""
    calls = Counter()

    def counting(name, function):
        def call(*arguments):
            calls[name] += 1
            return function(*arguments)

        return call

    replayed, topic = stream(7, items)
    monkeypatch.setattr(rule, "superseding_id", counting("ids", rule.superseding_id))
    monkeypatch.setattr(Pair, "add", counting("added", Pair.add))
    outcome = Pair.outcome.fget
    monkeypatch.setattr(Pair, "outcome", property(counting("decided", outcome)))
    planned(replayed, topic, "promote")
    assert calls["ids"] <= 2 * len(topic)
    assert calls["added"] == len(topic)
    assert calls["decided"] == items


def test_a_pair_keeps_its_size_whatever_is_judged_again():
    """Deciding about an item looks at nothing else, whatever the size of the replay."""
    (pair,) = pair_up([ReplayedVerdict(0, 0, verdict("r", "c", "violates", live=True))]).values()
    sizes = set()
    for number in range(100):
        one = (
            on("edit", number, verdict(f"v{number}", "c", "safe")) if number % 2 else verdict(f"v{number}", "c", "safe")
        )
        pair.add(one, passed_on_at(one))
        if number > 1:
            sizes.add((len(pair._last), len(pair._texts)))
    assert sizes == {(2, 1)}
    assert pair._texts["sha"].before.verdict_id == "v98"


def on(text, offset, one):
    """The verdict, on a text whose event stands at an offset of content.events."""
    return msgspec.structs.replace(one, content_sha256=text, origin=f"0@{offset}")


def test_of_an_edited_item_the_newest_text_counts_whatever_was_judged_first():
    replayed = [
        ReplayedVerdict(0, 0, on("edit", 5, verdict("r5", "c", "safe", minutes=10))),
        ReplayedVerdict(0, 1, on("first", 2, verdict("r2", "c", "violates", minutes=11))),
    ]
    plan = planned(replayed, [on("edit", 5, verdict("v5", "c", "violates"))], "promote")
    assert [change.promoted.origin for change in plan.changes] == ["0@5"]


def test_a_reversion_restores_the_text_that_was_promoted_and_no_earlier_one():
    """The edit was cleared; the verdict before it is about the text before it."""
    replayed = [ReplayedVerdict(0, 0, on("edit", 5, verdict("r5", "c", "violates", minutes=10, live=False)))]
    before = on("first", 2, verdict("v2", "c", "violates"))
    promoting = planned(replayed, [before], "promote")
    assert [change.promoted.decision for change in promoting.changes] == ["violates"]
    topic = [before, promoting.changes[0].promoted, on("first", 2, verdict("late", "c", "safe", minutes=5))]
    (change,) = planned(replayed, topic, "revert").changes
    assert (change.reverted.decision, change.reverted.origin) == ("safe", "0@5")


@pytest.mark.parametrize("origin", ["0@9", None])
def test_an_item_that_was_edited_since_is_left_as_it_is(origin):
    replayed = [ReplayedVerdict(0, 0, on("first", 2, verdict("r2", "c", "violates", minutes=10)))]
    judged = on("edit", 9, verdict("v9", "c", "safe", minutes=5 if origin else 20))
    assert not planned(replayed, [msgspec.structs.replace(judged, origin=origin)], "promote").changes
