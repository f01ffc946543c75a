"""Runs the variants one after another on one broker, the same texts for each."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
import psutil
from aiohttp import web

from safeguard_streams.bench import in_force, processes
from safeguard_streams.bench.common import Say, fresh, texts
from safeguard_streams.bus import kafka
from safeguard_streams.bus.memory import StoredRecord
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import now
from safeguard_streams.demo.tally import percentile
from safeguard_streams.errors import SafeguardError
from safeguard_streams.infra import brokers
from safeguard_streams.runtime.settings import Settings

OUTPUTS = (topics.CLEARED, topics.ESCALATIONS)
QUIET_SECONDS = 60.0
PARTITIONS = 4
TICK = 0.003  # seconds


def event(number: int, text: str) -> tuple[bytes, bytes]:
    """Key and value of an event."""
    name = f"bench-{number}"
    return name.encode(), orjson.dumps({"content_id": name, "text": text, "created_at": now().isoformat()})


@contextlib.contextmanager
def running(
    variant: str, current: Settings, log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[psutil.Process]:
    """A variant as a process of its own; 'safeguard' is the prefilter as an operator runs it."""
    command = processes.safeguard("prefilter", "run", "--port", str(brokers.free_port()))
    if variant != "safeguard":
        command = [sys.executable, "-m", "safeguard_streams.bench.variants", variant]
    with processes.process(command, {**processes.environment(current), **(environment or {})}, log) as child:
        yield psutil.Process(child.pid)


async def drain(
    variant: str, bootstrap: str, count: int, folder: Path, say: Say, environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Publish `count` events, then start the variant and let it work them off; events/s from the outputs' times."""
    current = await fresh(bootstrap, PARTITIONS, in_force.policies(texts()))
    sample = texts()
    async with kafka.producer(current) as producer:
        batches = {n: producer.create_batch() for n in range(PARTITIONS)}
        for number in range(count):
            key, value = event(number, sample[number % len(sample)])
            target = number % PARTITIONS
            if batches[target].append(key=key, value=value, timestamp=None) is None:
                await producer.send_batch(batches[target], current.prefix + topics.EVENTS, partition=target)
                batches[target] = producer.create_batch()
                batches[target].append(key=key, value=value, timestamp=None)
        for target, batch in batches.items():
            await producer.send_batch(batch, current.prefix + topics.EVENTS, partition=target)
        await producer.flush()
    say(f"{variant}: {count} events wait")
    peak = 0
    with running(variant, current, folder / f"{variant}.log", environment) as child:
        async with kafka.reader(current, OUTPUTS) as consumer:
            last, moved = 0, time.monotonic()
            while time.monotonic() - moved < (QUIET_SECONDS if not last else 5.0):
                await asyncio.sleep(0.5)
                with contextlib.suppress(psutil.NoSuchProcess):
                    peak = max(peak, child.memory_info().rss)
                written = sum((await consumer.end_offsets(list(consumer.assignment()))).values())
                if written > last:
                    last, moved = written, time.monotonic()
    answered: set[bytes | None] = set()
    duplicates = 0
    first, end = float("inf"), 0
    async for record in kafka.read_all(current, OUTPUTS):
        if record.topic.endswith(topics.CLEARED):
            duplicates += record.key in answered
        answered.add(record.key)
        first, end = min(first, record.timestamp), max(end, record.timestamp)
    if len(answered) < count:
        tail = (folder / f"{variant}.log").read_text(errors="replace")[-1500:]
        say(f"{variant}: only {len(answered)} of {count} answered; its log ends with:\n{tail}")
    rate = len(answered) / max(0.001, (end - first) / 1000) if answered else 0.0
    say(f"{variant}: {rate:,.0f} events/s")
    return {
        "events_per_s": round(rate),
        "answered": len(answered),
        "duplicates": duplicates,
        "peak_rss_mb": round(peak / 2**20),
    }


async def prefilter(bootstrap: str, events: int, folder: Path, say: Say) -> dict[str, Any]:
    """Throughput: plain Faust, a bare loop, ours; the plain agent, being slow, gets a tenth of the events."""
    figures = {
        "plain-faust": await drain("plain-faust", bootstrap, max(1000, events // 10), folder, say),
        "bare": await drain("bare", bootstrap, events, folder, say),
        "safeguard": await drain("safeguard", bootstrap, events, folder, say),
    }
    ours = figures["safeguard"]["events_per_s"]
    ratios = {
        "safeguard_to_bare": round(ours / max(1, figures["bare"]["events_per_s"]), 2),
        "safeguard_to_plain_faust": round(ours / max(1, figures["plain-faust"]["events_per_s"]), 1),
    }
    return {"events": events, "variants": figures, "ratios": {**ratios, **rules(say)}}


async def telemetry(bootstrap: str, events: int, folder: Path, say: Say) -> dict[str, Any]:
    """Throughput of the prefilter without telemetry and with all of it, in turns; medians of each three.

    With it: metrics and traces go to a collector, here one that takes them and does nothing, and the default share of the
    content is traced.
    """
    taken = 0

    async def take(request: web.Request) -> web.Response:
        nonlocal taken
        taken += len(await request.read())
        return web.Response()

    collector = web.Application(client_max_size=64 * topics.MiB)
    collector.router.add_post("/v1/{signal}", take)
    runner = web.AppRunner(collector)
    await runner.setup()
    port = brokers.free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    ways = {
        "off": {"OTEL_SDK_DISABLED": "true"},
        "on": {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}", "OTEL_METRIC_EXPORT_INTERVAL": "10000"},
    }
    rates: dict[str, list[int]] = {"off": [], "on": []}
    try:
        for turn in range(3):
            for way in ("off", "on") if turn % 2 == 0 else ("on", "off"):
                say(f"telemetry {way}")
                rates[way].append((await drain("safeguard", bootstrap, events, folder, say, ways[way]))["events_per_s"])
    finally:
        await runner.cleanup()
    variants = {
        way: {
            **{f"events_per_s_{turn}": rate for turn, rate in enumerate(found, 1)},
            "median": statistics.median(found),
        }
        for way, found in rates.items()
    }
    ratio = variants["on"]["median"] / max(1, variants["off"]["median"])
    counts = {"bytes_exported": taken}
    return {"events": events, "variants": variants, "ratios": {"on_to_off": round(ratio, 3)}, "counts": counts}


def rules(say: Say) -> dict[str, float]:
    """Time of the decision alone with 20,000 terms and patterns in force, over that with 2,050; medians of 9 batches."""
    from safeguard_streams.bench.variants import prefilter_under

    sample = texts()
    records = [StoredRecord(topics.EVENTS, 0, i, 0, *event(i, text)) for i, text in enumerate(sample)]
    took: dict[int, list[float]] = {}
    judges = {
        terms + patterns: prefilter_under(in_force.policies(sample, terms, patterns))
        for terms, patterns in ((2000, 50), (19_500, 500))
    }
    for _ in range(10):  # the first warms up
        for count, judge in judges.items():
            start = time.perf_counter()
            judge.decide(records)
            took.setdefault(count, []).append(time.perf_counter() - start)
    medians = {count: statistics.median(times[1:]) for count, times in took.items()}
    for count, median in medians.items():
        say(f"{count:,} terms and patterns: {len(records) / median:,.0f} decisions/s")
    few, many = medians.values()
    return {"time_with_20000_rules_to_2050": round(many / few, 2)}


async def latency(variant: str, bootstrap: str, rate: float, seconds: float, folder: Path, say: Say) -> dict[str, Any]:
    """Milliseconds from publishing to reading the cleared verdict under read_committed."""
    current = await fresh(bootstrap, PARTITIONS, in_force.policies(texts()))
    sample = [text for text in texts() if len(text) < 200]
    sent: dict[bytes, float] = {}
    took: list[float] = []
    with running(variant, current, folder / f"{variant}.log"):
        async with kafka.reader(current, OUTPUTS) as consumer, kafka.producer(current) as producer:

            async def publish(first: int, count: int) -> None:
                """At the rate; what is due goes as one batch to one partition after the other."""
                start, number, turn = time.monotonic(), first, 0
                while number < first + count:
                    due = min(first + count, first + 1 + int((time.monotonic() - start) * rate))
                    batch = producer.create_batch()
                    while number < due:
                        key, value = event(number, sample[number % len(sample)])
                        batch.append(key=key, value=value, timestamp=None)
                        sent[key] = time.monotonic()
                        number += 1
                    if batch.record_count():
                        await producer.send_batch(batch, current.prefix + topics.EVENTS, partition=turn % PARTITIONS)
                        turn += 1
                    await asyncio.sleep(TICK)
                await producer.flush()

            async def collect(seen: set[bytes], wanted: int, into: list[float]) -> None:
                async with asyncio.timeout(60 + wanted / rate):
                    while len(seen) < wanted:
                        for tp, records in (await consumer.getmany(timeout_ms=100)).items():
                            moment = time.monotonic()
                            for record in records:
                                seen.add(record.key)
                                if tp.topic.endswith(topics.CLEARED):
                                    into.append((moment - sent[record.key]) * 1000)

            warm = int(max(20, rate))
            seen: set[bytes] = set()
            await asyncio.gather(publish(0, warm), collect(seen, warm, []))
            count = int(rate * seconds)
            await asyncio.gather(publish(warm, count), collect(seen, warm + count, took))
    figures = {"p50_ms": percentile(took, 0.5), "p99_ms": percentile(took, 0.99), "cleared": len(took)}
    say(f"{variant}: p50 {figures['p50_ms']} ms, p99 {figures['p99_ms']} ms at {rate:g}/s")
    return figures


async def pipeline(bootstrap: str, rate: float, seconds: float, folder: Path, say: Say) -> dict[str, Any]:
    """Latency of cleared events: a bare loop with a transaction per poll, and ours."""
    names: Sequence[str] = ("bare-txn", "safeguard")
    return {
        "rate": rate,
        "variants": {name: await latency(name, bootstrap, rate, seconds, folder, say) for name in names},
    }


def check_extra() -> None:
    """Raise when this host lacks the prefilter."""
    try:
        import faust  # noqa: F401  (only whether it is there)
    except ImportError as error:
        raise SafeguardError("the benchmarks need the prefilter: pip install 'safeguard-streams[prefilter]'") from error
