"""The author ledger on real brokers: from a verdict to the webhook, what people do, takeovers, killed processes."""

import asyncio
import contextlib
import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from safeguard_streams.authors import clock, people, standings
from safeguard_streams.authors.app import LedgerProcess
from safeguard_streams.authors.delivery import AuthorDelivery
from safeguard_streams.bus import kafka as kafka_bus
from safeguard_streams.bus.dead_letters import TRIES_HEADER
from safeguard_streams.cli import app
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import (
    Action,
    AuthorStanding,
    StatementOfReasons,
    Strike,
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
from tests.conftest import TIMEOUT, enforcing, own_topics, until

SUITE = Path(__file__).parents[1] / "faults" / "authors.py"
AUTHORS = AuthorRules(
    strike=(StrikeRule("any"),),
    threshold=(
        Threshold(name="first", action="warn", weight=1),
        Threshold(name="third", action="suspend", weight=3),
    ),
)
ALL = EnforcementRule("all", "remove", policies=("hate",))
RULES = EnforcementRules((ALL,), Cap(1000), authors=AUTHORS)
BEN = ChangedBy("satire", "ben")


def verdict(number, author="ann", policy="hate", decision="violates", **more):
    return Verdict(
        f"v{number}", f"c{number}", "sha", policy, "p1", decision, "reasoner", "live", "m", datetime.now(UTC),
        rule_ids=("HH3",), author_id=author, **more,
    )  # fmt: skip


@pytest.fixture
async def embedded(embedded_address):
    """Settings for the embedded broker, with topics."""
    current = own_topics(embedded_address)
    await kafka_bus.create_topics(current)
    return current


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


@pytest.mark.slow
async def test_strikes_add_up_and_fall_with_what_caused_them(embedded):
    """Verdicts of one author lie in several partitions, and the strikes meet in one. Rules about content see them."""
    second = EnforcementRule("second", "limit", policies=("spam",), strikes=StrikeCount(within="7d"))
    rules = msgspec.structs.replace(RULES, rule=(second, ALL))
    async with enforcing(embedded, rules) as agent, keeping(embedded):
        await publish(embedded, topics.VERDICTS, *(verdict(number) for number in range(3)), verdict(9, "ben"))
        await becomes(embedded, "suspend")
        await becomes(embedded, "warn", "ben")
        allow = Action("d1", "c1", "allow", now(), by="ben", content_sha256="sha", author_id="ann")
        await publish(embedded, topics.ACTIONS, allow)
        await becomes(embedded, "warn")
        await publish(embedded, topics.ACTIONS, Action("u1", "c1", "allow", now(), by="ben", withdraws="d1"))
        await becomes(embedded, "suspend")
        await until(lambda: agent._authors.strikes("ann"))
        await publish(embedded, topics.VERDICTS, verdict(4, policy="spam"), verdict(5, "carl", policy="spam"))
        await until(lambda: spam(embedded, 2))
        assert await spam(embedded, 2) == {"c4": "limit", "c5": "review"}
    async with enforcing(embedded, RULES), keeping(embedded):  # others take over
        safe = [verdict(n, decision="safe", supersedes=f"v{n}") for n in range(3)]
        safe = [msgspec.structs.replace(one, verdict_id=f"r{one.verdict_id}", rule_ids=()) for one in safe]
        await publish(embedded, topics.VERDICTS, *safe)
        await becomes(embedded, "warn")  # for what the content rule limited
    found = (await standings.known(embedded, "ann")).actions
    assert [one.previous for one in found] == ["none", *(one.action for one in found[:-1])]
    assert [one.sequence for one in found] == sorted({one.sequence for one in found})


async def spam(current, count):
    """The actions under the policy spam by item, once there are so many."""
    read = kafka_bus.read_decoded(current, [topics.ACTIONS], Action)
    found = {one.content_id: one.action async for _, one in read if one.policy_id == "spam"}
    return found if len(found) == count else None


async def give(current, *numbers, author="ann", seconds=10**6):
    """Write strikes as enforcement does."""
    strikes = [
        Strike(
            f"s{number}", author, "given", now(), f"c{number}", "sha", "hate", f"v{number}", weight=1,
            expires_at=now() + timedelta(seconds=seconds),
        )
        for number in numbers
    ]  # fmt: skip
    place = kafka_bus.likely_partition(author, current.partitions)
    async with kafka_bus.producer(current) as producer:
        for one in strikes:
            topic = current.prefix + topics.STRIKES
            await producer.send_and_wait(topic, encode(one), key=author.encode(), partition=place)


async def test_strikes_expire_although_nobody_writes_and_the_ledger_was_down_meanwhile(embedded, monkeypatch):
    lifetime = timedelta(hours=1)
    await give(embedded, 1, seconds=lifetime.total_seconds())
    async with keeping(embedded):
        await becomes(embedded, "warn")
    monkeypatch.setattr(clock, "now", lambda: now() + lifetime)
    async with keeping(embedded):
        await becomes(embedded, "none")
    assert (await standing(embedded)).strikes == ()


async def test_people_decide_forgive_and_forget_and_what_remains_is_named(embedded):
    for command, *more in (("show",), ("undecide",), ("forgive", "x"), ("forget", "--yes")):
        said = await safeguard(embedded, "authors", command, "ann", *more, code=1)
        assert "no strike was ever given" in said
    await give(embedded, 0, 1, 2)
    async with keeping(embedded):
        await becomes(embedded, "suspend")
        shown = json.loads(await safeguard(embedded, "authors", "show", "ann", "--json"))
        assert (shown["standing"]["weight"], len(shown["standing"]["strikes"])) == (3, 3)
        assert "suspend (third); 3 strikes count, together 3" in await safeguard(embedded, "authors", "show", "ann")
        (holds,) = await holding(embedded)
        assert shown["standing"]["statement"]["statement_id"] == holds.statement_id
        assert holds.text in await safeguard(embedded, "authors", "show", "ann"), "line by line"
        assert "has no strike 'x'" in await safeguard(embedded, "authors", "forgive", "ann", "x", code=1)
        for _ in range(2):
            await safeguard(embedded, "authors", "forgive", "ann", "s0", "--why", "first", "--by", "ben")
        await becomes(embedded, "warn")
        assert await holding(embedded) == []
        assert "forgiven by ben" in await safeguard(embedded, "authors", "show", "ann")
        await resend(embedded, expected=["warn"])
        await safeguard(embedded, "authors", "decide", "ann", "limit", "--by", "ben")
        await becomes(embedded, "limit")
        await safeguard(embedded, "authors", "undecide", "ann", "--by", "ben")
        await becomes(embedded, "warn")
        same = [await people.decide(embedded, "ann", "suspend", BEN, key="click") for _ in range(2)]
        assert same[0].strike_id == same[1].strike_id
        await becomes(embedded, "suspend")
        await remaining(embedded)
        await safeguard(embedded, "authors", "forget", "ann", "--yes", "--by", "ben")
        await becomes(embedded, "none")
    assert await holding(embedded) == []
    found = [(one.action, one.by) for one in (await standings.known(embedded, "ann")).actions]
    assert found[-5:] == [("warn", "ben"), ("limit", "ben"), ("warn", "ben"), ("suspend", "ben"), ("none", "ben")]


async def holding(current):
    """The statements about accounts that hold. Each is withdrawn once, after it was issued."""
    found = {}
    async for _, one in kafka_bus.read_decoded(current, [topics.STATEMENTS], StatementOfReasons):
        if one.state == "issued":
            assert one.statement_id not in found
            found[one.statement_id] = one
        else:
            del found[one.statement_id]
    return list(found.values())


async def resend(current, expected):
    """Requeue all messages about the author: those that a later one replaced are not sent again."""
    sent = []

    class Sender:
        async def in_order(self, _subject, _since, made):
            if (message := await made()) is not None:
                sent.append(json.loads(message.body)["data"]["action"])

    sending = AuthorDelivery(Sender(), partial(standings.standing_of, current))
    place = kafka_bus.likely_partition("ann", current.partitions)
    for action in (await standings.known(current, "ann")).actions:
        again = [(TRIES_HEADER, b"1")]
        await sending.process([StoredRecord(topics.AUTHOR_ACTIONS, place, 0, 0, b"ann", encode(action), again)])
    assert sent == expected


async def remaining(current):
    """An erasure of an item says which records about authors name it, though they lie in the author's partition."""
    found = await erasure.erase(current, "c2", BEN, erasure.Search(by_key=True))
    remains = {one.topic: one for one in found.remains}
    for name in (topics.STRIKES, topics.AUTHOR_ACTIONS, topics.AUTHOR_STANDING):
        assert remains[name].records > 0
        assert (remains[name].text, remains[name].quotes, remains[name].author) == (False, (), True)


async def test_more_partitions_are_refused_until_what_stands_is_moved(embedded):
    current = embedded
    names = [f"author {number}" for number in range(12)]
    async with kafka_bus.producer(current) as producer:
        for name in names:
            written, topic = encode(AuthorStanding(name, 1, action="warn")), current.prefix + topics.AUTHOR_STANDING
            await producer.send_and_wait(topic, written, key=name.encode(), partition=0)
    with pytest.raises(ConfigurationError, match="authors repartition"):
        await LedgerProcess(current, RULES, current.partitions).run(asyncio.Event())
    assert await standings.repartition(current) == len(names)
    assert json.loads(await safeguard(current, "authors", "repartition", "--json")) == {"moved": 0}
    async with keeping(current) as ledger:
        await until(lambda: sum(map(len, ledger.ledger.states.values())) == len(names))
        for name in names:
            state = ledger.ledger.states[kafka_bus.likely_partition(name, current.partitions)]
            assert state[name].action == "warn"


@pytest.mark.slow
def test_no_strike_is_lost_or_doubled_where_enforcement_and_the_ledger_are_killed(kafka_address):
    arguments = ["--verdicts", "1500", "--authors", "150", "--kills", "1", "--rate", "250", "--seed", "3"]
    command = [sys.executable, SUITE, "--bootstrap", kafka_address, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=2 * TIMEOUT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["kills_of_each"] == 1
