"""Baselines for the worker: python -m safeguard_streams.workers.bench.baselines NAME ...

Settings come from the environment.

alone COUNT FILE
        AsyncLLM with the same prompts and sampling, and no Kafka: COUNT items, COUNT with vLLM's log-probabilities of
        each token, then COUNT with duplicates. Figures go to FILE.
sweep COUNT FILE IN_FLIGHT...
        AsyncLLM with answers as long as real ones, at each number of requests at once. Figures go to FILE.
chat    a plain loop over the escalations topic: poll as many as the worker has at once, one chat call for each, commit
"""

from __future__ import annotations

import asyncio
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Tokens
from safeguard_streams.demo.tally import percentile
from safeguard_streams.runtime import settings
from safeguard_streams.runtime.security import client_options
from safeguard_streams.runtime.settings import Settings
from safeguard_streams.workers.bench.items import (
    MAX_ANSWER_TOKENS,
    answer_lengths,
    at_once,
    make_items,
    policies,
    policy_for,
)
from safeguard_streams.workers.inference import harmony, preflight, vllm_arguments
from safeguard_streams.workers.inference.interface import InferenceRequest
from safeguard_streams.workers.inference.vllm import sampling
from safeguard_streams.workers.judging.judgement import total_tokens

DUPLICATES = 0.3


def figures(durations: Sequence[float], seconds: float, tokens: Tokens) -> dict[str, Any]:
    """One row of the table. durations: of each request, in seconds. seconds: of the whole measurement."""
    return {
        "requests": len(durations),
        "requests_per_s": round(len(durations) / seconds, 2),
        "tokens_per_s": round(tokens.completion / seconds),
        "prompt_cached_percent": round(100 * tokens.cached / tokens.prompt, 1) if tokens.prompt else None,
        "p50_ms": percentile([duration * 1000 for duration in durations], 0.5),
        "p99_ms": percentile([duration * 1000 for duration in durations], 0.99),
    }


def engine(current: Settings) -> Any:
    """vLLM with the worker's arguments, except for those by which it notes decisions."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.platforms import current_platform
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.async_llm import AsyncLLM

    folder, _ = preflight.locate(current.model)
    on_cpu = current_platform.is_cpu()
    places = current.max_in_flight or vllm_arguments.default_concurrency(current_platform)
    arguments = vllm_arguments.engine_arguments(current, folder, places, on_cpu=on_cpu)
    plain = {name: value for name, value in arguments.items() if name not in vllm_arguments.NOTED_DECISIONS}
    return AsyncLLM.from_engine_args(AsyncEngineArgs(**plain), usage_context=UsageContext.OPENAI_API_SERVER)


class Timed(NamedTuple):
    """A request: when it began and ended, in seconds of a clock, and what it took and gave."""

    begin: float
    end: float
    tokens: Tokens


async def ask(llm: Any, request: InferenceRequest, parameters: Any) -> Timed:
    """Run a request with vLLM's parameters."""
    begin = time.perf_counter()
    prompt = request.prompt
    final: Any = None
    async for final in llm.generate({"prompt_token_ids": prompt}, parameters, uuid.uuid4().hex):  # noqa: B007
        pass
    tokens = Tokens(len(prompt), final.num_cached_tokens or 0, len(final.outputs[0].token_ids))
    return Timed(begin, time.perf_counter(), tokens)


async def _alone(llm: Any, items: Sequence[str], places: int, *, scored: bool) -> dict[str, Any]:
    candidates = policies()

    async def judge(text: str) -> Timed:
        policy = policy_for(text, candidates)
        user = harmony.encode_text(text)
        request = InferenceRequest(policy.text, policy.effort, user, MAX_ANSWER_TOKENS, scored=scored)
        return await ask(llm, request, sampling(request))

    return steady(await _at_once(at_once(places), [partial(judge, text) for text in items]))


async def alone(current: Settings, count: int) -> list[dict[str, Any]]:
    """The figures without and with log-probabilities, and without them for items with duplicates."""
    llm = engine(current)
    places = llm.vllm_config.scheduler_config.max_num_seqs
    for policy in policies():
        request = InferenceRequest(policy.text, policy.effort, (), 1)
        await ask(llm, request, sampling(request))
    rows = [
        await _alone(llm, make_items(count), places, scored=False),
        await _alone(llm, make_items(count, seed=2), places, scored=True),
        await _alone(llm, make_items(count, DUPLICATES, seed=1), places, scored=False),
    ]
    llm.shutdown()
    return rows


async def sweep(current: Settings, count: int, steps: Sequence[int]) -> list[dict[str, Any]]:
    """The figures at each number of requests at once, of at least `count` requests and four for each place."""
    llm = engine(current)
    candidates = policies()
    longest = llm.vllm_config.model_config.max_model_len // 2  # beside the longest prompt

    async def judge(text: str, length: int) -> Timed:
        policy = policy_for(text, candidates)
        request = InferenceRequest(policy.text, policy.effort, harmony.encode_text(text), length)
        return await ask(llm, request, _exactly(length))

    for text in make_items(len(candidates)):
        await judge(text, 1)
    rows = []
    for step in steps:
        requests = max(count, 4 * step)
        todo = zip(make_items(requests, seed=step), answer_lengths(requests, longest, seed=step), strict=True)
        rows.append({"in_flight": step, **steady(await _at_once(step, [partial(judge, *one) for one in todo]))})
    llm.shutdown()
    return rows


def _exactly(length: int) -> Any:
    """vLLM's parameters with which the model writes exactly `length` tokens, whatever they are."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        temperature=1.0,
        max_tokens=length,
        min_tokens=length,
        ignore_eos=True,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


async def _at_once(places: int, calls: Sequence[Callable[[], Awaitable[Timed]]]) -> list[Timed]:
    """Run all calls in order, as many at once as there are places."""
    todo = iter(calls)

    async def place() -> list[Timed]:
        return [await call() for call in todo]

    return [one for done in await asyncio.gather(*(place() for _ in range(places))) for one in done]


def steady(requests: Sequence[Timed]) -> dict[str, Any]:
    """Figures of the time in which all places were taken: until the last request began."""
    first, last = min(one.begin for one in requests), max(one.begin for one in requests)
    shares = [(min(one.end, last) - one.begin) / max(one.end - one.begin, 1e-9) for one in requests]
    seconds = last - first
    row = figures([one.end - one.begin for one in requests], seconds, total_tokens(one.tokens for one in requests))
    written = sum(share * one.tokens.completion for share, one in zip(shares, requests, strict=True))
    return row | {"requests_per_s": round(sum(shares) / seconds, 2), "tokens_per_s": round(written / seconds)}


async def chat(current: Settings) -> None:
    """Run until killed."""
    assert current.max_in_flight, "the benchmark sets it"
    places = at_once(current.max_in_flight)
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
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=600)) as http:

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
                "max_tokens": MAX_ANSWER_TOKENS,
            }
            async with http.post(f"{current.servers}/chat/completions", json=body) as response:
                result = await response.json()
            verdict = {
                "content_id": escalation["event"]["content_id"],
                "answer": result["choices"][0]["message"]["content"],
                "took": time.perf_counter() - start,
                "usage": result["usage"],
            }
            await producer.send_and_wait(current.prefix + topics.VERDICTS, key=record.key, value=orjson.dumps(verdict))

        while True:
            polled = await consumer.getmany(timeout_ms=100, max_records=places)
            await asyncio.gather(*(judge(record) for records in polled.values() for record in records))
            await consumer.commit()


if __name__ == "__main__":
    loaded = settings.load()
    if sys.argv[1] == "alone":
        Path(sys.argv[3]).write_bytes(orjson.dumps(asyncio.run(alone(loaded, int(sys.argv[2])))))
    elif sys.argv[1] == "sweep":
        swept = sweep(loaded, int(sys.argv[2]), [int(step) for step in sys.argv[4:]])
        Path(sys.argv[3]).write_bytes(orjson.dumps(asyncio.run(swept)))
    else:
        asyncio.run(chat(loaded))
