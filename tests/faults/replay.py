"""A replay of 100,000 events on Apache Kafka whose runner and reasoner are killed: python tests/faults/replay.py.

Logs its steps; its last line is one JSON object. Exit status 0 only if, under read_committed, the new version judged
once each event that either version of the policy escalates, and the old version judged once each event drawn for noise.
"""

import argparse
import asyncio
import json
import logging
import os
import sys
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

from processes import BIN, Process, say

from safeguard_streams.bus import kafka
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import ContentEvent, Verdict, decode, encode
from safeguard_streams.infra import brokers
from safeguard_streams.policies.files import load_library, with_changes
from safeguard_streams.policies.parsing import parse
from safeguard_streams.releases import operator
from safeguard_streams.replay import jobs, status
from safeguard_streams.runtime import settings

NAME = "hate-harassment"
NOISE = 0.1
KILLS = (0.25, 0.6)  # of the work; the runner and the reasoner are each killed at both
TIMEOUT_SECONDS = 300.0  # seconds


def version(document, *terms):
    nothing = dict.fromkeys(("harms", "threshold", "sample", "calibration"))
    return with_changes(document, "gate", **nothing, terms=list(terms))


async def publish(current, count):
    words = ("only the old gate", "only the new gate", "either gate", "no one")
    async with kafka.producer(current) as producer:
        for number in range(count):
            event = ContentEvent(f"c{number}", f"{words[number % 4]} {number}", datetime.now(UTC))
            await producer.send(current.prefix + topics.EVENTS, key=f"c{number}".encode(), value=encode(event))
        await producer.flush()


async def run(address, count, folder):
    current = settings.load(bootstrap=address, prefix="faults.", partitions=4, session_timeout_ms=6000)
    await kafka.create_topics(current)
    document = load_library()[NAME].document
    old = parse(version(document, "old gate", "either gate"))
    changed = version(document, "new gate", "either gate").replace(
        "You review user content", "You look at user content"
    )
    new = parse(changed)
    (folder / "policy.md").write_text(changed)
    await operator.release(current, [old], operator.ChangedBy("faults"))
    say(f"publishing {count:,} events")
    await publish(current, count)
    environment = {**os.environ, "SAFEGUARD_BOOTSTRAP": address, "SAFEGUARD_PREFIX": current.prefix}
    environment |= {"SAFEGUARD_SESSION_TIMEOUT_MS": "6000", "SAFEGUARD_REASONER_PORT": str(brokers.free_port())}
    reasoner = [sys.executable, str(Path(__file__).with_name("reasoner.py")), str(folder / "calls")]
    judging = Process("reasoner", reasoner, environment, folder)
    start = [BIN / "safeguard", "replay", "start", str(folder / "policy.md"), "--noise", str(NOISE), "--yes"]
    running = Process("runner", start, environment, folder)
    try:
        return await watch(current, count, old.version, new.version, running, judging)
    finally:
        running.process.kill()
        judging.process.kill()


async def watch(current, count, old, new, running, judging):
    found, kills = Counter(), {"runner": 0, "reasoner": 0}
    wanted = {f"c{n}" for n in range(count) if n % 4 != 3}
    deadline, moved = time.monotonic() + TIMEOUT_SECONDS, 0
    async with kafka.reader(current, [topics.REPLAYS]) as consumer:
        while True:
            for records in (await consumer.getmany(timeout_ms=300)).values():
                for record in records:
                    verdict = decode(record.value, Verdict)
                    found[verdict.content_id, verdict.policy_version] += 1
            judged = sum(v == new for _, v in found)
            if judged > moved:
                moved, deadline = judged, time.monotonic() + TIMEOUT_SECONDS
            assert time.monotonic() < deadline, f"{judged} of {len(wanted)} were judged, and no more arrive"
            replays = list((await jobs.read_all(current)).values())
            done = await jobs.progress(current, replays[0]) if replays else 0
            if kills["runner"] < len(KILLS) and replays and KILLS[kills["runner"]] * count < done < count:
                running.kill()
                kills["runner"] += 1
                running.command = [BIN / "safeguard", "replay", "resume", replays[0].replay_id]
                running.start()
            if kills["reasoner"] < len(KILLS) and judged > KILLS[kills["reasoner"]] * len(wanted):
                judging.kill()
                kills["reasoner"] += 1
                judging.start()
            if replays and replays[0].escalated_at is not None:
                counted = await status.counts(current, replays[0])
                if counted.judged == counted.escalated == sum(found.values()):
                    break
    by_new = {content for content, v in found if v == new}
    by_old = {content for content, v in found if v == old}
    summary = {
        "events": count,
        "wanted": len(wanted),
        "judged": len(by_new),
        "missing": len(wanted - by_new),
        "not_wanted": len(by_new - wanted),
        "judged_again_by_the_old_version": len(by_old),
        "judged_twice": sum(times > 1 for times in found.values()),
        "counted": counted.escalated,  # by the runners, despite their kills
        "kills": kills,
    }
    again_at_most = {f"c{n}" for n in range(count) if n % 4 in (0, 2)}
    summary["passed"] = (
        by_new == wanted
        and by_old <= again_at_most
        and abs(len(by_old) / len(again_at_most) - NOISE) < NOISE / 4
        and not summary["judged_twice"]
        and counted.escalated == len(found)
        and set(kills.values()) == {len(KILLS)}
    )
    return summary


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=100_000)
    options = parser.parse_args()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="safeguard-replay-") as folder, brokers.kafka_cluster(1, "768m") as nodes:
        summary = asyncio.run(run(brokers.addresses(nodes), options.events, Path(folder)))
        if not summary["passed"]:
            for log in sorted(Path(folder).glob("*.log")):
                print(f"--- end of {log.name}\n{log.read_text(errors='replace')[-1500:]}")
    print(json.dumps(summary))
    sys.exit(0 if summary["passed"] else 1)


if __name__ == "__main__":
    main()
