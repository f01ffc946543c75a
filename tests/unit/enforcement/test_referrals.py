"""Rules that refer: one referral for each text and rule, with its text, in the transaction of the action."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from safeguard_streams.contract import topics
from safeguard_streams.contract.records import (
    Action,
    ContentEvent,
    EnforcementInput,
    Referral,
    Standing,
    Strike,
    content_sha256,
    decode,
    encode,
    now,
)
from safeguard_streams.enforcement.author_rules import StrikeCount
from safeguard_streams.enforcement.referrals import MAX_REFERRED
from safeguard_streams.enforcement.rules import Cap, EnforcementRule, EnforcementRules, load
from safeguard_streams.enforcement.state import EnforcementState
from safeguard_streams.enforcement.transform import Enforcer, Lookups
from safeguard_streams.errors import ConfigurationError, DependencyError
from safeguard_streams.runtime.memory_broker import StoredRecord
from tests.unit.enforcement.test_transform import empty, verdict

TEXT = "the words: ü"
WHEN = datetime(2026, 1, 1, tzinfo=UTC)
DANGER = EnforcementRule("danger", "remove", refer=True, rules=("HH3",))
RULES = EnforcementRules((DANGER, EnforcementRule("all", "label")))


def judged(number=1, **more):
    one = verdict(number, **({"rule_ids": ("HH3",), "origin": "0@7"} | more))
    return msgspec.structs.replace(one, content_sha256=content_sha256(TEXT))


class Referring:
    """An enforcer and what it wrote of each topic. away: reading texts fails."""

    def __init__(self, rules=RULES, **more):
        self.away, self.asked, self.offset = False, [], 0
        self.enforcer = Enforcer(rules, 1, empty, lookups=Lookups(evidence=self.evidence, **more))
        self.enforcer.states[0] = EnforcementState()
        self.outputs = []

    async def evidence(self, places):
        self.asked += places
        if self.away:
            raise DependencyError("away")
        event = ContentEvent("c1", TEXT, WHEN, author_id="a1", surface="chat", language="de")
        return {place: event for place in places if place.content_sha256 == content_sha256(TEXT)}

    async def __call__(self, *inputs):
        records = []
        for one in inputs:
            self.offset += 1
            kind = "action" if isinstance(one, Action) else "verdict"
            value = encode(EnforcementInput(**{kind: one}))
            records.append(StoredRecord(topics.ENFORCEMENT, 0, self.offset, 0, b"c1", value))
        outputs = await self.enforcer.process(records)
        self.outputs += outputs
        return outputs

    @property
    def referrals(self):
        return [decode(one.value, Referral) for one in self.outputs if one.topic == topics.REFERRALS]


async def test_a_referral_goes_with_its_action_and_holds_the_evidence():
    run = Referring()
    outputs = await run(judged())
    by_topic = {one.topic: one for one in outputs}
    assert sorted(by_topic) == [topics.ACTIONS, topics.REFERRALS, topics.STANDING]
    (one,) = run.referrals
    action = decode(by_topic[topics.ACTIONS].value, Action)
    assert (one.text, one.author_id, one.surface, one.language, one.created_at) == (TEXT, "a1", "chat", "de", WHEN)
    assert (one.action_id, one.action, one.rule, one.rule_ids) == (action.action_id, "remove", "danger", ("HH3",))
    assert (one.hold, one.origin, one.verdict_id, one.referred_at) == (True, "0@7", "v1", action.acted_at)
    assert by_topic[topics.REFERRALS].key == one.referral_id.encode()


async def test_the_same_text_is_referred_once_whatever_comes_again_also_after_a_restart():
    run = Referring()
    await run(judged(1), judged(1), judged(2))
    await run(judged(3, decision="safe"), judged(4))
    state = EnforcementState()
    for one in run.outputs:
        if one.topic == topics.STANDING:
            record = StoredRecord(one.topic, 0, 0, 0, one.key, one.value)
            state.add(record, one.value and decode(one.value, Standing))
    run.enforcer.states[0] = state
    await run(judged(5))
    assert [one.verdict_id for one in run.referrals] == ["v1"]


async def test_another_text_and_another_rule_are_referred_by_themselves():
    both = EnforcementRules((DANGER, EnforcementRule("all", "label", refer=True)))
    run = Referring(both)
    other = msgspec.structs.replace(judged(2, origin="0@9"), content_sha256="other")
    await run(judged(1), other, judged(3, origin="0@9", rule_ids=("HH1",)))
    assert [(one.verdict_id, one.rule, one.text) for one in run.referrals][:2] == [
        ("v1", "danger", TEXT),
        ("v2", "danger", None),
    ]
    assert len({one.referral_id for one in run.referrals}) == len(run.referrals)


async def test_an_author_who_edits_without_end_makes_no_endless_record():
    run = Referring()
    count = MAX_REFERRED + 3
    texts = [msgspec.structs.replace(judged(n, origin=f"0@{n}"), content_sha256=f"t{n}") for n in range(count)]
    await run(*texts)
    assert len(run.referrals) == count
    assert len(run.enforcer.states[0]["c1"].referred) == MAX_REFERRED
    await run(msgspec.structs.replace(texts[-1], verdict_id="again"))
    assert len(run.referrals) == count


async def test_a_rule_that_looks_at_strikes_refers_with_the_text():
    repeat = msgspec.structs.replace(DANGER, name="repeat", strikes=StrikeCount())
    given_one = Strike("s1", "a1", "given", now(), weight=1, expires_at=now() + timedelta(days=1))
    with_strike = Referring(EnforcementRules((repeat, *RULES.rule[1:])), strikes_of=lambda _: [given_one])
    await with_strike(judged(author_id="a1"))
    assert [(one.rule, one.text) for one in with_strike.referrals] == [("repeat", TEXT)]
    without = Referring(EnforcementRules((msgspec.structs.replace(repeat, refer=False), DANGER)))
    await without(judged(author_id="a1"))
    assert [(one.rule, one.text) for one in without.referrals] == [("danger", TEXT)]


async def test_a_rule_without_refer_reads_no_text_and_refers_nothing():
    run = Referring()
    await run(judged(rule_ids=("HH1",)), judged(2, decision="undetermined"), judged(3, decision="safe"))
    assert (run.referrals, run.asked) == ([], [])


async def test_a_cap_delays_no_referral_and_a_persons_decision_prevents_one():
    run = Referring(EnforcementRules(RULES.rule, Cap(1)))
    await run(verdict(9, content="c0", rule_ids=("HH1",)), judged())
    states = [decode(one.value, Action).state for one in run.outputs if one.topic == topics.ACTIONS]
    assert states == ["applied", "held"]
    assert len(run.referrals) == 1
    decided = Referring()
    await decided(Action("d1", "c1", "allow", WHEN, "ann", content_sha256=content_sha256(TEXT)), judged())
    assert decided.referrals == []


async def test_an_edit_prevents_no_referral_of_what_was_published():
    run = Referring()
    edited = msgspec.structs.replace(judged(1, origin="0@9", rule_ids=("HH1",)), content_sha256="edited")
    await run(edited, judged(2))
    states = [decode(one.value, Action) for one in run.outputs if one.topic == topics.ACTIONS]
    assert [(one.action, one.state) for one in states] == [("label", "applied"), ("remove", "overridden")]
    assert [(one.verdict_id, one.text, one.action) for one in run.referrals] == [("v2", TEXT, "label")]
    await run(judged(3))
    assert len(run.referrals) == 1


@pytest.mark.parametrize(("about", "referred"), [("edited", 1), (content_sha256(TEXT), 0), (None, 0)])
async def test_a_decision_prevents_the_referral_of_the_text_that_it_is_about(about, referred):
    """Nothing was published but the two texts; the person saw the newer one, or decided about the earlier one."""
    run = Referring()
    edited = msgspec.structs.replace(judged(1, origin="0@9", rule_ids=("HH1",)), content_sha256="edited")
    decision = Action("d1", "c1", "allow", WHEN, "ann", content_sha256=about, any_text=about is None)
    await run(edited, decision, judged(2))
    assert len(run.referrals) == referred


async def test_a_decision_about_a_later_text_leaves_that_about_an_earlier_one_as_it_was():
    run = Referring()
    edited = msgspec.structs.replace(judged(1, origin="0@9", rule_ids=("HH1",)), content_sha256="edited")
    first = Action("d1", "c1", "allow", WHEN, "ann", content_sha256=content_sha256(TEXT))
    second = Action("d2", "c1", "label", WHEN, "ann", content_sha256="edited")
    await run(first, edited, second, judged(2))
    assert run.referrals == []


async def test_a_referral_says_what_was_done_by_then():
    run = Referring(EnforcementRules(RULES.rule, Cap(1)))
    await run(verdict(9, content="c0", rule_ids=("HH1",)), judged())
    assert [one.action for one in run.referrals] == ["allow"], "the removal is held above the cap"


async def test_an_erased_item_is_referred_without_what_is_erased():
    run = Referring(erased=lambda *_: True)
    run.evidence = None
    run.enforcer._evidence = nothing
    await run(judged(author_id="a1"))
    assert [(one.text, one.author_id) for one in run.referrals] == [(None, None)]


async def nothing(_):
    return {}


async def test_where_texts_cannot_be_read_nothing_is_followed_yet():
    run = Referring()
    run.away = True
    with pytest.raises(DependencyError):
        await run(judged())
    assert len(run.enforcer.states[0]) == 0
    run.away = False
    await run(judged())
    assert len(run.referrals) == 1


def test_a_rule_that_refers_what_it_allows_is_refused(tmp_path):
    file = tmp_path / "rules.toml"
    file.write_text('[[rule]]\nname = "x"\naction = "allow"\nrefer = true\n')
    with pytest.raises(ConfigurationError, match="refer: goes with an action other than allow"):
        load(file)
    file.write_text('[appeals]\ndays = 0\n[[rule]]\nname = "x"\naction = "label"\nrefer = true\n')
    with pytest.raises(ConfigurationError, match="appeals.days"):
        load(file)
