"""`safeguard verdicts tail` on both brokers: where it begins, what it shows, and when it ends."""

import asyncio
import contextlib
import json
from datetime import UTC, datetime, timedelta

import pytest
from typer.testing import CliRunner

from safeguard_streams.bus import kafka as kafka_bus
from safeguard_streams.cli import app
from safeguard_streams.cli import verdicts as command
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Verdict, encode
from safeguard_streams.errors import BusError, ConfigurationError
from safeguard_streams.operations import tail as tailing
from safeguard_streams.operations.tail import Start, VerdictFilter, tail
from safeguard_streams.policies.files import load_library
from safeguard_streams.releases import operator
from tests.conftest import TIMEOUT

WHEN = datetime(2026, 1, 1, tzinfo=UTC)
ANY = VerdictFilter()


def verdict(name, **more):
    given = {"content": f"c-{name}", "policy": "p", "decision": "violates", "rules": ("R1",)} | more
    return Verdict(
        name, given["content"], "sha", given["policy"], "1", given["decision"], "reasoner", "live", "m", WHEN,
        rule_ids=given["rules"],
    )  # fmt: skip


async def publish(current, *verdicts, topic=topics.VERDICTS):
    """Write verdicts to the two partitions in turn, a minute apart."""
    async with kafka_bus.producer(current) as producer:
        for number, one in enumerate(verdicts):
            at = int((WHEN + timedelta(minutes=number)).timestamp() * 1000)
            value = one if one is None or isinstance(one, bytes) else encode(one)
            await producer.send_and_wait(current.prefix + topic, value, key=b"k", partition=number % 2, timestamp_ms=at)


async def ids(current, start, wanted=ANY, names=(topics.VERDICTS,)):
    """The verdicts from a start to the end, in order within each partition, and across them with `last`."""
    shown = [one.verdict_id async for one in tail(current, names, wanted, start, follow=False)]
    return shown if start.last is not None else sorted(shown)


def names(*numbers):
    return [f"v{number:02}" for number in numbers]


async def test_it_ends_at_the_end_and_begins_where_it_is_told(broker):
    await kafka_bus.create_topics(broker)
    assert await ids(broker, Start(oldest=True)) == []
    assert await ids(broker, Start(last=3)) == []
    await publish(broker, *(verdict(name) for name in names(*range(20))))
    assert await ids(broker, Start()) == []
    assert await ids(broker, Start(oldest=True)) == names(*range(20))
    assert await ids(broker, Start(oldest=True), VerdictFilter(since=WHEN + timedelta(minutes=15))) == names(
        *range(15, 20)
    )
    assert await ids(broker, Start(last=3)) == names(17, 18, 19)
    assert await ids(broker, Start(last=0)) == []
    assert await ids(broker, Start(last=100)) == names(*range(20))
    assert await ids(broker, Start(last=2), VerdictFilter(since=WHEN + timedelta(minutes=19))) == names(19)


async def test_the_last_ones_that_fit_are_found_however_far_back_they_are(broker, monkeypatch):
    monkeypatch.setattr(tailing, "_WINDOW", 2)
    await kafka_bus.create_topics(broker)
    rare = {3: {"content": "ü 🙂"}, 4: {"content": "ü 🙂"}, 9: {"content": "ü 🙂"}}
    verdicts = [verdict(f"v{number:02}", **rare.get(number, {})) for number in range(40)]
    await publish(broker, *verdicts[:5], None, b"hello", *verdicts[5:])
    found = VerdictFilter(content_id="ü 🙂")
    assert await ids(broker, Start(last=2), found) == names(4, 9)
    assert await ids(broker, Start(last=5), found) == names(3, 4, 9)
    assert await ids(broker, Start(last=5), VerdictFilter(content_id="c-none")) == []


async def test_each_filter_narrows_and_cleared_items_are_a_topic_more(broker):
    await kafka_bus.create_topics(broker)
    await publish(
        broker,
        verdict("v0"),
        verdict("v1", policy="q", rules=("R1", "R2")),
        verdict("v2", decision="safe", rules=()),
        verdict("v3", decision="undetermined", content="c-v0"),
    )
    await publish(broker, verdict("v4", policy="*", decision="safe", rules=()), topic=topics.CLEARED)
    oldest = Start(oldest=True)
    assert await ids(broker, oldest, VerdictFilter(policy_id="q")) == ["v1"]
    assert await ids(broker, oldest, VerdictFilter(rule="R1")) == ["v0", "v1", "v3"]
    assert await ids(broker, oldest, VerdictFilter(rule="R1", policy_id="q")) == ["v1"]
    assert await ids(broker, oldest, VerdictFilter(decision="safe")) == ["v2"]
    assert await ids(broker, oldest, VerdictFilter(content_id="c-v0")) == ["v0", "v3"]
    assert await ids(broker, oldest, names=(topics.VERDICTS, topics.CLEARED)) == ["v0", "v1", "v2", "v3", "v4"]


async def test_what_comes_next_follows_without_a_gap(broker):
    await kafka_bus.create_topics(broker)
    await publish(broker, *(verdict(name) for name in names(*range(10))))
    async with contextlib.aclosing(tail(broker, [topics.VERDICTS], ANY, Start(last=1), follow=True)) as shown:
        async with asyncio.timeout(TIMEOUT):
            assert (await anext(shown)).verdict_id == "v09"
            await publish(broker, verdict("v10"), verdict("v11"))
            assert {(await anext(shown)).verdict_id for _ in range(2)} == {"v10", "v11"}


async def test_names_that_were_never_released_are_refused_with_those_that_were(broker):
    await kafka_bus.create_topics(broker)
    with pytest.raises(ConfigurationError, match="no policy 'hate' was ever released; available: none"):
        await tailing.check_names(broker, VerdictFilter(policy_id="hate"))
    policy = load_library()["hate-harassment"]
    await operator.release(broker, [policy], operator.ChangedBy("test", "ann"))
    await operator.retire(broker, "hate-harassment", operator.ChangedBy("test", "ann"))
    with pytest.raises(ConfigurationError, match="available: hate-harassment"):
        await tailing.check_names(broker, VerdictFilter(policy_id="hate"))
    with pytest.raises(ConfigurationError, match=f"no rule 'H99'|rule 'H99'; available: .*{next(iter(policy.rules))}"):
        await tailing.check_names(broker, VerdictFilter(rule="H99"))
    await tailing.check_names(broker, VerdictFilter(policy_id="*"))
    await tailing.check_names(broker, VerdictFilter("hate-harassment", next(iter(policy.rules))))


def test_the_command_prints_a_header_and_whole_ids_at_any_width(broker, monkeypatch):
    asyncio.run(kafka_bus.create_topics(broker))
    identity = "0b9c5c0e-6c4e-4c39-9f1e-3a86b0a6a5a1-with-a-long-tail-of-its-own-that-is-past-80-columns-wide"
    asyncio.run(publish(broker, verdict("v0", content=identity), b"hello", verdict("v1", content="\x1b[2J")))
    monkeypatch.setenv("SAFEGUARD_PREFIX", broker.prefix)

    def run(*words):
        return CliRunner().invoke(app, ["verdicts", "tail", "--bootstrap", broker.bootstrap, *words])

    for wide in (True, False):
        monkeypatch.setattr(command, "_ONE_LINE", 0 if wide else 10**6)  # a pipe has room for all
        shown = run("--exit", "-n", "2")
        assert shown.exit_code == 0, shown.stderr
        heading, *lines = shown.stdout.splitlines()
        assert heading.split()[:5] == ["time", "decision", "score", "policy", "rules"]
        assert len(lines) == (2 if wide else 5)
        assert sum("2026-01-01T00:00:00Z violates" in line for line in lines) == 2
        assert any(identity in line.split() for line in lines)
        assert "\x1b" not in shown.stdout
        assert "1 no Verdict on moderation.verdicts" in shown.stderr
    shown = run("--exit", "--json")
    assert {json.loads(line)["verdict_id"] for line in shown.stdout.splitlines()} == {"v0", "v1"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--decision", "violatess"], "--decision: violates, safe or undetermined, not violatess"),
        (["--since", "yesterday"], "--since: write a time"),
        (["--from-beginning", "-n", "3"], "leave out -n and --since"),
    ],
)
def test_words_that_mean_nothing_are_refused_before_a_broker_is_asked(words, said):
    done = CliRunner().invoke(app, ["verdicts", "tail", "--bootstrap", "127.0.0.1:1", *words])
    assert isinstance(done.exception, ConfigurationError)
    assert said in str(done.exception)


def test_a_broker_that_is_not_there_is_named(monkeypatch):
    wait = kafka_bus.wait_for_broker
    monkeypatch.setattr(kafka_bus, "wait_for_broker", lambda current, timeout: wait(current, 0))
    done = CliRunner().invoke(app, ["verdicts", "tail", "--bootstrap", "127.0.0.1:1", "--exit"])
    assert isinstance(done.exception, BusError)
    assert "no Kafka broker answers at 127.0.0.1:1" in str(done.exception)
