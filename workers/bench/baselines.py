"""What the worker is measured against: python -m safeguard_streams.workers.bench.baselines NAME ..., settings from the environment.

alone COUNT FILE
        AsyncLLM with the same prompts and no Kafka: COUNT contents, then COUNT with duplicates; the figures to FILE
chat    a plain loop over the escalations topic: a poll, a chat call for each message, 64 in flight, a commit
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from safeguard_streams.contract import topics
from safeguard_streams.demo.tally import percentile
from safeguard_streams.runtime import settings
from safeguard_streams.runtime.security import client_options
from safeguard_streams.runtime.settings import Settings
from safeguard_streams.workers.bench.contents import ANSWER, contents, policies, under
from safeguard_streams.workers.inference.interface import Completion, Question
from safeguard_streams.workers.inference.vllm import VllmEngine
from safeguard_streams.workers.judging import prompt

IN_FLIGHT = 64
DUPLICATES = 0.3


def figures(took: Sequence[float], seconds: float, prompts: int, cached: int, completion: int) -> dict[str, Any]:
    """One row of the table; took is seconds for each request, the counts are tokens."""
    return {
        "requests": len(took),
        "requests_per_s": round(len(took) / seconds, 2),
        "tokens_per_s": round(completion / seconds),
        "prompt_cached_percent": round(100 * cached / prompts, 1) if prompts else None,
        "p50_ms": percentile([t * 1000 for t in took], 0.5),
        "p99_ms": percentile([t * 1000 for t in took], 0.99),
    }


async def _alone(engine: VllmEngine, made: Sequence[str]) -> dict[str, Any]:
    among = policies()
    slots = asyncio.Semaphore(engine.slots + engine.slots // 4)  # as many as the worker hands over
    took: list[float] = []

    async def ask(text: str) -> Completion:
        policy = under(text, among)
        question = Question(policy.text, policy.effort, prompt.encode(text), ANSWER)
        async with slots:
            start = time.perf_counter()
            completion = await engine.generate(question)
            took.append(time.perf_counter() - start)
        return completion

    start = time.perf_counter()
    said = await asyncio.gather(*(ask(text) for text in made))
    seconds = time.perf_counter() - start
    return figures(
        took,
        seconds,
        sum(c.prompt_tokens for c in said),
        sum(c.cached_tokens for c in said),
        sum(len(c.tokens) for c in said),
    )


async def alone(current: Settings, count: int) -> list[dict[str, Any]]:
    """The figures without duplicates, and with them."""
    engine = await VllmEngine.start(current)
    for policy in policies():
        await engine.generate(Question(policy.text, policy.effort, (), 1))
    rows = [await _alone(engine, contents(count)), await _alone(engine, contents(count, DUPLICATES, seed=1))]
    await engine.close()
    return rows


async def chat(current: Settings) -> None:
    """Run until killed."""
    by_id = {policy.id: policy for policy in policies()}
    consumer = AIOKafkaConsumer(
        current.prefix + topics.ESCALATIONS,
        **client_options(current),
        group_id=f"{current.prefix}chat",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    producer = AIOKafkaProducer(**client_options(current), acks="all")
    await consumer.start()
    await producer.start()
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=600)) as http:

        async def judge(record: Any) -> None:
            start = time.perf_counter()
            escalation = orjson.loads(record.value)
            policy = by_id[escalation["policy_id"]]
            body = {
                "model": current.model,
                "messages": [
                    {"role": "system", "content": policy.text},
                    {"role": "user", "content": escalation["event"]["text"]},
                ],
                "reasoning_effort": policy.effort,
                "temperature": 0,
                "max_tokens": ANSWER,
            }
            async with http.post(f"{current.servers}/chat/completions", json=body) as response:
                said = await response.json()
            verdict = {
                "content_id": escalation["event"]["content_id"],
                "answer": said["choices"][0]["message"]["content"],
                "took": time.perf_counter() - start,
                "usage": said["usage"],
            }
            await producer.send_and_wait(current.prefix + topics.VERDICTS, key=record.key, value=orjson.dumps(verdict))

        while True:
            polled = await consumer.getmany(timeout_ms=100, max_records=IN_FLIGHT)
            await asyncio.gather(*(judge(record) for records in polled.values() for record in records))
            await consumer.commit()


if __name__ == "__main__":
    chosen = settings.load()
    if sys.argv[1] == "alone":
        Path(sys.argv[3]).write_bytes(orjson.dumps(asyncio.run(alone(chosen, int(sys.argv[2])))))
    else:
        asyncio.run(chat(chosen))
