"""Faults on a real three-broker Kafka: python tests/faults/run.py --seed 1 --events 100000 --faults 40.

Prints its random plan, then what it does; its last line is one JSON object. Exit status 0 only if every event was
answered exactly once under read_committed, and every poison record is a dead letter, whole.
"""

import argparse
import asyncio
import contextlib
import json
import logging
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import ClassVar

from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from safeguard_streams.bus import kafka
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import DeadLetter, decode
from safeguard_streams.demo.tally import Tally
from safeguard_streams.infra import brokers
from safeguard_streams.policies.files import load_library
from safeguard_streams.releases import operator
from safeguard_streams.runtime import settings

BIN = Path(sys.executable).parent
NOW = "2026-01-01T00:00:00Z"
IN_FLIGHT = 16
SESSION = 6.0  # seconds
KINDS = {
    "kill prefilter": 6,
    "kill reasoner": 6,
    "stop and continue prefilter": 3,
    "stop and continue reasoner": 3,
    "terminate prefilter": 3,
    "terminate reasoner": 3,
    "add prefilter": 1,
    "add reasoner": 1,
    "remove prefilter": 1,
    "remove reasoner": 1,
    "kill broker": 3,
    "move leaders": 1,
    "refuse offsets": 2,
}
WORDS = [
    "the",
    "a",
    "of",
    "and",
    "music",
    "garden",
    "river",
    "bread",
    "holiday",
    "train",
    "soup",
    "window",
    "paper",
    "yellow",
    "slowly",
    "friend",
    "market",
]
SUSPICIOUS = "you stupid worthless idiot shut up"


def say(text):
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def poison(number, draw):
    """A record that can never be handled."""
    key = f"poison-{number}"
    kinds = [
        b"not JSON %d" % number,
        b'{"content_id":"%b"}' % key.encode(),
        json.dumps({"content_id": key, "text": 5, "created_at": NOW}).encode(),
        b'{"content_id":"%b","text":"\\ud800","created_at":"2026-01-01T00:00:00Z"}' % key.encode(),
        b"[" * 5000 + b"%d" % number,
        b"\x00\xff %d" % number,
        json.dumps({"content_id": key, "text": "x", "created_at": NOW, "policies": ["none-such"]}).encode(),
    ]
    return key.encode(), draw.choice(kinds)


def event(number, draw):
    words = " ".join(draw.choices(WORDS, k=draw.randint(3, 20)))
    text = f"{words} {SUSPICIOUS} {number}" if draw.random() < 0.1 else f"{words} {number}"
    if draw.random() < 0.01:
        text += " \x00 nul"
    key = f"content-{number}"
    return key.encode(), json.dumps({"content_id": key, "text": text, "created_at": NOW}).encode()


class Member:
    """One prefilter or reasoner, started again by its supervisor when it ends by itself."""

    count: ClassVar = Counter()

    def __init__(self, kind, folder, environment):
        Member.count[kind] += 1
        self.kind = kind
        self.name = f"{kind}-{Member.count[kind]}"
        self._folder = folder
        self._environment = environment
        self.process = None
        self.wanted = True
        self.restarts = 0

    def start(self):
        environment = {
            **self._environment,
            "SAFEGUARD_PREFILTER_PORT": str(brokers.free_port()),
            "SAFEGUARD_REASONER_PORT": str(brokers.free_port()),
        }
        command = [BIN / "safeguard", "prefilter", "run"]
        if self.kind == "reasoner":
            command = [sys.executable, Path(__file__).with_name("reasoner.py"), self._folder / f"{self.name}.calls"]
        with (self._folder / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )

    def send(self, number):
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)

    async def wait(self, seconds):
        """Seconds until it ended, None if it did not."""
        begin = time.monotonic()
        while time.monotonic() - begin < seconds:
            if self.process.poll() is not None:
                return time.monotonic() - begin
            await asyncio.sleep(0.05)
        return None

    def supervise(self):
        if self.wanted and self.process.poll() is not None:
            self.restarts += 1
            say(f"{self.name} ended by itself with {self.process.returncode}, starting it again")
            self.start()


def _clock(seconds):
    return time.strftime("%H:%M:%S", time.localtime(seconds))


class Suite:
    def __init__(self, options, nodes, folder):
        self.options = options
        self.nodes = nodes
        self.folder = folder
        self.draw = random.Random(options.seed)
        self.settings = settings.load(
            bootstrap=brokers.addresses(nodes), partitions=4, replication=3, session_timeout_ms=int(SESSION * 1000)
        )
        self.environment = {
            **os.environ,
            "SAFEGUARD_BOOTSTRAP": self.settings.bootstrap,
            "SAFEGUARD_SESSION_TIMEOUT_MS": str(self.settings.session_timeout_ms),
            "SAFEGUARD_MAX_IN_FLIGHT": str(IN_FLIGHT),
        }
        self.members = []
        self.tally = Tally()
        self.poisoned = 0
        self.stop_seconds = []
        self.done = Counter()

    def plan(self):
        kinds = self.draw.choices(list(KINDS), list(KINDS.values()), k=self.options.faults)
        spread = self.options.events / self.options.rate
        moments = sorted(self.draw.uniform(0.03, 0.97) * spread for _ in kinds)
        return list(zip(moments, kinds, strict=True))

    def add(self, kind):
        member = Member(kind, self.folder, self.environment)
        member.start()
        self.members.append(member)
        return member

    def some(self, kind):
        return self.draw.choice([m for m in self.members if m.kind == kind and m.wanted])

    async def run(self):
        await kafka.create_topics(self.settings)
        policy = load_library()["hate-harassment"]
        await operator.release(self.settings, [policy], operator.ChangedBy("faults"))
        for kind in ("prefilter", "prefilter", "reasoner", "reasoner"):
            self.add(kind)
        plan = self.plan()
        say(f"seed {self.options.seed}, {self.options.events} events at {self.options.rate}/s, {len(plan)} faults:")
        for moment, kind in plan:
            print(f"  {moment:7.1f} s  {kind}")
        watching = asyncio.create_task(self.watch())
        try:
            await asyncio.gather(self.publish(), self.inject(plan))
            say("all is published, waiting for the answers")
            await self.settle()
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            for member in self.members:
                if member.wanted:
                    await self.terminate(member)
            return await self.verdict()
        finally:
            watching.cancel()
            for member in self.members:
                member.wanted = False
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(member.process.pid, signal.SIGKILL)
                member.process.wait()

    async def publish(self):
        producer = AIOKafkaProducer(
            bootstrap_servers=self.settings.bootstrap,
            enable_idempotence=True,
            acks="all",
            request_timeout_ms=60_000,
            retry_backoff_ms=50,
            max_request_size=topics.LARGEST_CONTENT,
        )
        await producer.start()
        start = time.monotonic()
        sent = []
        for number in range(self.options.events):
            delay = start + number / self.options.rate - time.monotonic()
            if delay > 0.01:
                await asyncio.sleep(delay)
            key, value = event(number, self.draw)
            self.tally.sent(key, value)
            sent.append(await producer.send(topics.EVENTS, value, key=key))
            if self.draw.random() < 0.002:
                key, value = poison(number, self.draw)
                self.poisoned += 1
                self.tally.sent(key, value)
                sent.append(await producer.send(topics.EVENTS, value, key=key))
            if number == self.options.events // 2:
                value = b'"' + b"x" * (10 * topics.MiB) + b'"'
                self.poisoned += 1
                self.tally.sent(b"large", value)
                sent.append(await producer.send(topics.EVENTS, value, key=b"large"))
        for future in sent:
            await future
        await producer.stop()

    async def inject(self, plan):
        start = time.monotonic()
        for moment, kind in plan:
            while time.monotonic() - start < moment:
                for member in self.members:
                    member.supervise()
                await asyncio.sleep(0.1)
            say(f"{time.monotonic() - start:6.1f} s  {kind}  ({self.progress()})")
            self.done[kind] += 1
            await self.fault(*kind.rsplit(" ", 1))

    async def fault(self, action, target):
        if action == "kill" and target == "broker":
            node = self.draw.choice(self.nodes)
            node.kill()
            await asyncio.sleep(self.draw.uniform(0.5, 4))
            node.start(wait=False)
            await asyncio.to_thread(node.wait)
            await asyncio.sleep(3)  # in sync again before the next one may be killed
        elif action == "move":
            await asyncio.to_thread(self.elect)
        elif action == "refuse":
            await self.offsets_need(len(self.nodes) + 1)  # replicas that there are not: no position can be written
            await asyncio.sleep(self.draw.uniform(2, 6))
            # Back to a majority: with fewer, a broker's end could take positions with it.
            await self.offsets_need(len(self.nodes) // 2 + 1)
        elif action == "kill":
            member = self.some(target)
            member.send(signal.SIGKILL)
            await member.wait(5)
            member.start()
        elif action == "stop and continue":
            member = self.some(target)
            member.send(signal.SIGSTOP)
            await asyncio.sleep(SESSION + self.draw.uniform(1, 4))
            member.send(signal.SIGCONT)
        elif action == "terminate":
            member = self.some(target)
            await self.terminate(member)
            member.wanted = True
            member.start()
        elif action == "add":
            self.add(target)
        elif action == "remove" and sum(m.wanted and m.kind == target for m in self.members) > 1:
            await self.terminate(self.some(target))

    async def terminate(self, member):
        member.wanted = False
        member.send(signal.SIGTERM)
        took = await member.wait(15)
        self.stop_seconds.append(15.0 if took is None else round(took, 1))

    async def offsets_need(self, replicas):
        """The brokers take a position only when so many replicas have it."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.settings.bootstrap)
        await admin.start()
        try:
            wanted = {"min.insync.replicas": str(replicas)}
            await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, "__consumer_offsets", configs=wanted)])
        finally:
            await admin.close()

    def elect(self):
        """Kafka's own tool: leadership back to the preferred replicas."""
        tool = "org.apache.kafka.tools.LeaderElectionCommand"
        arguments = [
            "--bootstrap-server",
            self.settings.bootstrap,
            "--election-type",
            "preferred",
            "--all-topic-partitions",
        ]
        subprocess.run(["java", "-cp", f"{brokers.jars()}/*", tool, *arguments], capture_output=True, check=False)

    def progress(self):
        return f"published {self.tally.published}, answered {self.tally.published - self.tally.unanswered()}"

    async def watch(self):
        """Follow the outputs for progress only; the verdict is read afterwards, from the beginning."""
        while True:
            with contextlib.suppress(Exception):
                async with kafka.reader(self.settings, WATCHED) as consumer:
                    fresh = Tally()
                    fresh._lines, fresh._lines_by_digest = self.tally._lines, self.tally._lines_by_digest
                    fresh._sent, fresh.published = self.tally._sent, 0
                    while True:
                        for tp, records in (await consumer.getmany(timeout_ms=500)).items():
                            for record in records:
                                fresh.take(tp.topic, record)
                        fresh.published = self.tally.published
                        self.tally._cleared, self.tally._escalated = fresh._cleared, fresh._escalated
                        self.tally._judged, self.tally._dead = fresh._judged, fresh._dead
            await asyncio.sleep(0.5)

    async def settle(self):
        last, moved = self.tally.unanswered(), time.monotonic()
        while last:
            for member in self.members:
                member.supervise()
            await asyncio.sleep(1)
            now = self.tally.unanswered()
            if now != last:
                last, moved = now, time.monotonic()
            if time.monotonic() - moved > 120:
                say(f"{last} are without an answer, and none came for 120 s")
                return

    def show_duplicates(self, places):
        """Where and when answers and escalations were written again: what happened then is in the faults above."""
        again = defaultdict(list)
        for (topic, _), records in places.items():
            for record in records[1:]:
                again[topic, record.partition].append((records[0], record))
        for (topic, partition), pairs in sorted(again.items()):
            firsts, seconds = ([pair[n].timestamp / 1000 for pair in pairs] for n in (0, 1))
            spans = [f"{_clock(min(times))}-{_clock(max(times))}" for times in (firsts, seconds)]
            say(f"{topic}[{partition}]: {len(pairs)} written at {spans[0]} were written again at {spans[1]}")

    async def verdict(self):
        """Count everything again, from the beginning, under read_committed."""
        final = Tally()
        final._lines, final._lines_by_digest = self.tally._lines, self.tally._lines_by_digest
        final._sent, final.published = self.tally._sent, self.tally.published
        whole = 0
        places = defaultdict(list)
        async for record in kafka.read_all(self.settings, WATCHED):
            final.take(record.topic, record)
            if record.topic != topics.DEAD_LETTERS:
                places[record.topic, record.key].append(record)
            if record.topic == topics.DEAD_LETTERS:
                whole += 1 if decode(record.value, DeadLetter).original()[1] else 0
        self.show_duplicates(places)
        calls = Counter()
        for path in self.folder.glob("*.calls"):
            calls.update(path.read_text().split())
        hits = sum(count for kind, count in self.done.items() if kind.split()[0] in {"kill", "stop"})
        # Of each reasoner that was hit: what was under way, and what finished within one commit interval.
        bound = hits * 2 * (2 * IN_FLIGHT)
        repeated = sum(calls.values()) - len(calls)
        summary = {
            "seed": self.options.seed,
            "sent": final.published,
            "faults": sum(self.done.values()),
            "faults_by_kind": dict(sorted(self.done.items())),
            "answered": final.published - final.unanswered(),
            "lost": final.unanswered(),
            "duplicates": final.duplicates(),
            "escalated": final.escalated_events,
            "dead_letters_expected": self.poisoned,
            "dead_letters_found": final.topics[topics.DEAD_LETTERS],
            "dead_letters_whole": whole,
            "reasoner_calls": sum(calls.values()),
            "reasoner_calls_repeated": repeated,
            "reasoner_calls_repeated_bound": bound,
            "restarted_by_supervisor": sum(m.restarts for m in self.members),
            "sigterm_seconds_max": max(self.stop_seconds, default=None),
        }
        summary["passed"] = (
            not summary["lost"]
            and not summary["duplicates"]
            and summary["dead_letters_found"] == summary["dead_letters_whole"] == self.poisoned
            and repeated <= bound
            and summary["sigterm_seconds_max"] < 10
        )
        return summary


WATCHED = (topics.CLEARED, topics.ESCALATIONS, topics.ESCALATIONS_AUDIT, topics.VERDICTS, topics.DEAD_LETTERS)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--faults", type=int, default=40)
    parser.add_argument("--rate", type=float, default=300.0)
    options = parser.parse_args()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # brokers are killed on purpose here
    with tempfile.TemporaryDirectory(prefix="safeguard-faults-") as folder, brokers.kafka_cluster(3, "384m") as nodes:
        suite = Suite(options, nodes, Path(folder))
        summary = asyncio.run(suite.run())
        if not summary["passed"]:
            for log in sorted(Path(folder).glob("*.log")):
                print(f"--- end of {log.name}\n{log.read_text(errors='replace')[-1500:]}")
    print(json.dumps(summary))
    sys.exit(0 if summary["passed"] else 1)


if __name__ == "__main__":
    main()
