"""What follows from records about erased items has no words about them, whenever it is written."""

import asyncio
from datetime import UTC, datetime

import msgspec
import pytest

from safeguard_streams.bus.kafka import Mention
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import (
    Action,
    EnforcementInput,
    ModeratorDecision,
    PolicyStanding,
    Standing,
    Violation,
    decode,
    encode,
)
from safeguard_streams.enforcement import intake
from safeguard_streams.enforcement.delivery import Delivery
from safeguard_streams.enforcement.rules import Cap, EnforcementRule, EnforcementRules, Webhook
from safeguard_streams.operations import erasure
from safeguard_streams.releases.erasures import standing_without_words, without_words
from safeguard_streams.runtime.memory_broker import StoredRecord
from tests.unit.enforcement.test_transform import WHEN as DECIDED
from tests.unit.enforcement.test_transform import Enforced, verdict

WHEN = datetime(2026, 1, 1, tzinfo=UTC)
MS = int(WHEN.timestamp() * 1000)
ACTION = Action("a1", "c1", "remove", WHEN, by="ann", why="said that", reason="It says so.")
RULES = EnforcementRules((EnforcementRule("threats", "remove", rules=("HH3",)),), Cap(1))


class Erasures:
    """Items that are erased with what was written until a time in ms; none at first."""

    def __init__(self, **until):
        self.until = until

    def __call__(self, name, timestamp):
        return timestamp <= self.until.get(name, -1)


@pytest.mark.parametrize(("content_id", "until", "words"), [("c1", MS, False), ("c1", MS - 1, True), ("c2", MS, True)])
@pytest.mark.parametrize("action", [ACTION, msgspec.structs.replace(ACTION, acted_at=WHEN.replace(tzinfo=None))])
def test_an_erased_items_action_has_no_words(action, content_id, until, words):
    sent = without_words(action, Erasures(**{content_id: until}))
    assert (sent.reason, sent.why) == (("It says so.", "said that") if words else (None, ""))
    assert (sent.action, sent.action_id, sent.by) == ("remove", "a1", "ann")


def test_the_webhook_gets_no_words_about_an_erased_item():
    bodies = []

    class Receiver(Delivery):
        async def _send(self, message):
            bodies.append(message.body)

    written = encode(msgspec.structs.replace(ACTION, sequence=1))
    record = StoredRecord(topics.ACTIONS, 0, 0, 0, b"c1", written)
    asyncio.run(Receiver(Webhook("http://127.0.0.1:1"), b"key", None, erased=Erasures(c1=MS)).process([record]))
    assert b"remove" in bodies[0]
    assert b"It says so." not in bodies[0]


def test_a_verdict_that_was_on_its_way_leads_to_an_action_without_words():
    erased = Erasures(c1=int(DECIDED.timestamp() * 1000))
    given = [verdict(1, reason="It says so.", rule_ids=("HH3",)), verdict(2, content="c2", reason="It says so.")]
    taken = asyncio.run(
        intake.collect(
            [StoredRecord(topics.VERDICTS, 0, n, 0, b"k", encode(one)) for n, one in enumerate(given)], erased
        )
    )
    assert [decode(one.value, EnforcementInput).verdict.reason for one in taken] == [None, "It says so."]
    actions = Enforced(EnforcementRules(RULES.rule), erased=erased)(*given)
    assert [(action.action, action.reason) for action in actions] == [("remove", None), ("review", "It says so.")]


def test_a_held_action_is_released_without_words_after_the_erasure():
    erased = Erasures()
    run = Enforced(RULES, erased=erased)
    _, held = run(
        verdict(1, content="c0", rule_ids=("HH3",)), verdict(2, content="c1", reason="It says so.", rule_ids=("HH3",))
    )
    assert (held.state, held.reason) == ("held", "It says so.")
    erased.until["c1"] = round(held.acted_at.timestamp() * 1000)
    later = datetime(2999, 1, 1, tzinfo=UTC)
    release = msgspec.structs.replace(
        held, state="applied", releases=held.action_id, action_id="r1", acted_at=later, by="ann", why="", sequence=None
    )
    (released,) = run(release)
    assert (released.action, released.state, released.reason) == ("remove", "applied", None)


@pytest.mark.parametrize(("until", "words"), [(MS, False), (MS - 1, True)])
def test_what_stands_on_an_erased_item_is_written_without_words(until, words):
    decision = ModeratorDecision("label", "d1", WHEN, "ann", "said that")
    standing = Standing("c1", "label", 3, (PolicyStanding("hate", held=ACTION), PolicyStanding("spam")), decision)
    kept = standing_without_words(standing, Erasures(c1=until))
    assert (kept == standing) is words
    assert (b"said that" in encode(kept), b"It says so." in encode(kept)) == (words, words)
    assert (kept.decision.by, kept.policies[0].held.action_id) == ("ann", "a1")


def test_no_later_record_names_the_author_of_an_item_that_was_erased_since_then():
    erased = Erasures()
    run = Enforced(EnforcementRules(RULES.rule), erased=erased)
    run(verdict(1, rule_ids=("HH3",), author_id="author-1"))
    erased.until["c1"] = 2**53
    run(msgspec.structs.replace(ACTION, action_id="a2", action="allow", author_id="author-1"))
    assert b"author-1" not in encode(run.actions[-1])
    assert run.state["c1"] == run.restored()["c1"]


def test_an_erasure_names_what_stands_with_a_violation_of_the_author():
    at = datetime(2026, 1, 1, tzinfo=UTC)
    violation = Violation("author-1", 1, at, at, "any", "a1")
    for one, author in ((PolicyStanding("hate", violation=violation), True), (PolicyStanding("hate"), False)):
        place = erasure._standing(encode(Standing("c1", "remove", 1, (one,))), "c1", Mention("c1"))
        assert place.author is author
