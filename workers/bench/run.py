"""Runs the variants one after another: the same contents, the same engine settings, one broker."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import orjson

from safeguard_streams.bench import processes
from safeguard_streams.bench.common import Say, fresh
from safeguard_streams.bench.processes import failed, process, ready
from safeguard_streams.bus import kafka
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Verdict, decode
from safeguard_streams.demo.tally import percentile
from safeguard_streams.errors import SafeguardError
from safeguard_streams.infra import brokers
from safeguard_streams.runtime import settings
from safeguard_streams.runtime.settings import Settings
from safeguard_streams.workers.bench.baselines import DUPLICATES, figures
from safeguard_streams.workers.bench.contents import contents, escalations, policies
from safeguard_streams.workers.inference.preflight import locate
from safeguard_streams.workers.inference.vllm import CPU_BLOCK, CPU_SLOTS, GPU_SLOTS, ON_CPU, QUIET

PATIENCE = 120.0  # seconds without an answer
LONGEST = 8192  # tokens of a prompt and its answer
LIVE_SHARE = 0.3  # of the worker's throughput, in the measure of lanes
LIVE_SECONDS = 40.0


async def _publish(
    current: Settings, topic: str, records: Sequence[tuple[bytes, bytes]], rate: float = 0.0
) -> dict[str, float]:
    """All at once, or as they come at random at a rate (records/s); when each was sent, in seconds since 1970."""
    draw = random.Random(0)
    sent: dict[str, float] = {}
    async with kafka.producer(current) as producer:
        due = time.monotonic()
        for key, value in records:
            if rate:
                due += draw.expovariate(rate)
                await asyncio.sleep(due - time.monotonic())
            sent[key.decode()] = time.time()
            await producer.send(current.prefix + topic, key=key, value=value)
        await producer.flush()
    return sent


class _Answers:
    """What was answered, as it comes: key, when the broker had it (s), the record's value."""

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer

    async def take(self, count: int, prefix: str) -> list[tuple[str, float, bytes]]:
        """The next `count` whose key begins so. Raises SafeguardError when none comes for PATIENCE seconds."""
        found: list[tuple[str, float, bytes]] = []
        moved = time.monotonic()
        while len(found) < count:
            for records in (await self._consumer.getmany(timeout_ms=100)).values():
                moved = time.monotonic()
                found += [
                    (record.key.decode(), record.timestamp / 1000, record.value)
                    for record in records
                    if record.key.decode().startswith(prefix)
                ]
            if time.monotonic() - moved > PATIENCE:
                raise SafeguardError(f"only {len(found)} of {count} were answered")
        return found


def _row(answers: Sequence[tuple[str, float, bytes]]) -> dict[str, Any]:
    """Figures of a drain, from the beginning of the first judgement to the writing of the last verdict."""
    verdicts = [decode(value, Verdict) for _, _, value in answers]
    begun = min(v.decided_at.timestamp() - v.latency["reasoner"] / 1000 for v in verdicts)
    tokens = [v.tokens for v in verdicts if v.tokens is not None]
    return figures(
        [v.latency["reasoner"] / 1000 for v in verdicts],
        max(at for _, at, _ in answers) - begun,
        sum(t.prompt for t in tokens),
        sum(t.cached for t in tokens),
        sum(t.completion for t in tokens),
    )


@contextlib.asynccontextmanager
async def _worker(current: Settings, environment: dict[str, str], folder: Path) -> AsyncIterator[_Answers]:
    port, log = brokers.free_port(), folder / "worker.log"
    command = processes.safeguard("reason", "run", "--port", str(port))
    with process(command, {**environment, **processes.environment(current)}, log) as child:
        await ready(child, f"http://127.0.0.1:{port}/health/ready", "the worker", log)
        async with kafka.reader(current, [topics.VERDICTS, topics.REPLAYS]) as consumer:
            yield _Answers(consumer)


async def _worker_rows(
    bootstrap: str, count: int, environment: dict[str, str], folder: Path, say: Say
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The worker's rows, and the measure of lanes."""
    current = await fresh(bootstrap, 2, policies())
    async with _worker(current, environment, folder) as answers:
        rows = []
        for name, made in (("plain", contents(count)), ("duplicates", contents(count, DUPLICATES, seed=1))):
            await _publish(current, topics.ESCALATIONS, escalations(made, "live", name))
            rows.append(_row(await answers.take(count, name)))
            say(f"worker, {name}: {rows[-1]['requests_per_s']} requests/s")
        lanes = await _lanes(current, answers, rows[0]["requests_per_s"], say)
    return rows, lanes


async def _lanes(current: Settings, answers: _Answers, throughput: float, say: Say) -> dict[str, Any]:
    """Live content at a share of the throughput, alone and beside a replay that would fill the engine."""
    rate = throughput * LIVE_SHARE
    count = round(rate * LIVE_SECONDS)
    figures: dict[str, Any] = {"live_per_s": round(rate, 2), "contents": count}

    async def live(name: str, seed: int) -> list[float]:
        records = escalations(contents(count, seed=seed), "live", name)
        publishing = asyncio.create_task(_publish(current, topics.ESCALATIONS, records, rate))
        found = await answers.take(count, name)
        sent = await publishing
        return [(at - sent[key]) * 1000 for key, at, _ in found]

    alone = await live("alone", 2)
    replay = escalations(contents(round(throughput * LIVE_SECONDS * 2), seed=4), "replay", "replay", "bench")
    await _publish(current, topics.ESCALATIONS_REPLAY, replay)
    await asyncio.sleep(5)
    begin = time.time()
    beside = await live("beside", 3)
    end = time.time()
    done = [d async for r in kafka.read_all(current, [topics.REPLAYS]) if begin <= (d := r.timestamp / 1000) <= end]
    for name, took in (("alone", alone), ("beside_replay", beside)):
        figures |= {f"{name}_p50_ms": percentile(took, 0.5), f"{name}_p99_ms": percentile(took, 0.99)}
    figures["p99_ratio"] = round(figures["beside_replay_p99_ms"] / figures["alone_p99_ms"], 2)
    figures["replayed_meanwhile"] = len(done)
    say(f"live p99 {figures['alone_p99_ms']} ms alone, {figures['beside_replay_p99_ms']} ms beside a replay")
    return figures


async def _alone_rows(count: int, environment: dict[str, str], folder: Path, say: Say) -> list[dict[str, Any]]:
    log, out = folder / "alone.log", folder / "alone.json"
    command = [sys.executable, "-m", "safeguard_streams.workers.bench.baselines", "alone", str(count), str(out)]
    with process(command, environment, log) as child:
        if await asyncio.to_thread(child.wait):
            raise failed("the engine alone", log)
    rows: list[dict[str, Any]] = orjson.loads(out.read_bytes())
    say(f"engine alone: {rows[0]['requests_per_s']} requests/s")
    return rows


async def _chat_row(
    bootstrap: str,
    count: int,
    model: str,
    slots: int,
    on_cpu: bool,
    environment: dict[str, str],
    folder: Path,
    say: Say,
) -> dict[str, Any]:
    current = await fresh(bootstrap, 2, policies())
    await _publish(current, topics.ESCALATIONS, escalations(contents(count), "live", "chat"))
    port, log = brokers.free_port(), folder / "server.log"
    weights, name = await asyncio.to_thread(locate, model)
    server = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(weights)),
        *("--served-model-name", name, "--host", "127.0.0.1", "--port", str(port)),
        *("--max-model-len", str(LONGEST), "--max-num-seqs", str(slots), "--enable-prompt-tokens-details"),
    ]
    if on_cpu:
        server += ["--enforce-eager", "--block-size", str(CPU_BLOCK), "--distributed-executor-backend", "uni"]
    with process(server, environment, log) as child:
        await ready(child, f"http://127.0.0.1:{port}/health", "the server", log)
        given = {
            **processes.environment(current),
            "SAFEGUARD_SERVERS": f"http://127.0.0.1:{port}/v1",
            "SAFEGUARD_MODEL": name,
        }
        loop = [sys.executable, "-m", "safeguard_streams.workers.bench.baselines", "chat"]
        with process(loop, {**environment, **given}, folder / "chat.log"):
            async with kafka.reader(current, [topics.VERDICTS]) as consumer:
                answers = await _Answers(consumer).take(count, "chat")
    said = [(at, orjson.loads(value)) for _, at, value in answers]
    usages = [verdict["usage"] for _, verdict in said]
    row = figures(
        [verdict["took"] for _, verdict in said],
        max(at for at, _ in said) - min(at - verdict["took"] for at, verdict in said),
        sum(usage["prompt_tokens"] for usage in usages),
        sum((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0 for usage in usages),
        sum(usage["completion_tokens"] for usage in usages),
    )
    say(f"plain chat loop: {row['requests_per_s']} requests/s")
    return row


def _on_cpu() -> bool:
    from vllm.platforms import current_platform

    return bool(current_platform.is_cpu())


async def reason(bootstrap: str, count: int, model: str, folder: Path, say: Say) -> dict[str, Any]:
    """The engine alone, the worker, a plain chat loop; with duplicates; and live content beside a replay."""
    on_cpu = await asyncio.to_thread(_on_cpu)
    slots = settings.load().max_in_flight or (CPU_SLOTS if on_cpu else GPU_SLOTS)
    environment = {
        "SAFEGUARD_MODEL": model,
        "SAFEGUARD_MAX_IN_FLIGHT": str(slots),
        "SAFEGUARD_MAX_MODEL_LEN": str(LONGEST),
        **{name: os.environ.get(name, value) for name, value in {**QUIET, **(ON_CPU if on_cpu else {})}.items()},
    }
    say("each variant loads the model first")
    alone = await _alone_rows(count, environment, folder, say)
    worker, lanes = await _worker_rows(bootstrap, count, environment, folder, say)
    chat = await _chat_row(bootstrap, count, model, slots, on_cpu, environment, folder, say)
    return {
        "in_flight": slots,
        "variants": {
            "engine-alone": alone[0],
            "safeguard": worker[0],
            "plain-chat-loop": chat,
            "engine-alone, duplicates": alone[1],
            "safeguard, duplicates": worker[1],
        },
        "lanes": lanes,
        "ratios": {
            "safeguard_to_engine_alone": round(worker[0]["requests_per_s"] / alone[0]["requests_per_s"], 3),
            "safeguard_to_plain_chat_loop": round(worker[0]["requests_per_s"] / chat["requests_per_s"], 2),
            "safeguard_to_engine_alone_with_duplicates": round(
                worker[1]["requests_per_s"] / alone[1]["requests_per_s"], 2
            ),
            "live_p99_beside_a_replay_to_alone": lanes["p99_ratio"],
            "replayed_meanwhile": lanes["replayed_meanwhile"],
        },
    }
