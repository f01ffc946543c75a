"""The ledger: what stands on an author after any strikes, decisions and time equals an offline count."""

import asyncio
import contextlib
from collections import defaultdict
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from safeguard_streams.authors import clock, recount
from safeguard_streams.authors.ledger import Place, follow, undo_id
from safeguard_streams.authors.state import AuthorsState, check_partitions
from safeguard_streams.authors.statements import AccountStatements
from safeguard_streams.authors.transform import Ledger
from safeguard_streams.contract import limits, topics
from safeguard_streams.contract.records import AuthorAction, AuthorStanding, StatementOfReasons, Strike, decode, encode
from safeguard_streams.enforcement.author_rules import ACCOUNT_RESTRICTIONS, AuthorRules, StrikeRule, Threshold
from safeguard_streams.enforcement.policy_words import KnownPolicies
from safeguard_streams.enforcement.rules import EnforcementRules
from safeguard_streams.errors import ConfigurationError, RecordError
from safeguard_streams.runtime.memory_broker import StoredRecord
from safeguard_streams.runtime.settings import load

START = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
RULES = AuthorRules(
    strike=(StrikeRule("any"),),
    threshold=(
        Threshold(name="first", action="warn", weight=1),
        Threshold(name="third", action="limit", weight=3),
        Threshold(name="two spams in a week", action="review", weight=2, within="7d", policies=("spam",)),
        Threshold(name="fifth", action="suspend", weight=5),
    ),
)


def strike(name, day=0, *, author="ann", weight=1, policy="hate", lasts=90, state="given", **more):
    at = START + day * DAY
    expires_at = at + lasts * DAY if state == "given" else None
    return Strike(
        name,
        author,
        state,
        at,
        policy_id=policy,
        weight=weight,
        expires_at=expires_at,
        content_id=f"item {name}",
        **more,
    )


def back(name, day=0, author="ann"):
    return Strike(name, author, "taken-back", START + day * DAY)


def aged(day, author="ann"):
    return Strike(f"aged {day}", author, "aged", START + day * DAY)


class NothingReleased(KnownPolicies):
    """The policies of a platform that released none."""

    async def fetch(self, settings, wanted):
        """Nothing to find."""


class Partition:
    """The ledger of one partition on a log in memory. Everything is lost in a takeover but what the topics hold."""

    def __init__(self, rules=RULES):
        self.rules, self.log, self.standings, self.actions, self.statements = rules, [], {}, [], []
        self.position = 0
        stating = AccountStatements(load(), EnforcementRules(authors=rules), NothingReleased())
        self.ledger = Ledger(rules, None, stating)
        self.ledger.states[0] = AuthorsState(1)

    def __call__(self, *entries, batch=500):
        self.log += [
            StoredRecord(topics.STRIKES, 0, len(self.log) + n, 0, b"", encode(e)) for n, e in enumerate(entries)
        ]
        while self.position < len(self.log):
            records = self.log[self.position : self.position + batch]
            self.commit(asyncio.run(self.ledger.process(records)))
            self.position += len(records)
        return self.actions

    def commit(self, outputs):
        for one in outputs:
            if one.topic == topics.AUTHOR_ACTIONS:
                self.actions.append(decode(one.value, AuthorAction))
            elif one.topic == topics.STATEMENTS:
                self.statements.append(decode(one.value, StatementOfReasons))
            else:
                self.standings[one.key] = one.value

    def take_over(self):
        state = self.ledger.states[0] = AuthorsState(1)
        state._records = {key.decode(): value for key, value in self.standings.items() if value is not None}
        state._look_through()

    def tick(self, moment):
        """Let the clock run up to a moment, as it does second by second."""
        while due := clock.due(self.ledger.states, moment):
            self(*(entry for _, entry in due))

    def __getitem__(self, author):
        value = self.standings.get(author.encode())
        return AuthorStanding(author, 1) if value is None else decode(value, AuthorStanding)

    def done(self, author="ann"):
        return [(one.previous, one.action) for one in self.actions if one.author_id == author]


def test_strikes_add_up_and_each_threshold_that_is_passed_is_an_action():
    run = Partition()
    run(strike("a"), strike("b", 1), strike("c", 2), strike("d", 3, weight=2))
    assert run.done() == [("none", "warn"), ("warn", "limit"), ("limit", "suspend")]
    last = run.actions[-1]
    assert (last.rule, last.weight, last.sequence, last.strike_id, last.content_id) == ("fifth", 5, 3, "d", "item d")
    assert len({one.action_id for one in run.actions}) == 3
    assert [one.sequence for one in run.actions] == sorted(one.sequence for one in run.actions)


def test_what_is_taken_back_falls_below_the_threshold_and_its_action_ends():
    run = Partition()
    run(strike("a", weight=3), back("a", 1))
    assert run.done() == [("none", "limit"), ("limit", "none")]
    assert (run["ann"].action, run["ann"].weight) == ("none", 0)
    run(strike("a", 2, weight=3))
    assert run.done()[-1] == ("none", "limit"), "as when a promoted replay is reverted"


def test_what_is_written_twice_counts_once():
    run = Partition()
    run(strike("a"), strike("a"), strike("a", 1), back("a", 2), back("a", 2))
    assert run["ann"].weight == 0
    assert len(run["ann"].strikes) == 1


def test_a_strike_that_is_given_again_keeps_its_age():
    run = Partition()
    run(strike("a", 0), back("a", 10), strike("a", 20))
    (kept,) = run["ann"].strikes
    assert (kept.at, kept.expires_at) == (START, START + 90 * DAY)


def test_a_higher_threshold_of_the_same_action_is_an_action_and_falling_below_it_is_none():
    rules = AuthorRules(
        threshold=(
            Threshold(name="first", action="warn", weight=1),
            Threshold(name="second", action="warn", weight=2),
        )
    )
    run = Partition(rules)
    run(strike("a"), strike("b", 1), back("b", 2))
    assert [(one.action, one.rule) for one in run.actions] == [("warn", "first"), ("warn", "second")]
    assert run["ann"].rule == "first"


def test_strikes_expire_although_nobody_writes():
    run = Partition()
    run(strike("a", 0, lasts=10), strike("b", 5, lasts=10, weight=3))
    run.take_over()
    run.tick(START + 9 * DAY)
    assert run["ann"].action == "limit"
    run.tick(START + 15 * DAY)
    assert run["ann"] == AuthorStanding("ann", 1)
    assert run.standings[b"ann"] is None, "an author with nothing takes no memory"
    assert run.done() == [("none", "warn"), ("warn", "limit"), ("limit", "none")]


def test_what_leaves_a_window_no_longer_counts_in_it():
    run = Partition()
    run(strike("a", 0, policy="spam"), strike("b", 6, policy="spam"))
    assert run["ann"].action == "review"
    run.tick(START + 6.9 * DAY)
    assert run["ann"].action == "review"
    run.tick(START + 7 * DAY)
    assert (run["ann"].action, run["ann"].weight) == ("warn", 2)


def test_the_clock_writes_the_same_record_again_after_a_crash_and_that_changes_nothing():
    run = Partition()
    run(strike("a", 0, lasts=10, weight=3))
    before_crash = [entry for _, entry in clock.due(run.ledger.states, START + 11 * DAY)]
    run.take_over()  # the record is on its way
    again = [entry for _, entry in clock.due(run.ledger.states, START + 12 * DAY)]
    assert before_crash == again
    run(*before_crash, *again)
    assert run.done() == [("none", "limit"), ("limit", "none")]


def test_a_person_whose_clock_is_wrong_lets_no_strike_expire():
    run = Partition()
    run(strike("a"), Strike("d", "ann", "decided", START.replace(year=2999), action="warn"))
    assert run["ann"].weight == 1


def test_a_decision_stands_whatever_strikes_come_and_is_followed_once():
    run = Partition()
    decided = Strike("d1", "ann", "decided", START, action="none", by="ben", why="known satire")
    run(strike("a", weight=5), decided, strike("b", 1))
    assert run.done() == [("none", "suspend"), ("suspend", "none")]
    assert (run.actions[-1].by, run.actions[-1].why, run.actions[-1].rule) == ("ben", "known satire", None)
    end = Strike("u1", "ann", "undecided", START, by="ben")
    run(end, decided, end)
    assert run.done()[2:] == [("none", "suspend")], "the decision that is written again is known"
    assert run["ann"].decision is None


def test_the_end_of_a_decision_that_another_one_replaced_ends_no_other():
    run = Partition()
    first, second = (
        Strike(name, "ann", "decided", START, action=what) for name, what in (("d1", "warn"), ("d2", "suspend"))
    )
    end = Strike(undo_id("ann", "d1"), "ann", "undecided", START, by="ben")
    run(first, second, end)
    assert (run["ann"].decision.decision_id, run["ann"].action) == ("d2", "suspend")
    run(Strike(undo_id("ann", "d2"), "ann", "undecided", START, by="ben"), end)
    assert (run["ann"].decision, run["ann"].action) == (None, "none")
    run(Strike("d3", "ann", "decided", START, action="limit"), Strike("by hand", "ann", "undecided", START))
    assert run["ann"].decision is None, "a record that names no decision ends the one that stands"


def test_a_forgiven_strike_stays_forgiven_though_its_verdict_is_confirmed():
    run = Partition()
    forgiven = Strike("a", "ann", "forgiven", START, by="ben", why="first time")
    run(strike("a"), forgiven, strike("a", 1), back("a", 2), strike("a", 3), forgiven)
    (kept,) = run["ann"].strikes
    assert (kept.state, kept.by, kept.why) == ("forgiven", "ben", "first time")
    assert run.done() == [("none", "warn"), ("warn", "none")]


def test_of_a_forgotten_author_nothing_is_left_and_the_action_ends():
    run = Partition()
    run(strike("a", weight=5), Strike("d", "ann", "decided", START, action="limit"))
    run(Strike("f", "ann", "forgotten", START, by="ben"))
    assert run.standings[b"ann"] is None
    assert run.done()[-1] == ("limit", "none")


def test_the_strikes_that_are_kept_are_bounded_and_the_newest_count():
    run = Partition()
    run(*(strike(f"s{n}", n / 1000) for n in range(limits.AUTHOR_STRIKES + 10)))
    assert run["ann"].weight == limits.AUTHOR_STRIKES
    assert run["ann"].strikes[0].strike_id == "s10"


def test_a_batch_writes_one_standing_for_each_author():
    run = Partition()
    run.log += [
        StoredRecord(topics.STRIKES, 0, n, 0, b"", encode(strike(f"s{n}", author=f"a{n % 3}"))) for n in range(30)
    ]
    outputs = asyncio.run(run.ledger.process(run.log))
    assert sum(one.topic == topics.AUTHOR_STANDING for one in outputs) == 3


@pytest.mark.parametrize(
    "entry",
    [
        msgspec.structs.replace(strike("b"), expires_at=None),
        Strike("d", "ann", "decided", START),
        msgspec.structs.replace(strike("b"), at=datetime.max.replace(tzinfo=UTC)),
        Strike("clock", "ann", "aged", datetime(9999, 1, 1, tzinfo=UTC)),
    ],
)
def test_a_broken_record_fails_the_batch_before_any_strike_counts(entry):
    run = Partition()
    with pytest.raises(RecordError):
        run(strike("a"), entry)
    assert run.ledger.states[0]["ann"] == AuthorStanding("ann", 1)


def test_half_an_emoji_loses_no_decision_of_a_person():
    run = Partition()
    written = encode(Strike("d", "ann", "decided", START, action="limit", by="bob", why="WHY")).replace(
        b"WHY", b"\\ud83d"
    )
    run.log.append(StoredRecord(topics.STRIKES, 0, 0, 0, b"ann", written))
    run()
    assert (run["ann"].action, run["ann"].decision.why) == ("limit", "\ufffd")


def test_a_record_of_another_number_of_partitions_is_refused():
    check_partitions(3, 3)
    with pytest.raises(ConfigurationError, match="authors repartition"):
        check_partitions(3, 4)


def test_reminders_take_no_memory_for_an_author_whose_next_change_stays_the_same():
    run = Partition(AuthorRules())
    for n in range(200):
        run(strike(f"s{n}", n / 100))
    assert len(run.ledger.states[0]._due) == 1


# ---------------------------------------------------------------------- property

authors = st.sampled_from(["ann", "Bert Ö", "作者"])
names = st.sampled_from([f"s{n}" for n in range(6)])
entries = st.lists(
    st.one_of(
        st.tuples(
            st.just("give"), authors, names, st.integers(1, 4), st.sampled_from(["hate", "spam"]), st.integers(1, 40)
        ),
        st.tuples(st.just("back"), authors, names),
        st.tuples(st.just("forgive"), authors, names),
        st.tuples(st.just("decide"), authors, st.sampled_from(["none", "limit", "suspend"])),
        st.tuples(st.just("undecide"), authors),
        st.tuples(st.just("wait"), st.integers(1, 20)),
        st.tuples(st.just("take over")),
        st.tuples(st.just("again")),
    ),
    max_size=40,
)


class Offline:
    """A count over the whole history at one moment, which knows no clock, no batches and no state between records."""

    def __init__(self):
        self.history = []

    def stands(self, author, moment):
        known, decision = {}, None
        for at, kind, name, *more in self.history:
            if name != author:
                continue
            if kind == "decide":
                decision = more[0]
            elif kind == "undecide":
                decision = None
            else:
                self.count(known, at, kind, more)
        alive = [one for one in known.values() if one["state"] == "given" and one["expires"] > moment]
        return sum(one["weight"] for one in alive), decision or self.passed(alive, moment)

    @staticmethod
    def count(known, at, kind, more):
        name, *details = more
        one = known.get(name)
        if one is not None and one["expires"] <= at:
            one = None
            del known[name]
        if kind == "give" and (one is None or one["state"] != "forgiven"):
            weight, policy, days = details
            first = one["at"] if one else at
            known[name] = {
                "at": first, "expires": first + days * DAY, "weight": weight, "policy": policy, "state": "given"
            }  # fmt: skip
            if known[name]["expires"] <= at:
                del known[name]
        elif one is not None and one["state"] != "forgiven" and kind in ("back", "forgive"):
            one["state"] = "taken back" if kind == "back" else "forgiven"

    @staticmethod
    def passed(alive, moment):
        total = sum(one["weight"] for one in alive)
        spam = [one for one in alive if one["policy"] == "spam" and one["at"] > moment - 7 * DAY]
        if total >= 5:
            return "suspend"
        if total >= 3:
            return "limit"
        if sum(one["weight"] for one in spam) >= 2:
            return "review"
        return "warn" if total else "none"


class Script:
    """Writes the same history to the ledger and to the offline count. Time passes between all records."""

    def __init__(self, batch):
        self.run, self.offline, self.moment, self.batch = Partition(), Offline(), START, batch
        self.number = 0

    def __call__(self, kind, *more):
        self.number += 1
        self.moment += timedelta(seconds=1)
        self.run.tick(self.moment)
        getattr(self, kind.replace(" ", "_"))(*more)

    def write(self, entry):
        self.run(entry, batch=self.batch)

    def give(self, author, name, weight, policy, days):
        self.offline.history.append((self.moment, "give", author, name, weight, policy, days))
        until = self.moment + days * DAY
        self.write(Strike(name, author, "given", self.moment, policy_id=policy, weight=weight, expires_at=until))

    def back(self, author, name):
        self.offline.history.append((self.moment, "back", author, name))
        self.write(Strike(name, author, "taken-back", self.moment))

    def forgive(self, author, name):
        self.offline.history.append((self.moment, "forgive", author, name))
        self.write(Strike(name, author, "forgiven", self.moment))

    def decide(self, author, action):
        self.offline.history.append((self.moment, "decide", author, action))
        self.write(Strike(f"d{self.number}", author, "decided", self.moment, action=action))

    def undecide(self, author):
        self.offline.history.append((self.moment, "undecide", author))
        self.write(Strike(f"u{self.number}", author, "undecided", self.moment))

    def wait(self, days):
        self.moment += days * DAY
        self.run.tick(self.moment)

    def take_over(self):
        self.run.take_over()

    def again(self):
        """The clock's last records arrive once more, from an owner that was overtaken."""
        ticks = [record for record in self.run.log if b'"aged"' in record.value][-2:]
        self.run(*(decode(record.value, Strike) for record in ticks), batch=self.batch)

    def check(self):
        self.run.tick(self.moment)
        chain = defaultdict(lambda: "none")
        for action in self.run.actions:
            assert action.previous == chain[action.author_id], "each action says what stood before"
            chain[action.author_id] = action.action
        for author in ("ann", "Bert Ö", "作者"):
            weight, action = self.offline.stands(author, self.moment)
            standing = self.run[author]
            assert (standing.weight, standing.action) == (weight, action), author
            assert chain[author] == action, "the receiver of the actions knows what stands"
            self.check_statements(author, standing)

    def check_statements(self, author, standing):
        """One statement holds if the account is restricted, and none otherwise; the actions tell of each."""
        holding = {}
        for one in (one for one in self.run.statements if one.author_id == author):
            if one.state == "issued":
                assert one.statement_id not in holding
                holding[one.statement_id] = one
            else:
                del holding[one.statement_id]  # each is withdrawn once, after it was issued
        restricted = standing.action in ACCOUNT_RESTRICTIONS
        assert [one.account_action for one in holding.values()] == ([standing.action] if restricted else [])
        assert [standing.statement.statement_id if standing.statement else None] == (list(holding) or [None])
        told = [one for one in self.run.actions if one.author_id == author]
        said = [one for one in self.run.statements if one.author_id == author]
        for state, ids in {
            "issued": [one.statement.statement_id for one in told if one.statement],
            "withdrawn": [one.ends_statement for one in told if one.ends_statement],
        }.items():
            assert ids == [one.statement_id for one in said if one.state == state]


@settings(max_examples=120, deadline=None)
@given(entries, st.integers(1, 3))
def test_what_stands_equals_an_offline_count_of_the_history(history, batch):
    script = Script(batch)
    for one in history:
        script(*one)
    script.check()


@settings(max_examples=50, deadline=None)
@given(entries, st.integers(1, 7))
@example([("give", "ann", "s0", 1, "hate", 1), ("wait", 1), ("undecide", "ann")], 3)
def test_what_stands_is_a_function_of_the_log_however_it_is_read(history, batch):
    script = Script(1)
    for one in history:
        script(*one)
    other = Partition()
    other(*(decode(record.value, Strike) for record in script.run.log), batch=batch)
    without = lambda one: msgspec.structs.replace(one, acted_at=START)  # noqa: E731
    assert list(map(without, other.actions)) == list(map(without, script.run.actions))
    for author in ("ann", "Bert Ö", "作者"):
        mine, theirs = (msgspec.structs.replace(run[author], since=None) for run in (other, script.run))
        assert mine == theirs


def test_the_pure_step_reads_no_clock_but_for_when_the_action_was_written():
    step = follow(AuthorStanding("ann", 1), strike("a"), RULES, Place(0, 7))
    again = follow(AuthorStanding("ann", 1), strike("a"), RULES, Place(0, 7))
    assert step.action.action_id == again.action.action_id
    assert step.standing.due == START + 90 * DAY


def test_changed_thresholds_count_all_strikes_again_once_the_records_for_it_are_followed():
    run = Partition()
    run(strike("a"), strike("b"), Strike("d", "ben", "decided", START, action="limit"))
    digest = run["ann"].thresholds
    assert digest == RULES.digest == run["ben"].thresholds
    run.rules = run.ledger._rules = changed = AuthorRules(threshold=(Threshold(name="one", action="suspend"),))
    run.take_over()
    assert run.ledger.states[0].restored_by == {digest: 2}
    placed = [recount.Placed(0, run[name]) for name in ("ann", "ben")]
    assert recount.changes(placed, changed) == {("warn", "suspend"): 1}, "what a person decided stays"
    records = [recount.recounted(one.standing, changed) for one in placed]
    run(*records)
    run(*records)
    assert run.done() == [("none", "warn"), ("warn", "suspend")]
    assert run.done("ben") == [("none", "limit")]
    assert {run["ann"].thresholds, run["ben"].thresholds} == {changed.digest}
    assert run["ann"].clock == START


# ---------------------------------------------------------------- hostile ids and times

HOSTILE = ["a\0b", "line\nbreak\r\n", "\u202euser\u2066", "é", "e\u0301", "\ufeff", " ", "x" * 512, "\U0001f600"]


def test_every_id_is_an_author_of_its_own():
    run = Partition()
    run(*(strike(f"s{number}", author=name, weight=3) for number, name in enumerate(HOSTILE)))
    assert [(one.author_id, one.action) for one in run.actions] == [(name, "limit") for name in HOSTILE]
    run.take_over()
    for number, name in enumerate(HOSTILE):
        run(Strike(f"s{number}", name, "taken-back", START))
        assert (run[name].action, run[name].weight) == ("none", 0)


@pytest.mark.parametrize("author_id", ["", "x" * 1_000_000])
def test_an_id_that_no_author_can_have_is_refused(author_id):
    run = Partition()
    with pytest.raises(RecordError, match="author_id"):
        run(strike("a", author=author_id))


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00", "9999-12-31T23:59:59"])
@pytest.mark.parametrize("offset", ["+00:00", "+14:00", "-12:00"])
def test_times_at_the_ends_of_the_calendar_stop_no_ledger(moment, offset):
    """A time that a ledger cannot follow is a broken record: it ends no process and no other author's strikes."""
    for field in ("at", "expires_at"):
        run = Partition()
        entry = msgspec.json.encode({**msgspec.json.decode(encode(strike("a", weight=3))), field: moment + offset})
        run.log.append(StoredRecord(topics.STRIKES, 0, 0, 0, b"ann", entry))
        with contextlib.suppress(RecordError):
            run()
        run.position = len(run.log)
        run(strike("b", author="ben", weight=3))
        run.tick(START + 400 * DAY)
        run.take_over()
        assert run.done("ben") == [("none", "limit"), ("limit", "none")]


def test_a_reversal_after_an_author_was_forgotten_brings_nothing_back():
    """As where a person forgets an author whose appeal about the item is overturned later."""
    run = Partition()
    run(strike("a", weight=5), Strike("f", "ann", "forgotten", START), back("a", 1))
    assert run["ann"].empty
    assert run.standings[b"ann"] is None
    assert run.done() == [("none", "suspend"), ("suspend", "none")]
    assert [one.state for one in run.statements] == ["issued", "withdrawn"]
