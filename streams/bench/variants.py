"""Baselines of the prefilter: python -m safeguard_streams.bench.variants NAME, settings from the environment.

- plain-faust: the agent that Faust's documentation suggests: one event at a time, fastText's predict, topic.send
- bare: an aiokafka loop around the prefilter's decision, in batches; commits the offset after the outputs
- bare-txn: the same loop with a transaction for each partition of each poll
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import ahocorasick_rs
import fasttext
import faust
import re2
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from safeguard_streams.bus.interface import Output
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import (
    ContentEvent,
    Escalation,
    PrefilterResult,
    Verdict,
    content_sha256,
    decode,
    encode,
    now,
    verdict_id,
)
from safeguard_streams.policies.document import Policy, pattern_options
from safeguard_streams.prefilter.classifier import SHIPPED, Classifier
from safeguard_streams.prefilter.decision import Prefilter
from safeguard_streams.releases.feed import PolicyFeed, PolicySet, Released
from safeguard_streams.runtime import settings
from safeguard_streams.runtime.process import collect_rarely, run_until_first
from safeguard_streams.runtime.security import client_options
from safeguard_streams.runtime.settings import Settings


async def _policies(current: Settings) -> PolicyFeed:
    feed, caught_up = PolicyFeed(), asyncio.Event()
    await run_until_first(feed.follow(current, caught_up), caught_up.wait())
    return feed


def prefilter_under(policies: Iterable[Policy]) -> Prefilter:
    """The prefilter's decision without a bus, with these policies in force."""
    feed = PolicyFeed()
    feed.policies = PolicySet({policy.id: Released(policy, 1) for policy in policies})
    return Prefilter(Classifier(), feed)


class PlainGate(NamedTuple):
    """One policy's gate, without the prefilter's optimizations."""

    policy: Policy
    labels: set[str]
    terms: Any
    patterns: Any


def _plain_gate(policy: Policy) -> PlainGate:
    gate = policy.gate
    terms = ahocorasick_rs.AhoCorasick([term.lower() for term in gate.terms]) if gate.terms else None
    patterns = None
    if gate.patterns:
        patterns = re2.Set.SearchSet(pattern_options())
        for pattern in gate.patterns:
            patterns.Add(pattern)
        patterns.Compile()
    return PlainGate(policy, {f"__label__{label}" for label in gate.harms}, terms, patterns)


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
        datadir=f"/tmp/{current.prefix}plain-faust",  # noqa: S108  (Faust requires a folder, and keeps nothing there)
    )
    cleared, escalations = (
        app.topic(current.prefix + name, value_serializer="raw", key_type=bytes, key_serializer="raw")
        for name in (topics.CLEARED, topics.ESCALATIONS)
    )
    model: Any = fasttext.load_model(str(SHIPPED))
    gates: list[PlainGate] = []

    @app.agent(app.topic(current.prefix + topics.EVENTS, value_type=bytes, value_serializer="raw", key_type=bytes))
    async def judge(stream: Any) -> None:
        feed = await _policies(current)
        gates.extend(_plain_gate(released.policy) for released in feed.policies.released.values())
        async for event in stream.events():
            content = decode(event.value, ContentEvent)
            text = " ".join(content.text.lower().split())
            harms = dict(zip(*model.predict(text, k=-1), strict=True))
            tripped = [
                policy
                for policy, labels, terms, patterns in gates
                if sum(harms[label] for label in labels) >= policy.gate.threshold
                or (terms and terms.find_matches_as_indexes(text))
                or (patterns and patterns.Match(text))
            ]
            for policy in tripped:
                result = PrefilterResult("label", threshold=policy.gate.threshold)
                escalation = Escalation(content, policy.id, policy.version, 1, result, "live", now())
                await escalations.send(key=event.key, value=encode(escalation))
            if not tripped:
                digest = content_sha256(content.text)
                name = verdict_id(content.content_id, digest)
                verdict = Verdict(name, content.content_id, digest, "*", "", "safe", "prefilter", "live", "", now())
                await cleared.send(key=event.key, value=encode(verdict))

    faust.Worker(app, loglevel="WARNING").execute_from_commandline()


async def _send(producer: AIOKafkaProducer, current: Settings, outputs: Sequence[Output], partition: int) -> None:
    by_topic: dict[str, list[Output]] = {}
    for output in outputs:
        by_topic.setdefault(output.topic, []).append(output)
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


async def bare(current: Settings, *, transactions: bool) -> None:
    """Run until killed."""
    prefilter = Prefilter(Classifier(), await _policies(current))
    collect_rarely()
    group = f"{current.prefix}bare"
    options: dict[str, Any] = {"max_batch_size": 2**19, "acks": "all", "retry_backoff_ms": 5}
    consumer = AIOKafkaConsumer(
        current.prefix + topics.EVENTS,
        **client_options(current),
        group_id=group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=4 * topics.MiB,
    )
    await consumer.start()
    producers: dict[int, AIOKafkaProducer] = {}

    async def producer_for(partition: int) -> AIOKafkaProducer:
        key = partition if transactions else -1
        if key not in producers:
            identity = {"transactional_id": f"{group}-{partition}"} if transactions else {}
            producers[key] = AIOKafkaProducer(**client_options(current), **options, **identity)
            await producers[key].start()
        return producers[key]

    async def handle(tp: TopicPartition, records: Sequence[Any]) -> None:
        producer = await producer_for(tp.partition)
        offsets = {tp: records[-1].offset + 1}
        if transactions:
            async with producer.transaction():
                await _send(producer, current, prefilter.decide(records), tp.partition)
                await producer.send_offsets_to_transaction(offsets, group)
        else:
            await _send(producer, current, prefilter.decide(records), tp.partition)
            await consumer.commit(offsets)

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
