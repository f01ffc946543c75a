"""What a replay changes: DuckDB's join against the same join computed record by record."""

import contextlib
import random
from collections import Counter
from datetime import UTC, datetime, timedelta

import duckdb
import msgspec
import pytest

from safeguard_streams.contract.records import (
    ContentEvent,
    Escalation,
    PrefilterResult,
    Replay,
    Replayed,
    Tokens,
    Verdict,
    content_sha256,
)
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.replay import diff, diff_tables, jobs
from safeguard_streams.replay.status import ReplayCounts, ReplayStatus

WHEN = datetime(2026, 1, 1, tzinfo=UTC)
POLICY = Replayed("hate", "new", "document", before_version="old", before_document="document")
JOB = Replay("r1", (POLICY,), {"0": 0, "1": 5}, {"0": 600, "1": 405}, "escalated", WHEN, "test")
STATUS = ReplayStatus(JOB, JOB.total, items=950, unreadable=50, counts=ReplayCounts(0, 0, 0))
DECISIONS = ("violates", "safe", "undetermined")


TEXT = "a text that is nobody's business"


def escalation(content, *, version="new", gate="label", live=True, language="en", text=TEXT, origin=None):
    event = ContentEvent(content, text, WHEN, language=language, surface="chat")
    result = PrefilterResult(gate, live=live)
    return Escalation(event, "hate", version, 0, result, "replay", WHEN, replay_id="r1", origin=origin)


REPLAYED_LATER = 100  # seconds: a replay's verdicts are newer than the earlier ones


def verdict(content, decision, *, version="new", later=0, rules=(), lane="replay", text=TEXT, gate="label", live=True):
    return Verdict(
        f"{content}-{version}-{lane}-{later}",
        content,
        content_sha256(text),
        "hate",
        version,
        decision,
        "reasoner",
        lane,
        "m",
        WHEN + timedelta(seconds=later + (REPLAYED_LATER if lane == "replay" else 0)),
        rules,
        score=0.5,
        reason=f"{decision} by {version}",
        tokens=Tokens(100, 60, 10),
        latency={"reasoner": 500.0},
        prefilter=PrefilterResult(gate, live=live),
        replay_id="r1" if lane == "replay" else None,
    )


@contextlib.contextmanager
def joined(policy, escalated, replayed, earlier):
    with diff_tables.tables() as loaded:
        for one in escalated:
            loaded.escalated(one)
        for one in replayed:
            loaded.replayed(one)
        for one in earlier:
            loaded.judged(one)
        yield loaded.join(policy)


def stream(seed):
    """Escalations, the replay's verdicts, earlier verdicts: some late, duplicated or missing, in random order."""
    draw = random.Random(seed)
    escalated, replayed, earlier = [], [], []
    for number in range(300):
        content = f"c{number}"
        live = draw.random() < 0.7
        gate = "live" if live and draw.random() < 0.3 else "label"
        language = draw.choice(["en", "de", None])
        escalated.append(escalation(content, gate=gate, live=live, language=language))
        rules = tuple(draw.sample(["H1", "H2", "H3"], draw.randint(1, 2)))
        if draw.random() < 0.95:
            replayed.append(verdict(content, draw.choice(DECISIONS), rules=rules, gate=gate, live=live))
        if draw.random() < 0.05:
            replayed.append(verdict(content, draw.choice(DECISIONS), rules=rules, later=5, gate=gate, live=live))
        if live and draw.random() < 0.9:
            version = draw.choice(["old", "older"])
            earlier.append(verdict(content, draw.choice(DECISIONS), version=version, rules=rules, lane="live"))
            if draw.random() < 0.2:
                earlier.append(
                    verdict(content, draw.choice(DECISIONS), version="old", rules=rules, lane="live", later=9)
                )
        if live and draw.random() < 0.2:
            escalated.append(escalation(content, version="old"))
            replayed.append(verdict(content, draw.choice(DECISIONS), version="old"))
    for records in (escalated, replayed, earlier):
        draw.shuffle(records)
    return escalated, replayed, earlier


def last(verdicts, *versions):
    """The last verdict on each item, in the order of the topic."""
    result = {}
    for v in verdicts:
        if not versions or v.policy_version in versions:
            result[v.content_id] = v
    return result


@pytest.mark.parametrize("chunk", [7, diff_tables.CHUNK])
@pytest.mark.parametrize("seed", range(5))
def test_the_join_equals_one_computed_record_by_record(seed, chunk, monkeypatch):
    monkeypatch.setattr(diff_tables, "CHUNK", chunk)
    escalated, replayed, earlier = stream(seed)
    with joined(POLICY, escalated, replayed, earlier) as db:
        result = diff.count(db, STATUS, POLICY, [])
        pairs = {row[0]: row[1:] for row in db.execute("SELECT content_id, before, after FROM pairs").fetchall()}

    new, before, again = last(replayed, "new"), last(earlier), last(replayed, "old")
    expected, decisions, languages, rules = {}, Counter(), Counter(), Counter()
    for e in escalated:
        if e.policy_version != "new" or (content := e.event.content_id) not in new:
            continue
        was = "cleared" if not e.prefilter.live else before[content].decision if content in before else "unknown"
        now = "cleared" if e.prefilter.gate == "live" else new[content].decision
        expected[content] = (was, now)
        decisions[was, now] += 1
        judged, stood = new[content].decision, "safe" if was == "cleared" else was
        flip = {"violates": "v", "safe": "s"}.get(judged, "") if judged != stood else ""
        if was != "unknown":
            languages[e.event.language or "", flip] += 1
            cited = set(new[content].rule_ids) | (set(before[content].rule_ids) if e.prefilter.live else set())
            rules.update((rule, flip) for rule in cited)
    assert pairs == expected
    assert {(b, a): n for b, row in result.decisions.items() for a, n in row.items()} == decisions
    known = [pair for pair in expected.values() if pair[0] != "unknown"]
    assert (result.compared, result.unknown) == (len(known), len(expected) - len(known))
    assert result.escalated == sum(e.policy_version == "new" for e in escalated)
    assert result.waiting == result.escalated - len(expected)
    assert result.undetermined == sum(
        new[content].decision == "undetermined" and was not in ("undetermined", "unknown")
        for content, (was, _) in expected.items()
    )
    assert result.to_violates.count == sum(n for (_, flip), n in languages.items() if flip == "v")
    assert result.to_safe.count == sum(n for (_, flip), n in languages.items() if flip == "s")
    for name, side in result.languages.items():
        assert (side.to_violates, side.to_safe) == (languages[name, "v"], languages[name, "s"])
        assert side.compared == sum(languages[name, flip] for flip in ("v", "s", ""))
    for name, side in result.rules.items():
        assert (side.to_violates, side.to_safe) == (rules[name, "v"], rules[name, "s"])
    decided = ("violates", "safe")
    both = [
        c
        for c, (was, now) in expected.items()
        if c in again and was in decided and now != "cleared" and before[c].policy_version == "old"
        if again[c].decision in decided
    ]
    differ = sum(again[c].decision != before[c].decision for c in both)
    assert (result.noise.count, result.noise.of) == (differ, len(both))
    exposed = sum(was in decided and now in decided for was, now in expected.values())
    assert result.noise.value == pytest.approx(differ / len(both) * exposed / result.compared, abs=2e-4)
    assert (result.events, result.unreadable) == (950, 50), "dead letters are no content"
    violating = sum(was == "violates" for was, _ in known)
    assert result.violating_before.of == 950
    assert result.violating_before.value == pytest.approx(violating / 950, abs=1e-4)
    assert result.tokens == Tokens(100 * len(replayed), 60 * len(replayed), 10 * len(replayed))
    assert result.seconds == pytest.approx(0.5 * len(replayed), abs=0.1)


def test_an_edited_text_is_compared_with_verdicts_on_the_same_text():
    edited = msgspec.structs.replace(verdict("a", "violates", version="old", later=-9, lane="live"), content_sha256="b")
    earlier = [verdict("a", "safe", version="old", lane="live"), edited]
    with joined(POLICY, [escalation("a")], [verdict("a", "safe")], earlier) as db:
        assert diff.count(db, STATUS, POLICY, []).decisions == {"safe": {"safe": 1}}


@pytest.mark.parametrize("newest_first", [True, False])
@pytest.mark.parametrize("origins", [("1@9", "1@30"), (None, None)])
def test_an_item_that_was_edited_within_the_range_counts_by_its_newest_text(origins, newest_first):
    """Before, the gates of one text met the verdict on another, whichever row came first."""
    first = escalation("a", live=True, origin=origins[0])
    edited = escalation("a", live=False, text="edited", origin=origins[1])
    if origins[1] is None:  # of an earlier version: the time of the escalation tells
        edited = msgspec.structs.replace(edited, escalated_at=WHEN + timedelta(seconds=1))
    escalated = [first, edited]
    judged = [verdict("a", "violates", text="edited", later=1, live=False), verdict("a", "safe", later=9)]
    if newest_first:
        escalated.reverse()
    earlier = [verdict("a", "violates", version="old", lane="live")]
    with joined(POLICY, escalated, judged, earlier) as db:
        found = diff.count(db, STATUS, POLICY, [])
    assert found.decisions == {"cleared": {"violates": 1}}
    assert (found.escalated, found.waiting) == (1, 0)
    with joined(POLICY, escalated, judged[1:], earlier) as db:
        found = diff.count(db, STATUS, POLICY, [])
    assert (found.escalated, found.waiting, found.decisions) == (1, 1, {})


def test_a_replay_without_verdicts_or_without_a_version_before_has_a_diff():
    with joined(POLICY, [escalation("a")], [], []) as db:
        result = diff.count(db, STATUS, POLICY, [])
    assert (result.escalated, result.waiting, result.compared, result.to_safe.value) == (1, 1, 0, None)
    new = Replayed("hate", "new", "document")
    with joined(new, [escalation("a", live=False)], [verdict("a", "violates", live=False)], []) as db:
        result = diff.count(db, STATUS, new, [])
    assert result.decisions == {"cleared": {"violates": 1}}
    assert result.to_violates.count == 1


def test_the_joined_rows_hold_no_text(tmp_path):
    with joined(POLICY, *stream(1)) as db:
        db.table("pairs").write_parquet(str(tmp_path / "pairs.parquet"))
    whole = duckdb.sql(f"SELECT * FROM '{tmp_path / 'pairs.parquet'}'").fetchall()
    assert len(whole) > 200
    assert not any("nobody's business" in str(row) for row in whole)


def test_one_of_several_policies_must_be_named():
    several = Replay("r2", (POLICY, Replayed("spam", "1", "d")), {}, {}, "escalated", WHEN, "test")
    assert jobs.policy_of(several, "spam").policy_id == "spam"
    assert jobs.policy_of(JOB, None) is POLICY
    with pytest.raises(ConfigurationError, match="--policy: hate, spam"):
        jobs.policy_of(several, None)
    with pytest.raises(ConfigurationError, match="has no policy 'hat'; it has: hate, spam"):
        jobs.policy_of(several, "hat")
