"""Outputs that Apache Kafka refuses for their size or their form: one dead letter each, and all else exactly once."""

import asyncio
from collections import Counter

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from safeguard_streams.bus import kafka as kafka_bus
from safeguard_streams.bus.engine import Engine, Limits
from safeguard_streams.bus.interface import Output, Partition
from safeguard_streams.bus.kafka import KafkaBus
from safeguard_streams.bus.transform import stateless
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import DeadLetter, decode
from safeguard_streams.runtime.security import client_options
from tests.conftest import TIMEOUT

SMALL, KEYED = "small", "keyed"
COUNT = 60
# By number: too large for its topic, too large for the client, and without a key on a compacted topic.
REFUSED = {
    17: Output(SMALL, b"17", b"x" * 3000),
    30: Output(SMALL, b"30", b"x" * (topics.LARGEST_RECORD + 1)),
    31: Output(KEYED, None, b"31"),
}


@pytest.fixture
async def current(kafka):
    await kafka_bus.create_topics(kafka)
    admin = AIOKafkaAdminClient(**client_options(kafka))
    await admin.start()
    configs = {SMALL: {"max.message.bytes": "2000"}, KEYED: {"cleanup.policy": "compact"}}
    await admin.create_topics([NewTopic(kafka.prefix + n, 2, 1, topic_configs=c) for n, c in configs.items()])
    await admin.close()
    async with kafka_bus.producer(kafka) as producer:
        for number in range(COUNT):
            value, key = str(number).encode(), str(number).encode()
            await producer.send(kafka.prefix + topics.EVENTS, value=value, key=key, partition=number % 2)
        await producer.flush()
    return kafka


async def answered(records):
    outputs = []
    for record in records:
        number = int(record.value)
        outputs.append(Output(KEYED, record.value, record.value))
        outputs.append(REFUSED.get(number, Output(SMALL, record.value, record.value)))
    return outputs


@pytest.mark.parametrize("max_batch", [1, 50])
async def test_what_kafka_refuses_is_the_fault_of_one_record(current, max_batch):
    bus = KafkaBus(current, [topics.EVENTS], "refusals")
    limits = Limits(max_batch=max_batch, max_in_flight=16, max_commit_bytes=2**30)
    engine = Engine(bus, stateless(answered), stage="refusals", limits=limits)
    ends = {Partition(current.prefix + topics.EVENTS, number): COUNT // 2 for number in (0, 1)}
    async with asyncio.timeout(TIMEOUT):
        assert await engine.run(asyncio.Event(), until=ends) == set(ends)

    async def written(name):
        return [record async for record in kafka_bus.read_all(current, [name])]

    letters = [decode(record.value, DeadLetter) for record in await written(topics.DEAD_LETTERS)]
    others = set(range(COUNT)) - set(REFUSED)
    assert sorted(int(letter.original()[1]) for letter in letters) == sorted(REFUSED)
    assert {letter.error for letter in letters} == {"OutputRefusedError"}
    for name in (SMALL, KEYED):
        assert Counter(int(record.value) for record in await written(name)) == dict.fromkeys(others, 1)
    assert engine.committed == COUNT


async def test_the_end_of_a_log_is_asked_of_the_broker(current):
    bus = KafkaBus(current, [topics.EVENTS], "ends")
    engine = Engine(bus, stateless(answered), stage="ends")
    partition = Partition(current.prefix + topics.EVENTS, 0)
    stop = asyncio.Event()
    running = asyncio.create_task(engine.run(stop))
    async with asyncio.timeout(TIMEOUT):
        while not engine.ready:
            await asyncio.sleep(0.05)
    assert await bus.log_end(partition) == COUNT // 2
    assert await bus.log_end(Partition("missing", 0)) is None
    stop.set()
    await running
