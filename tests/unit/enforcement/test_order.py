"""Verdicts, decisions and releases at once: the agent, its next owner and the webhook's receiver end in the same state.

The pipeline runs step by step in memory. Hypothesis chooses which stage takes its next record, when processes are
killed, and what is written meanwhile.
"""

import asyncio
from collections import defaultdict

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safeguard_streams.bus.dead_letters import TRIES_HEADER
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Action, Standing, decode, encode
from safeguard_streams.enforcement import intake
from safeguard_streams.enforcement.cleared import ClearedTexts, StandingItems, _newer
from safeguard_streams.enforcement.delivery import Delivery
from safeguard_streams.enforcement.moderators import HeldAction, _released
from safeguard_streams.enforcement.rules import Cap, EnforcementRule, EnforcementRules, Webhook
from safeguard_streams.enforcement.state import EnforcementState
from safeguard_streams.enforcement.transform import Enforcer
from safeguard_streams.errors import RecordError
from safeguard_streams.runtime.memory_broker import StoredRecord
from tests.unit.enforcement.test_edits import about, cleared
from tests.unit.enforcement.test_transform import WHEN, empty, verdict

RULES = EnforcementRules((EnforcementRule("threats", "remove", rules=("HH3",)),), Cap(2))


class Receiver(Delivery):
    """The delivery with a receiver that remembers the last message of each item, and may reject messages."""

    def __init__(self):
        super().__init__(Webhook("https://receiver/"), b"key", None)
        self.knows, self.rejects = {}, False

    async def _send(self, message):
        if self.rejects:
            raise RecordError("webhook", "rejected")
        data = msgspec.json.decode(message.body)["data"]
        self.knows[data["content_id"]] = data["effective"]


class Pipeline:
    """The topics and the stages of one partition. A stage's record and its outputs are committed together."""

    def __init__(self):
        self.logs = defaultdict(list)
        self.positions = defaultdict(int)
        self.receiver = Receiver()
        self.rejected = []
        self.restart()

    def restart(self):
        """A new owner: nothing is left but what the topics hold."""
        self.enforcer = Enforcer(RULES, 1, empty)
        self.enforcer.states[0] = self.restored()
        self.cleared = ClearedTexts(None)
        self.items = self.cleared._items[0] = StandingItems()
        for record in self.logs[topics.CLEARED]:
            self.items.clear(record.key, record.offset)
        self.positions["cleared", topics.STANDING] = 0

    def restored(self):
        state = EnforcementState(1)
        for record in self.logs[topics.STANDING]:
            state.add(record, record.value and decode(record.value, Standing))
        for record in self.logs[topics.ACTIONS]:
            state.add_recent(decode(record.value, Action))
        return state

    def write(self, topic, value, headers=()):
        key = value.content_id.encode()
        self.append(topic, key, encode(value), headers)

    def append(self, topic, key, value, headers):
        self.logs[topic].append(StoredRecord(topic, 0, len(self.logs[topic]), 0, key, value, list(headers)))

    def step(self, stage, topic, process):
        """Let a stage take its next record of a topic. Returns whether there was one."""
        position, log = self.positions[stage, topic], self.logs[topic]
        if position == len(log):
            return False
        self.positions[stage, topic] += 1
        try:
            outputs = asyncio.run(process([log[position]]))
        except RecordError:
            self.rejected.append(log[position])
            return True
        for output in outputs:
            self.append(output.topic, output.key, output.value, output.headers)
        return True

    def steps(self):
        return {
            "take verdict": lambda: self.step("intake", topics.VERDICTS, intake.collect),
            "take record": lambda: self.step("intake", topics.ACTIONS, intake.collect),
            "take cleared": lambda: self.step("cleared", topics.CLEARED, self.cleared.process),
            "see standing": lambda: self.step("cleared", topics.STANDING, self.stands),
            "act": lambda: self.step("enforcer", topics.ENFORCEMENT, self.enforcer.process),
            "deliver": lambda: self.step("delivery", topics.ACTIONS, self.receiver.process),
        }

    async def stands(self, records):
        found = [one for record in records if (one := await _newer(record, self.items, self)) is not None]
        return await intake.collect(found)

    async def cleared_at(self, offset):
        return self.logs[topics.CLEARED][offset]

    def settle(self):
        progress = True
        while progress:
            progress = sum(step() for step in self.steps().values()) > 0

    def held(self):
        last = {record.key: record.value for record in self.logs[topics.STANDING]}
        standings = [decode(value, Standing) for value in last.values() if value]
        return [policy.held for one in standings if one.in_force is None for policy in one.policies if policy.held]

    def release(self, shown):
        for action in shown:
            self.write(topics.ACTIONS, _released(HeldAction(action, 0, "remove"), Moderator))

    def requeue(self):
        """Requeue what the receiver rejected, as `safeguard dead-letters retry` does."""
        for record in self.rejected:
            self.append(record.topic, record.key, record.value, [*record.headers, (TRIES_HEADER, b"1")])
        self.rejected.clear()

    def check(self):
        """Agent, next owner and receiver agree."""
        state, next_owner = self.enforcer.states[0], self.restored()
        assert state.restricted() == next_owner.restricted()
        assert state.held() == next_owner.held()
        stands = {content: action for content, action in self.receiver.knows.items() if action != "allow"}
        assert stands == state.restricted()
        sequences = defaultdict(list)
        for record in self.logs[topics.ACTIONS]:
            action = decode(record.value, Action)
            if action.sequence is not None and record.headers[-1][0] != TRIES_HEADER:
                sequences[action.content_id].append(action.sequence)
        assert all(found == sorted(found) for found in sequences.values())
        for content, standing in state._standings.items():
            decisions = [one.action_id for one in (standing.decision, *standing.replaced) if one is not None]
            assert len(decisions) == len(set(decisions)), "each decision was followed once"
            assert next_owner[content].replaced == standing.replaced


class Moderator:
    by, why = "ann", ""


def decision(name, content, action):
    return Action(name, content, action, WHEN, by="ann")


items = st.sampled_from(["c1", "c2", "c3", "c4"])
events = st.lists(
    st.one_of(
        st.tuples(st.just("verdict"), items, st.sampled_from(["hate", "fraud"]), st.sampled_from(["HH3", "HH1", None])),
        st.tuples(st.just("decision"), items, st.sampled_from(["allow", "label", "remove"])),
        st.tuples(st.sampled_from(["show", "release", "restart", "repeat", "reject", "accept", "requeue"])),
        st.tuples(st.just("cleared"), items),
        st.tuples(st.just("undo"), items),
        st.tuples(st.just("again")),
        st.tuples(st.sampled_from(["take verdict", "take record", "take cleared", "see standing", "act", "deliver"])),
    ),
    max_size=40,
)


class Script:
    """Carries out events on a pipeline."""

    def __init__(self):
        self.run, self.shown, self.number = Pipeline(), [], 0

    def __call__(self, kind, *more):
        self.number += 1
        getattr(self, kind.replace(" ", "_"), self.run.steps().get(kind))(*more)

    def verdict(self, content, policy, cited):
        decided, rules = ("violates", (cited,)) if cited else ("safe", ())
        one = about("text", self.number, verdict(self.number, content, policy, decided, rule_ids=rules))
        self.run.write(topics.VERDICTS, one)

    def decision(self, content, action):
        self.run.write(topics.ACTIONS, decision(f"d{self.number}", content, action))

    def undo(self, content):
        decided = self.run.enforcer.states[0][content].decision
        if decided is not None:
            name, last = f"u-{decided.action_id}", decided.action_id
            undone = Action(name, content, "allow", WHEN, by="ben", withdraws=last, reinstates=True)
            self.run.write(topics.ACTIONS, undone)

    def again(self):
        """Moderators' records come twice, as from processes that were killed and whose requests are tried again."""
        asked = [decode(record.value, Action) for record in self.run.logs[topics.ACTIONS]]
        for action in [one for one in asked if one.to_follow][-3:]:
            self.run.write(topics.ACTIONS, action)

    def cleared(self, content):
        self.run.write(topics.CLEARED, cleared(self.number, content, f"text {self.number}", self.number))

    def show(self):
        self.shown = self.run.held()

    def release(self):
        self.run.release(self.shown)

    def restart(self):
        self.run.restart()

    def repeat(self):
        """Records come twice, as on a broker without transactions."""
        for topic in (topics.VERDICTS, topics.CLEARED, topics.ENFORCEMENT):
            for record in self.run.logs[topic][-2:]:
                self.run.append(topic, record.key, record.value, record.headers)

    def reject(self):
        self.run.receiver.rejects = True

    def accept(self):
        self.run.receiver.rejects = False

    def requeue(self):
        self.run.requeue()


@settings(max_examples=150)
@given(events)
def test_all_agree_whatever_the_order(found):
    script = Script()
    for event in found:
        script(*event)
    run = script.run
    run.settle()
    script.accept()
    run.requeue()
    run.settle()
    run.check()


@pytest.mark.parametrize("decision_first", [True, False])
@pytest.mark.parametrize("restart", [True, False])
def test_a_decision_and_a_verdict_at_once(decision_first, restart):
    run = Pipeline()
    run.write(topics.ACTIONS, decision("d1", "c1", "allow"))
    run.write(topics.VERDICTS, verdict(1, "c1", rule_ids=("HH3",)))
    for step in ("take record", "take verdict") if decision_first else ("take verdict", "take record"):
        run.steps()[step]()
    run.steps()["act"]()
    if restart:
        run.restart()
    run.settle()
    run.check()
    assert run.receiver.knows["c1"] == "allow"
    assert run.restored()["c1"].decision.action == "allow"


@pytest.mark.parametrize("release_first", [True, False])
def test_a_release_and_a_verdict_at_once(release_first):
    """The verdict allows the content, so nothing stands, whichever came first."""
    run = Pipeline()
    for number in range(3):
        run.write(topics.VERDICTS, verdict(number, f"c{number}", rule_ids=("HH3",)))
    run.settle()
    (held,) = run.held()
    run.release([held])
    run.write(topics.VERDICTS, verdict(9, held.content_id, decision="safe"))
    for step in ("take record", "take verdict") if release_first else ("take verdict", "take record"):
        run.steps()[step]()
    run.settle()
    run.check()
    if release_first:  # the reversal is a third change, so it waits above the cap
        assert run.receiver.knows[held.content_id] == "remove"
        run.release(run.held())
        run.settle()
        run.check()
    assert run.receiver.knows.get(held.content_id, "allow") == "allow"


def test_what_was_shown_is_released_and_nothing_else():
    run = Pipeline()
    for number in range(3):
        run.write(topics.VERDICTS, verdict(number, f"c{number}", rule_ids=("HH3",)))
    run.settle()
    shown = run.held()
    for number in range(3, 203):
        run.write(topics.VERDICTS, verdict(number, f"c{number}", rule_ids=("HH3",)))
    run.settle()
    run.release(shown)
    run.release(shown)
    run.settle()
    run.check()
    assert len(shown) == 1
    assert run.restored().held() == {"hate": 200}


def test_a_rejected_message_is_sent_again_only_if_it_still_stands():
    run = Pipeline()
    run.receiver.rejects = True
    for number, content in enumerate(("c1", "c2")):
        run.write(topics.VERDICTS, verdict(number, content, rule_ids=("HH3",)))
    run.settle()
    run.receiver.rejects = False
    run.write(topics.ACTIONS, decision("d1", "c2", "allow"))
    run.settle()
    run.requeue()
    run.settle()
    assert run.receiver.knows == {"c1": "remove", "c2": "allow"}
    run.check()
