"""Moderators' decisions on real brokers: each is written and followed once, and can be undone."""

import asyncio
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from safeguard_streams.bus import kafka as kafka_bus
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Action, Verdict, encode
from safeguard_streams.enforcement import bulk, decisions, moderators
from safeguard_streams.enforcement.places import KnownItem
from safeguard_streams.enforcement.rules import Cap, EnforcementRule, EnforcementRules
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.releases.operator import ChangedBy
from safeguard_streams.runtime.security import client_options
from tests.conftest import TIMEOUT, enforcing, standing_on, until
from tests.integration.test_documentation import block

WHEN = datetime(2026, 1, 1, tzinfo=UTC)
RULES = EnforcementRules((EnforcementRule("threats", "remove", rules=("HH3",)),), Cap(1000))
HH3 = decisions.Cited("hate", "HH3")
ANN, BEN = ChangedBy("satire", "ann"), ChangedBy("a threat", "ben")
ODD = "https://example.com/ü?a=1&b=\u202e\"'\x00 \u2028" + "x" * 100


async def judge(current, *content_ids, text="sha"):
    async with kafka_bus.producer(current) as producer:
        for content_id in content_ids:
            verdict = Verdict(
                f"{text}-{content_id}",
                content_id,
                text,
                "hate",
                "p1",
                "violates",
                "reasoner",
                "live",
                "m",
                WHEN,
                ("HH3",),
            )
            await producer.send_and_wait(
                current.prefix + topics.VERDICTS, key=content_id.encode(), value=encode(verdict)
            )


async def written(current, content_id):
    """What moderators wrote about an item, and what the agent followed of it, by the reasons' number of records."""
    found = [one async for _, one in moderators.actions(current) if one.human and one.content_id == content_id]
    return [one for one in found if one.sequence is None], [one for one in found if one.sequence is not None]


async def written_of(current, content_id, count):
    """The same, once the agent has followed so many."""
    found = await written(current, content_id)
    return found if len(found[1]) == count else None


async def stands(current, content_id, action):
    return (await standing_on(current)).get(content_id, "allow") == action


@pytest.mark.slow
@pytest.mark.parametrize(
    ("broker_address", "content_id"), [("kafka", "c1"), ("embedded", ODD)], indirect=["broker_address"]
)
async def test_a_request_with_a_key_is_written_and_followed_once(broker, content_id):
    await kafka_bus.create_topics(broker)
    await judge(broker, content_id)
    async with enforcing(broker, RULES):
        await until(lambda: stands(broker, content_id, "remove"))
        first = await decisions.decide(broker, content_id, "label", ANN, key="k1", cited=HH3)
        assert await decisions.decide(broker, content_id, "label", ANN, key="k1", cited=HH3) == first
        assert first.action_id == decisions.id_of("k1", content_id)
        await until(lambda: stands(broker, content_id, "label"))
        again = await decisions.decide(broker, content_id, "label", ANN, key="k1", cited=HH3)
        assert (again, again.cited_policy, again.rule_ids) == (first, "hate", ("HH3",))
        for action, who, more in (("remove", ANN, {}), ("label", BEN, {}), ("label", ANN, {"any_text": True})):
            with pytest.raises(ConfigurationError, match="another request had this key") as refused:
                await decisions.decide(broker, content_id, action, who, key="k1", cited=HH3, **more)
            assert who.why not in str(refused.value)
        undone = await decisions.undo(broker, content_id, first.action_id, BEN)
        assert await decisions.undo(broker, content_id, first.action_id, BEN) == undone
        await until(lambda: stands(broker, content_id, "remove"))
        assert await decisions.undo(broker, content_id, first.action_id, BEN) == undone
        assert await decisions.decide(broker, content_id, "label", ANN, key="k1", cited=HH3) == first
        await decisions.decide(broker, content_id, "limit", BEN, key="k2")
        await until(lambda: stands(broker, content_id, "limit"))
    asked, followed = await written(broker, content_id)
    assert [one.action_id for one in asked] == [one.action_id for one in followed]
    assert [one.effective for one in followed] == ["label", "remove", "limit"]


@pytest.mark.slow
@pytest.mark.parametrize("broker_address", ["kafka"], indirect=True)
async def test_requests_at_once_with_one_key_are_one_decision(broker):
    """A double click at two processes of the console: both may write, and the agent follows one."""
    await kafka_bus.create_topics(broker)
    await judge(broker, "c1")
    place = await decisions.locate(broker, "c1")
    asked = [decisions.decide(broker, place, "label", ANN, key="k1") for _ in range(4)]
    same = await asyncio.gather(*asked)
    assert len({(one.action_id, one.acted_at) for one in same}) == 1, "all get the record that was first"
    differ = [decisions.decide(broker, place, action, ANN, key="k2") for action in ("limit", "remove", "allow")]
    done = await asyncio.gather(*differ, return_exceptions=True)
    (first,) = (one for one in done if isinstance(one, Action))
    assert sum(isinstance(one, ConfigurationError) for one in done) == 2
    async with enforcing(broker, RULES):
        await until(lambda: stands(broker, "c1", first.action))
        await decisions.undecide(broker, "c1", BEN)
        await until(lambda: stands(broker, "c1", "remove"))
        asked = (decisions.decide(broker, place, "label", ANN), decisions.decide(broker, place, "limit", BEN))
        by_id = {one.action_id: one for one in await asyncio.gather(*asked)}
        _, followed = await until(lambda: written_of(broker, "c1", 5))
        before, last = (by_id[one.action_id] for one in followed[-2:])
        with pytest.raises(ConfigurationError, match="is not the last"):
            await decisions.undo(broker, place, before.action_id, ANN)
        assert (await decisions.undo(broker, place, last.action_id, BEN)).effective == before.action
        await until(lambda: stands(broker, "c1", before.action))
    assert [one.effective for one in followed][:2] == ["label", first.action]


@pytest.mark.parametrize("broker_address", ["embedded"], indirect=True)
async def test_people_decide_and_undo_before_the_agent_follows(broker):
    """No agent runs: what is undone is the last decision, and an undo of another one is refused."""
    await kafka_bus.create_topics(broker)
    await judge(broker, "c1")
    place = await decisions.locate(broker, "c1")
    first = await decisions.decide(broker, place, "label", ANN)
    second = await decisions.decide(broker, place, "allow", BEN, any_text=True)
    with pytest.raises(ConfigurationError, match="is not the last about 'c1'"):
        await decisions.undo(broker, "c1", first.action_id, ANN)
    undone = await decisions.undo(broker, "c1", second.action_id, BEN)
    assert (undone.withdraws, undone.reinstates, undone.effective) == (second.action_id, True, "label")
    assert (await decisions.undo(broker, "c1", first.action_id, ANN)).effective == "allow", "nothing is followed yet"
    with pytest.raises(ConfigurationError, match="no moderator's decision about 'c1'"):
        await decisions.undecide(broker, "c1", ANN)
    third = await decisions.decide(broker, place, "limit", ANN)
    async with enforcing(broker, RULES):
        await until(lambda: stands(broker, "c1", "limit"))
    assert (await decisions.undecide(broker, "c1", ANN)).withdraws == third.action_id
    async with enforcing(broker, RULES):
        await until(lambda: stands(broker, "c1", "remove"))


@pytest.mark.parametrize("broker_address", ["embedded"], indirect=True)
async def test_the_code_that_the_guide_shows(broker, monkeypatch):
    await kafka_bus.create_topics(broker)
    await judge(broker, "c1")
    monkeypatch.setenv("SAFEGUARD_BOOTSTRAP", broker.bootstrap)
    monkeypatch.setenv("SAFEGUARD_PREFIX", broker.prefix)
    names = {}
    exec(block("snippet: decide"), names)
    for _ in range(2):
        await names["remove"]("c1", "request-1")
    asked, _ = await written(broker, "c1")
    assert [(one.by, one.action) for one in asked] == [("ann", "remove"), ("ann", "allow")]
    assert [bool(one.withdraws) for one in asked] == [False, True]
    assert await moderators.history(broker, "c1") == asked
    assert await moderators.history(broker, "c1", asked[0].acted_at - timedelta(minutes=5)) == asked
    assert await moderators.history(broker, "c1", asked[0].acted_at + timedelta(minutes=5)) == []


@pytest.mark.parametrize("key", ["", "x" * 201, "a\nb", "\x00"])
async def test_a_key_that_names_no_request_is_refused_before_anything_is_read(key):
    from safeguard_streams.runtime import settings

    with pytest.raises(ConfigurationError, match="key: use 1 to 200 printable characters"):
        await decisions.decide(settings.load(bootstrap="127.0.0.1:1"), "c1", "allow", ANN, key=key)


KILLED = """
import asyncio, os, signal, sys
from safeguard_streams.enforcement import decisions
from safeguard_streams.enforcement.places import KnownItem
from safeguard_streams.releases.operator import ChangedBy
from safeguard_streams.runtime.security import client_options
from safeguard_streams.runtime import settings

async def killed_after(settings, placed):
    await written(settings, placed)
    os.kill(os.getpid(), signal.SIGKILL)

written, decisions.write = decisions.write, killed_after
current = settings.load()
item = KnownItem("c1", int(sys.argv[1]), "sha")
asyncio.run(decisions.decide(current, item, "label", ChangedBy("satire", "ann"), key="k1"))
"""


@pytest.mark.slow
@pytest.mark.parametrize("broker_address", ["kafka"], indirect=True)
async def test_a_process_killed_between_sending_and_answering_decides_once(broker):
    await kafka_bus.create_topics(broker)
    await judge(broker, "c1")
    place = await decisions.locate(broker, "c1")
    environment = {**os.environ, "SAFEGUARD_BOOTSTRAP": broker.bootstrap, "SAFEGUARD_PREFIX": broker.prefix}
    async with enforcing(broker, RULES):
        for _ in range(2):
            done = await asyncio.to_thread(
                subprocess.run, [sys.executable, "-c", KILLED, str(place.partition)], env=environment, timeout=TIMEOUT
            )
            if done.returncode != -signal.SIGKILL:
                break
        assert done.returncode == 0, "the second attempt found the record of the first, and wrote nothing"
        await until(lambda: stands(broker, "c1", "label"))
        # Another attempt that cannot see the first, as when its record was still on its way.
        record = (await written(broker, "c1"))[0][0]
        await decisions.decide(broker, KnownItem("c1", place.partition, "sha"), "limit", BEN)
        await until(lambda: stands(broker, "c1", "limit"))
        await moderators.write(broker, [(place.partition, record)])
        marker = await decisions.decide(broker, KnownItem("c2", place.partition), "label", BEN)
        await until(lambda: stands(broker, marker.content_id, "label"))
        assert await stands(broker, "c1", "limit")
    async with enforcing(broker, RULES):
        await moderators.write(broker, [(place.partition, record)])
        await decisions.undecide(broker, "c2", BEN)
        await until(lambda: stands(broker, "c2", "allow"))
        assert await stands(broker, "c1", "limit"), "also the next owner of the partition"
    assert [one.effective for one in (await written(broker, "c1"))[1]] == ["label", "limit"]


async def delete_by_retention(current, *names):
    """Delete all records of these topics, as Kafka does once they are past retention."""
    admin = AIOKafkaAdminClient(**client_options(current))
    await admin.start()
    for name in names:
        ends = await kafka_bus.end_offsets(current, name)
        records = {TopicPartition(*place): RecordsToDelete(before_offset=end) for place, end in ends.items() if end}
        await admin.delete_records(records)
    await admin.close()
    for name in names:
        assert [one async for one in kafka_bus.read_all(current, [name])] == []


@pytest.mark.slow
@pytest.mark.parametrize("broker_address", ["kafka"], indirect=True)
async def test_a_persons_word_outlives_the_actions(broker):
    """Everything but what stands is past retention: decisions hold, are undone one by one, and are decided again."""
    await kafka_bus.create_topics(broker)
    await judge(broker, "c1", "c2")
    async with enforcing(broker, RULES):
        await until(lambda: stands(broker, "c1", "remove"))
        await until(lambda: stands(broker, "c2", "remove"))
        first = await decisions.decide(broker, "c1", "label", ANN)
        await until(lambda: stands(broker, "c1", "label"))
        second = await decisions.decide(broker, "c1", "allow", BEN, any_text=True)
        await decisions.decide(broker, "c2", "limit", ANN)
        await until(lambda: stands(broker, "c1", "allow"))
        await until(lambda: stands(broker, "c2", "limit"))
    await delete_by_retention(
        broker, topics.ACTIONS, topics.VERDICTS, topics.ENFORCEMENT, topics.CLEARED, topics.EVENTS
    )
    assert await moderators.history(broker, "c1") == []
    async with enforcing(broker, RULES):
        await judge(broker, "c1", text="edited")  # a new verdict, on another text
        await until(lambda: overridden(broker, "edited-c1"))
        assert await stands(broker, "c1", "allow")
        undone = await decisions.undo(broker, "c1", second.action_id, BEN)
        assert (undone.withdraws, undone.reinstates) == (second.action_id, True)
        await until(lambda: decided_by(broker, "c1", first.action_id))
        assert await stands(broker, "c1", "remove"), "ann's decision is about the text before"
        await decisions.undo(broker, "c1", first.action_id, BEN)
        await decisions.undecide(broker, "c2", BEN)
        await until(lambda: stands(broker, "c2", "remove"))
        await until(lambda: decided_by(broker, "c1", None))
        with pytest.raises(ConfigurationError, match="no moderator's decision"):
            await decisions.undecide(broker, "c1", ANN)
        plan = await bulk.plan_decisions(broker, ["c1", "c2", "c3"], "allow", ANN)
        assert ([one.content_id for _, one in plan.records], plan.left) == (["c1", "c2"], ["c3"])


async def overridden(current, verdict_id):
    return any(
        [one.state == "overridden" async for _, one in moderators.actions(current) if one.verdict_id == verdict_id]
    )


async def decided_by(current, content_id, decision_id):
    placed = await moderators.standing_of(current, content_id)
    decision = placed and placed.standing.decision
    return (decision and decision.action_id) == decision_id
