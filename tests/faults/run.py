"""Faults on a real three-broker Kafka: python tests/faults/run.py --seed 1 --events 100000 --faults 40.

Among the events it sends what hostile producers send (see `hostile`), and half-way it restores the input topic from a
copy that lacks its end. Prints its random plan, then what it does; its last line is one JSON object. Exit status 0 only
if every valid event was answered exactly once under read_committed, every invalid record is a dead letter, no input
restarted a process, and every repeated judgement follows from a fault (see `explain`). It also shows the longest pause
of each event loop.
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
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError
from answers import Answers, Sent
from hostile import HostileProducer, HostileRecord, RawBatch

from safeguard_streams.bus import kafka
from safeguard_streams.contract import topics
from safeguard_streams.errors import BusError
from safeguard_streams.infra import brokers
from safeguard_streams.policies.files import load_library
from safeguard_streams.policies.harmony import encoding
from safeguard_streams.releases import operator
from safeguard_streams.runtime import metrics, settings

BIN = Path(sys.executable).parent
NOW = "2026-01-01T00:00:00Z"
CALLS_AT_ONCE = 80  # of one reasoner: the slots of the stand-in for the model, and a quarter more
SESSION = 6.0  # seconds
TIMEOUT = 120.0  # seconds without any progress, far above what a busy machine needs
HOSTILE = 0.03  # share of hostile records beside the events
KEPT = 40  # records of each partition that the restored copy of the input topic still has
MAX_PAUSE = 0.5  # seconds of an event loop
_PAUSE = re.compile(rf"^{metrics.PAUSE.prometheus}{{.*}} ([0-9.e+-]+)$", re.MULTILINE)
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


PRIORITY = -10  # nice value of the stages, where the system allows it
WARM_UP = digest(())


def say(text):
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


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
        self.restarts = []  # the last line of the log before each
        self.pause = 0.0  # the longest pause of the event loop, in seconds

    def start(self):
        self._port = brokers.free_port()
        environment = {**self._environment, f"SAFEGUARD_{self.kind.upper()}_PORT": str(self._port)}
        command = [BIN / "safeguard", "prefilter", "run"]
        if self.kind == "reasoner":
            command = [sys.executable, Path(__file__).with_name("reasoner.py"), self._folder / f"{self.name}.calls"]
        with (self._folder / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
        with contextlib.suppress(PermissionError):  # so that a pause is the member's own, and no wait for a processor
            os.setpriority(os.PRIO_PROCESS, self.process.pid, PRIORITY)

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
            lines = (self._folder / f"{self.name}.log").read_text("utf-8", "replace").splitlines()
            self.restarts.append(lines[-1] if lines else "")
            say(f"{self.name} exited with {self.process.returncode}; restarting it: {self.restarts[-1]}")
            self.start()

    def look(self):
        """Read the longest pause of the event loop from the process's own metrics."""
        with contextlib.suppress(OSError):
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=2) as response:
                found = _PAUSE.findall(response.read().decode())
            self.pause = max(self.pause, *map(float, found)) if found else self.pause


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
        self.answers = Answers()
        self.hostile = HostileProducer(random.Random(options.seed + 1))
        self.first = defaultdict(dict)  # by partition: the first records that were sent, by offset
        self.restored = set()  # keys of the records that were put back
        self.calm = asyncio.Lock()  # held by a fault, and while the input topic is restored
        self.content_ids = {}  # by the digest of the text
        self.hits = defaultdict(list)  # by member: when it was killed or stopped
        self.refused = Counter()  # records that the broker did not take, by kind
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
        watching = asyncio.gather(self.watch(), self.look())
        try:
            await self.beside(watching, self.publish(), self.inject(plan))
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

    async def beside(self, watching, *work):
        """Do the work. A fault of the suite's own watching ends it."""
        doing = asyncio.gather(*work)
        done, _ = await asyncio.wait({watching, doing}, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    async def publish(self):
        producer = AIOKafkaProducer(
            bootstrap_servers=self.settings.bootstrap,
            enable_idempotence=True,
            acks="all",
            request_timeout_ms=60_000,
            retry_backoff_ms=50,
            max_request_size=topics.LARGEST_RECORD,
        )
        await producer.start()
        half = self.options.events // 2
        await self.publish_events(producer, range(half))
        await self.restore(producer)
        await self.publish_events(producer, range(half, self.options.events))
        await producer.stop()

    async def publish_events(self, producer, numbers):
        """Send events at the rate, hostile records among them, and huge ones spread over the events."""
        start = time.monotonic()
        sent = []
        huge = dict(zip(self.draw.sample(numbers, k=10), self.hostile.huge(), strict=True))
        for number in numbers:
            delay = start + (number - numbers.start) / self.options.rate - time.monotonic()
            if delay > 0.01:
                await asyncio.sleep(delay)
            key, text, value = event(number, self.draw)
            self.content_ids[digest(encoding().encode(text, disallowed_special=()))] = key
            sent.append(
                await self.send(producer, HostileRecord("event", "verdict", value, key, content_id=key.decode()))
            )
            if self.draw.random() < HOSTILE:
                sent.append(await self.send(producer, self.hostile.next()))
            if number in huge:
                sent.append(await self.send(producer, huge[number]))
        await asyncio.gather(*sent)

    async def send(self, producer, record, partition=None, expected=None):
        """Send a record as a batch of its own; returns a task that notes its place once the broker has it."""
        number = self.draw.randrange(self.settings.partitions) if partition is None else partition
        future = await producer.send_batch(RawBatch(record), topics.EVENTS, partition=number)
        return asyncio.create_task(self.note(future, record, expected or record.answer))

    async def note(self, future, record, expected):
        try:
            at = await future
        except KafkaError as error:
            if not record.refusable:
                raise
            self.refused[f"{record.kind}: {type(error).__name__}"] += 1
            return
        if at.offset < KEPT:
            self.first[at.partition][at.offset] = record
        size = None if record.value is None else len(record.value)
        self.answers.add(at.partition, at.offset, Sent(record.kind, expected, size))

    async def restore(self, producer):
        """Replace the input topic by a copy that lacks its end, as a cluster restored from a backup has it."""
        await self.settle()
        async with self.calm:
            say("all is answered; restoring the input topic from a copy that lacks its end")
            stages = [member for member in self.members if member.wanted]
            for member in stages:
                await self.terminate(member)
            admin = AIOKafkaAdminClient(bootstrap_servers=self.settings.bootstrap)
            await admin.start()
            await admin.delete_topics([topics.EVENTS])
            await admin.close()
            while not (await kafka.create_topics(self.settings))[topics.EVENTS]:
                await asyncio.sleep(0.2)
            kept, self.first = self.first, defaultdict(dict)
            self.answers.created.append(int(time.time() * 1000))
            await producer.client.force_metadata_update()
            self.restored = {record.key for records in kept.values() for record in records.values()}
            for partition, records in kept.items():
                for offset in range(min(len(records), KEPT)):
                    await (await self.send(producer, records[offset], partition, "at most one more"))
            for member in stages:
                member.wanted = True
                member.start()

    async def inject(self, plan):
        start = time.monotonic()
        for moment, kind in plan:
            while time.monotonic() - start < moment:
                for member in self.members:
                    member.supervise()
                await asyncio.sleep(0.1)
            async with self.calm:
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
            member.wanted = False  # for its supervisor, which would start it a second time
            member.send(signal.SIGKILL)
            await asyncio.to_thread(member.process.wait)
            member.wanted = True
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
        return f"published {len(self.answers.sent)}, unanswered {len(self.answers.missing())}"

    async def watch(self):
        """Follow the outputs, for progress only: the verdict is read from the beginning afterwards."""
        while True:
            with contextlib.suppress(KafkaError, BusError):
                async with kafka.reader(self.settings, WATCHED) as consumer:
                    self.answers.clear()
                    while True:
                        for records in (await consumer.getmany(timeout_ms=500)).values():
                            for record in records:
                                self.answers.take(record)
            await asyncio.sleep(0.5)

    async def look(self):
        """Read the members' pauses now and then; a killed process takes the last seconds with it."""
        while True:
            for member in list(self.members):
                if member.wanted and member.process.poll() is None:
                    await asyncio.to_thread(member.look)
            await asyncio.sleep(5)

    async def settle(self):
        last, moved = len(self.answers.missing()), time.monotonic()
        while last:
            for member in self.members:
                member.supervise()
            await asyncio.sleep(1)
            now = len(self.answers.missing())
            if now != last:
                last, moved = now, time.monotonic()
            if time.monotonic() - moved > TIMEOUT:
                say(f"{last} records have no answer, and none arrived for {TIMEOUT:.0f} s")
                return

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
            if self.content_ids.get(text) in {None, *self.restored}:
                continue  # hostile texts are sent twice, and judged in windows; what was restored is judged again
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
        final = self.answers
        final.clear()
        places = defaultdict(list)
        async for record in kafka.read_all(self.settings, WATCHED):
            final.take(record)
            if record.topic != topics.DEAD_LETTERS:
                places[record.topic, record.key].append(record)
        missing, doubled, wrong = final.missing(), final.duplicates(), final.wrong()
        calls = self.calls()
        self.show_repeated_calls(calls)
        repeats = self.explain(calls, places)
        rebalances = 2 * sum(self.done.values())  # a member leaves and one joins
        restarts = [line for member in self.members for line in member.restarts]
        expected = Counter(sent.expected for sent in final.sent.values())
        summary = {
            "seed": self.options.seed,
            "sent": len(final.sent),
            "hostile_by_kind": dict(sorted(Counter(sent.kind for sent in final.sent.values()).items())),
            "refused_by_the_broker": dict(self.refused),
            "expected": dict(expected),
            "faults": sum(self.done.values()),
            "faults_by_kind": dict(sorted(self.done.items())),
            "lost": len(missing),
            "lost_by_kind": dict(final.kinds(missing)),
            "duplicates": len(doubled),
            "duplicates_by_kind": dict(final.kinds(doubled)),
            "answered_wrongly_by_kind": dict(wrong),
            "dead_letters_found": final.topics[topics.DEAD_LETTERS],
            "dead_letters_whole": final.whole,
            "dead_letters_of_later_stages": dict(final.strange),
            "reasoner_calls": sum(map(len, calls.values())),
            "reasoner_calls_repeated": repeats.total(),
            "reasoner_calls_repeated_by_reason": dict(repeats),
            "restarted_by_supervisor": restarts,
            # Shown, and fails nothing: on a busy machine, others lengthen a pause in which a thread works.
            "longest_pause_of_an_event_loop": {member.name: round(member.pause, 2) for member in self.members},
            "pauses_above_the_bound": sum(member.pause > MAX_PAUSE for member in self.members),
            "sigterm_seconds_max": max(self.stop_seconds, default=None),
            "killed_after_sigterm": self.killed_after_sigterm,
        }
        summary["passed"] = (
            not (missing or doubled or wrong or final.strange or restarts)
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
