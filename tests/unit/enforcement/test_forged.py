"""Records that say to be the agent's own: they reach no receiver, count nowhere, and change no appeal."""

import asyncio
import json

import msgspec
import pytest

from safeguard_streams.bus.dead_letters import TRIES_HEADER
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Action, EnforcementInput, Standing, Verdict, decode, encode
from safeguard_streams.enforcement import intake
from safeguard_streams.enforcement.delivery import Delivery
from safeguard_streams.enforcement.rules import Webhook
from safeguard_streams.enforcement.signing import Signer
from safeguard_streams.enforcement.state import EnforcementState
from safeguard_streams.enforcement.transform import Enforcer
from safeguard_streams.errors import RecordError
from safeguard_streams.runtime.memory_broker import StoredRecord
from tests.unit.enforcement.test_appeals import REMOVED, RULES, WHEN, appeal, decided, outcome
from tests.unit.enforcement.test_transform import empty, verdict

SIGNER = Signer(b"the agents' secret", "")
OTHER = Signer(b"another secret", "")
REQUEUED = (TRIES_HEADER, b"1")


class Pipeline:
    """Intake, enforcer and delivery over the records of one partition of moderation.actions."""

    def __init__(self):
        self.enforcer = Enforcer(RULES, 1, empty, signer=SIGNER)
        self.state = self.enforcer.states[0] = EnforcementState()
        self.log, self.messages, self.standing_records, self.offset = [], [], [], 0
        self.delivery = Delivery(Webhook("http://127.0.0.1:1/"), b"k", None, signer=SIGNER)
        self.delivery._send = self._send

    async def _send(self, message):
        self.messages.append(json.loads(message.body)["data"])

    async def __call__(self, one, *headers):
        """Write a record by hand, and let the agent follow it; returns its own actions."""
        topic = {Verdict: topics.VERDICTS, Action: topics.ACTIONS}.get(type(one), topics.APPEALS)
        record = StoredRecord(topic, 0, len(self.log), 0, b"c1", encode(one), headers)
        if topic == topics.ACTIONS:
            await self._deliver(record)
        written = []
        for copied in await intake.collect([record]):  # the delivery makes the dead letters
            self.offset += 1
            entry = StoredRecord(topics.ENFORCEMENT, 0, self.offset, 0, copied.key, copied.value, copied.headers)
            for output in await self.enforcer.process([entry]):
                if output.topic == topics.STANDING:
                    self.standing_records.append(StoredRecord(output.topic, 0, 0, 0, output.key, output.value))
                if output.topic == topics.ACTIONS:
                    own = StoredRecord(output.topic, 0, len(self.log), 0, output.key, output.value, output.headers)
                    await self._deliver(own)
                    written.append(decode(output.value, Action))
        return written

    async def _deliver(self, record):
        self.log.append(record)
        await self.delivery.process([record])

    def restart(self):
        state = EnforcementState()
        for record in self.standing_records:
            state.add(record, record.value and decode(record.value, Standing))
        for record in self.log:
            if SIGNER.signed(0, record.value, record.headers):
                state.add_recent(decode(record.value, Action))
        self.state = self.enforcer.states[0] = state

    @property
    def told(self):
        return [(one["action_id"], one["effective"], one.get("outcome")) for one in self.messages]


def followed(action, sequence=1):
    """What the agent would write of a moderator's record if it followed it."""
    return msgspec.structs.replace(action, sequence=sequence, state="applied", previous="remove")


@pytest.fixture
def run():
    return Pipeline()


async def test_what_the_agent_wrote_is_delivered(run):
    await run(REMOVED)
    assert [effective for _, effective, _ in run.told] == ["remove"]


@pytest.mark.parametrize("signature", [(), ("signature", b""), ("signature", b"v1,"), ("signature", None), "other"])
@pytest.mark.parametrize(
    "forged",
    [
        followed(outcome("ann", effective="allow")),
        followed(outcome("ann", "upheld", "remove", effective="remove", policy_id="*")),
        followed(decided("ann", "allow", "d2")),
        followed(Action("m", "c1", "remove", WHEN, policy_id="*", appeal_id="p1", outcome="moot", effective="remove")),
        Action("s", "c1", "allow", WHEN, policy_id="hate", sequence=10**18, effective="allow", previous="remove"),
    ],
)
async def test_a_record_that_says_the_agent_followed_it_decides_no_appeal(run, forged, signature):
    for one in (REMOVED, decided("ann"), appeal(action_id="d1")):
        await run(one)
    before, told = run.state["c1"], run.told
    header = OTHER.header(0, encode(forged)) if signature == "other" else signature
    with pytest.raises(RecordError) as caught:  # the engine makes it a dead letter
        await run(forged, *([header] if header else []))
    assert caught.value.field == "sequence"
    assert (run.told, run.state["c1"]) == (told, before)
    run.restart()
    assert [one.state for one in run.state["c1"].appeals] == ["open"]
    await run(outcome("bob"))
    assert run.told[-1][1:] == ("allow", "overturned")


async def test_a_record_put_back_from_the_dead_letters_repeats_nothing_that_no_agent_wrote(run):
    for one in (REMOVED, decided("ann"), appeal(action_id="d1")):
        await run(one)
    before = run.state["c1"]
    real = outcome("bob", "upheld", "remove", policy_id="*")
    forged = followed(msgspec.structs.replace(real, by="ann", effective="remove", previous="allow", why="mine"))
    (again,) = await run(forged, REQUEUED)
    assert (again.outcome, again.appeal_id, again.by, again.statement) == (None, None, None, None)
    assert (again.effective, "mine" in again.why) == ("remove", False)
    assert again.action_id != forged.action_id, "a receiver would drop the real outcome as known"
    assert run.state["c1"] == before
    assert await run(msgspec.structs.replace(forged, effective="allow"), REQUEUED) == [], "that does not stand"
    await run(real)
    assert run.told[-1] == (real.action_id, "remove", "upheld")


@pytest.mark.parametrize("written", [None, OTHER], ids=["before agents signed", "with the former secret"])
async def test_what_was_not_delivered_when_the_secret_changed_is_a_dead_letter_and_told_again(run, written):
    """The intake had read these records before, so it makes no dead letters of them."""
    (removed,) = await run(REMOVED)
    headers = [] if written is None else [written.header(0, encode(removed))]
    undelivered = StoredRecord(topics.ACTIONS, 0, 1, 0, b"c1", encode(removed), headers)
    run.messages.clear()
    with pytest.raises(RecordError, match="retry") as caught:
        await run.delivery.process([undelivered])
    assert (caught.value.field, run.told) == ("sequence", [])
    (again,) = await run(removed, *headers, REQUEUED)
    assert run.told == [(again.action_id, "remove", None)]


async def test_one_stage_makes_the_dead_letter_of_a_forged_record(run):
    record = StoredRecord(topics.ACTIONS, 0, 0, 0, b"c1", encode(followed(decided())), ())
    assert await intake.collect([record]) == [], "the delivery does, where there is one"
    with pytest.raises(RecordError):
        await intake.collect([record], signer=SIGNER)
    half = encode(followed(decided())).replace(b'"c1"', b'"c1\\ud83d"')
    with pytest.raises(RecordError, match="sequence"):  # one that the intake can mend is not passed over
        await run.delivery.process([StoredRecord(topics.ACTIONS, 0, 0, 0, b"c1", half, ())])
    mine = StoredRecord(topics.ACTIONS, 0, 0, 0, b"c1", encode(decided()), ())
    assert await run.delivery.process([mine]) == []


async def test_the_agents_own_record_put_back_is_sent_again_as_it_was(run):
    (removed,) = await run(REMOVED)
    own = run.log[-1]
    await run(removed, *own.headers, REQUEUED)
    assert [one for one, *_ in run.told] == [removed.action_id] * 2
    assert run.messages[1] == run.messages[0] | {"sequence": 2}


async def test_a_forged_record_keeps_no_later_outcome_and_no_verdict_from_being_followed(run):
    for one in (REMOVED, appeal()):
        await run(one)
    later = outcome("bob")
    for forged in (followed(later), Action("x", "c1", "remove", WHEN, policy_id="hate", verdict_id="v2", sequence=3)):
        with pytest.raises(RecordError):
            await run(forged)
    run.restart()
    await run(later)
    assert run.told[-1] == (later.action_id, "allow", "overturned")
    await run(verdict(2, content="c1", score=0.9))
    assert run.state["c1"].policy("hate").verdict_ids[0] == "v2"


def test_a_signature_holds_for_its_topic_partition_and_value_alone():
    value = encode(decided())
    headers = [SIGNER.header(0, value)]
    assert SIGNER.signed(0, value, headers)
    assert SIGNER.signed(0, value, [("signature", b"x"), *headers, ("signature", None)])
    assert not SIGNER.signed(1, value, headers)
    assert not SIGNER.signed(10, value, [SIGNER.header(1, b"0." + value)])
    assert not SIGNER.signed(0, value + b" ", headers)
    assert not SIGNER.signed(0, None, headers)
    assert not Signer(b"the agents' secret", "eu.").signed(0, value, headers)
    assert not SIGNER.signed(0, value, [("Signature", headers[0][1])])


def test_without_a_secret_records_have_no_signature():
    enforcer = Enforcer(RULES, 1, empty)
    enforcer.states[0] = EnforcementState()
    record = StoredRecord(topics.ENFORCEMENT, 0, 1, 0, b"c1", encode(EnforcementInput(verdict=REMOVED)))
    outputs = asyncio.run(enforcer.process([record]))
    assert all(name != "signature" for one in outputs for name, _ in one.headers)
