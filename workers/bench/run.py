"""Runs the variants one after another with equal content items, equal vLLM settings and one broker."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import orjson

from safeguard_streams.bench import processes
from safeguard_streams.bench.common import Say, fresh
from safeguard_streams.bench.processes import failed, process, ready
from safeguard_streams.bus import kafka
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Tokens
from safeguard_streams.demo.tally import percentile
from safeguard_streams.infra import brokers
from safeguard_streams.operations.capacity import LOGGED, SHARES
from safeguard_streams.runtime import settings
from safeguard_streams.runtime.settings import Settings
from safeguard_streams.workers.bench.baselines import DUPLICATES, Timed, steady
from safeguard_streams.workers.bench.drains import Answers, drain, parsed, publish, second_tries_of
from safeguard_streams.workers.bench.items import at_once, escalations, make_items, policies
from safeguard_streams.workers.inference.preflight import locate
from safeguard_streams.workers.inference.vllm_arguments import CPU_BLOCK, ON_CPU, QUIET, default_concurrency

MAX_MODEL_LEN = 8192  # tokens of a prompt and its answer
LIVE_SHARE = 0.3  # of the worker's throughput, in the measurement of lanes
LIVE_SECONDS = 40.0
SWEEP = (0.25, 0.5, 1, 2, 4)  # of the usual number of requests at once


class ReasonBench(msgspec.Struct, frozen=True):
    """One benchmark run. environment: of every process that loads the model."""

    bootstrap: str
    count: int
    model: str
    concurrency: int
    on_cpu: bool
    environment: dict[str, str]
    folder: Path
    say: Say


class WorkerFigures(NamedTuple):
    """The worker's rows without and with duplicates, and the measurement of lanes.

    completion_tokens: percentiles of a judgement, without duplicates. answers: how they were had, without duplicates.
    """

    plain: dict[str, Any]
    duplicates: dict[str, Any]
    completion_tokens: dict[str, float | None]
    answers: dict[str, float]
    lanes: dict[str, Any]


async def sweep(count: int, model: str, in_flight: int | None, folder: Path, say: Say) -> dict[str, Any]:
    """Measure vLLM at several numbers of requests at once, with answers as long as real ones."""
    bench = await _bench("", count, model, in_flight, folder, say)
    steps = sorted({max(1, round(bench.concurrency * factor)) for factor in SWEEP})
    say(f"loading the model, then measuring {', '.join(map(str, steps))} requests at once")
    environment = {**bench.environment, "SAFEGUARD_MAX_IN_FLIGHT": str(steps[-1])}
    rows = await _baseline(bench, environment, "sweep", *map(str, steps))
    return {
        "variants": {f"{row['in_flight']} at once": row for row in rows},
        "completion_tokens": msgspec.to_builtins(LOGGED),
    }


async def reason(
    bootstrap: str, count: int, model: str, in_flight: int | None, folder: Path, say: Say
) -> dict[str, Any]:
    """Measure vLLM alone, the worker, and a plain chat loop, with duplicates, and live content beside a replay.

    in_flight: requests that each engine computes at once; None for the setting, or else for what the device takes.
    """
    bench = await _bench(bootstrap, count, model, in_flight, folder, say)
    bench = msgspec.structs.replace(bench, count=enough(count, bench.concurrency))
    say(f"{bench.count} items, {bench.concurrency} requests in flight; each variant loads the model first")
    alone, alone_scored, alone_duplicates = await _vllm_alone(bench)
    worker = await _worker_figures(bench)
    chat = await _chat_loop(bench)
    return {
        "in_flight": bench.concurrency,
        "completion_tokens": worker.completion_tokens,
        "variants": {
            "vllm-alone": alone,
            "vllm-alone, log-probabilities": alone_scored,
            "safeguard": worker.plain,
            "plain-chat-loop": chat,
            "vllm-alone, duplicates": alone_duplicates,
            "safeguard, duplicates": worker.duplicates,
        },
        "lanes": worker.lanes,
        "counts": worker.answers,
        "ratios": {
            "safeguard_to_vllm_alone": _ratio(worker.plain, alone, 3),
            "safeguard_to_vllm_alone_with_log_probabilities": _ratio(worker.plain, alone_scored, 3),
            "safeguard_to_plain_chat_loop": _ratio(worker.plain, chat, 2),
            "safeguard_to_vllm_alone_with_duplicates": _ratio(worker.duplicates, alone_duplicates, 2),
            "live_p99_beside_a_replay_to_alone": worker.lanes["p99_ratio"],
            "replayed_meanwhile": worker.lanes["replayed_meanwhile"],
        },
    }


def enough(count: int, places: int) -> int:
    """How many items to judge: with fewer than four for each request at once, most of the time some places are free."""
    return max(count, 4 * at_once(places))


async def _bench(bootstrap: str, count: int, model: str, in_flight: int | None, folder: Path, say: Say) -> ReasonBench:
    on_cpu, fitting = await asyncio.to_thread(_device)
    concurrency = settings.load(max_in_flight=in_flight).max_in_flight or fitting
    environment = {
        "SAFEGUARD_MODEL": model,
        "SAFEGUARD_MAX_IN_FLIGHT": str(concurrency),
        "SAFEGUARD_MAX_MODEL_LEN": str(MAX_MODEL_LEN),
        **{name: os.environ.get(name, value) for name, value in {**QUIET, **(ON_CPU if on_cpu else {})}.items()},
    }
    return ReasonBench(bootstrap, count, model, concurrency, on_cpu, environment, folder, say)


def _device() -> tuple[bool, int]:
    """Whether vLLM runs on a CPU, and the number of requests at once that fit its device."""
    from vllm.platforms import current_platform

    return bool(current_platform.is_cpu()), default_concurrency(current_platform)


def _ratio(row: dict[str, Any], baseline: dict[str, Any], digits: int) -> float:
    return round(float(row["requests_per_s"]) / float(baseline["requests_per_s"]), digits)


async def _vllm_alone(bench: ReasonBench) -> list[dict[str, Any]]:
    rows = await _baseline(bench, bench.environment, "alone")
    bench.say(f"vLLM alone: {rows[0]['requests_per_s']} requests/s")
    return rows


async def _baseline(bench: ReasonBench, environment: Mapping[str, str], name: str, *more: str) -> list[dict[str, Any]]:
    """The rows of a baseline that runs in a process of its own."""
    log, out = bench.folder / f"{name}.log", bench.folder / f"{name}.json"
    module = "safeguard_streams.workers.bench.baselines"
    command = [sys.executable, "-m", module, name, str(bench.count), str(out), *more]
    with process(command, environment, log) as child:
        if await asyncio.to_thread(child.wait):
            raise failed("vLLM alone", log)
    rows: list[dict[str, Any]] = orjson.loads(out.read_bytes())
    return rows


async def _worker_figures(bench: ReasonBench) -> WorkerFigures:
    current = await fresh(bench.bootstrap, 2, policies())
    async with _worker(current, bench) as worker:
        plain = await drain(current, worker.answers, make_items(bench.count), "plain")
        tries = await second_tries_of(worker.port)
        bench.say(f"worker: {plain.row['requests_per_s']} requests/s")
        again = await drain(current, worker.answers, make_items(bench.count, DUPLICATES, 1), "duplicates")
        bench.say(f"worker, duplicates: {again.row['requests_per_s']} requests/s")
        lanes = await _lanes(current, worker.answers, plain.row["requests_per_s"], bench.say)
    lengths = [verdict.tokens.completion for verdict in plain.verdicts if verdict.tokens is not None]
    percentiles = {f"p{round(100 * share)}": percentile(lengths, share) for share in SHARES}
    return WorkerFigures(plain.row, again.row, percentiles, {**parsed(plain.verdicts), **tries}, lanes)


class _Worker(NamedTuple):
    answers: Answers
    port: int


@contextlib.asynccontextmanager
async def _worker(current: Settings, bench: ReasonBench) -> AsyncIterator[_Worker]:
    port, log = brokers.free_port(), bench.folder / "worker.log"
    command = processes.safeguard("reason", "run", "--port", str(port))
    with process(command, {**bench.environment, **processes.environment(current)}, log) as child:
        await ready(child, f"http://127.0.0.1:{port}/health/ready", "the worker", log)
        async with kafka.reader(current, [topics.VERDICTS, topics.REPLAYS]) as consumer:
            yield _Worker(Answers(consumer), port)


async def _lanes(current: Settings, answers: Answers, throughput: float, say: Say) -> dict[str, Any]:
    """Latency of live content at a share of the throughput, alone and beside a replay that would fill the backend."""
    rate = throughput * LIVE_SHARE
    count = round(rate * LIVE_SECONDS)
    figures: dict[str, Any] = {"live_per_s": round(rate, 2), "items": count}

    async def live_latencies(name: str, seed: int) -> list[float]:
        records = escalations(make_items(count, seed=seed), "live", name)
        publishing = asyncio.create_task(publish(current, topics.ESCALATIONS, records, rate))
        taken = await answers.take(count, name)
        sent = await publishing
        return [(answer.at - sent[answer.key]) * 1000 for answer in taken]

    alone = await live_latencies("alone", 2)
    replay = escalations(make_items(round(throughput * LIVE_SECONDS * 2), seed=4), "replay", "replay", "bench")
    await publish(current, topics.ESCALATIONS_REPLAY, replay)
    await asyncio.sleep(5)
    begin = time.time()
    beside = await live_latencies("beside", 3)
    end = time.time()
    replayed = [t async for r in kafka.read_all(current, [topics.REPLAYS]) if begin <= (t := r.timestamp / 1000) <= end]
    for name, latencies in (("alone", alone), ("beside_replay", beside)):
        figures |= {f"{name}_p50_ms": percentile(latencies, 0.5), f"{name}_p99_ms": percentile(latencies, 0.99)}
    figures["p99_ratio"] = round(figures["beside_replay_p99_ms"] / figures["alone_p99_ms"], 2)
    figures["replayed_meanwhile"] = len(replayed)
    say(f"live p99 {figures['alone_p99_ms']} ms alone, {figures['beside_replay_p99_ms']} ms beside a replay")
    return figures


async def _chat_loop(bench: ReasonBench) -> dict[str, Any]:
    current = await fresh(bench.bootstrap, 2, policies())
    await publish(current, topics.ESCALATIONS, escalations(make_items(bench.count), "live", "chat"))
    port, log = brokers.free_port(), bench.folder / "server.log"
    model = await asyncio.to_thread(locate, bench.model)
    server = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model.folder)),
        *("--served-model-name", model.name, "--host", "127.0.0.1", "--port", str(port)),
        *("--max-model-len", str(MAX_MODEL_LEN), "--max-num-seqs", str(bench.concurrency)),
        "--enable-prompt-tokens-details",
    ]
    if bench.on_cpu:
        server += ["--enforce-eager", "--block-size", str(CPU_BLOCK), "--distributed-executor-backend", "uni"]
    with process(server, bench.environment, log) as child:
        await ready(child, f"http://127.0.0.1:{port}/health", "the server", log)
        environment = {
            **bench.environment,
            **processes.environment(current),
            "SAFEGUARD_SERVERS": f"http://127.0.0.1:{port}/v1",
            "SAFEGUARD_MODEL": model.name,
        }
        loop = [sys.executable, "-m", "safeguard_streams.workers.bench.baselines", "chat"]
        with process(loop, environment, bench.folder / "chat.log"):
            async with kafka.reader(current, [topics.VERDICTS]) as consumer:
                answers = await Answers(consumer).take(bench.count, "chat")
    verdicts = [orjson.loads(answer.value) for answer in answers]
    row = steady(
        [
            Timed(answer.at - verdict["took"], answer.at, _tokens(verdict["usage"]))
            for answer, verdict in zip(answers, verdicts, strict=True)
        ]
    )
    bench.say(f"plain chat loop: {row['requests_per_s']} requests/s")
    return row


def _tokens(usage: dict[str, Any]) -> Tokens:
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    return Tokens(usage["prompt_tokens"], cached, usage["completion_tokens"])
