"""Records become rows: each once, in any order of topics, whatever they hold."""

import random
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from safeguard_streams.console import native, schema
from safeguard_streams.console.store import Moved, Store
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import ErasureRequest, Strike, encode
from tests import projected
from tests.projected import BEGAN, at, record


@pytest.fixture
def store(engine):
    opened = Store(engine, text_days=10_000)
    opened.open()
    return opened


def rows(store, table, *columns):
    with store.engine.connect() as connection:
        chosen = [table.c[name] for name in columns] or [table]
        return [tuple(row) for row in connection.execute(sa.select(*chosen).order_by(*table.primary_key))]


def apply(store, topic, *values, start=0, **options):
    store.apply([record(topic, value, offset=start + number, **options) for number, value in enumerate(values)])


def interleaved(logs, chance):
    """The records of all partitions in one order, which keeps the order in each."""
    waiting = {place: list(log) for place, log in logs.items()}
    while waiting:
        place = chance.choice(sorted(waiting))
        yield waiting[place].pop(0)
        if not waiting[place]:
            del waiting[place]


def project(store, records, chance):
    records = list(records)
    while records:
        size = chance.randint(1, 60)
        store.apply(records[:size])
        records = records[size:]


def test_rows_are_the_same_in_whatever_order_topics_are_read(address, tmp_path, engine):
    logs = projected.deployment()
    found = []
    for seed in range(3):
        store = Store(engine, text_days=10_000)
        store.open()
        store.clear()
        with engine.begin() as connection:
            connection.execute(sa.delete(schema.erasures))
        store.open()
        chance = random.Random(seed)
        project(store, interleaved(logs, chance), chance)
        found.append(projected.dump(engine))
    assert all(found[0].values()), [name for name, table in found[0].items() if not table]
    for name in found[0]:
        assert found[0][name] == found[1][name] == found[2][name], name


def test_a_record_that_is_read_again_counts_once(store):
    judged = projected.verdict(1)
    apply(store, topics.VERDICTS, judged, judged)
    apply(store, topics.VERDICTS, judged, start=2)
    assert rows(store, schema.verdict_counts, "policy_id", "decision", "lane", "count") == [
        ("hate", "violates", "live", 1)
    ]
    assert len(rows(store, schema.verdicts)) == len(rows(store, schema.verdict_rules)) == 1


def test_a_verdict_or_an_action_changes_no_row_of_an_item(store):
    """The words of an item make its row costly to change, and most records are verdicts."""
    apply(store, topics.VERDICTS, projected.verdict(1))
    apply(store, topics.ACTIONS, projected.action(1))
    assert rows(store, schema.items) == []


@pytest.mark.parametrize("address", ["postgresql"], indirect=True)
def test_only_what_is_projected_is_committed_late(store):
    """What the pages write exists nowhere else."""
    with store.engine.begin() as connection:
        native.commit_late(connection)
        assert connection.scalar(sa.text("SHOW synchronous_commit")) == "off"
    with store.engine.begin() as connection:
        assert connection.scalar(sa.text("SHOW synchronous_commit")) == "on"


def test_of_two_projectors_one_stands_by(store):
    other = Store(store.engine)
    other.open()
    apply(store, topics.CLEARED, projected.verdict(1, policy_id="*"))
    with pytest.raises(Moved):
        apply(other, topics.CLEARED, projected.verdict(1, policy_id="*"))
    other.open()
    apply(other, topics.CLEARED, projected.verdict(2, policy_id="*"), start=1)
    with pytest.raises(Moved):
        apply(store, topics.CLEARED, projected.verdict(2, policy_id="*"), start=1)
    assert rows(store, schema.cleared_counts, "count") == [(2,)]


def test_while_a_refused_record_is_looked_for_another_process_may_move_the_positions(store, monkeypatch):
    other, commit = Store(store.engine), store._commit
    other.open()
    cleared = [projected.verdict(number, policy_id="*") for number in range(6)]

    def refused_once(records):
        monkeypatch.setattr(store, "_commit", commit)
        apply(other, topics.CLEARED, *cleared)
        raise OverflowError

    monkeypatch.setattr(store, "_commit", refused_once)
    with pytest.raises(Moved):
        apply(store, topics.CLEARED, *cleared[:2])
    assert sum(count for (count,) in rows(store, schema.cleared_counts, "count")) == 6
    assert rows(store, schema.positions, "offset") == [(6,)]


def test_foreign_records_are_skipped_and_counted(store, caplog):
    foreign = [b"secret words", b"[]", b'{"verdict_id": 1}', encode(ErasureRequest("c", BEGAN, "x")), b"\xff\xfe", None]
    apply(store, topics.VERDICTS, *foreign, projected.verdict(1))
    assert [one for (one,) in rows(store, schema.verdicts, "verdict_id")] == ["v1"]
    assert rows(store, schema.positions, "offset", "skipped") == [(7, 6)]
    assert store.skipped == {topics.VERDICTS: 6}
    assert "secret" not in caplog.text
    assert "offset=0" in caplog.text


def test_a_record_that_the_database_refuses_is_skipped_alone(store, caplog):
    before, after = projected.verdict(1), projected.verdict(3, "c3")
    apply(store, topics.VERDICTS, before, projected.verdict(2, "secret", malformed=2**63), after)
    assert [one for (one,) in rows(store, schema.verdicts, "verdict_id")] == ["v1", "v3"]
    assert rows(store, schema.positions, "offset", "skipped") == [(3, 1)]
    assert "secret" not in caplog.text


def test_hostile_values_are_stored(store):
    words = " ".join(f"word{number}" for number in range(120_000))  # more than a megabyte
    hostile = f"\0<b>\u202e\x1b[31m\ud83d\ude00 {words}"
    hostile = hostile.encode("utf-16", "surrogatepass").decode("utf-16")
    apply(store, topics.ESCALATIONS, projected.escalation(1, "c\0\u202e", hostile))
    text, context = rows(store, schema.items, "text", "attributes")[0]
    assert text == hostile.replace("\0", "\ufffd")
    assert [one for (one,) in rows(store, schema.items, "content_id")] == ["c\ufffd\u202e"]
    early = projected.verdict(2, "c2", decided_at=datetime(1, 1, 1, tzinfo=UTC), reason="\0", latency={"a\0": 1.0})
    value = encode(early).replace(b"0001-01-01T00:00:00Z", b"0001-01-01T00:00:00+14:00")
    apply(store, topics.VERDICTS, value, encode(projected.verdict(3)).replace(b"0.75", b"1e400"))
    stored = rows(store, schema.verdicts, "verdict_id", "reason", "latency", "decided_at", "score")
    assert stored[0] == ("v2", "\ufffd", {"a\ufffd": 1.0}, datetime(1, 1, 1, tzinfo=UTC), 0.75)
    assert found(store, "word5") == ["c\ufffd\u202e"]


def found(store, words):
    with store.engine.connect() as connection:
        condition = native.matches(store.engine.dialect.name, words)
        return connection.scalars(sa.select(schema.items.c.content_id).where(condition)).all()


def test_words_are_found(store):
    apply(
        store, topics.ESCALATIONS, projected.escalation(1, "c1", "the Quick brown fox"), projected.escalation(2, "c2")
    )
    assert found(store, "quick FOX") == ["c1"]
    assert found(store, '"brown fox"') == ["c1"]
    assert found(store, '"fox brown"') == []
    assert found(store, "wombat") == ["c2"]
    assert found(store, 'a AND ( " * NEAR') == []
    apply(store, topics.ESCALATIONS, projected.escalation(3, "c1", "another text"), start=2)
    assert found(store, "quick") == []
    assert found(store, "another") == ["c1"]


def test_the_newest_text_stays_whatever_comes_late(store):
    newer, older = projected.escalation(5, text="new"), projected.escalation(3, text="old")
    apply(store, topics.ESCALATIONS, newer)
    apply(store, topics.ESCALATIONS_REPLAY, older)
    assert rows(store, schema.items, "text", "text_at") == [("new", at(5))]


def test_a_decision_closes_what_waits_and_its_withdrawal_opens_it_again(store):
    waiting = [projected.in_review(), projected.in_review("spam", "undetermined")]
    apply(store, topics.STANDING, projected.standing(policies=waiting))
    opened = rows(store, schema.review_items, "policy_id", "cause", "state", "since")
    assert opened == [("hate", "rule", "open", at(5)), ("spam", "undetermined", "open", at(5))]
    with store.engine.begin() as connection:
        connection.execute(sa.update(schema.review_items).values(claimed_by="kim"))
    decision = projected.standing(policies=waiting, decision=projected.decided(), effective="allow")
    apply(store, topics.STANDING, decision, start=1)
    assert {state for (state,) in rows(store, schema.review_items, "state")} == {"decided"}
    apply(store, topics.STANDING, projected.standing(policies=waiting[:1]), start=2)
    assert rows(store, schema.review_items, "state", "claimed_by") == [("open", "kim"), ("decided", "kim")]
    apply(store, topics.STANDING, None, start=3, key=b"c1")
    assert {state for (state,) in rows(store, schema.review_items, "state")} == {"decided"}
    assert rows(store, schema.items, "effective", "held") == [("allow", 0)]


@pytest.mark.parametrize("first", [topics.STANDING, topics.REPORTS])
def test_a_reported_item_is_more_urgent_than_others_with_the_same_at_stake(store, first):
    logs = {
        topics.STANDING: [projected.standing(name, [projected.in_review()]) for name in ("c1", "c2", "c3", "c4")],
        topics.REPORTS: [
            *(projected.report(number, "c2") for number in range(3)),
            projected.report(9, "c3", "trusted_flagger"),
            projected.report(9, "c3", "trusted_flagger"),
            projected.report(8, "c4", "authority", reason=""),
        ],
    }
    for topic in sorted(logs, key=lambda topic: topic != first):
        apply(store, topic, *logs[topic])
    before = dict(rows(store, schema.review_items, "content_id", "priority"))
    assert sorted(before, key=before.get, reverse=True) == ["c4", "c3", "c2", "c1"]
    assert max(before.values()) < min(before.values()) + 1, "what is at stake counts first"
    apply(store, topics.STANDING, *logs[topics.STANDING], start=4)
    assert dict(rows(store, schema.review_items, "content_id", "priority")) == before
    assert rows(store, schema.reports, "report_id", "reason")[-2:] == [("r9", "calls me a wombat"), ("r8", None)]


@pytest.mark.parametrize("first", [topics.STANDING, topics.REPORTS])
def test_the_severer_violation_is_more_urgent_among_those_of_the_same_action_and_reports(store, first):
    graded = {"c1": None, "c2": "low", "c3": "medium", "c4": "high", "c5": "critical", "c6": "low", "c7": "high"}
    graded |= {"c8": "critical", "c9": "low"}
    logs = {
        topics.STANDING: [projected.standing(name, [projected.in_review(grade=one)]) for name, one in graded.items()],
        topics.REPORTS: [
            *(projected.report(number, f"c{number}") for number in (6, 7)),
            *(projected.report(number, "c8") for number in range(20, 29)),
            projected.report(9, "c9", "trusted_flagger"),
        ],
    }
    for topic in sorted(logs, key=lambda topic: topic != first):
        apply(store, topic, *logs[topic])
    found = dict(rows(store, schema.review_items, "content_id", "priority"))
    assert sorted(found, key=found.get, reverse=True) == ["c9", "c8", "c7", "c6", "c5", "c4", "c3", "c2", "c1"]
    assert max(found.values()) < min(found.values()) + 1, "what is at stake counts first"


def test_a_report_that_is_none_is_skipped(store):
    apply(store, topics.REPORTS, b"{}", projected.verdict(1), None, projected.report(1))
    assert [one for (one,) in rows(store, schema.reports, "report_id")] == ["r1"]
    assert store.skipped == {topics.REPORTS: 3}


def test_an_action_that_the_agent_followed_replaces_what_its_moderator_wrote(store):
    written = projected.action(1, policy_id=None, by="kim", sequence=None)
    followed = projected.action(1, policy_id=None, by="kim", sequence=4)
    apply(store, topics.ACTIONS, written)
    apply(store, topics.ACTIONS, followed, written, start=1)
    assert rows(store, schema.actions, "action_id", "sequence", "by") == [("a1", 4, "kim")]


def test_cleared_items_are_counted_by_minute(store):
    apply(store, topics.CLEARED, *(projected.verdict(number, policy_id="*", decision="safe") for number in (1, 59, 61)))
    assert rows(store, schema.cleared_counts, "minute", "count") == [(BEGAN, 2), (BEGAN + timedelta(minutes=1), 1)]


def test_a_log_that_was_cut_is_counted_again_from_where_it_begins(store):
    def cleared(number):
        return projected.verdict(number, policy_id="*")

    apply(store, topics.CLEARED, cleared(0), cleared(60), cleared(61), cleared(120))
    store.recount(next(iter(store.positions)))
    apply(store, topics.CLEARED, cleared(60), cleared(61))
    assert [count for (count,) in rows(store, schema.cleared_counts, "count")] == [1, 2]
    assert rows(store, schema.positions, "offset") == [(2,)]


def test_texts_are_removed_when_their_time_is_over_in_small_steps(store, monkeypatch):
    monkeypatch.setattr("safeguard_streams.console.store.PRUNED", 2)
    apply(store, topics.ESCALATIONS, *(projected.escalation(number, f"c{number}") for number in range(5)))
    over = at(2) + timedelta(days=10_000)
    assert [store.tidy(over), store.tidy(over), store.tidy(over)] == [True, False, False]
    kept = rows(store, schema.items, "text", "context", "attributes", "author_id", "language")
    assert [text is None for text, *_ in kept] == [True, True, True, False, False]
    assert kept[0] == (None, None, None, "author-7", "en")
    assert sorted(found(store, "wombat")) == ["c3", "c4"]


def strikes_of(store, *columns):
    return rows(store, schema.strikes, "strike_id", *columns)


def test_a_strike_is_as_its_last_record_says(store):
    given = projected.strike(1)
    apply(store, topics.STRIKES, given)
    assert strikes_of(store, "state", "content_id", "rule_ids", "weight", "ended_at") == [
        ("s1", "given", "c1", ["H1"], 1, None)
    ]
    apply(store, topics.STRIKES, projected.strike(7, state="taken-back", name="s1"), start=1)
    assert strikes_of(store, "state", "at", "expires_at", "verdict_id", "ended_at") == [
        ("s1", "taken-back", at(1), given.expires_at, "v1", at(7))
    ]
    apply(store, topics.STRIKES, given, start=2)
    assert strikes_of(store, "state", "ended_at") == [("s1", "given", None)]


def test_a_strike_that_was_forgiven_stays_forgiven(store):
    forgiven = projected.strike(5, state="forgiven", name="s1")
    apply(store, topics.STRIKES, projected.strike(1), forgiven, projected.strike(8))
    apply(store, topics.STRIKES, projected.strike(1), start=3)
    kept = strikes_of(store, "state", "ended_at", "by", "why", "content_id")
    assert kept[0] == ("s1", "forgiven", at(5), "kim", "not wombat", "c1")


def test_a_strike_of_which_the_topic_holds_the_end_alone_has_a_row(store):
    apply(store, topics.STRIKES, projected.strike(5, state="forgiven", name="s1"))
    assert strikes_of(store, "state", "policy_id", "expires_at") == [("s1", "forgiven", None, None)]


@pytest.mark.parametrize("first", [topics.STRIKES, topics.AUTHOR_ACTIONS])
def test_what_is_known_of_an_author_ends_and_what_comes_later_stays(store, first):
    logs = {
        topics.STRIKES: [
            projected.strike(1),
            projected.strike(2, "other"),
            projected.strike(3, state="decided", action="limit"),
            projected.strike(9, state="forgotten"),
            projected.strike(12),
        ],
        topics.AUTHOR_ACTIONS: [
            projected.author_action(1),
            projected.author_action(2, "other"),
            projected.author_action(10, name="none", sequence=3, by="kim"),  # it follows the record at offset 3
            projected.author_action(12),
        ],
    }
    for topic in sorted(logs, key=lambda topic: topic != first):
        apply(store, topic, *logs[topic])
    assert [one for (one,) in strikes_of(store)] == ["s12", "s2"]
    assert rows(store, schema.author_decisions) == []
    assert [one for (one,) in rows(store, schema.author_actions, "action_id")] == ["aa-author-7-12", "aa-other-2"]


def test_what_is_forgotten_stays_so_in_another_process(store):
    apply(store, topics.STRIKES, projected.strike(9, state="forgotten"))
    again = Store(store.engine)
    again.open()
    apply(again, topics.AUTHOR_ACTIONS, projected.author_action(1))
    assert rows(store, schema.author_actions) == []


def test_what_stands_on_an_author_is_replaced_and_ends(store):
    stands = projected.author_standing(strikes=[projected.strike(1)], action="review")
    apply(store, topics.AUTHOR_STANDING, stands)
    assert rows(store, schema.author_standings, "author_id", "action", "rule", "weight", "decision") == [
        ("author-7", "review", "first", 1, None)
    ]
    kept = rows(store, schema.author_standings, "strikes")[0][0]
    assert [(one["strike_id"], one["weight"], "content_id" in one) for one in kept] == [("s1", 1, False)]
    decided = projected.author_standing(decision=projected.author_decided("limit"), action="limit", decided=("s9",))
    apply(store, topics.AUTHOR_STANDING, decided, start=1)
    assert rows(store, schema.author_standings, "action", "decision", "decided_by", "followed") == [
        ("limit", "limit", "kim", ["s9"])
    ]
    apply(store, topics.AUTHOR_STANDING, None, start=2, key=b"author-7")
    assert rows(store, schema.author_standings) == []


def test_records_about_authors_that_are_none_are_skipped(store):
    lacks_time, lacks_action = projected.strike(1, expires_at=None), projected.strike(1, state="decided")
    apply(store, topics.STRIKES, lacks_time, lacks_action, None, b"{}", projected.strike(2))
    apply(store, topics.AUTHOR_ACTIONS, None, b"[]")
    apply(store, topics.AUTHOR_STANDING, b"{}")
    assert [one for (one,) in strikes_of(store)] == ["s2"]
    assert store.skipped == {topics.STRIKES: 4, topics.AUTHOR_ACTIONS: 2, topics.AUTHOR_STANDING: 1}


def test_half_an_emoji_loses_no_decision_about_an_author(store):
    written = encode(Strike("d", "ann", "decided", at(1), action="limit", by="kim", why="WHY"))
    apply(store, topics.STRIKES, written.replace(b"WHY", b"\\ud83d"))
    assert rows(store, schema.author_decisions, "action", "why") == [("limit", "\ufffd")]


def test_what_an_author_got_is_kept_with_the_action(store):
    lifted = projected.author_action(2, name="none", previous="limit", ends_statement="st1")
    apply(store, topics.AUTHOR_ACTIONS, projected.author_action(1, name="limit"), lifted)
    assert rows(store, schema.author_actions, "action", "statement", "ends_statement") == [
        ("limit", "Your account: limit.\nIt says why.", None),
        ("none", None, "st1"),
    ]


def test_hostile_values_about_authors_are_stored(store):
    hostile = "a\0<b>\u202e"
    apply(store, topics.STRIKES, projected.strike(1, hostile, rule=hostile, content_id=hostile))
    apply(store, topics.AUTHOR_STANDING, projected.author_standing(hostile, [projected.strike(1, hostile)], "warn"))
    apply(store, topics.AUTHOR_ACTIONS, projected.author_action(1, hostile, why=hostile))
    assert strikes_of(store, "author_id", "content_id") == [("s1", "a\ufffd<b>\u202e", "a\ufffd<b>\u202e")]
    apply(store, topics.STRIKES, projected.strike(2, hostile, "forgotten"), start=1)
    apply(store, topics.AUTHOR_STANDING, None, start=1, key=hostile.encode())
    for table in (schema.strikes, schema.author_standings, schema.author_actions):
        assert rows(store, table) == []


@pytest.mark.parametrize("first", [topics.STRIKES, topics.ERASURES])
def test_an_erased_item_has_no_author_that_strikes_name(store, first):
    logs = {
        topics.STRIKES: [projected.strike(1), projected.strike(2, content_id="c2"), projected.strike(20, name="s20")],
        topics.AUTHOR_ACTIONS: [projected.author_action(1)],
        topics.ERASURES: [ErasureRequest("c1", at(9), "kim")],
    }
    for topic in sorted(logs, key=lambda topic: topic != first):
        apply(store, topic, *logs[topic])
    assert strikes_of(store, "content_id", "verdict_id", "weight") == [
        ("s1", None, None, 1),
        ("s2", "c2", "v2", 1),
        ("s20", "c1", "v20", 1),
    ]
    assert rows(store, schema.author_actions, "action", "content_id", "verdict_id") == [("warn", None, None)]
