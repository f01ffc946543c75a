"""Faults on a real three-broker Kafka: python tests/faults/run.py --seed 1 --events 100000 --faults 40.

Prints its random plan, then what it does; its last line is one JSON object. Exit status 0 only if every event was
answered exactly once under read_committed, every poison record is a whole dead letter, and every repeated judgement
follows from a fault (see `explain`).
"""

import argparse
import asyncio
import contextlib
import hashlib
import json
import logging
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from itertools import pairwise
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
from safeguard_streams.policies.harmony import encoding
from safeguard_streams.releases import operator
from safeguard_streams.runtime import settings

BIN = Path(sys.executable).parent
NOW = "2026-01-01T00:00:00Z"
CALLS_AT_ONCE = 80  # of one reasoner: the slots of the stand-in for the model, and a quarter more
SESSION = 6.0  # seconds
TIMEOUT = 120.0  # seconds without any progress, far above what a busy machine needs
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


def digest(tokens):
    """The form in which a reasoner logs the text of a call."""
    return hashlib.sha256(json.dumps(list(tokens)).encode()).hexdigest()[:16]


WARM_UP = digest(())


def say(text):
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def poison(number, draw):
    """A record that no stage can process."""
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
    return key.encode(), text, json.dumps({"content_id": key, "text": text, "created_at": NOW}).encode()


class Member:
    """One prefilter or reasoner. Its supervisor restarts it when it exits without being told to."""

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
        """The seconds until the process exited; None if it did not."""
        begin = time.monotonic()
        while time.monotonic() - begin < seconds:
            if self.process.poll() is not None:
                return time.monotonic() - begin
            await asyncio.sleep(0.05)
        return None

    def supervise(self):
        if self.wanted and self.process.poll() is not None:
            self.restarts += 1
            say(f"{self.name} exited with {self.process.returncode}; restarting it")
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
        }
        self.members = []
        self.tally = Tally()
        self.lines = []
        self.content_ids = {}  # by the digest of the text
        self.hits = defaultdict(list)  # by member: when it was killed or stopped
        self.poisoned = 0
        self.stop_seconds = []
        self.killed_after_sigterm = []
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
            say("published everything, waiting for the answers")
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

    def sent(self, key, line):
        self.lines.append((key, line))
        self.tally.sent(key, line)

    def new_tally(self):
        """A tally that knows the lines published so far and has counted no answer."""
        tally = Tally()
        for key, line in self.lines:
            tally.sent(key, line)
        return tally

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
            key, text, value = event(number, self.draw)
            self.content_ids[digest(encoding().encode(text, disallowed_special=()))] = key
            self.sent(key, value)
            sent.append(await producer.send(topics.EVENTS, value, key=key))
            if self.draw.random() < 0.002:
                key, value = poison(number, self.draw)
                self.poisoned += 1
                self.sent(key, value)
                sent.append(await producer.send(topics.EVENTS, value, key=key))
            if number == self.options.events // 2:
                value = b'"' + b"x" * (10 * topics.MiB) + b'"'
                self.poisoned += 1
                self.sent(b"large", value)
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
            await asyncio.sleep(3)  # the replicas are in sync again before the next kill
        elif action == "move":
            await asyncio.to_thread(self.elect)
        elif action == "refuse":
            await self.offsets_need(len(self.nodes) + 1)  # more replicas than brokers: no offset can be committed
            await asyncio.sleep(self.draw.uniform(2, 6))
            # Back to a majority: with fewer, the loss of a broker could lose offsets.
            await self.offsets_need(len(self.nodes) // 2 + 1)
        elif action == "kill":
            member = self.some(target)
            self.hits[member.name].append(time.time())
            member.send(signal.SIGKILL)
            await asyncio.to_thread(member.process.wait)
            member.start()
        elif action == "stop and continue":
            member = self.some(target)
            self.hits[member.name].append(time.time())
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
        seconds = await member.wait(TIMEOUT)
        if seconds is None:
            self.killed_after_sigterm.append(member.name)
            member.send(signal.SIGKILL)
            member.process.wait()
        else:
            self.stop_seconds.append(round(seconds, 1))

    async def offsets_need(self, replicas):
        """Let the brokers accept a committed offset only when this many replicas have it."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.settings.bootstrap)
        await admin.start()
        try:
            wanted = {"min.insync.replicas": str(replicas)}
            await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, "__consumer_offsets", configs=wanted)])
        finally:
            await admin.close()

    def elect(self):
        """Return leadership to the preferred replicas, with Kafka's own tool."""
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
        """Follow the outputs, for progress only: the verdict is read from the beginning afterwards."""
        while True:
            with contextlib.suppress(Exception):
                async with kafka.reader(self.settings, WATCHED) as consumer:
                    self.tally = self.new_tally()
                    while True:
                        for tp, records in (await consumer.getmany(timeout_ms=500)).items():
                            for record in records:
                                self.tally.take(tp.topic, record)
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
            if time.monotonic() - moved > TIMEOUT:
                say(f"{last} events have no answer, and none arrived for {TIMEOUT:.0f} s")
                return

    def show_duplicates(self, places):
        """Print where and when answers and escalations were duplicated."""
        again = defaultdict(list)
        for (topic, _), records in places.items():
            for record in records[1:]:
                again[topic, record.partition].append((records[0], record))
        for (topic, partition), pairs in sorted(again.items()):
            firsts, seconds = ([pair[n].timestamp / 1000 for pair in pairs] for n in (0, 1))
            spans = [f"{_clock(min(times))}-{_clock(max(times))}" for times in (firsts, seconds)]
            say(f"{topic}[{partition}]: {len(pairs)} written at {spans[0]} and again at {spans[1]}")

    def calls(self):
        """The calls by the digest of their text: times and reasoners, in order of time."""
        calls = defaultdict(list)
        for path in self.folder.glob("*.calls"):
            for line in path.read_text().splitlines():
                moment, digest = line.split()
                calls[digest].append((float(moment), path.stem))
        return {digest: sorted(made) for digest, made in calls.items()}

    def show_repeated_calls(self, calls):
        """Print which reasoner repeated whose judgements, and when."""
        pairs = defaultdict(list)
        for made in calls.values():
            for (first, owner), (second, repeater) in pairwise(made):
                pairs[owner, repeater].append((first, second))
        for (owner, repeater), times in sorted(pairs.items()):
            firsts, seconds = zip(*times, strict=True)
            spans = [f"{_clock(min(moments))}-{_clock(max(moments))}" for moments in (firsts, seconds)]
            say(f"{repeater} repeated {len(times)} calls: {owner} made them at {spans[0]}, again at {spans[1]}")

    def explain(self, calls, places):
        """Count the repeated calls by the reason that the design gives for each.

        The owner of a partition repeats a judgement only if it was not committed when the owner read the offset. The
        number of these depends on the machine: on how many judgements finish during one commit. The reasons do not:

        - "lost with a process": the reasoner that judged first was killed, stopped, or fenced by the next owner. It
          loses its calls in flight and its uncommitted results.
        - "judged by a former owner": a reasoner that was stopped (or starved) past its session judged a record whose
          verdict the new owner had committed. It reads and judges until the broker refuses a heartbeat or a commit.
        - "cut off in a rebalance": a reasoner that no fault hit gave up its partitions. It commits its results and
          cancels the calls that outlast the time limit of the drain: in each rebalance at most CALLS_AT_ONCE.
        - "not explained": the verdict was committed and the repeating reasoner was not disturbed. The engine has
          misread a committed offset or the set of records that finished beyond it.
        """
        fenced = {path.stem for path in self.folder.glob("*.log") if "Fenced" in path.read_text("utf-8", "replace")}
        starved = fenced - self.hits.keys()
        committed = {
            key: min(record.timestamp / 1000 for record in records)
            for (topic, key), records in places.items()
            if topic == topics.VERDICTS
        }
        reasons = Counter()
        for text, made in calls.items():
            if text == WARM_UP:
                continue  # a reasoner starts with a call that has the policy and no text
            done = committed.get(self.content_ids[text], math.inf)
            for (_, owner), (moment, repeater) in pairwise(made):
                if moment > done:
                    former = repeater in starved or any(hit < done for hit in self.hits.get(repeater, ()))
                    reasons["judged by a former owner" if former else "not explained"] += 1
                else:
                    disturbed = owner in fenced or owner in self.hits
                    reasons["lost with a process" if disturbed else "cut off in a rebalance"] += 1
        return reasons

    async def verdict(self):
        """The summary, counted from the beginning of each topic under read_committed."""
        final = self.new_tally()
        whole = 0
        places = defaultdict(list)
        async for record in kafka.read_all(self.settings, WATCHED):
            final.take(record.topic, record)
            if record.topic != topics.DEAD_LETTERS:
                places[record.topic, record.key].append(record)
            if record.topic == topics.DEAD_LETTERS:
                whole += 1 if decode(record.value, DeadLetter).original()[1] else 0
        self.show_duplicates(places)
        calls = self.calls()
        self.show_repeated_calls(calls)
        repeats = self.explain(calls, places)
        rebalances = 2 * sum(self.done.values())  # a member leaves and one joins
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
            "reasoner_calls": sum(map(len, calls.values())),
            "reasoner_calls_repeated": repeats.total(),
            "reasoner_calls_repeated_by_reason": dict(repeats),
            "restarted_by_supervisor": sum(m.restarts for m in self.members),
            "sigterm_seconds_max": max(self.stop_seconds, default=None),
            "killed_after_sigterm": self.killed_after_sigterm,
        }
        summary["passed"] = (
            not summary["lost"]
            and not summary["duplicates"]
            and summary["dead_letters_found"] == summary["dead_letters_whole"] == self.poisoned
            and not repeats["not explained"]
            and repeats["cut off in a rebalance"] <= rebalances * CALLS_AT_ONCE
            and not self.killed_after_sigterm
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
