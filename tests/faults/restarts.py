"""A rolling restart of reasoning workers under load, on a real Kafka: python tests/faults/restarts.py --workers 6.

Each worker in turn gets SIGTERM, ends, is started again, and is ready before the next one. The load is live content at
a steady rate, judged by a scripted inference server that takes as long as a real model. This is done twice: with
workers that keep a group.instance.id, and with workers that have none. The last line is one JSON object with the
latency of live content before and during the restart, the judgements that were made again, and what was lost or
doubled. Exit status 0 only if nothing was lost or doubled.
"""

import argparse
import asyncio
import hashlib
import json
import logging
import os
import random
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from pathlib import Path

from aiokafka import AIOKafkaProducer
from processes import Process, say

from safeguard_streams.bus import kafka
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import ContentEvent, Escalation, PrefilterResult, encode, now
from safeguard_streams.demo.tally import percentile
from safeguard_streams.infra import brokers
from safeguard_streams.policies.files import load_library
from safeguard_streams.releases import operator
from safeguard_streams.runtime import settings
from safeguard_streams.runtime.security import client_options
from safeguard_streams.workers.inference.script import Script
from safeguard_streams.workers.inference.scripted import ScriptedServer

POLICY = load_library()["fraud-spam"]
TIMEOUT = 120.0  # seconds without progress
WARM_UP = 1  # token of an answer: a worker then only fills the prefix cache
MEAN_SECONDS = 1.5  # of a judgement


class SlowServer(ScriptedServer):
    """Answers after the time of a judgement. calls: how often each prompt was judged."""

    def __init__(self):
        super().__init__(Script({"FS1": ["bitcoin"]}))
        self.calls = Counter()
        self._draw = random.Random(0)

    async def _body(self, request):
        body = await super()._body(request)
        self.asked.clear()
        if body.get("max_tokens") != WARM_UP:
            self.calls[hashlib.sha256(json.dumps(body["prompt"]).encode()).hexdigest()] += 1
            await asyncio.sleep(self._draw.lognormvariate(0, 0.8) * MEAN_SECONDS / 1.38)
        return body


class Worker(Process):
    """A reasoning worker of live content. Its instance id is its name, or it has none."""

    def __init__(self, name, environment, folder, *, keeps_id):
        self.port = brokers.free_port()
        environment = environment | {"SAFEGUARD_REASONER_PORT": str(self.port)}
        environment |= {"SAFEGUARD_GROUP_INSTANCE_ID": name} if keeps_id else {}
        super().__init__(name, [sys.executable, "-m", "safeguard_streams", "reason", "run"], environment, folder)

    async def ready(self):
        deadline = time.monotonic() + TIMEOUT
        while not await asyncio.to_thread(self._is_ready):
            assert self.process.poll() is None, self.log.read_text()[-2000:]
            assert time.monotonic() < deadline, self.log.read_text()[-2000:]
            await asyncio.sleep(0.2)

    def _is_ready(self):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health/ready", timeout=2) as response:
                return response.status == 200
        except OSError:
            return False

    async def restart(self):
        self.process.terminate()
        await asyncio.to_thread(self.process.wait, 30)
        self.start()
        await self.ready()


class Load:
    """Live content at a steady rate. sent, answered: when, by content id; verdicts: how many."""

    def __init__(self, current, rate):
        self._settings, self._rate = current, rate
        self.sent, self.answered, self.verdicts = {}, {}, Counter()
        self.ended = False

    async def send(self):
        producer = AIOKafkaProducer(**client_options(self._settings))
        await producer.start()
        draw, due = random.Random(1), time.monotonic()
        while not self.ended:
            due += draw.expovariate(self._rate)
            await asyncio.sleep(due - time.monotonic())
            name = f"c{len(self.sent)}"
            event = ContentEvent(name, f"a message about gardens, number {name}", now())
            result = PrefilterResult("everything")
            escalation = Escalation(event, POLICY.id, POLICY.version, 1, result, "live", now())
            self.sent[name] = time.monotonic()
            await producer.send(self._settings.prefix + topics.ESCALATIONS, key=name.encode(), value=encode(escalation))
        await producer.stop()

    async def receive(self):
        moved = time.monotonic()
        async with kafka.reader(self._settings, [topics.VERDICTS]) as consumer:
            while not self.ended or len(self.answered) < len(self.sent):
                for records in (await consumer.getmany(timeout_ms=50)).values():
                    moved = time.monotonic()
                    for record in records:
                        self.answered.setdefault(record.key.decode(), moved)
                        self.verdicts[record.key.decode()] += 1
                if time.monotonic() - moved > TIMEOUT:
                    return

    def latencies(self, begin, end):
        """Seconds from sending to the verdict, of what was sent in a span of time."""
        return [
            self.answered[name] - at for name, at in self.sent.items() if begin <= at < end and name in self.answered
        ]


async def rolled(address, options, folder, *, keeps_id):
    """Restart every worker once, and return the figures."""
    current = settings.load(
        bootstrap=address, prefix=f"{'static' if keeps_id else 'dynamic'}.", partitions=2 * options.workers
    )
    await kafka.create_topics(current)
    await operator.release(current, [POLICY], operator.ChangedBy("faults"))
    server = SlowServer()
    load = Load(current, options.rate)
    async with server.running() as url:
        environment = {
            **os.environ,
            "SAFEGUARD_BOOTSTRAP": address,
            "SAFEGUARD_PREFIX": current.prefix,
            "SAFEGUARD_SERVERS": url,
            "SAFEGUARD_MODEL": "scripted",
            "SAFEGUARD_LANES": "live",
            "SAFEGUARD_SESSION_TIMEOUT_MS": str(options.session * 1000),
        }
        names = [f"{current.prefix}reasoner-{number}" for number in range(options.workers)]
        workers = [Worker(name, environment, folder, keeps_id=keeps_id) for name in names]
        try:
            for worker in workers:
                await worker.ready()
            say(f"{options.workers} workers are ready, with an instance id: {keeps_id}")
            tasks = [asyncio.create_task(load.send()), asyncio.create_task(load.receive())]
            await asyncio.sleep(5)  # until as many judgements end as begin
            quiet = time.monotonic()
            await asyncio.sleep(options.quiet)
            begin = time.monotonic()
            for worker in workers:
                await worker.restart()
                say(f"restarted {worker.name}")
            end = time.monotonic()
            await asyncio.sleep(5)
            load.ended = True
            await asyncio.gather(*tasks)
        finally:
            for worker in workers:
                worker.process.kill()
    before, during = load.latencies(quiet, begin), load.latencies(begin, end)
    return {
        "sent": len(load.sent),
        "lost": len(load.sent) - len(load.answered),
        "doubled": sum(count > 1 for count in load.verdicts.values()),
        "judged_again": sum(count - 1 for count in server.calls.values()),
        "restart_seconds": round(end - begin, 1),
        **{f"before_p{share:.0%}"[:-1]: percentile(before, share) for share in (0.5, 0.99)},
        **{f"during_p{share:.0%}"[:-1]: percentile(during, share) for share in (0.5, 0.99)},
        "during_max": percentile(during, 1.0),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=6)
    parser.add_argument("--rate", type=float, default=12.0, help="live content items per second")
    parser.add_argument("--quiet", type=float, default=20.0, help="seconds before the restart")
    parser.add_argument("--session", type=int, default=30, help="seconds")
    parser.add_argument("--ids", choices=["kept", "none", "both"], default="both", help="workers to measure")
    options = parser.parse_args()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    summary = {}
    with tempfile.TemporaryDirectory(prefix="safeguard-restarts-") as folder, brokers.kafka_cluster(1, "768m") as nodes:
        for name in ("kept", "none") if options.ids == "both" else (options.ids,):
            rolling = rolled(brokers.addresses(nodes), options, Path(folder), keeps_id=name == "kept")
            summary[name] = asyncio.run(rolling)
            print(json.dumps({name: summary[name]}), flush=True)
    print(json.dumps(summary))
    sys.exit(any(row["lost"] or row["doubled"] for row in summary.values()))


if __name__ == "__main__":
    main()
