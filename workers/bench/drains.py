"""Drains: content items are published at once, and their verdicts taken, with figures of what the worker did."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from safeguard_streams.bus import kafka
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Tokens, Verdict, decode
from safeguard_streams.errors import SafeguardError
from safeguard_streams.runtime import metrics
from safeguard_streams.runtime.metrics import Metric
from safeguard_streams.runtime.settings import Settings
from safeguard_streams.workers.bench.baselines import Timed, steady
from safeguard_streams.workers.bench.items import KeyValue, escalations

ANSWER_TIMEOUT = 120.0  # seconds without an answer


async def publish(current: Settings, topic: str, records: Sequence[KeyValue], rate: float = 0.0) -> dict[str, float]:
    """Publish all at once, or at random intervals with a mean rate in records/s.

    Returns when each key was sent, in seconds since 1970.
    """
    draw = random.Random(0)
    sent: dict[str, float] = {}
    async with kafka.producer(current) as producer:
        due = time.monotonic()
        for record in records:
            if rate:
                due += draw.expovariate(rate)
                await asyncio.sleep(due - time.monotonic())
            sent[record.key.decode()] = time.time()
            await producer.send(current.prefix + topic, key=record.key, value=record.value)
        await producer.flush()
    return sent


class Answer(NamedTuple):
    """at: when the broker stored the record, in seconds since 1970."""

    key: str
    at: float
    value: bytes


class Answers:
    """Verdicts as they arrive."""

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer

    async def take(self, count: int, prefix: str) -> list[Answer]:
        """The next `count` answers whose key starts with a prefix.

        Raises SafeguardError after ANSWER_TIMEOUT seconds without an answer.
        """
        answers: list[Answer] = []
        last_progress = time.monotonic()
        while len(answers) < count:
            for records in (await self._consumer.getmany(timeout_ms=100)).values():
                last_progress = time.monotonic()
                answers += [
                    Answer(record.key.decode(), record.timestamp / 1000, record.value)
                    for record in records
                    if record.key.decode().startswith(prefix)
                ]
            if time.monotonic() - last_progress > ANSWER_TIMEOUT:
                raise SafeguardError(f"only {len(answers)} of {count} were answered")
        return answers


class Drain(NamedTuple):
    """The verdicts of a number of items that were published at once, and their figures."""

    row: dict[str, Any]
    verdicts: list[Verdict]


async def drain(current: Settings, answers: Answers, items: Sequence[str], name: str) -> Drain:
    """Publish items, and take their verdicts. Figures are of the time in which the worker had new items to begin."""
    await publish(current, topics.ESCALATIONS, escalations(items, "live", name))
    verdicts = [decode(answer.value, Verdict) for answer in await answers.take(len(items), name)]
    ends = [verdict.decided_at.timestamp() for verdict in verdicts]
    row = steady(
        [
            Timed(end - verdict.latency["reasoner"] / 1000, end, verdict.tokens or Tokens())
            for verdict, end in zip(verdicts, ends, strict=True)
        ]
    )
    return Drain(row, verdicts)


def parsed(verdicts: Sequence[Verdict]) -> dict[str, float]:
    """The shares of items whose first output was accepted, and of those with an answer."""
    first = sum(verdict.answer == "first" for verdict in verdicts)
    decided = sum(verdict.decision != "undetermined" for verdict in verdicts)
    return {"first_try_rate": round(first / len(verdicts), 4), "parse_rate": round(decided / len(verdicts), 4)}


async def second_tries_of(port: int) -> dict[str, int]:
    """What the worker's metrics say about second tries."""
    async with aiohttp.ClientSession() as http, http.get(f"http://127.0.0.1:{port}/metrics") as response:
        return second_tries(await response.text())


def second_tries(page: str) -> dict[str, int]:
    """Second tries by kind, and the tokens that the model wrote in them, from a page of metrics."""
    samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]

    def total(metric: Metric, **labels: str) -> int:
        return round(
            sum(s.value for s in samples if s.name == metric.prometheus and labels.items() <= s.labels.items())
        )

    return {
        "constrained_tries": total(metrics.SECOND_TRIES, kind="constrained"),
        "tries_again": total(metrics.SECOND_TRIES, kind="again"),
        "second_try_tokens": total(metrics.SECOND_TRY_TOKENS),
    }
