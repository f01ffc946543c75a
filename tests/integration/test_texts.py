"""Texts are read at the places that verdicts name, on both brokers, and only if they are what was judged."""

import asyncio
import json
from datetime import UTC, datetime

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from typer.testing import CliRunner

from safeguard_streams.bus import kafka as kafka_bus
from safeguard_streams.cli import app
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import ContentEvent, Verdict, content_sha256, encode
from safeguard_streams.enforcement import moderators
from safeguard_streams.enforcement.rules import Cap, EnforcementRule, EnforcementRules
from safeguard_streams.releases.erasures import never
from safeguard_streams.releases.texts import TextPlace, texts_at
from tests.conftest import TIMEOUT, enforcing, until

pytestmark = pytest.mark.slow
WHEN = datetime(2026, 1, 1, tzinfo=UTC)


def place(number, origin, text=None):
    return TextPlace(f"c{number}", content_sha256(text or f"text {number}"), origin)


async def published(broker, count, partition=0):
    """Publish events c0, c1 and so on; returns their places."""
    origins = []
    async with kafka_bus.producer(broker) as producer:
        for number in range(count):
            value = encode(ContentEvent(f"c{number}", f"text {number}", WHEN))
            sent = await producer.send_and_wait(broker.prefix + topics.EVENTS, value, partition=partition)
            origins.append(place(number, f"{sent.partition}@{sent.offset}"))
    return origins


async def test_texts_are_those_that_were_judged(broker):
    await kafka_bus.create_topics(broker)
    first, second = await published(broker, 20), await published(broker, 3, partition=1)
    wanted = [first[7], first[0], first[19], second[2]]
    others = [
        place(3, "0@4"),  # another item is there, as on a topic that was created again
        place(5, "0@5", "an earlier text"),
        place(1, "0@20"),  # the end
        place(1, "0@9999999"),
        place(1, "7@1"),  # no such partition
        place(1, "1@999999999999999999"),
        *(place(1, origin) for origin in (None, "", "0@-1", "-1@0", "0@1 ", "0@" + "9" * 99, "x@y", "٣@1")),
    ]
    async with asyncio.timeout(TIMEOUT):
        found = await texts_at(broker, [*wanted, *others], never)
    assert found == {one: f"text {one.content_id[1:]}" for one in wanted}
    assert await texts_at(broker, [], never) == {}


async def test_erased_texts_are_left_out(broker):
    await kafka_bus.create_topics(broker)
    places = await published(broker, 3)
    found = await texts_at(broker, places, lambda content_id, _: content_id == "c1")
    assert list(found.values()) == ["text 0", "text 2"]


async def test_texts_past_retention_are_left_out(kafka):
    await kafka_bus.create_topics(kafka)
    places = await published(kafka, 6)
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    await admin.start()
    tp = TopicPartition(kafka.prefix + topics.EVENTS, 0)
    await admin.delete_records({tp: RecordsToDelete(before_offset=4)})
    await admin.close()
    found = await texts_at(kafka, places, never)
    assert list(found.values()) == ["text 4", "text 5"]


async def test_held_actions_are_listed_with_the_texts_that_they_are_about(broker, monkeypatch):
    await kafka_bus.create_topics(broker)
    places = await published(broker, 4)
    rules = EnforcementRules((EnforcementRule("threats", "remove", rules=("HH3",)),), Cap(0))
    verdicts = [
        Verdict(
            f"v{number}", one.content_id, one.content_sha256, "hate", "p1", "violates", "reasoner", "live", "m", WHEN,
            ("HH3",), origin=one.origin, reason="It threatens.",
        )
        for number, one in enumerate([*places[:3], place(9, None)])
    ]  # fmt: skip
    async with enforcing(broker, rules) as agent, kafka_bus.producer(broker) as producer:
        for one in verdicts:
            await producer.send_and_wait(broker.prefix + topics.VERDICTS, encode(one), key=one.content_id.encode())
        await until(lambda: agent.state()["held"] == {"hate": 4})
    monkeypatch.setenv("SAFEGUARD_BOOTSTRAP", broker.bootstrap)
    monkeypatch.setenv("SAFEGUARD_PREFIX", broker.prefix)

    async def held(*words):
        done = await asyncio.to_thread(CliRunner().invoke, app, ["enforce", "held", *words])
        assert done.exit_code == 0, done.output
        return done.stdout

    (row,) = json.loads(await held("--json"))
    assert (row["policy"], row["action"], row["items"]) == ("hate", "remove", 4)
    texts = {one["content_id"]: one["text"] for one in row["examples"]}
    assert texts == {"c0": "text 0", "c1": "text 1", "c2": "text 2", "c9": None}
    shown = await held()
    assert "c1\n  text        text 1\n  held        remove, by the rule 'threats'\n" in shown
    assert "  verdict     violates HH3: It threatens.\n" in shown
    assert "c9\n  no text     past retention, erased, or not readable by this user\n" in shown
    without = await held("--no-texts")
    assert "c1\n  held" in without
    assert "text 1" not in without
    (row,) = json.loads(await held("--no-texts", "--json"))
    assert {one["text"] for one in row["examples"]} == {None}
    assert len(await moderators.held(broker)) == 4
