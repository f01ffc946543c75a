"""Appeals: opened once, decided once, and never by somebody who decided about the item before."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from safeguard_streams.bus.dead_letters import requeued
from safeguard_streams.contract import topics
from safeguard_streams.contract.appeals import read_appeal
from safeguard_streams.contract.records import (
    Action,
    Appeal,
    AuthorStatement,
    DeadLetter,
    EnforcementInput,
    Standing,
    decode,
    encode,
)
from safeguard_streams.enforcement import appeals, intake, transform, verdict_actions
from safeguard_streams.enforcement.reviews import waiting_on
from safeguard_streams.enforcement.rules import EnforcementRule, EnforcementRules
from safeguard_streams.enforcement.state import EnforcementState
from safeguard_streams.enforcement.transform import Enforcer
from safeguard_streams.errors import RecordError
from safeguard_streams.runtime.memory_broker import StoredRecord
from tests.unit.enforcement.test_transform import WHEN, empty, verdict

RULES = EnforcementRules((EnforcementRule("threats", "remove"),))
REMOVED = verdict(1, score=0.9)


class Agent:
    """An enforcer of one partition: all that it wrote, and what stands after it."""

    def __init__(self, rules=RULES):
        self.enforcer = Enforcer(rules, 1, empty)
        self.state = self.enforcer.states[0] = EnforcementState()
        self.actions, self.letters, self.standings, self.offset = [], [], [], 0

    async def __call__(self, *inputs, together=False):
        """Follow inputs, each in a batch of its own or all in one; returns the actions."""
        records = [self._record(one) for one in inputs]
        actions = []
        for batch in [records] if together else [[one] for one in records]:
            for one in await self.enforcer.process(batch):
                if one.topic == topics.ACTIONS:
                    actions.append(decode(one.value, Action))
                elif one.topic == topics.DEAD_LETTERS:
                    self.letters.append(decode(one.value, DeadLetter))
                else:
                    self.standings.append(StoredRecord(one.topic, 0, 0, 0, one.key, one.value))
        self.actions += actions
        return actions

    def _record(self, one):
        self.offset += 1
        kind = {Appeal: "appeal", Action: "action"}.get(type(one), "verdict")
        value = encode(EnforcementInput(**{kind: one}))
        return StoredRecord(topics.ENFORCEMENT, 0, self.offset, 0, b"c1", value)

    def restart(self):
        """Another owner takes the partition over, from the records written."""
        self.state = self.enforcer.states[0] = EnforcementState()
        for record in self.standings:
            self.state.add(record, record.value and decode(record.value, Standing))
        for action in self.actions:
            self.state.add_recent(action)

    @property
    def standing(self):
        return self.state["c1"]

    @property
    def outcomes(self):
        """What became of each appeal, as the records say, in order."""
        return [(one.appeal_id, one.outcome) for one in self.actions if one.outcome and one.state == "applied"]


def appeal(name="p1", appellant="author", **more):
    return Appeal("c1", appellant, WHEN, name, **({"verdict_id": "v1"} | more))


def outcome(by="bob", what="overturned", action="allow", appeal_id="p1", **more):
    return Action(f"{by} {what}", "c1", action, WHEN, by, "read", appeal_id=appeal_id, outcome=what, **more)


def decided(by="ann", action="remove", name="d1"):
    return Action(name, "c1", action, WHEN, by, "seen")


async def test_an_appeal_waits_for_a_person_with_its_deadline_and_holds_no_words():
    agent = Agent()
    await agent(REMOVED, appeal())
    (one,) = agent.standing.appeals
    assert (one.state, one.action, one.due_at) == ("open", "remove", WHEN + timedelta(days=14))
    (waiting,) = [each for each in waiting_on(agent.standing) if each.cause == "appealed"]
    assert (waiting.policy_id, waiting.action, waiting.appeal_id, waiting.due) == ("*", "remove", "p1", one.due_at)
    assert agent.outcomes == []
    assert agent.state.overdue(WHEN) == {False: 1}
    assert agent.state.overdue(WHEN + timedelta(days=14)) == {True: 1}


async def test_an_overturned_appeal_reverses_the_action_and_tells_the_platform():
    agent = Agent()
    await agent(REMOVED, appeal())
    (done,) = await agent(outcome())
    assert (done.state, done.previous, done.effective, done.changes) == ("applied", "remove", "allow", True)
    assert agent.standing.effective == "allow"
    assert agent.standing.decision.by == "bob"
    assert agent.outcomes == [("p1", "overturned")]
    assert not [each for each in waiting_on(agent.standing) if each.cause == "appealed"]
    await agent(verdict(2, score=0.9))  # the model says the same again: the person's decision holds
    assert agent.standing.effective == "allow"


async def test_an_upheld_appeal_leaves_what_stands_and_adds_no_decision():
    agent = Agent()
    await agent(REMOVED, appeal())
    (done,) = await agent(outcome(what="upheld", action="remove"))
    assert (done.effective, done.previous, done.changes, done.human) == ("remove", "remove", True, False)
    assert agent.standing.decision is None
    assert agent.standing.policies[0].action == "remove"
    await agent(verdict(3, decision="safe"))  # such as a promoted replay
    assert agent.standing.effective == "allow"


@pytest.mark.parametrize("by", ["ann", "ANN", " Ann", "a\u200bnn", "\uff21nn", "", None])
@pytest.mark.parametrize("together", [False, True])
async def test_nobody_who_decided_before_decides_the_appeal_by_a_record_written_by_hand(by, together):
    agent = Agent()
    before = [REMOVED, decided("ann"), appeal(action_id="d1")]
    await agent(*before)
    for what, action in (("overturned", "allow"), ("upheld", "remove")):
        (refused,) = await agent(outcome(by, what, action), together=together)
        assert (refused.state, refused.changes, refused.effective) == ("overridden", False, "remove")
    assert agent.standing.effective == "remove"
    assert [one.state for one in agent.standing.appeals] == ["open"]
    assert [one.stage for one in agent.letters] == ["enforcement-actions"] * 2
    assert all("read" not in one.reason for one in agent.letters)
    await agent(outcome("bob"))
    assert agent.outcomes == [("p1", "overturned")]


@pytest.mark.parametrize(
    "record",
    [
        decided("ann", "allow", "d2"),
        Action("w1", "c1", "allow", WHEN, "ann", withdraws="d1"),
        Action("w2", "c1", "allow", WHEN, "ann", withdraws="d1", reinstates=True),
        decided(None, "allow", "d3"),
        Action("x1", "c1", "allow", WHEN, policy_id="hate"),  # as an early agent wrote
        Action("x2", "c1", "allow", WHEN, "ann", policy_id="hate", outcome="overturned", appeal_id="p1"),
        Action("x3", "c1", "allow", WHEN, "ann", outcome="moot", appeal_id="p1"),
        Action("x4", "c1", "allow", WHEN, "ann", appeal_id="p1"),
    ],
)
async def test_nor_by_any_other_record_that_would_change_the_item(record):
    agent = Agent()
    await agent(REMOVED, decided("ann"), appeal(action_id="d1"))
    before = agent.standing
    await agent(record)
    assert agent.standing == before
    assert len(agent.letters) == 1


@pytest.mark.parametrize("action_id", [None, "d1"])
async def test_who_took_a_decision_back_or_had_one_replaced_decided_before(action_id):
    agent = Agent()
    named = appeal(action_id=action_id)
    await agent(
        REMOVED, decided("ann"), decided("eve", name="d2"), Action("w", "c1", "allow", WHEN, "dan", withdraws="d2")
    )
    await agent(named)
    agent.restart()
    assert [appeals.may_decide(agent.standing, name) for name in ("ann", "eve", "dan", "bob")] == [False] * 3 + [True]


async def test_an_automated_action_may_be_decided_by_anybody_who_then_decided_before():
    agent = Agent()
    await agent(REMOVED, appeal(), outcome("bob", "upheld", "remove"))
    await agent(verdict(4, decision="safe"), verdict(5, score=0.9), appeal("p2", verdict_id="v5"))
    assert not appeals.may_decide(agent.standing, "bob")
    assert appeals.may_decide(agent.standing, "ann")


async def test_who_released_the_action_decided_before():
    capped = EnforcementRules(RULES.rule, caps={"hate": msgspec.structs.replace(RULES.cap, max_actions=1)})
    agent = Agent(capped)
    await agent(verdict(9, content="c0", score=0.9))
    (held,) = await agent(REMOVED)
    assert held.state == "held"
    release = msgspec.structs.replace(held, action_id="r", releases=held.action_id, by="ann", sequence=None)
    await agent(release, appeal())
    assert [one.state for one in agent.standing.appeals] == ["open"]
    assert not appeals.may_decide(agent.standing, "ann")


async def test_nor_by_a_record_with_the_id_of_an_earlier_decision_after_a_restart():
    agent = Agent()
    await agent(REMOVED, decided("ann", "limit", "d1"), decided("bob", "remove", "d2"), appeal(action_id="d2"))
    agent.actions.clear()  # older than what a new owner of the partition reads
    agent.restart()
    assert await agent(decided("ann", "allow", "d1"), decided("ann", "allow", "d2")) == []
    assert agent.standing.effective == "remove"
    assert [one.state for one in agent.standing.appeals] == ["open"]


async def test_nor_by_a_record_with_the_id_of_an_earlier_outcome():
    agent = Agent()
    await agent(REMOVED, decided("ann", "remove", "d1"), appeal(action_id="d1"))
    (done,) = await agent(outcome("bob", "upheld", "remove"))
    await agent(decided("carol", "limit", "d2"), appeal("p2", action_id="d2"))
    for by in ("ann", "", None):
        (refused,) = await agent(Action(done.action_id, "c1", "allow", WHEN, by, "mine"))
        assert (refused.state, refused.effective) == ("overridden", "limit")
    assert agent.outcomes == [("p1", "upheld")]
    assert [one.state for one in agent.standing.appeals] == ["upheld", "open"]


async def test_the_same_appeal_twice_is_one_and_an_outcome_twice_is_one_also_after_a_restart():
    agent = Agent()
    await agent(REMOVED, appeal(), appeal())
    agent.restart()
    await agent(appeal())
    assert len(agent.standing.appeals) == 1
    await agent(outcome(), outcome())
    agent.restart()
    await agent(outcome(), appeal())
    assert agent.outcomes == [("p1", "overturned")]
    assert not agent.letters


async def test_a_record_that_was_not_followed_says_nothing_that_only_an_agent_says():
    agent = Agent()
    await agent(REMOVED, decided("ann"), appeal(action_id="d1"))
    forged = msgspec.structs.replace(
        decided("ann", "allow", "d9"),
        alert=True,
        statement=AuthorStatement("s1", "en", "forged"),
        ends_statement="s0",
        verdict_id="v7",
    )
    (refused,) = await agent(forged)
    assert refused.state == "overridden"
    assert (refused.alert, refused.statement, refused.ends_statement, refused.verdict_id) == (False, None, None, None)


async def test_a_record_that_was_not_followed_may_be_requeued_once_the_appeal_ended_also_after_a_restart():
    agent = Agent()
    await agent(REMOVED, decided("ann"), appeal(action_id="d1"))
    (refused,) = await agent(decided("ann", "limit", "d2"))
    assert refused.state == "overridden"
    await agent(outcome(what="upheld", action="remove"))
    agent.restart()
    (followed,) = await agent(decided("ann", "limit", "d2"))
    assert (followed.state, agent.standing.effective) == ("applied", "limit")


async def test_two_people_at_once_are_one_outcome_and_the_other_is_told():
    agent = Agent()
    await agent(REMOVED, appeal())
    await agent(outcome("bob", "upheld", "remove"), outcome("eve"), together=True)
    assert agent.outcomes == [("p1", "upheld")]
    assert agent.standing.effective == "remove"
    assert [one.reason for one in agent.letters] == ["action: the appeal is upheld"]


async def test_a_second_appeal_is_refused_unless_something_changed():
    agent = Agent()
    await agent(REMOVED, appeal(), outcome(what="upheld", action="remove"))
    (refused,) = await agent(appeal("p2"))
    assert (refused.outcome, refused.changes, refused.by) == ("refused", True, None)
    assert "upheld before" in refused.why
    await agent(verdict(2, score=0.95), appeal("p3", verdict_id="v2"))  # the same action again is no change
    assert agent.outcomes[-1] == ("p3", "refused")
    await agent(decided("ann"), appeal("p4", verdict_id=None, action_id="d1"))
    assert [one.state for one in agent.standing.appeals if one.appeal_id == "p4"] == ["open"]


async def test_appeals_are_moot_where_what_they_name_does_not_stand_and_end_when_it_ends():
    agent = Agent()
    (moot,) = await agent(appeal())
    assert (moot.outcome, moot.policy_id, moot.effective) == ("moot", "*", "allow")
    await agent(REMOVED, appeal("p2"))
    *_, ended = await agent(verdict(2, decision="safe"))
    assert (ended.appeal_id, ended.outcome, ended.by) == ("p2", "moot", None)
    await agent(verdict(3, score=0.9), appeal("p3", verdict_id="v3"))
    *_, ended = await agent(decided("bob", "allow", "d9"))  # a decision that names no appeal gives all that was asked
    assert (ended.appeal_id, ended.outcome, ended.by) == ("p3", "overturned", "bob")


async def test_an_action_that_a_verdict_repeated_can_be_appealed_by_its_first_id():
    agent = Agent()
    (first,) = await agent(REMOVED)
    await agent(verdict(2, score=0.9), appeal(verdict_id=None, action_id=first.action_id))
    assert [one.state for one in agent.standing.appeals] == ["open"]


async def test_a_notifier_appeals_that_nothing_was_done_and_a_person_acts():
    agent = Agent()
    await agent(verdict(1, decision="safe"), appeal(appellant="notifier"))
    assert [one.state for one in agent.standing.appeals] == ["open"]
    (refused,) = await agent(outcome(action="allow"))
    assert refused.state == "overridden"
    await agent(outcome("eve", action="label"))
    assert agent.standing.effective == "label"
    assert agent.outcomes == [("p1", "overturned")]


async def test_an_outcome_holds_for_all_open_appeals_of_the_same_kind():
    agent = Agent()
    await agent(REMOVED, appeal("p1"), appeal("p2"), outcome(action="label"))
    assert agent.outcomes == [("p1", "overturned"), ("p2", "overturned")]
    assert len({one.action_id for one in agent.actions if one.outcome}) == 2


async def test_appeals_of_one_item_are_bounded():
    agent = Agent()
    await agent(REMOVED, *(appeal(f"p{number}") for number in range(40)))
    assert [one.state for one in agent.standing.appeals].count("open") == appeals.MAX_OPEN
    assert len(agent.standing.appeals) == appeals.MAX_OPEN + appeals.MAX_ENDED
    assert agent.outcomes[-1] == ("p39", "refused")


async def test_an_overturned_appeal_of_a_text_that_was_edited_meanwhile_is_not_followed():
    agent = Agent()
    await agent(verdict(1, score=0.9, origin="0@1"), appeal())
    edited = msgspec.structs.replace(verdict(2, score=0.9, origin="0@2"), content_sha256="new")
    await agent(edited, outcome(content_sha256="sha", origin="0@1"))
    assert agent.outcomes == []
    assert agent.standing.effective == "remove"


async def test_an_appeal_made_in_the_far_past_or_future_has_a_deadline():
    agent = Agent()
    await agent(REMOVED, Appeal("c1", "author", datetime.max.replace(tzinfo=UTC), "p1", verdict_id="v1"))
    await agent(Appeal("c1", "author", datetime.min.replace(tzinfo=UTC), "p2", verdict_id="v1"))
    first, second = agent.standing.appeals
    assert first.opened_at < datetime.now(UTC) + timedelta(days=1)
    assert second.due_at > second.opened_at


@pytest.mark.parametrize(
    ("given", "field"),
    [
        (b'{"content_id":"c1","appellant":"author","created_at":"2026-01-01T00:00:00Z"}', "action_id"),
        (b'{"content_id":"c1","appellant":"judge","created_at":"2026-01-01T00:00:00Z","verdict_id":"v"}', "appellant"),
        (b'{"appellant":"author","created_at":"2026-01-01T00:00:00Z","verdict_id":"v"}', "content_id"),
        (encode(appeal(origin="somewhere")), "origin"),
        (encode(appeal(reason="x" * 10_001)), "reason"),
        (None, "record"),
        (b"[]", "record"),
    ],
)
async def test_what_is_no_appeal_names_its_field_and_quotes_nothing(given, field):
    with pytest.raises(RecordError) as caught:
        await intake.collect([StoredRecord(topics.APPEALS, 0, 0, 0, b"c1", given)])
    assert caught.value.field == field
    assert "judge" not in str(caught.value)
    assert "somewhere" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "said"),
    [(b"cut \\ud83d", "cut \ufffd"), (b"cut \xf0\x9f", "cut \ufffd"), (b"\xed\xa0\xbd\xed\xb8\x80", "\U0001f600")],
)
async def test_half_an_emoji_loses_neither_an_appeal_nor_a_moderators_decision(words, said):
    sent = b"\xef\xbb\xbf" + encode(appeal(reason="WORDS")).replace(b"WORDS", words)
    assert read_appeal(sent).reason == said
    (copied,) = await intake.collect([StoredRecord(topics.APPEALS, 0, 0, 0, b"c1", sent)])
    assert decode(copied.value, EnforcementInput).appeal.identity == "p1"
    decision = encode(Action("a1", "c1", "allow", WHEN, by="ann", why="WORDS")).replace(b"WORDS", words)
    (copied,) = await intake.collect([StoredRecord(topics.ACTIONS, 0, 0, 0, b"c1", decision)])
    assert decode(copied.value, EnforcementInput).action.why == said
    with pytest.raises(RecordError):
        await intake.collect([StoredRecord(topics.ACTIONS, 0, 0, 0, b"c1", b"{" + decision)])


async def test_the_intake_copies_no_words_of_an_appeal():
    sent = appeal(reason="my secret", new_context="my other secret", language="de")
    (copied,) = await intake.collect([StoredRecord("eu." + topics.APPEALS, 0, 0, 0, b"c1", encode(sent))])
    assert copied.topic == topics.ENFORCEMENT
    assert b"secret" not in copied.value
    assert decode(copied.value, EnforcementInput).appeal.identity == "p1"


def test_an_appeal_without_an_id_has_one_that_the_same_record_has_again():
    first = Appeal("c1", "author", WHEN, verdict_id="v1")
    assert first.identity == decode(encode(first), Appeal).identity
    assert len({first.identity, msgspec.structs.replace(first, appellant="notifier").identity}) == 2
    again = msgspec.structs.replace(first, created_at=WHEN + timedelta(days=1))
    assert again.identity != first.identity


# ---------------------------------------------------------------------- what is remembered


def later(monkeypatch, days):
    moment = datetime.now(UTC) + timedelta(days=days)
    for module in (transform, verdict_actions, appeals):
        monkeypatch.setattr(module, "now", lambda: moment)


async def test_who_decided_is_remembered_when_nothing_stands_any_more(monkeypatch):
    agent = Agent()
    await agent(
        verdict(1, decision="safe"), decided("ann", "label"), Action("w", "c1", "allow", WHEN, "eve", withdraws="d1")
    )
    agent.restart()
    assert not agent.standing.stands
    later(monkeypatch, 364)
    await agent(appeal(appellant="notifier"))
    for by in ("ann", "eve"):
        (refused,) = await agent(outcome(by, action="remove"))
        assert refused.state == "overridden"
    await agent(outcome("bob", action="remove"))
    assert agent.outcomes == [("p1", "overturned")]


async def test_items_on_which_nothing_stands_are_forgotten_when_no_appeal_is_to_be_expected(monkeypatch):
    agent = Agent()
    await agent(REMOVED, decided("ann", "label"), verdict(2, decision="safe"))
    await agent(Action("w", "c1", "allow", WHEN, "eve", withdraws="d1"))
    until = agent.standing.kept_until
    assert timedelta(days=364) < until - datetime.now(UTC) <= timedelta(days=365)
    await agent(verdict(3, decision="safe"), verdict(3, "c2", decision="safe"))
    assert agent.standing.kept_until == until, "other verdicts prolong nothing"
    agent.restart()
    later(monkeypatch, 364)
    await agent(verdict(4, "c2", decision="safe"))
    assert agent.standing.deciders == ("ann", "eve")
    later(monkeypatch, 366)
    await agent(verdict(5, "c2", decision="safe"))
    assert (agent.standing.empty, len(agent.state)) == (True, 0)
    assert [(one.key, one.value) for one in agent.standings][-1] == (b"c1", None)


@pytest.mark.parametrize("newer", [True, False])
async def test_a_refused_decision_that_is_retried_overrides_no_newer_one(newer):
    agent = Agent()
    late = msgspec.structs.replace(decided("ann", "remove", "d2"), acted_at=WHEN + timedelta(minutes=1 if newer else 9))
    await agent(decided("ann", "label"), appeal(action_id="d1"), late)
    (letter,) = agent.letters
    await agent(msgspec.structs.replace(outcome(), acted_at=WHEN + timedelta(minutes=5)))
    again = requeued(StoredRecord(topics.DEAD_LETTERS, 0, 0, 0, b"c1", encode(letter)), "")
    await agent.enforcer.process([StoredRecord(again.topic, 0, 9, 0, b"c1", again.value, again.headers)])
    assert agent.standing.effective == ("allow" if newer else "remove")


def test_reminders_to_forget_are_bounded_by_the_items_that_are_remembered():
    """Anybody may appeal any number of times, and each appeal moves the time on."""
    state, start = EnforcementState(), WHEN
    for number in range(200):
        later = start + timedelta(days=number)
        state.put(Standing("c1", "allow", 1, deciders=("ann",), kept_until=later))
        state.put(Standing("c2", "allow", 1, deciders=("ann",), kept_until=None if number % 2 else later))
    assert len(state._kept) <= 4
    state.put(Standing("c2", "allow", 1, deciders=("ann",), kept_until=start))
    assert state.forgotten(start + timedelta(days=198), 10) == ["c2"]
    assert state.forgotten(start + timedelta(days=199), 10) == ["c1"]
    assert (len(state), state._kept) == (0, [])


async def test_what_stands_again_is_not_forgotten(monkeypatch):
    agent = Agent()
    await agent(decided("ann", "label"), Action("w", "c1", "allow", WHEN, "eve", withdraws="d1"))
    later(monkeypatch, 10)
    await agent(REMOVED)
    assert agent.standing.kept_until is None
    later(monkeypatch, 1000)
    await agent(verdict(4, "c2", decision="safe"))
    agent.restart()
    await agent(verdict(5, "c2", decision="safe"))
    assert (agent.standing.effective, agent.standing.deciders) == ("remove", ("ann", "eve"))


async def test_appeals_about_unknown_items_are_answered_and_leave_nothing_for_ever(monkeypatch):
    agent = Agent()
    for number in range(250):
        await agent(msgspec.structs.replace(appeal(f"p{number}"), content_id=f"x{number}"))
    assert (len(agent.state), {what for _, what in agent.outcomes}) == (250, {"moot"})
    agent.restart()
    later(monkeypatch, 29)
    await agent(verdict(4, "c2", decision="safe"))
    assert len(agent.state) == 250
    later(monkeypatch, 31)
    batches = 0
    while len(agent.state):
        await agent(verdict(10 + batches, "c2", decision="safe"))
        batches += 1
    assert batches == 3, "a few at a time"
    agent.restart()
    assert len(agent.state) == 0


async def test_a_year_of_names_on_one_item_is_bounded():
    agent = Agent()
    for number in range(appeals.MAX_DECIDERS + 5):
        await agent(decided(f"{number:04d} " + "n" * 5000, "label", f"d{number}"))
    assert len(agent.standing.deciders) == appeals.MAX_DECIDERS
    assert max(map(len, agent.standing.deciders)) <= 200
    assert not appeals.may_decide(agent.standing, f"{number:04d} " + "N" * 5000)


@pytest.mark.parametrize(
    "by",
    ["an\x00n", "ann\u202e", "ann\ufffd", "an\nn", "ann\ufe0f", "a\u034fnn", "ann\u3164", "\u2800ann", "ann\U000e0100"],
)
async def test_characters_that_records_cannot_have_make_no_other_person(by):
    agent = Agent()
    await agent(REMOVED, decided(by), appeal(action_id="d1"))
    assert not appeals.may_decide(agent.standing, "ann")


@pytest.mark.parametrize("by", [None, "", " \u200b"])
@pytest.mark.parametrize("more", [{}, {"withdraws": "d1"}, {"policy_id": "hate", "releases": "a1"}])
async def test_a_record_that_names_nobody_is_not_followed(by, more):
    agent = Agent()
    await agent(decided("ann"))
    before = agent.standing
    await agent(Action("n1", "c1", "allow", WHEN, by, "seen", **more))
    assert agent.standing == before
    assert "names nobody" in agent.letters[0].reason


async def test_a_record_that_poses_as_an_action_of_a_verdict_is_not_followed():
    agent = Agent()
    await agent(REMOVED)
    before = agent.standing
    await agent(Action("x1", "c1", "allow", WHEN, "ann", policy_id="hate", verdict_id="v9"))
    assert agent.standing == before
    assert "names a policy" in agent.letters[0].reason


# ---------------------------------------------------------------------- hostile appellants


async def test_an_outcome_cannot_be_appealed():
    agent = Agent()
    upheld, milder = outcome("bob", "upheld", "remove"), outcome("eve", action="label", appeal_id="p3")
    await agent(REMOVED, appeal(), upheld)
    (moot,) = await agent(appeal("p2", verdict_id=None, action_id=upheld.action_id))
    assert moot.outcome == "moot"
    await agent(decided("ann", "limit"), appeal("p3", action_id="d1"), milder)
    (refused,) = await agent(appeal("p4", verdict_id=None, action_id=milder.action_id))
    assert refused.outcome == "refused"
    assert [appeals.may_decide(agent.standing, name) for name in ("bob", "ann", "eve", "dan")] == [False] * 3 + [True]


async def test_an_appeal_that_names_the_end_of_an_appeal_or_a_withdrawn_decision_is_moot():
    agent = Agent()
    (ended,) = await agent(appeal("p1"))
    await agent(REMOVED, decided("ann"), Action("w1", "c1", "allow", WHEN, "ann", withdraws="d1"))
    for name, named in (("p2", ended.action_id), ("p3", "d1"), ("p4", "w1")):
        (moot,) = await agent(appeal(name, verdict_id=None, action_id=named))
        assert moot.outcome == "moot"


async def test_an_outcome_that_comes_before_its_appeal_is_answered_and_may_be_written_again():
    agent = Agent()
    await agent(REMOVED)
    (early,) = await agent(outcome())
    assert early.state == "overridden"
    assert agent.letters[0].reason == "action: no appeal of this id is known about the item"
    await agent(appeal())
    agent.restart()
    assert [one.state for one in agent.standing.appeals] == ["open"]
    await agent(outcome())
    assert agent.outcomes == [("p1", "overturned")]


async def test_an_outcome_of_another_items_appeal_decides_nothing():
    agent = Agent()
    await agent(REMOVED, appeal(), verdict(2, content="c2", score=0.9))
    before = agent.state["c2"]
    await agent(msgspec.structs.replace(outcome(), content_id="c2"))
    assert agent.state["c2"] == before
    assert [one.state for one in agent.standing.appeals] == ["open"]


async def test_an_appeal_of_an_erased_item_is_decided_and_repeats_no_words():
    agent = Agent()
    agent.enforcer._erased = lambda content_id, _: content_id == "c1"
    await agent(verdict(1, score=0.9, reason="secret words", author_id="u1"), appeal(reason="secret words"))
    await agent(outcome())
    assert agent.outcomes == [("p1", "overturned")]
    written = [*(one.value for one in agent.standings), *map(encode, agent.actions)]
    assert not [one for one in written if b"secret" in one]


ODD = [
    None, "", "x" * 100_000, "\ud800".encode("utf-8", "surrogatepass").decode("utf-8", "replace"), 0, -1, 10**30, 1e308,
    True, [], [None], {}, {"a": {"b": 1}}, "9999-12-31T23:59:59Z", "0001-01-01T00:00:00+14:00", "\u0000\u202e[/x]",
]  # fmt: skip
_FIELDS = {
    Appeal: ["content_id", "appellant", "created_at", "appeal_id", "action_id", "verdict_id", "reason", "new_context"],
    Action: ["content_id", "action", "acted_at", "by", "why", "outcome", "appeal_id", "content_sha256", "origin",
             "rule_ids", "policy_id", "withdraws", "releases", "sequence", "statement", "author_id", "any_text"],
}  # fmt: skip


@pytest.mark.parametrize("kind", [Appeal, Action])
@pytest.mark.parametrize("odd", ODD, ids=lambda one: repr(one)[:20])
async def test_odd_fields_are_refused_or_followed_and_leave_small_records(kind, odd):
    for field in _FIELDS[kind]:
        agent = Agent()
        await agent(REMOVED, appeal("p1"))
        sent = msgspec.json.decode(encode(appeal("p2") if kind is Appeal else outcome())) | {field: odd}
        topic = topics.APPEALS if kind is Appeal else topics.ACTIONS
        record = StoredRecord(topic, 0, 0, 0, b"c1", msgspec.json.encode(sent))
        try:
            copied = await intake.collect([record])
        except RecordError:
            continue
        for one in copied:
            await agent(decode(one.value, EnforcementInput).appeal or decode(one.value, EnforcementInput).action)
        agent.restart()
        assert all(len(one.value or b"") < 20_000 for one in agent.standings), field
