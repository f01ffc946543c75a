"""The library for those who act on verdicts, on real brokers."""

import asyncio
from collections import Counter
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safeguard_streams.bus import kafka as kafka_bus
from safeguard_streams.client.verdicts import Resolver, Verdicts
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Verdict, encode
from safeguard_streams.errors import BusError, ConfigurationError
from safeguard_streams.runtime import security
from tests.conftest import TIMEOUT

WHEN = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def kafka(kafka, patient):
    return patient(kafka)


def verdict(name, content="c1", policy="hate", supersedes=None):
    return Verdict(name, content, "sha", policy, "p1", "violates", "reasoner", "live", "m", WHEN, supersedes=supersedes)


async def publish(current, *verdicts):
    async with kafka_bus.producer(current) as producer:
        for one in verdicts:
            value = one if isinstance(one, bytes) else encode(one)
            key = b"broken" if isinstance(one, bytes) else one.content_id.encode()
            await producer.send_and_wait(current.prefix + topics.VERDICTS, key=key, value=value)


def following(current, **more):
    timing = {"session_timeout_ms": current.session_timeout_ms, "heartbeat_interval_ms": 500}
    options = security.client_options(current)
    return Verdicts(
        options.pop("bootstrap_servers"),
        current.prefix + "group",
        prefix=current.prefix,
        **options,
        **timing,
        **more,
    )


async def take(verdicts, count, *, commit=True):
    """The next so many, and that no other comes."""
    found = []
    async with asyncio.timeout(TIMEOUT):
        while len(found) < count:
            found.append(await anext(verdicts))
    if commit:
        await verdicts.commit()
    return found


async def nothing_comes(verdicts, seconds=1.0):
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(seconds):
            await anext(verdicts)
    return True


async def test_each_verdict_comes_once_in_order_and_says_what_it_replaces(broker):
    await kafka_bus.create_topics(broker)
    await publish(broker, verdict("a"), b"no verdict", verdict("x", policy="fraud"), verdict("a"))
    async with following(broker) as verdicts:
        first = await take(verdicts, 2)
        assert [(f.verdict.verdict_id, f.replaces) for f in first] == [("a", None), ("x", None)]
        await publish(broker, verdict("b", supersedes="a"), verdict("a"))
        assert [(f.verdict.verdict_id, f.replaces) for f in await take(verdicts, 1)] == [("b", "a")]
        assert await nothing_comes(verdicts)


async def test_what_was_superseded_meanwhile_does_not_come(kafka):
    await kafka_bus.create_topics(kafka)
    await publish(kafka, verdict("a"))
    async with following(kafka) as verdicts:
        await take(verdicts, 1)
    await publish(kafka, verdict("b", supersedes="a"), verdict("c", supersedes="b"), verdict("d", "c2"))
    async with following(kafka) as verdicts:
        found = {f.verdict.verdict_id: f.replaces for f in await take(verdicts, 2)}
        assert found == {"c": "a", "d": None}, "also what came before the restart is remembered"
        await publish(kafka, verdict("a"))
        assert await nothing_comes(verdicts)


async def test_what_was_not_committed_comes_again_and_a_store_of_its_own_decides(kafka):
    await kafka_bus.create_topics(kafka)
    await publish(kafka, *(verdict(f"v{n}", f"c{n}") for n in range(20)))
    async with following(kafka) as verdicts:
        first = await take(verdicts, 5)
        await take(verdicts, 5, commit=False)
        stored = verdicts.positions
    async with following(kafka) as verdicts:
        again = await take(verdicts, 15, commit=False)
        assert {f.verdict.verdict_id for f in [*first, *again]} == {f"v{n}" for n in range(20)}
        assert await nothing_comes(verdicts)

    async def positions(partition):
        return next((at for tp, at in stored.items() if tp.partition == partition), None)

    async with following(kafka, positions=positions) as verdicts:
        assert len(await take(verdicts, 10)) == 10
        assert await nothing_comes(verdicts)


async def test_no_verdict_is_lost_where_the_positions_cannot_be_read(broker):
    await kafka_bus.create_topics(broker)
    await publish(broker, verdict("a"))

    async def positions(partition):
        raise LookupError("the database is away")

    async with following(broker, positions=positions) as verdicts:
        with pytest.raises(LookupError, match="the database is away"):
            async with asyncio.timeout(TIMEOUT):
                await anext(verdicts)
    async with following(broker) as verdicts:
        assert [f.verdict.verdict_id for f in await take(verdicts, 1)] == ["a"]


async def test_members_share_and_take_over(kafka):
    await kafka_bus.create_topics(kafka)
    counts = Counter()

    async def consume(verdicts):
        async for followed in verdicts:
            counts[followed.verdict.verdict_id] += 1
            await verdicts.commit()

    async with following(kafka) as first:
        one = asyncio.create_task(consume(first))
        await publish(kafka, *(verdict(f"v{n}", f"c{n}") for n in range(50)))
        async with following(kafka) as second:
            other = asyncio.create_task(consume(second))
            async with asyncio.timeout(TIMEOUT):
                while not (len(first._partitions) == len(second._partitions) == 1):
                    await asyncio.sleep(0.05)
            await publish(kafka, *(verdict(f"w{n}", f"c{n}") for n in range(50)))
            async with asyncio.timeout(TIMEOUT):
                while len(counts) < 100:
                    await asyncio.sleep(0.05)
            other.cancel()
        await publish(kafka, *(verdict(f"x{n}", f"c{n}") for n in range(50)))
        async with asyncio.timeout(TIMEOUT):
            while len(counts) < 150:
                await asyncio.sleep(0.05)
        one.cancel()
    assert set(counts.values()) <= {1, 2}, "what was under way when members came and went may come twice"
    assert sum(counts.values()) < 160


async def test_a_broker_that_is_not_there_is_said():
    with pytest.raises(BusError, match="opening moderation.verdicts failed"):
        async with Verdicts("127.0.0.1:1", "group"):
            pass


names = st.sampled_from(["a", "b", "c", "d", "e", "f"])


@given(st.lists(st.lists(st.tuples(names, st.one_of(st.none(), names)), max_size=6), max_size=6))
def test_no_verdict_comes_twice_and_none_that_was_superseded_in_its_batch(batches):
    resolver, came = Resolver(), []
    for batch in batches:
        verdicts = [verdict(name, supersedes=supersedes) for name, supersedes in batch]
        for number, replaces in resolver.resolve(verdicts):
            name = verdicts[number].verdict_id
            assert name not in {v.supersedes for v in verdicts}
            assert replaces == (came[-1] if came else verdicts[number].supersedes)
            came.append(name)
    assert len(came) == len(set(came))


def test_memory_is_bounded():
    resolver = Resolver(3)
    for number in range(100):
        resolver.resolve([verdict(f"v{number}", f"c{number}")])
    assert len(resolver._standing) == len(resolver._seen._ids) == 3


async def test_a_missing_topic_is_an_error(kafka):  # the embedded broker creates topics that are asked for
    with pytest.raises(ConfigurationError, match="does not exist"):
        async with following(kafka):
            pass


async def test_a_topic_that_ends_before_the_position_is_an_error(broker):
    await kafka_bus.create_topics(broker)
    await publish(broker, verdict("v1"), verdict("v2"))
    for stored in (1_000, 50_000):  # within the window of the first record, and beyond it

        async def positions(_, stored=stored):
            return stored

        async with following(broker, positions=positions) as verdicts:
            with pytest.raises(ConfigurationError, match=f"before offset {stored}"):
                await take(verdicts, 1)


async def test_tombstones_and_foreign_records_are_skipped_and_counted(broker):
    await kafka_bus.create_topics(broker)
    await publish(broker, b"hello", b"{}", verdict("v1"))
    async with kafka_bus.producer(broker) as producer:
        await producer.send_and_wait(broker.prefix + topics.VERDICTS, None, key=b"c1")
    await publish(broker, verdict("v2", "c2"))
    async with following(broker) as verdicts:
        assert {one.verdict.verdict_id for one in await take(verdicts, 2)} == {"v1", "v2"}
        await nothing_comes(verdicts)
        assert verdicts.skipped == 3
