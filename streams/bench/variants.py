"""What the prefilter is measured against: python -m streams.bench.variants NAME, settings from the environment.

plain-faust    the agent one would write from Faust's documentation: an event at a time, topic.send
bare           an aiokafka loop around the same decision, in batches, position committed after the outputs
bare-txn       the same loop with a transaction for each partition of each poll
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from typing import Any

import faust
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from streams import settings, topics
from streams.bus import Output
from streams.classifier import Classifier
from streams.policy_feed import PolicyFeed
from streams.prefilter import Prefilter
from streams.process import first_of
from streams.settings import Settings


async def _prefilter(current: Settings) -> Prefilter:
    feed, caught_up = PolicyFeed(), asyncio.Event()
    await first_of(feed.follow(current, caught_up), caught_up.wait())
    return Prefilter(Classifier(), feed)


def plain_faust(current: Settings) -> None:
    """Run until killed."""
    app = faust.App(
        f"{current.prefix}plain-faust",
        broker=f"kafka://{current.bootstrap}",
        topic_disable_leader=True,
        topic_allow_declare=False,
        consumer_auto_offset_reset="earliest",
        broker_session_timeout=10,
        web_enabled=False,
        datadir=f"/tmp/{current.prefix}plain-faust",  # noqa: S108  (Faust wants a folder, and keeps nothing there)
    )
    outputs = {
        name: app.topic(current.prefix + name, value_serializer="raw", key_type=bytes, key_serializer="raw")
        for name in (topics.CLEARED, topics.ESCALATIONS, topics.DEAD_LETTERS)
    }
    state: dict[str, Prefilter] = {}

    @app.agent(app.topic(current.prefix + topics.EVENTS, value_type=bytes, value_serializer="raw", key_type=bytes))
    async def judge(stream: Any) -> None:
        state["prefilter"] = await _prefilter(current)
        async for event in stream.events():
            for output in state["prefilter"].judge([event.message]):
                await outputs[output.topic].send(key=output.key, value=output.value)

    faust.Worker(app, loglevel="WARNING").execute_from_commandline()


def _send(producer: AIOKafkaProducer, current: Settings, outputs: Sequence[Output], partition: int) -> Any:
    by_topic: dict[str, list[Output]] = {}
    for output in outputs:
        by_topic.setdefault(output.topic, []).append(output)

    async def send() -> None:
        sent = []
        for name, group in by_topic.items():
            batch = producer.create_batch()
            for output in group:
                item = {"key": output.key, "value": output.value, "timestamp": None, "headers": [*output.headers]}
                if batch.append(**item) is None:
                    sent.append(await producer.send_batch(batch, current.prefix + name, partition=partition))
                    batch = producer.create_batch()
                    batch.append(**item)
            sent.append(await producer.send_batch(batch, current.prefix + name, partition=partition))
        for future in sent:
            await future

    return send()


async def bare(current: Settings, *, transactions: bool) -> None:
    """Run until killed."""
    prefilter = await _prefilter(current)
    group = f"{current.prefix}bare"
    options: dict[str, Any] = {"max_batch_size": 2**19, "acks": "all", "retry_backoff_ms": 5}
    consumer = AIOKafkaConsumer(
        current.prefix + topics.EVENTS,
        **current.kafka(),
        group_id=group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=4 * topics.MiB,
    )
    await consumer.start()
    producers: dict[int, AIOKafkaProducer] = {}

    async def producer_of(number: int) -> AIOKafkaProducer:
        key = number if transactions else -1
        if key not in producers:
            identity = {"transactional_id": f"{group}-{number}"} if transactions else {}
            producers[key] = AIOKafkaProducer(**current.kafka(), **options, **identity)
            await producers[key].start()
        return producers[key]

    async def handle(tp: TopicPartition, records: Sequence[Any]) -> None:
        producer = await producer_of(tp.partition)
        position = {tp: records[-1].offset + 1}
        if transactions:
            async with producer.transaction():
                await _send(producer, current, prefilter.judge(records), tp.partition)
                await producer.send_offsets_to_transaction(position, group)
        else:
            await _send(producer, current, prefilter.judge(records), tp.partition)
            await consumer.commit(position)

    while True:
        polled = await consumer.getmany(timeout_ms=100, max_records=8000)
        await asyncio.gather(*(handle(tp, records) for tp, records in polled.items()))


if __name__ == "__main__":
    chosen = settings.load()
    if sys.argv[1] == "plain-faust":
        sys.argv[1:] = []
        plain_faust(chosen)
    else:
        asyncio.run(bare(chosen, transactions=sys.argv[1] == "bare-txn"))
