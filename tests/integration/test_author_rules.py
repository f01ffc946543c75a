"""Rules about authors that change while their records stay: rates that go and come back, other thresholds, a webhook
that is new.
"""

import json
from datetime import timedelta

import pytest

from safeguard_streams.authors import posts
from safeguard_streams.authors.transform import DELIVERING as AUTHORS_DELIVERING
from safeguard_streams.bus import kafka as kafka_bus
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Action, AuthorStanding, ContentEvent, Strike, encode, now
from safeguard_streams.enforcement import delivery
from safeguard_streams.enforcement.author_rules import AuthorRules, Rate, StrikeRule, Threshold
from safeguard_streams.enforcement.rules import EnforcementRules
from safeguard_streams.enforcement.stages import DELIVERING
from tests.conftest import own_topics, until
from tests.integration.test_authors import becomes, keeping, publish, safeguard

RATED = EnforcementRules(authors=AuthorRules(rate=(Rate("flood", posts=2, within="10m"),)))
UNRATED = EnforcementRules(authors=AuthorRules(strike=(StrikeRule("any"),)))
CHANGED = """
[[authors.strike]]
name = "any"
[[authors.threshold]]
name = "one"
action = "suspend"
"""


@pytest.fixture
async def current(embedded_address):
    made = own_topics(embedded_address)
    await kafka_bus.create_topics(made)
    return made


def events(first, count):
    return [ContentEvent(f"c{first + n}", "a text", now(), author_id="ann") for n in range(count)]


async def positions(current, group, topic):
    return await kafka_bus.group_positions(current, group, topic, range(current.partitions))


async def ends(current, topic):
    return {place.partition: end for place, end in (await kafka_bus.end_offsets(current, topic)).items()}


async def test_rates_that_are_removed_leave_no_lag_and_count_from_then_on_when_they_come_back(current):
    async with keeping(current, RATED) as ledger:
        await until(lambda: positions(current, posts.STAGE, topics.EVENTS))
        await publish(current, topics.EVENTS, *events(0, 4))
        await until(lambda: ledger.state()["posts"] == 4)
    await publish(current, topics.EVENTS, *events(4, 4))
    async with keeping(current, UNRATED):

        async def is_forgotten():
            return not await positions(current, posts.STAGE, topics.EVENTS)

        await until(is_forgotten)
    await posts.begin(current)
    assert await positions(current, posts.STAGE, topics.EVENTS) == await ends(current, topics.EVENTS)


@pytest.mark.slow
async def test_a_group_in_which_a_ledger_still_counts_is_not_ended(kafka):
    await kafka_bus.create_topics(kafka)
    async with keeping(kafka, RATED) as ledger:
        await until(lambda: positions(kafka, posts.STAGE, topics.EVENTS))
        await publish(kafka, topics.EVENTS, *events(0, 4))
        await until(lambda: ledger.state()["posts"] == 4)
        assert not await kafka_bus.forget_group(kafka, posts.STAGE)
        assert await positions(kafka, posts.STAGE, topics.EVENTS)
    assert await kafka_bus.forget_group(kafka, posts.STAGE)
    assert not await positions(kafka, posts.STAGE, topics.EVENTS)
    assert await kafka_bus.forget_group(kafka, posts.STAGE), "once more"


@pytest.mark.parametrize(
    ("group", "topic"), [(DELIVERING, topics.ACTIONS), (AUTHORS_DELIVERING, topics.AUTHOR_ACTIONS)]
)
async def test_a_new_webhook_begins_with_the_next_action(current, group, topic, caplog):
    caplog.set_level("INFO")
    await delivery.begin(current, group, topic)
    assert "not sent" not in caplog.text, "there is nothing to leave out"
    begun = await positions(current, group, topic)
    await publish(current, topic, *(Action(f"a{n}", f"c{n}", "remove", now(), previous="allow") for n in range(5)))
    await delivery.begin(current, group, topic)
    assert await positions(current, group, topic) == begun, "a webhook that was used goes on where it was"


async def test_a_webhook_that_comes_later_gets_no_action_from_before(current, caplog):
    caplog.set_level("INFO")
    written = [Action(f"a{n}", f"c{n}", "remove", now(), previous="allow", sequence=n) for n in range(5)]
    await publish(current, topics.ACTIONS, *written)
    await delivery.begin(current, DELIVERING, topics.ACTIONS)
    assert await positions(current, DELIVERING, topics.ACTIONS) == await ends(current, topics.ACTIONS)
    assert "earlier ones are not sent" in caplog.text


async def test_changed_thresholds_are_told_and_strikes_are_counted_again(current, tmp_path, caplog):
    file = tmp_path / "my rules.toml"
    file.write_text(CHANGED)
    changed = EnforcementRules(
        authors=AuthorRules(strike=(StrikeRule("any"),), threshold=(Threshold(name="one", action="suspend"),))
    )
    given = Strike("s", "ann", "given", now(), "c1", weight=1, expires_at=now() + timedelta(days=1))
    before = AuthorStanding(
        "ann", current.partitions, (given,), 1, "warn", "first", clock=given.at, thresholds="0" * 16
    )
    partition = kafka_bus.likely_partition("ann", current.partitions)
    async with kafka_bus.producer(current) as producer:
        topic = current.prefix + topics.AUTHOR_STANDING
        await producer.send_and_wait(topic, encode(before), key=b"ann", partition=partition)
    async with keeping(current, changed) as ledger:
        await until(lambda: ledger.state()["ready"])
        assert caplog.text.count("safeguard authors recount") == 1
        said = json.loads(await safeguard(current, "authors", "recount", str(file), "--yes", "--json"))
        assert said == {"recounted": 1, "changes": [{"before": "warn", "after": "suspend", "authors": 1}]}
        await becomes(current, "suspend")
    said = json.loads(await safeguard(current, "authors", "recount", str(file), "--yes", "--json"))
    assert said == {"recounted": 0, "changes": []}
