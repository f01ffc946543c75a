"""Throughput and latency of the prefilter beside its baselines, on one broker and the same texts."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import psutil
from aiohttp import web

from safeguard_streams.bench import policies, processes, second_stage
from safeguard_streams.bench.common import Say, fresh, texts
from safeguard_streams.bus import kafka
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import now
from safeguard_streams.demo.tally import percentile
from safeguard_streams.errors import SafeguardError
from safeguard_streams.infra import brokers
from safeguard_streams.policies.document import Policy
from safeguard_streams.prefilter.encoder.encoder import Encoder
from safeguard_streams.runtime.memory_broker import StoredRecord
from safeguard_streams.runtime.settings import Settings

BASELINES = ("plain-faust", "bare", "bare-txn")
OUTPUTS = (topics.CLEARED, topics.ESCALATIONS)
STARTUP_SECONDS = 300.0  # until the first output
QUIET_SECONDS = 5.0  # without a further output: the variant has finished
PARTITIONS = 4
TICK = 0.003  # seconds between batches


def event(number: int, text: str) -> tuple[bytes, bytes]:
    """Key and value of a content event."""
    name = f"bench-{number}"
    return name.encode(), orjson.dumps({"content_id": name, "text": text, "created_at": now().isoformat()})


def records(sample: Sequence[str]) -> list[StoredRecord]:
    """The texts as events on Kafka."""
    return [StoredRecord(topics.EVENTS, 0, i, 0, *event(i, text)) for i, text in enumerate(sample)]


@contextlib.contextmanager
def running(
    variant: str, current: Settings, log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[psutil.Process]:
    """A variant in its own process: one of the baselines, or else the prefilter as an operator runs it."""
    command = processes.safeguard("prefilter", "run", "--port", str(brokers.free_port()))
    if variant in BASELINES:
        command = [sys.executable, "-m", "safeguard_streams.bench.variants", variant]
    with processes.process(command, {**processes.environment(current), **(environment or {})}, log) as child:
        yield psutil.Process(child.pid)


async def drain(
    variant: str,
    bootstrap: str,
    count: int,
    folder: Path,
    say: Say,
    environment: Mapping[str, str] | None = None,
    under: Sequence[Policy] = (),
) -> dict[str, Any]:
    """Publish `count` events, then start the variant and let it process them.

    events_per_s: from the timestamps of the first and the last output. cpu_us_per_event: of the variant's process, from
    its first outputs on, so that its start does not count; other work on the machine changes it less than events/s. It
    is None where all outputs were there at the first look.
    under: the policies in force; by default generated ones.
    """
    current = await fresh(bootstrap, PARTITIONS, under or policies.generate(texts()))
    await _publish_all(current, count)
    say(f"{variant}: published {count} events")
    log = folder / f"{variant}.log"
    with running(variant, current, log, environment) as process:
        usage = await _usage_until_quiet(current, process)
    outputs = await _outputs(current)
    if outputs.answered < count:
        say(f"{variant}: only {outputs.answered} of {count} answered; its log ends with:")
        for line in log.read_text(errors="replace")[-1500:].splitlines():
            say(line)
    rate = outputs.answered / max(0.001, outputs.seconds) if outputs.answered else 0.0
    say(f"{variant}: {rate:,.0f} events/s")
    return {
        "events_per_s": round(rate),
        "answered": outputs.answered,
        "duplicates": outputs.duplicates,
        "cpu_us_per_event": _cpu_per_event(usage, outputs),
        "peak_rss_mb": round(usage.peak / 2**20),
    }


async def _publish_all(current: Settings, count: int) -> None:
    """Publish `count` events as large batches, spread evenly over the partitions."""
    sample, topic = texts(), current.prefix + topics.EVENTS
    async with kafka.producer(current) as producer:
        batches = {partition: producer.create_batch() for partition in range(PARTITIONS)}
        for number in range(count):
            key, value = event(number, sample[number % len(sample)])
            partition = number % PARTITIONS
            if batches[partition].append(key=key, value=value, timestamp=None) is None:
                await producer.send_batch(batches[partition], topic, partition=partition)
                batches[partition] = producer.create_batch()
                batches[partition].append(key=key, value=value, timestamp=None)
        for partition, batch in batches.items():
            await producer.send_batch(batch, topic, partition=partition)
        await producer.flush()


class Usage(NamedTuple):
    """Of a variant's process. peak: the highest resident memory seen, in bytes. cpu: seconds that `outputs` took."""

    peak: int
    cpu: float
    outputs: int


async def _usage_until_quiet(current: Settings, process: psutil.Process) -> Usage:
    """Wait until no further output is written."""
    peak = last = 0
    first: tuple[int, float] | None = None
    cpu = 0.0
    progressed = time.monotonic()
    async with kafka.reader(current, OUTPUTS) as consumer:
        while time.monotonic() - progressed < (QUIET_SECONDS if last else STARTUP_SECONDS):
            await asyncio.sleep(0.5)
            written = sum((await consumer.end_offsets(list(consumer.assignment()))).values())
            with contextlib.suppress(psutil.NoSuchProcess):
                peak = max(peak, process.memory_info().rss)
                if written > last:
                    cpu = sum(process.cpu_times()[:2])
            if written > last:
                first = first or (written, cpu)
                last, progressed = written, time.monotonic()
    return Usage(peak, cpu - first[1], last - first[0]) if first else Usage(peak, 0.0, 0)


def _cpu_per_event(usage: Usage, outputs: Outputs) -> float | None:
    """Microseconds. An event that some policies escalate has several outputs."""
    events = usage.outputs * outputs.answered / max(1, outputs.records)
    return round(usage.cpu * 1e6 / events, 1) if events else None


class Outputs(NamedTuple):
    """The outputs of a variant. records: of all kinds; seconds: from the first to the last."""

    records: int
    answered: int
    duplicates: int
    seconds: float


async def _outputs(current: Settings) -> Outputs:
    answered: set[bytes | None] = set()
    records = duplicates = 0
    first, last = float("inf"), 0
    async for record in kafka.read_all(current, OUTPUTS):
        if record.topic.endswith(topics.CLEARED):
            duplicates += record.key in answered
        answered.add(record.key)
        records += 1
        first, last = min(first, record.timestamp), max(last, record.timestamp)
    return Outputs(records, len(answered), duplicates, (last - first) / 1000)


async def prefilter(bootstrap: str, events: int, folder: Path, say: Say, *, encoder: bool = False) -> dict[str, Any]:
    """Throughput of a plain Faust agent (slow, hence with a tenth of the events), a bare loop and the prefilter.

    encoder: also with gates that use vectors, of rising shares of the texts, each with a tenth of the events.
    """
    sample = texts()
    using_vectors = encoding(second_stage.SHARES if encoder else ())
    figures = {
        "plain-faust": await drain("plain-faust", bootstrap, max(1000, events // 10), folder, say),
        "bare": await drain("bare", bootstrap, events, folder, say),
        "safeguard": await drain("safeguard", bootstrap, events, folder, say),
    }
    for name, under in using_vectors.items():
        figures[name] = await drain(name, bootstrap, max(1000, events // 10), folder, say, under=under)
    ours = figures["safeguard"]["events_per_s"]
    ratios = {
        "safeguard_to_bare": round(ours / max(1, figures["bare"]["events_per_s"]), 2),
        "safeguard_cpu_to_bare": _ratio(figures["safeguard"]["cpu_us_per_event"], figures["bare"]["cpu_us_per_event"]),
        "safeguard_to_plain_faust": round(ours / max(1, figures["plain-faust"]["events_per_s"]), 1),
    }
    shares = {
        f"share_encoded_{name}": second_stage.share_encoded(under, sample)
        for name, under in {"safeguard": policies.generate(sample), **using_vectors}.items()
    }
    return {"events": events, "variants": figures, "ratios": {**ratios, **scaling(say)}, "counts": shares}


def _ratio(figure: float | None, baseline: float | None) -> float | None:
    return round(figure / baseline, 2) if figure and baseline else None


def encoding(shares: Sequence[float]) -> dict[str, list[Policy]]:
    """Policies by the name of their variant: two of their gates use the vectors of such a share of the texts."""
    sample = texts()
    return {
        f"encoder-{share * 100:g}": second_stage.with_vectors(policies.generate(sample), sample, share)
        for share in shares
    }


async def telemetry(bootstrap: str, events: int, folder: Path, say: Say) -> dict[str, Any]:
    """Throughput of the prefilter without and with telemetry, in alternating turns; medians of three each.

    With telemetry, metrics and traces go to a collector (here one that discards them), and the default share of content
    is traced.
    """
    exported = 0

    async def receive(request: web.Request) -> web.Response:
        nonlocal exported
        exported += len(await request.read())
        return web.Response()

    collector = web.Application(client_max_size=64 * topics.MiB)
    collector.router.add_post("/v1/{signal}", receive)
    runner = web.AppRunner(collector)
    await runner.setup()
    port = brokers.free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    modes = {
        "off": {"OTEL_SDK_DISABLED": "true"},
        "on": {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}", "OTEL_METRIC_EXPORT_INTERVAL": "10000"},
    }
    rates: dict[str, list[int]] = {"off": [], "on": []}
    try:
        for turn in range(3):
            for mode in ("off", "on") if turn % 2 == 0 else ("on", "off"):
                say(f"telemetry {mode}")
                figures = await drain("safeguard", bootstrap, events, folder, say, modes[mode])
                rates[mode].append(figures["events_per_s"])
    finally:
        await runner.cleanup()
    variants = {
        mode: {
            **{f"events_per_s_{turn}": rate for turn, rate in enumerate(measured, 1)},
            "median": statistics.median(measured),
        }
        for mode, measured in rates.items()
    }
    ratio = variants["on"]["median"] / max(1, variants["off"]["median"])
    counts = {"bytes_exported": exported}
    return {"events": events, "variants": variants, "ratios": {"on_to_off": round(ratio, 3)}, "counts": counts}


def scaling(say: Say) -> dict[str, float]:
    """The time of a decision with 20,000 terms and patterns, relative to 2,050; medians of 9 batches, without Kafka."""
    from safeguard_streams.bench.variants import prefilter_under

    sample = texts()
    batch = records(sample)
    durations: dict[int, list[float]] = {}
    prefilters = {
        terms + patterns: prefilter_under(policies.generate(sample, terms, patterns))
        for terms, patterns in ((2000, 50), (19_500, 500))
    }
    for _ in range(10):  # the first warms up
        for count, compiled in prefilters.items():
            start = time.perf_counter()
            compiled.decide(batch)
            durations.setdefault(count, []).append(time.perf_counter() - start)
    medians = {count: statistics.median(times[1:]) for count, times in durations.items()}
    for count, median in medians.items():
        say(f"{count:,} terms and patterns: {len(batch) / median:,.0f} decisions/s")
    few, many = medians.values()
    return {"time_with_20000_terms_to_2050": round(many / few, 2)}


async def latency(
    variant: str,
    bootstrap: str,
    rate: float,
    seconds: float,
    folder: Path,
    say: Say,
    under: Sequence[Policy] = (),
) -> dict[str, Any]:
    """Latency from publishing an event to reading its cleared verdict under read_committed, in ms."""
    current = await fresh(bootstrap, PARTITIONS, under or policies.generate(texts()))
    sample = [text for text in texts() if len(text) < 200]
    sent: dict[bytes, float] = {}
    durations: list[float] = []
    with running(variant, current, folder / f"{variant}.log"):
        async with kafka.reader(current, OUTPUTS) as consumer, kafka.producer(current) as producer:

            async def publish(first: int, count: int) -> None:
                """Publish at the rate. Events due together go as one batch, to the partitions in turn."""
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

            async def collect(seen: set[bytes], expected: int, into: list[float]) -> None:
                async with asyncio.timeout(60 + expected / rate):
                    while len(seen) < expected:
                        for tp, records in (await consumer.getmany(timeout_ms=100)).items():
                            moment = time.monotonic()
                            for record in records:
                                seen.add(record.key)
                                if tp.topic.endswith(topics.CLEARED):
                                    into.append((moment - sent[record.key]) * 1000)

            warm_up = int(max(20, rate))
            seen: set[bytes] = set()
            await asyncio.gather(publish(0, warm_up), collect(seen, warm_up, []))
            count = int(rate * seconds)
            await asyncio.gather(publish(warm_up, count), collect(seen, warm_up + count, durations))
    figures = {"p50_ms": percentile(durations, 0.5), "p99_ms": percentile(durations, 0.99), "cleared": len(durations)}
    say(f"{variant}: p50 {figures['p50_ms']} ms, p99 {figures['p99_ms']} ms at {rate:g}/s")
    return figures


async def pipeline(
    bootstrap: str, rate: float, seconds: float, folder: Path, say: Say, *, encoder: bool = False
) -> dict[str, Any]:
    """Latency of cleared events: a bare loop with a transaction per poll, and the prefilter.

    encoder: also with gates that use vectors, of rising shares of the texts.
    """
    variants: dict[str, Sequence[Policy]] = {"bare-txn": (), "safeguard": ()}
    variants |= encoding(second_stage.SHARES if encoder else ())
    return {
        "rate": rate,
        "variants": {
            name: await latency(name, bootstrap, rate, seconds, folder, say, under) for name, under in variants.items()
        },
    }


def check_extra(*, encoder: bool = False) -> None:
    """Raise SafeguardError when the libraries of the prefilter, or of the encoder if it is asked for, are missing."""
    try:
        import faust  # noqa: F401  (checks that it is installed)
    except ImportError as error:
        raise SafeguardError("the benchmarks need the prefilter: pip install 'safeguard-streams[prefilter]'") from error
    if encoder:
        Encoder()
