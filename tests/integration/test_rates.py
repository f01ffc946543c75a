"""Rates on real brokers: floods lead to one action each, whatever comes twice and whenever the stages are killed."""

import asyncio
import contextlib
import json
import os
import random
import subprocess
import sys
import urllib.request
from datetime import timedelta
from functools import partial
from pathlib import Path

import orjson
import pytest

from safeguard_streams.authors import posts, rates, standings
from safeguard_streams.bus import kafka as kafka_bus
from safeguard_streams.bus.interface import Partition
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import AuthorPost, Strike, encode, now
from safeguard_streams.infra import brokers
from safeguard_streams.operations import erasure
from safeguard_streams.releases.operator import ChangedBy
from tests.conftest import until

SAFEGUARD = Path(sys.executable).parent / "safeguard"
RULES = """
[[authors.rate]]
name = "flood"
posts = 20
within = "10m"
[[authors.threshold]]
name = "floods"
given_by = ["flood"]
action = "limit"
"""
SAME = "Cheap designer watches with free shipping today, order number"
WORDS = ["harbour", "lantern", "orchid", "copper", "violin", "meadow", "thunder", "biscuit", "pillow", "ladder"]


def event(author, number, text):
    return {"content_id": f"{author}-{number}", "text": text, "created_at": now(), "author_id": author}


def different(chance):
    return " ".join(chance.choices(WORDS, k=4)) + " " + "".join(chance.choices("abcdefghijklmnop", k=40))


def flood(author, count):
    return [event(author, number, f"{SAME} {number}") for number in range(count)]


async def publish(current, events):
    async with kafka_bus.producer(current) as producer:
        for one in events:
            key = one["content_id"].encode()
            await producer.send_and_wait(current.prefix + topics.EVENTS, orjson.dumps(one), key=key)


async def left(current):
    """The number of records that the stages have still to follow, to within a few of transactions' markers."""
    count = 0
    for group, name in (
        (posts.STAGE, topics.EVENTS),
        (rates.STAGE, topics.AUTHOR_POSTS),
        ("authors", topics.STRIKES),
    ):
        ends = await kafka_bus.end_offsets(current, name)
        done = await kafka_bus.group_positions(current, group, name, [place.partition for place in ends])
        for place, end in ends.items():
            after = {Partition(*place): done.get(place.partition, 0)}
            records = kafka_bus.read_all(current, [name], place.partition, after=after)
            count += len([one async for one in records]) if end else 0
    return count


async def strikes(current):
    return [one async for _, one in kafka_bus.read_decoded(current, [topics.STRIKES], Strike) if one.state == "given"]


class Ledger:
    """`safeguard authors run` as a process, which can be killed."""

    def __init__(self, current, folder):
        self.rules, self.log = folder / "rules.toml", folder / "authors.log"
        self.rules.write_text(RULES)
        self.environment = {**os.environ, "SAFEGUARD_BOOTSTRAP": current.bootstrap, "SAFEGUARD_PREFIX": current.prefix}
        self.environment["SAFEGUARD_GROUP_INSTANCE_ID"] = "one"
        self.port = brokers.free_port()
        self.start()

    def start(self):
        command = [SAFEGUARD, "authors", "run", self.rules, "--port", str(self.port)]
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(command, env=self.environment, stdout=out, stderr=out)

    def kill(self):
        self.process.kill()
        self.process.wait()

    async def ready(self):
        def is_ready():
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            with contextlib.suppress(OSError), urllib.request.urlopen(self.health, timeout=5) as answer:
                return json.load(answer)["ready"]

        await until(lambda: asyncio.to_thread(is_ready))

    @property
    def health(self):
        return f"http://127.0.0.1:{self.port}/health/ready"


@pytest.mark.slow
async def test_a_flood_leads_to_one_action_where_the_stages_are_killed(kafka, tmp_path):
    """Four authors at once, whose posts lie in all partitions, and two kills among them."""
    await kafka_bus.create_topics(kafka)
    chance = random.Random(4)
    doubled = [one for one in flood("dora", 25) for _ in range(2)]
    few = [one for one in flood("fay", 13) for _ in range(2)]
    other = [event("ben", number, different(chance)) for number in range(25)]
    mixed = [*flood("ann", 25), *doubled, *few, *other]
    chance.shuffle(mixed)
    ledger = Ledger(kafka, tmp_path)
    try:
        await ledger.ready()
        for start in (0, 40, 80):
            await publish(kafka, mixed[start : start + 40])
            if start:
                await until(partial(counted, kafka, start))
                await asyncio.sleep(chance.uniform(0.0, 0.5))
                ledger.kill()
                ledger.start()
        await publish(kafka, mixed[120:])
        await until(lambda: settled(kafka, ledger))
        ledger.kill()
        ledger.start()  # all are known already
        await ledger.ready()
        await publish(kafka, mixed)
        await until(lambda: settled(kafka, ledger))
    finally:
        ledger.kill()
    given = await strikes(kafka)
    assert sorted(one.author_id for one in given) == ["ann", "dora"]
    assert {one.rule for one in given} == {"flood"}
    for author, expected in (("ann", ["limit"]), ("dora", ["limit"])):
        assert [one.action for one in (await standings.known(kafka, author)).actions] == expected
    read = kafka_bus.read_decoded(kafka, [topics.AUTHOR_POSTS], AuthorPost)
    places = {(one.author_id, record.partition) async for record, one in read}
    assert len(places) == len({author for author, _ in places}) == 4, "an author's posts meet in one partition"


async def counted(current, number):
    """Whether about so many posts were brought to their authors."""
    return sum([1 async for _ in kafka_bus.read_all(current, [topics.AUTHOR_POSTS])]) >= number // 2


async def settled(current, ledger):
    assert ledger.process.poll() is None, ledger.log.read_text()[-3000:]
    return not await left(current)


async def test_an_erasure_names_the_posts_that_remain(kafka):
    await kafka_bus.create_topics(kafka)
    post = AuthorPost("ann", "c1", now() - timedelta(seconds=1), "0" * 16, 20)
    place = kafka_bus.likely_partition("ann", kafka.partitions)
    async with kafka_bus.producer(kafka) as producer:
        topic = kafka.prefix + topics.AUTHOR_POSTS
        await producer.send_and_wait(topic, encode(post), key=b"ann", partition=place)
    found = await erasure.erase(kafka, "c1", ChangedBy("", "ben"), erasure.Search(by_key=True))
    (remains,) = [one for one in found.remains if one.topic == topics.AUTHOR_POSTS]
    assert (remains.records, remains.quotes, remains.author) == (1, ("sketch",), True)
    assert remains.until is not None
