"""Enforcement on real brokers: actions after verdicts, moderators' decisions, and deliveries to a webhook."""

import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import msgspec
import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions
from standardwebhooks import Webhook as Checker
from typer.testing import CliRunner

from safeguard_streams.bus import kafka as kafka_bus
from safeguard_streams.bus.dead_letters import TRIES_HEADER
from safeguard_streams.cli import app
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import (
    EVERY_POLICY,
    Action,
    ContentEvent,
    DeadLetter,
    Verdict,
    content_sha256,
    decode,
    encode,
)
from safeguard_streams.enforcement import app as enforcement_app
from safeguard_streams.enforcement import decisions, delivery, moderators, repartition
from safeguard_streams.enforcement.app import EnforcementAgent
from safeguard_streams.enforcement.delivery import Backoff, Delivery, message_for, signed_headers, signing_key
from safeguard_streams.enforcement.rules import Cap, EnforcementRule, EnforcementRules, Webhook
from safeguard_streams.errors import ConfigurationError, RecordError
from safeguard_streams.infra import brokers
from safeguard_streams.releases.operator import ChangedBy
from safeguard_streams.runtime import settings
from safeguard_streams.runtime.memory_broker import StoredRecord
from tests.conftest import TIMEOUT, enforcing, standing_on, until
from tests.faults.receiver import SECRET, Receiver

WHEN = datetime(2026, 1, 1, tzinfo=UTC)
RULES = EnforcementRules((EnforcementRule("threats", "remove", rules=("HH3",)),), Cap(1000))
WELL = {"well": 1}
TOKEN = "Bearer hidden"


def verdict(name, content, rule="HH3", decision="violates", supersedes=None):
    return Verdict(
        name, content, "sha", "hate", "p1", decision, "reasoner", "live", "m", WHEN, (rule,), supersedes=supersedes
    )


async def publish(current, topic, *records):
    async with kafka_bus.producer(current) as producer:
        for record in records:
            value = record if isinstance(record, bytes) else encode(record)
            key = b"broken" if isinstance(record, bytes) else record.content_id.encode()
            await producer.send_and_wait(current.prefix + topic, key=key, value=value)


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """A release waits for an agent that runs, however long that takes."""
    monkeypatch.setattr(moderators, "FOLLOW_SECONDS", TIMEOUT)


async def actions(current):
    """What the agent did; not what moderators wrote."""
    return [action async for _, action in moderators.actions(current) if action.sequence is not None or action.dry_run]


@pytest.fixture
def command(broker, monkeypatch):
    monkeypatch.setenv("SAFEGUARD_BOOTSTRAP", broker.bootstrap)
    monkeypatch.setenv("SAFEGUARD_PREFIX", broker.prefix)

    async def invoke(*words, **more):
        return await asyncio.to_thread(CliRunner().invoke, app, ["enforce", *words], **more)

    return invoke


@pytest.mark.slow
async def test_verdicts_lead_to_actions_and_moderators_have_the_last_word(broker, command):
    await kafka_bus.create_topics(broker)
    await publish(broker, topics.EVENTS, ContentEvent("c9", "never judged", WHEN))
    await publish(
        broker,
        topics.VERDICTS,
        verdict("v1", "c1"),
        b"no verdict",
        verdict("v2", "c2"),
        verdict("v3", "c3", "HH5", "safe"),
    )
    async with enforcing(broker, RULES) as agent:
        await until(lambda: holds(broker, {"c1": "remove", "c2": "remove"}))
        await publish(broker, topics.VERDICTS, verdict("v4", "c1", "HH5", "safe", "v1"))
        await until(lambda: holds(broker, {"c2": "remove"}))
        said = await command("decide", "c2", "label", "--why", "satire", "--by", "ann")
        assert "c2: label, decided by ann; this overrides all verdicts on its present text" in said.stdout
        decided = json.loads((await command("decide", "c9", "remove", "--json")).stdout)
        assert (decided["action"], decided["content_sha256"]) == ("remove", content_sha256("never judged"))
        unknown = (await command("decide", "c8", "allow")).exception
        assert "no event, verdict or action has the content id 'c8'" in str(unknown)
        assert "'ban' is not an action" in str((await command("decide", "c9", "ban")).exception)
        await until(lambda: holds(broker, {"c2": "label", "c9": "remove"}))
        await until(lambda: known_to(agent).get("c2") == "label")
        await requeue_old_decision(broker, "c2", "remove")
        await until(lambda: known_to(agent).get("after") == "limit")
        await publish(broker, topics.VERDICTS, verdict("v5", "c2"))
        await until(lambda: followed(broker, "v5"))
    history = json.loads((await command("show", "c2", "--json")).stdout)
    assert [(a["action"], a.get("state", "applied"), a["effective"]) for a in history] == [
        ("remove", "applied", "remove"),
        ("label", "applied", "label"),
        ("remove", "overridden", "label"),
    ]
    shown = (await command("show", "c1")).stdout
    assert re.search(r"remove +applied +remove +hate violates HH3; rule: threats", shown)
    assert re.search(r"allow +applied +allow +hate safe HH5; rule: safe, no rule matches", shown)
    assert await standing_on(broker) == {"c2": "label", "c9": "remove", "after": "limit"}
    (letter,) = [decode(r.value, DeadLetter) async for r in kafka_bus.read_all(broker, [topics.DEAD_LETTERS])]
    assert (letter.stage, letter.original()[1]) == ("enforcement", b"no verdict")


@pytest.mark.slow
async def test_an_edit_ends_actions_and_decisions_about_the_text_before_it(broker, command):
    await kafka_bus.create_topics(broker)
    async with enforcing(broker, RULES) as agent:
        await publish(broker, topics.VERDICTS, on("threat", 1, "v1", "c1"), on("threat", 2, "v2", "c2"))
        await publish(broker, topics.VERDICTS, on("threat", 3, "v3", "c3"))
        await until(lambda: holds(broker, dict.fromkeys(("c1", "c2", "c3"), "remove")))
        await command("decide", "c2", "allow", "--by", "ann")
        await command("decide", "c3", "allow", "--any-text", "--by", "ann")
        await until(lambda: holds(broker, {"c1": "remove"}))
        # Of c4, the edit is cleared while the model still thinks about the text before it.
        edits = [kind(number, f"c{number - 10}") for number in range(11, 15)]
        await publish(broker, topics.CLEARED, *(kind(20, f"other{number}") for number in range(200)), *edits)
        await until(lambda: holds(broker, {}))
        await publish(broker, topics.VERDICTS, on("threat", 4, "v4", "c4"), on("worse", 30, "w2", "c2"))
        await publish(broker, topics.VERDICTS, on("worse", 31, "w3", "c3"))
        await until(lambda: followed(broker, "w3"))
        await until(lambda: holds(broker, {"c2": "remove"}))
        assert known_to(agent) == {"c2": "remove"}
        said = await command("undecide", "c3", "--by", "ben", "--why", "mistaken")
        assert "c3: the decision is withdrawn by ben; by the verdicts, remove stands" in said.stdout
        await until(lambda: holds(broker, {"c2": "remove", "c3": "remove"}))
        assert "no moderator's decision about 'c1'" in str((await command("undecide", "c1", "--by", "ben")).exception)
        await command("decide", "c1", "remove", "--by", "ann")  # and at once, before the agent has followed
        assert (await command("undecide", "c1", "--by", "ann")).exit_code == 0
        assert "no moderator's decision about 'c1'" in str((await command("undecide", "c1", "--by", "ben")).exception)
        await until(lambda: withdrawn(broker, "c1"))
        assert await standing_on(broker) == {"c2": "remove", "c3": "remove"}
    by_verdict = {(action.content_id, action.verdict_id): action for action in await actions(broker)}
    assert by_verdict["c2", "w2"].why == "the text was edited after a moderator decided: allow"
    assert by_verdict["c3", "w3"].state == "overridden"
    assert by_verdict["c4", "v4"].effective in ("remove", "allow")
    lifted = [action.content_id for action in await actions(broker) if action.rule == "the edited text passed the gate"]
    assert sorted(set(lifted)) == ["c1", "c3", "c4"]
    passed_on = [one async for one in kafka_bus.read_all(broker, [topics.ENFORCEMENT]) if one.key.startswith(b"other")]
    assert passed_on == []


async def withdrawn(current, content):
    return any(action.withdraws and action.content_id == content for action in await actions(current))


def on(text, offset, name, content):
    """A verdict on a text whose event stands at an offset of content.events."""
    made = verdict(name, content)
    return msgspec.structs.replace(made, content_sha256=content_sha256(text), origin=f"0@{offset}")


def kind(offset, content):
    """A cleared verdict on an edit."""
    made = on("kind", offset, f"k-{content}", content)
    return msgspec.structs.replace(made, policy_id=EVERY_POLICY, decision="safe", rule_ids=(), stage="prefilter")


@pytest.mark.slow
@pytest.mark.parametrize("broker_address", ["kafka"], indirect=True)
async def test_what_waits_for_review_is_listed_by_policy_and_oldest_first(broker, command):
    await kafka_bus.create_topics(broker)
    assert "nothing waits for review" in (await command("review")).stdout
    fraud = [verdict("v1", "c1", decision="undetermined"), verdict("v2", "c2", "HH1"), verdict("v3", "c3", "HH1")]
    async with enforcing(broker, EnforcementRules(RULES.rule, caps={"hate": Cap(2)})):
        for one in fraud:
            await publish(broker, topics.VERDICTS, msgspec.structs.replace(one, policy_id="fraud"))
            await until(lambda name=one.verdict_id: followed(broker, name))
        await publish(broker, topics.VERDICTS, *(verdict(f"h{n}", f"h{n}") for n in range(10)))
        await until(lambda: followed_by(broker, 13))
        await decisions.decide(broker, "c3", "review", ChangedBy("", "ann"))
        await until(lambda: decided_on(broker, "c3"))
    found = [json.loads(line) for line in (await command("review", "--json")).stdout.splitlines()]
    assert [(one["policy_id"], one["content_id"], one["cause"], one["action"]) for one in found][:3] == [
        (EVERY_POLICY, "c3", "moderator", "review"),
        ("fraud", "c1", "undetermined", "review"),
        ("fraud", "c2", "rule", "review"),
    ]
    assert {(one["policy_id"], one["cause"], one["action"]) for one in found[3:]} == {("hate", "held", "remove")}
    assert len(found) >= 3 + 8
    shown = (await command("review", "--policy", "fraud", "-n", "1", "--no-texts")).stdout
    assert re.search(r"fraud: 2 waiting\n +item +since +age +waits for +rule", shown)
    assert re.search(r"c1 +\S+ +[0-9]+[smhd] +undetermined +undetermined, no rule matches", shown)
    assert "1 more; show them with --limit or --json" in shown
    unknown = (await command("review", "--policy", "fraudd")).exception
    assert "no policy 'fraudd' was ever released; available: none" in str(unknown)


async def decided_on(current, content):
    return any(action.human and action.content_id == content for action in await actions(current))


@pytest.mark.slow
@pytest.mark.parametrize("broker_address", ["kafka"], indirect=True)
async def test_what_the_receiver_rejects_is_listed_until_it_is_sent_again(broker, command):
    await kafka_bus.create_topics(broker)
    assert "the receiver rejected no message" in (await command("deliveries")).stdout
    async with answering({"c1": 422, "c2": 422}) as (port, _):
        rules = msgspec.structs.replace(RULES, webhook=Webhook(f"http://127.0.0.1:{port}/"))
        secret = {"webhook_secret": SECRET, "webhook_authorization": TOKEN}
        current = settings.load(
            bootstrap=broker.bootstrap, prefix=broker.prefix, partitions=broker.partitions, **secret
        )
        async with enforcing(current, rules) as agent:
            await publish(broker, topics.VERDICTS, verdict("v1", "c1"), verdict("v2", "c2"), verdict("v3", "c3"))
            await until(lambda: agent.state()["rejected"] == 2)
            await until(lambda: agent.state()["delivered"] == {"action": 1})
            await decisions.decide(broker, "c2", "label", ChangedBy("", "ann"))
            await until(lambda: agent.state()["rejected"] == 3)
            await asyncio.sleep(0.5)  # until the letters are committed
    found = {
        (one["content_id"], one["action"]): one for one in json.loads((await command("deliveries", "--json")).stdout)
    }
    assert {place: one["state"] for place, one in found.items()} == {
        ("c1", "remove"): "not delivered",
        ("c2", "remove"): "outdated",
        ("c2", "label"): "not delivered",
    }
    assert found["c1", "remove"]["problem"] == "answered 422"
    shown = (await command("deliveries", "c1")).stdout
    assert re.search(r"c1 +remove +not delivered +answered 422", shown)
    history = (await command("show", "c1")).stdout
    assert "webhook, not delivered: answered 422" in history


def known_to(agent):
    """The action in effect by content id, as the agent has it in memory."""
    return {
        content: action for state in agent.enforcer.states.values() for content, action in state.restricted().items()
    }


async def requeue_old_decision(current, content, action):
    """Write a moderator's decision as a requeued dead letter, then a new one behind it in the same partition."""
    partition = next(iter([p async for p, one in moderators.actions(current) if one.content_id == content]))
    topic, headers = current.prefix + topics.ACTIONS, [(TRIES_HEADER, b"1")]
    old, new = Action("d0", content, action, WHEN, by="bob"), Action("d1", "after", "limit", WHEN, by="bob")
    async with kafka_bus.producer(current) as producer:
        await producer.send_and_wait(topic, encode(old), key=content.encode(), partition=partition, headers=headers)
        await producer.send_and_wait(topic, encode(new), key=b"after", partition=partition)


async def holds(current, wanted):
    return await standing_on(current) == wanted


async def followed(current, name):
    return any(action.verdict_id == name for action in await actions(current))


@pytest.mark.slow
@pytest.mark.parametrize("broker_address", ["kafka"], indirect=True)
async def test_held_actions_wait_for_a_moderator(broker, command):
    await kafka_bus.create_topics(broker)
    assert "no actions are held" in (await command("held")).stdout
    async with enforcing(broker, EnforcementRules(RULES.rule, Cap(4))) as agent:
        await publish(broker, topics.VERDICTS, *(verdict(f"v{n}", f"c{n}") for n in range(20)))
        await until(lambda: followed_by(broker, 20))
        assert agent.state()["held"] == {"hate": 16}
        (row,) = json.loads((await command("held", "--json")).stdout)
        assert (row["policy"], row["action"], row["items"]) == ("hate", "remove", 16)
        held = sorted(one.action.content_id for one in await moderators.held(broker))
        await decisions.decide(broker, held[0], "allow", ChangedBy("quotation", "ann"))
        await until(lambda: agent.state()["held"] == {"hate": 15})
        await publish(broker, topics.VERDICTS, verdict("w1", held[1], "HH5", "safe", "v1"))
        await until(lambda: followed(broker, "w1"))
        assert (await command("release", "hate", input="n\n")).exit_code == 1
        assert "14 actions were released" in (await command("release", "hate", "--yes", "--why", "checked")).stdout
        nothing_left = (await command("release", "hate", "--yes")).exception
        assert "no policy 'hate' was ever released; available: none" in str(nothing_left)
        await until(lambda: not agent.state()["held"])
    found = await standing_on(broker)
    assert set(found) == {f"c{n}" for n in range(20)} - set(held[:2])
    released = [a for a in await actions(broker) if a.releases]
    assert {(a.why, a.effective, a.changes) for a in released} == {("checked", "remove", True)}


async def followed_by(current, count):
    return len(await actions(current)) == count


@pytest.mark.slow
@pytest.mark.parametrize("broker_address", ["kafka"], indirect=True)
async def test_what_was_shown_is_released_and_nothing_that_was_held_since(broker, monkeypatch):
    await kafka_bus.create_topics(broker)
    async with enforcing(broker, EnforcementRules(RULES.rule, Cap(2))) as agent:
        await publish(broker, topics.VERDICTS, *(verdict(f"v{n}", f"c{n}") for n in range(10)))
        await until(lambda: followed_by(broker, 10))
        shown = await moderators.held(broker, "hate")
        await publish(broker, topics.VERDICTS, *(verdict(f"w{n}", f"d{n}") for n in range(20)))
        await until(lambda: followed_by(broker, 30))
        assert await moderators.release(broker, shown, ChangedBy("", "ann")) == len(shown) == 8
        assert agent.state()["held"] == {"hate": 20}
    assert not await moderators.held(broker, "fraud")
    assert set(await standing_on(broker)) == {f"c{n}" for n in range(10)}
    # Without an agent, a release waits for one.
    monkeypatch.setattr(moderators, "FOLLOW_SECONDS", 0.5)
    assert await moderators.release(broker, (await moderators.held(broker))[:3], ChangedBy("", "ann")) == 0
    async with enforcing(broker, EnforcementRules(RULES.rule, Cap(2))) as agent:
        await until(lambda: agent.state()["held"] == {"hate": 17})


@pytest.mark.slow
async def test_raised_partitions_are_refused_until_what_stands_is_moved(kafka):
    await kafka_bus.create_topics(kafka)
    content_ids = [f"c{number}" for number in range(12)]
    async with enforcing(kafka, RULES):
        await publish(kafka, topics.VERDICTS, *(verdict(f"v-{name}", name) for name in content_ids))
        await until(lambda: followed_by(kafka, 12))
        await decisions.decide(kafka, "c0", "allow", ChangedBy("", "ann"))
        await until(lambda: holds(kafka, dict.fromkeys(content_ids[1:], "remove")))
    raised = settings.load(bootstrap=kafka.bootstrap, prefix=kafka.prefix, partitions=5)
    await raise_partitions(raised, [topics.VERDICTS])
    with pytest.raises(ConfigurationError, match="different numbers of partitions: moderation.verdicts 5"):
        await enforcement_app.run(raised, RULES)
    await raise_partitions(raised, [topics.EVENTS, *(name for name in repartition.TOPICS if name != topics.VERDICTS)])
    with pytest.raises(ConfigurationError, match="with 2 partitions, and its topics now have 5.*enforce repartition"):
        await enforcement_app.run(raised, RULES)
    assert await repartition.unfollowed(raised) == 0
    assert await repartition.repartition(raised) == 12
    assert await repartition.repartition(raised) == 0
    await repartition.check_recorded(raised, 5)
    async with enforcing(raised, RULES):
        await publish(raised, topics.VERDICTS, *(verdict(f"w-{name}", name) for name in content_ids[:2]))
        await publish(raised, topics.VERDICTS, *(verdict(f"s-{n}", n, "HH5", "safe") for n in content_ids[2:]))
        await until(lambda: holds(raised, {"c1": "remove"}))
        await until(lambda: followed(raised, "w-c0"))
    (again,) = [action for action in await actions(raised) if action.verdict_id == "w-c0"]
    assert (again.state, again.effective) == ("overridden", "allow")


async def raise_partitions(current, names):
    admin = AIOKafkaAdminClient(bootstrap_servers=current.bootstrap)
    async with kafka_bus.started(current, admin, admin.close):
        await admin.create_partitions({current.prefix + name: NewPartitions(current.partitions) for name in names})
    for name in names:
        await until(lambda name=name: has_partitions(current, name))


async def has_partitions(current, name):
    return len(await kafka_bus.partitions_of(current, name)) == current.partitions


@pytest.mark.slow
@pytest.mark.parametrize("broker_address", ["kafka"], indirect=True)
async def test_a_dry_run_changes_nothing(broker):
    await kafka_bus.create_topics(broker)
    await publish(broker, topics.VERDICTS, verdict("v1", "c1"))
    async with enforcing(broker, RULES, dry_run=True):
        await until(lambda: followed(broker, "v1"))
    assert await standing_on(broker) == {}
    async with enforcing(broker, RULES):
        await until(lambda: holds(broker, {"c1": "remove"}))
    assert [action.dry_run for action in await actions(broker)] == [True, False]


@pytest.mark.slow
async def test_enforcement_can_begin_with_the_next_verdict(kafka, tmp_path):
    await kafka_bus.create_topics(kafka)
    await publish(kafka, topics.VERDICTS, *(verdict(f"old{n}", f"c{n}") for n in range(10)))
    await kafka_bus.begin_at_end(kafka, "enforcement", topics.VERDICTS)
    async with enforcing(kafka, RULES) as agent:
        await until(lambda: agent.state()["ready"])
        await publish(kafka, topics.VERDICTS, verdict("v1", "c1"))
        await until(lambda: followed(kafka, "v1"))
    assert [action.verdict_id for action in await actions(kafka)] == ["v1"]


@pytest.mark.slow
def test_a_cap_below_the_number_of_partitions_is_refused(kafka, tmp_path):
    asyncio.run(kafka_bus.create_topics(kafka))
    rules = tmp_path / "rules.toml"
    rules.write_text("[caps.hate]\nmax_actions = 1\n")
    environment = {**os.environ, "SAFEGUARD_BOOTSTRAP": kafka.bootstrap, "SAFEGUARD_PREFIX": kafka.prefix}
    command = [Path(sys.executable).with_name("safeguard"), "enforce", "run", rules, "--from-now", "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=TIMEOUT, check=False)
    assert (done.returncode, done.stderr.count("Traceback")) == (1, 0)
    assert "hate: the partitions share a cap: set max_actions to 2 or more" in done.stderr


@pytest.mark.slow
def test_killed_agents_and_a_faulty_receiver_neither_lose_nor_repeat_an_action(kafka_address):
    suite = Path(__file__).parents[1] / "faults" / "enforcement.py"
    arguments = ["--verdicts", "300", "--rate", "150", "--down", "2", "--kills", "1", "--bootstrap", kafka_address]
    done = subprocess.run(
        [sys.executable, suite, *arguments], capture_output=True, text=True, timeout=2 * TIMEOUT, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["passed"]


# ---------------------------------------------------------------- deliveries, one by one


@contextlib.asynccontextmanager
async def delivering(moods=None, late=1.0, timeout=0.3, bounds=None, **backoff):
    receiver = Receiver(brokers.free_port(), late, 1, moods or WELL)
    await receiver.start()
    async with aiohttp.ClientSession() as http:
        hook = Webhook(f"http://127.0.0.1:{receiver.port}/", timeout, **(bounds or {}))
        waits = Backoff(**({"initial": 0.01, "max_delay": 0.05} | backoff))
        yield Delivery(hook, signing_key(SECRET), http, authorization=TOKEN, backoff=waits), receiver
    await receiver.stop()


def act(name, content="c1", action="remove", previous="allow", **more):
    return Action(
        name,
        content,
        action,
        WHEN,
        previous=previous,
        effective=action,
        **({"sequence": 1, "policy_id": "hate", "verdict_id": name} | more),
    )


def record(offset, action, headers=()):
    return StoredRecord(topics.ACTIONS, 0, offset, 0, action.content_id.encode(), encode(action), headers)


async def test_a_message_is_signed_and_names_its_partition():
    name, body = message = message_for(act("a1"), 3)
    headers = signed_headers(signing_key(SECRET), message, int(time.time()))
    found = Checker(SECRET).verify(body, headers)
    assert (found["type"], found["partition"], found["data"]["action"], name) == ("action", 3, "remove", "action-a1")
    with pytest.raises(Exception, match="No matching signature"):
        Checker(SECRET).verify(body + b" ", headers)


async def test_only_actions_with_an_effect_are_delivered():
    async with delivering() as (delivery, receiver):
        records = [
            act("a1"),
            act("a2", previous="remove"),
            act("a3", "c2", state="held"),
            act("a4", "c3", state="overridden"),
            act("a5", "c4", dry_run=True),
            act("a6", "c5", state="held", alert=True),
            act("a7", "c6", sequence=None),
            Action("d1", "c7", "allow", WHEN, by="ann"),  # as a moderator writes it, before the agent followed
        ]
        for offset, action in enumerate(records):
            await delivery.process([record(offset, action)])
        for value in (None, b"", b"hello", b"{}"):  # the intake makes them dead letters
            assert await delivery.process([StoredRecord(topics.ACTIONS, 0, 9, 0, None, value)]) == []
        assert list(receiver.had) == ["action-a1", "alert-a6"]
        assert delivery.delivered == {"action": 1, "alert": 1}


async def test_messages_of_one_content_item_go_out_in_order_and_delay_no_other_item():
    async with delivering({"fails before": 1}) as (delivery, receiver):
        first = asyncio.create_task(delivery.process([record(0, act("a1"))]))
        second = asyncio.create_task(delivery.process([record(1, act("a2", action="allow", previous="remove"))]))
        await until(lambda: delivery.failing == "answered 500")
        receiver.moods = WELL
        await delivery.process([record(2, act("a3", "c2"))])
        await asyncio.gather(first, second)
        assert [one["action_id"] for one in receiver.of_content["c1"]] == ["a1", "a2"]
        assert delivery.failing is None
        assert not delivery._turns
        assert (delivery.undelivered, delivery.oldest) == (0, 0.0)


@pytest.mark.parametrize("mood", ["fails after", "says nothing", "late", "twice"])
async def test_an_unanswered_message_is_sent_again_under_the_same_key(mood):
    async with delivering({mood: 1}) as (delivery, receiver):
        sending = asyncio.create_task(delivery.process([record(0, act("a1"))]))
        await until(lambda: receiver.had and (mood == "twice" or receiver.requests[mood] > 1))
        receiver.moods = WELL
        await sending
        await delivery.process([record(1, act("a2", "c2"))])
        assert list(receiver.had) == ["action-a1", "action-a2"]
        assert receiver.requests.total() > 2 or mood == "twice"


async def test_a_refused_message_is_a_dead_letter_and_other_errors_are_retried():
    answers = [404, 503, 401, 400]

    async def serve(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(re.search(rb"content-length: (\d+)", head, re.I)[1]))
        writer.write(
            b"HTTP/1.1 %d x\r\nretry-after: 0\r\ncontent-length: 0\r\nconnection: close\r\n\r\n" % answers.pop(0)
        )
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with aiohttp.ClientSession() as http:
        hook = Webhook(f"http://127.0.0.1:{port}/", 1)
        delivery = Delivery(hook, signing_key(SECRET), http, backoff=Backoff(0.01, 0.02))
        with pytest.raises(RecordError, match="webhook: the receiver rejected the message: answered 400"):
            await delivery.process([record(0, act("a1"))])
    assert not answers
    server.close()
    await server.wait_closed()


async def test_a_requeued_message_waits_until_the_agent_has_written_it_again():
    async with delivering() as (delivery, receiver):
        await delivery.process([record(0, act("a0"), ((TRIES_HEADER, b"1"),))])
        assert not receiver.had
        await delivery.process([record(1, act("a0"))])
        assert list(receiver.had) == ["action-a0"]


@contextlib.asynccontextmanager
async def answering(statuses):
    """A receiver that answers by content id, 200 for those without a status. Yields its port and the ids that came."""
    came = []

    async def serve(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"\r\nAuthorization: Bearer hidden\r\n" in head.replace(b"authorization", b"Authorization")
        body = await reader.readexactly(int(re.search(rb"content-length: (\d+)", head, re.I)[1]))
        content = json.loads(body)["data"]["content_id"]
        came.append(content)
        status = statuses.get(content, 200)
        writer.write(b"HTTP/1.1 %d x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n" % status)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1], came
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize("status", [404, 410, 401, 429, 500, 301])
async def test_messages_that_always_fail_block_no_others_and_are_given_up(status, caplog):
    statuses = {f"bad{number}": status for number in range(40)}  # more than connections
    async with answering(statuses) as (port, came), aiohttp.ClientSession() as http:
        hook = Webhook(f"http://127.0.0.1:{port}/", max_attempts=3)
        delivery = Delivery(hook, signing_key(SECRET), http, authorization=TOKEN, backoff=Backoff(0.01, 0.02))
        failing = [
            asyncio.create_task(delivery.process([record(n, act(f"a{n}", content))]))
            for n, content in enumerate(statuses)
        ]
        await until(lambda: set(came) >= set(statuses))
        assert (delivery.undelivered, delivery.oldest > 0) == (40, True)
        number = 100
        while not all(task.done() for task in failing):
            number += 1
            await delivery.process([record(number, act(f"b{number}", f"good{number}"))])
        for task in failing:
            with pytest.raises(RecordError, match=f"attempts: answered {status}; repair the receiver"):
                task.result()
        assert delivery.undelivered == 0
        assert max(Counter(came)[content] for content in statuses) > 3
    assert "webhook message given up id=action-a0" in caplog.text


async def test_a_receiver_that_accepts_nothing_is_tried_for_as_long_as_the_rules_say():
    async with answering({"c1": 500}) as (port, came), aiohttp.ClientSession() as http:
        hook = Webhook(f"http://127.0.0.1:{port}/", max_attempts=1, retry_for="1s")
        delivery = Delivery(hook, signing_key(SECRET), http, authorization=TOKEN, backoff=Backoff(0.01, 0.02))
        started = time.monotonic()
        with pytest.raises(RecordError, match="did not accept the message"):
            await delivery.process([record(0, act("a0"))])
        assert time.monotonic() - started >= 1
        assert len(came) > 1, "the receiver may be down, so attempts alone are no reason"


async def test_traces_and_logs_name_the_receivers_host_and_no_more(monkeypatch, caplog):
    asked = []

    @contextlib.contextmanager
    def asking(name, attributes):
        asked.append((name, attributes))
        yield

    monkeypatch.setattr(delivery.tracing, "asking", asking)
    async with answering({"c1": 400}) as (port, _), aiohttp.ClientSession() as http:
        one = Delivery(Webhook(f"http://127.0.0.1:{port}/services/hidden"), b"k", http, authorization=TOKEN)
        with pytest.raises(RecordError) as caught:
            await one.process([record(0, act("a0"))])
    assert asked == [("POST", {"http.request.method": "POST", "server.address": f"http://127.0.0.1:{port}"})]
    assert "hidden" not in f"{asked} {caplog.text} {caught.value}"


@pytest.mark.parametrize("secret", ["", "whsec_c2hvcnQ=", "c2FmZWd1YXJkIHRlc3RzIG9ubHksIG5vIHNlY3JldCE=", "whsec_*"])
def test_an_invalid_secret_is_refused_and_not_printed(secret):
    with pytest.raises(ConfigurationError) as caught:
        signing_key(secret)
    assert not secret or f" {secret} " not in f" {caught.value} "


@pytest.mark.slow
async def test_a_webhook_needs_a_secret_and_the_secret_is_never_printed(kafka_address):
    current = settings.load(bootstrap=kafka_address, webhook_secret=SECRET)
    assert SECRET not in repr(current)
    rules = EnforcementRules(webhook=Webhook("http://127.0.0.1:1/"))
    agent = EnforcementAgent(settings.load(bootstrap=kafka_address), rules, 2)
    with pytest.raises(ConfigurationError, match="set SAFEGUARD_WEBHOOK_SECRET"):
        await agent.run(asyncio.Event())


@pytest.mark.parametrize(
    ("header", "low", "high"),
    [(None, 0, 0), ("7", 7, 7), ("99999", 3600, 3600), ("soon", 0, 0), ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 0)],
)
def test_a_receiver_can_ask_for_a_pause(header, low, high):
    assert low <= delivery._retry_after(header) <= high


def test_pauses_grow_and_are_bounded():
    waits = [Backoff(1, 30).delay(failures) for failures in range(1, 2000)]
    assert 0.5 <= waits[0] <= 1
    assert all(15 <= wait <= 30 for wait in waits[5:])
