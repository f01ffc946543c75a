"""The author ledger on real brokers: from a verdict to the webhook, what people do, takeovers, killed processes."""

import asyncio
import contextlib
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from safeguard_streams.authors import people, standings
from safeguard_streams.authors.app import LedgerProcess
from safeguard_streams.authors.delivery import AuthorDelivery
from safeguard_streams.bus import kafka as kafka_bus
from safeguard_streams.bus.dead_letters import TRIES_HEADER
from safeguard_streams.cli import app
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import (
    Action,
    AuthorStanding,
    Verdict,
    encode,
    now,
)
from safeguard_streams.enforcement.author_rules import AuthorRules, StrikeCount, StrikeRule, Threshold
from safeguard_streams.enforcement.rules import Cap, EnforcementRule, EnforcementRules
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.operations import erasure
from safeguard_streams.releases.operator import ChangedBy
from safeguard_streams.runtime.memory_broker import StoredRecord
from tests.conftest import enforcing, until

SUITE = Path(__file__).parents[1] / "faults" / "authors.py"
AUTHORS = AuthorRules(
    strike=(StrikeRule("short", policies=("short",), expires="2s"), StrikeRule("any")),
    threshold=(
        Threshold(name="first", action="warn", weight=1),
        Threshold(name="third", action="suspend", weight=3),
    ),
)
ALL = EnforcementRule("all", "remove", policies=("hate", "short"))
RULES = EnforcementRules((ALL,), Cap(1000), authors=AUTHORS)
BEN = ChangedBy("satire", "ben")


def verdict(number, author="ann", policy="hate", decision="violates", **more):
    return Verdict(
        f"v{number}", f"c{number}", "sha", policy, "p1", decision, "reasoner", "live", "m", datetime.now(UTC),
        rule_ids=("HH3",), author_id=author, **more,
    )  # fmt: skip


async def publish(current, topic, *records):
    async with kafka_bus.producer(current) as producer:
        for one in records:
            await producer.send_and_wait(current.prefix + topic, key=one.content_id.encode(), value=encode(one))


@contextlib.asynccontextmanager
async def keeping(current, rules=RULES):
    """A ledger in this process."""
    ledger, stop = LedgerProcess(current, rules, current.partitions), asyncio.Event()
    running = asyncio.create_task(ledger.run(stop))
    try:
        yield ledger
    finally:
        stop.set()
        await running


async def standing(current, author="ann"):
    partition = kafka_bus.likely_partition(author, current.partitions)
    return await standings.standing_of(current, author, partition) or AuthorStanding(author, current.partitions)


async def becomes(current, action, author="ann"):
    async def does():
        return (await standing(current, author)).action == action

    await until(does)


async def safeguard(current, *words, code=0):
    """A command, as it prints JSON; its error where it fails."""
    words = [*words, "--bootstrap", current.bootstrap]
    done = await asyncio.to_thread(CliRunner().invoke, app, words, env={"SAFEGUARD_PREFIX": current.prefix})
    assert (done.exit_code == 0) == (code == 0), done.output
    return str(done.exception) if code else done.stdout


async def test_strikes_add_up_and_fall_with_what_caused_them(broker):
    """Verdicts of one author lie in several partitions, and the strikes meet in one."""
    await kafka_bus.create_topics(broker)
    async with enforcing(broker, RULES), keeping(broker):
        await publish(broker, topics.VERDICTS, *(verdict(number) for number in range(3)), verdict(9, "ben"))
        await becomes(broker, "suspend")
        await becomes(broker, "warn", "ben")
        allow = Action("d1", "c1", "allow", now(), by="ben", content_sha256="sha", author_id="ann")
        await publish(broker, topics.ACTIONS, allow)
        await becomes(broker, "warn")
        await publish(broker, topics.ACTIONS, Action("u1", "c1", "allow", now(), by="ben", withdraws="d1"))
        await becomes(broker, "suspend")
    async with enforcing(broker, RULES), keeping(broker):  # others take over
        safe = [verdict(n, decision="safe", supersedes=f"v{n}") for n in range(3)]
        safe = [msgspec.structs.replace(one, verdict_id=f"r{one.verdict_id}", rule_ids=()) for one in safe]
        await publish(broker, topics.VERDICTS, *safe)
        await becomes(broker, "none")
    found = (await standings.known(broker, "ann")).actions
    assert [one.previous for one in found] == ["none", *(one.action for one in found[:-1])]
    assert [one.sequence for one in found] == sorted({one.sequence for one in found})


async def test_strikes_expire_although_nobody_writes_and_the_ledger_was_down_meanwhile(broker):
    await kafka_bus.create_topics(broker)
    async with enforcing(broker, RULES), keeping(broker):
        await publish(broker, topics.VERDICTS, verdict(1, policy="short"))
        await becomes(broker, "warn")
    async with keeping(broker):
        await becomes(broker, "none")
    assert (await standing(broker)).strikes == ()


async def test_a_rule_about_content_sees_the_strikes_of_the_author(broker):
    await kafka_bus.create_topics(broker)
    second = EnforcementRule("second", "limit", policies=("spam",), strikes=StrikeCount(within="7d"))
    rules = EnforcementRules((second, ALL), Cap(1000), authors=AUTHORS)
    async with enforcing(broker, rules) as agent, keeping(broker):
        await publish(broker, topics.VERDICTS, verdict(1))
        await until(lambda: agent._authors.strikes("ann"))
        await publish(broker, topics.VERDICTS, verdict(2, policy="spam"), verdict(3, "ben", policy="spam"))

        async def acted():
            read = kafka_bus.read_decoded(broker, [topics.ACTIONS], Action)
            return {one.content_id: one.action async for _, one in read if one.policy_id == "spam"}

        async def both():
            return len(await acted()) == 2

        await until(both)
    assert await acted() == {"c2": "limit", "c3": "review"}


async def test_people_decide_forgive_and_forget(broker):
    await kafka_bus.create_topics(broker)
    async with enforcing(broker, RULES), keeping(broker):
        await publish(broker, topics.VERDICTS, *(verdict(number) for number in range(3)))
        await becomes(broker, "suspend")
        shown = json.loads(await safeguard(broker, "authors", "show", "ann", "--json"))
        assert (shown["standing"]["weight"], len(shown["standing"]["strikes"])) == (3, 3)
        assert "suspend (third); 3 strikes count, together 3" in await safeguard(broker, "authors", "show", "ann")
        name = shown["standing"]["strikes"][0]["strike_id"]
        for _ in range(2):
            await safeguard(broker, "authors", "forgive", "ann", name, "--why", "first", "--by", "ben")
        await becomes(broker, "warn")
        assert "forgiven by ben" in await safeguard(broker, "authors", "show", "ann")
        await safeguard(broker, "authors", "decide", "ann", "limit", "--by", "ben")
        await becomes(broker, "limit")
        await safeguard(broker, "authors", "undecide", "ann", "--by", "ben")
        await becomes(broker, "warn")
        same = [await people.decide(broker, "ann", "suspend", BEN, key="click") for _ in range(2)]
        assert same[0].strike_id == same[1].strike_id
        await becomes(broker, "suspend")
        await safeguard(broker, "authors", "forget", "ann", "--yes", "--by", "ben")
        await becomes(broker, "none")
    found = [(one.action, one.by) for one in (await standings.known(broker, "ann")).actions]
    assert found[-5:] == [("warn", "ben"), ("limit", "ben"), ("warn", "ben"), ("suspend", "ben"), ("none", "ben")]


async def test_what_does_not_exist_is_named(broker):
    await kafka_bus.create_topics(broker)
    for words in (
        ["show", "nobody"],
        ["undecide", "nobody"],
        ["forgive", "nobody", "x"],
        ["forget", "nobody", "--yes"],
    ):
        assert "no strike was ever given" in await safeguard(broker, "authors", *words, code=1)
    await people.decide(broker, "new", "warn", BEN)
    async with keeping(broker):
        await becomes(broker, "warn", "new")
    assert "has no strike 'x'" in await safeguard(broker, "authors", "forgive", "new", "x", code=1)


async def test_a_requeued_message_is_sent_only_if_it_is_the_newest(embedded_address):
    from tests.conftest import own_topics

    current = own_topics(embedded_address)
    await kafka_bus.create_topics(current)
    async with enforcing(current, RULES), keeping(current):
        await publish(current, topics.VERDICTS, *(verdict(number) for number in range(3)))
        await becomes(current, "suspend")
    sent = []

    class Sender:
        async def in_order(self, _subject, _since, made):
            if (message := await made()) is not None:
                sent.append(json.loads(message.body)["data"]["action"])

    async def standing_of(author, partition):
        return await standings.standing_of(current, author, partition)

    sending = AuthorDelivery(Sender(), standing_of)
    partition = kafka_bus.likely_partition("ann", current.partitions)
    for action in (await standings.known(current, "ann")).actions:
        again = [(TRIES_HEADER, b"1")]
        await sending.process([StoredRecord(topics.AUTHOR_ACTIONS, partition, 0, 0, b"ann", encode(action), again)])
    assert sent == ["suspend"]


async def test_more_partitions_are_refused_until_what_stands_is_moved(embedded_address):
    from tests.conftest import own_topics

    current = own_topics(embedded_address)
    await kafka_bus.create_topics(current)
    names = [f"author {number}" for number in range(12)]
    async with kafka_bus.producer(current) as producer:
        for name in names:
            written = encode(AuthorStanding(name, 1, action="warn"))
            await producer.send_and_wait(
                current.prefix + topics.AUTHOR_STANDING, written, key=name.encode(), partition=0
            )
    with pytest.raises(ConfigurationError, match="authors repartition"):
        async with keeping(current) as ledger:
            await until(lambda: len(ledger.ledger.states) == current.partitions)
    assert await standings.repartition(current) == len(names)
    assert await standings.repartition(current) == 0
    async with keeping(current) as ledger:
        await until(lambda: sum(map(len, ledger.ledger.states.values())) == len(names))
        for name in names:
            state = ledger.ledger.states[kafka_bus.likely_partition(name, current.partitions)]
            assert state[name].action == "warn"


async def test_an_erasure_names_the_strikes_that_remain(embedded_address):
    from tests.conftest import own_topics

    current = own_topics(embedded_address)
    await kafka_bus.create_topics(current)
    async with enforcing(current, RULES), keeping(current):
        await publish(current, topics.VERDICTS, verdict(1))
        await becomes(current, "warn")
    found = await erasure.erase(current, "c1", BEN, erasure.Search(by_key=True))
    remains = {one.topic: one for one in found.remains}
    for name in (topics.STRIKES, topics.AUTHOR_ACTIONS, topics.AUTHOR_STANDING):
        assert (remains[name].records, remains[name].text, remains[name].author) == (1, False, True)


@pytest.mark.slow
def test_no_strike_is_lost_or_doubled_where_enforcement_and_the_ledger_are_killed(kafka_address):
    arguments = ["--verdicts", "1500", "--authors", "150", "--kills", "1", "--rate", "250", "--seed", "3"]
    command = [sys.executable, SUITE, "--bootstrap", kafka_address, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["kills_of_each"] == 1
