"""How long it takes to restore what stands on content items, and how much memory: python tests/faults/standing.py.

Writes --actions old actions on --items content items of one partition to a new Kafka, and what stands on --standing of
them; the others have a tombstone. Then a process of its own restores the partition. Logs its steps; its last line is
one JSON object. Exit status 0 only if the restored state has the standing items and no others.
"""

import argparse
import asyncio
import contextlib
import json
import os
import resource
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

from aiokafka import AIOKafkaProducer
from processes import say

from safeguard_streams.bus import kafka
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Action, PolicyStanding, Standing, encode, verdict_id
from safeguard_streams.enforcement.state import EnforcementState
from safeguard_streams.infra import brokers
from safeguard_streams.runtime import settings

PARTITION, BATCH_BYTES = 0, 2**19
LONG_AGO = datetime.now(UTC) - timedelta(days=60)


def content_id(number):
    return f"post-{number:012d}"


def actions(count, items):
    """Actions of 60 days ago; each item is removed and allowed in turn."""
    for number in range(count):
        item, action = number % items, ("remove", "allow")[number // items % 2]
        made = Action(
            verdict_id(str(number)), content_id(item), action, LONG_AGO, effective=action, verdict_id=f"v{number:031d}",
            policy_id="hate-harassment", policy_version="0a1b2c3d4e5f", decision="violates", rule_ids=("HH3",),
            rule="threats", reason="The text threatens a person.", sequence=number,
        )  # fmt: skip
        yield content_id(item).encode(), encode(made)


def standings(items, standing):
    for number in range(items):
        if number >= standing:
            yield content_id(number).encode(), None
            continue
        name = verdict_id(str(number))
        text, origin = verdict_id(name) * 2, f"{PARTITION}@{number}"
        policy = PolicyStanding(
            "hate-harassment", (name,), "remove", verdict_id(name, "action"), content_sha256=text, origin=origin,
            at=LONG_AGO, decision="violates", rule="threats",
        )  # fmt: skip
        one = Standing(content_id(number), "remove", 1, (policy,), content_sha256=text, origin=origin)
        yield content_id(number).encode(), encode(one)


async def write(current, topic, records, moment):
    """Write records in large batches, with one timestamp."""
    timestamp, count = int(moment.timestamp() * 1000), 0
    options = {"bootstrap_servers": current.bootstrap, "compression_type": "lz4", "max_batch_size": BATCH_BYTES}
    async with AIOKafkaProducer(**options, acks=1) as producer:
        batch, sent = producer.create_batch(), []
        for key, value in records:
            while batch.append(key=key, value=value, timestamp=timestamp) is None:
                sent.append(await producer.send_batch(batch, current.prefix + topic, partition=PARTITION))
                batch = producer.create_batch()
            count += 1
            if len(sent) > 32:
                await asyncio.gather(*sent)
                sent.clear()
        sent.append(await producer.send_batch(batch, current.prefix + topic, partition=PARTITION))
        await asyncio.gather(*sent)
    say(f"{count:,} records written to {topic}")


async def prepare(current, options):
    await kafka.create_topics(current)
    await write(current, topics.ACTIONS, actions(options.actions, options.items), LONG_AGO)
    await write(current, topics.STANDING, standings(options.items, options.standing), datetime.now(UTC))


def restore():
    """Restore the partition in this process; prints what it took."""
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    state = asyncio.run(EnforcementState.restore(settings.load(), PARTITION, 1, timedelta(hours=1)))
    took = time.monotonic() - started
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({
        "standing": len(state),
        "seconds": round(took, 1),
        "mebibytes": round(memory / 1024),
        "mebibytes_of_the_state": round((memory - before) / 1024),
    }))  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--actions", type=int, default=1_000_000)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--standing", type=int, default=100_000, help="items on which something stands")
    parser.add_argument("--restore", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.restore:
        restore()
        return
    with contextlib.ExitStack() as stack:
        address = brokers.addresses(stack.enter_context(brokers.kafka_cluster(1, "768m")))
        asyncio.run(prepare(settings.load(bootstrap=address, partitions=1), options))
        environment = {**os.environ, "SAFEGUARD_BOOTSTRAP": address}
        command = [sys.executable, __file__, "--restore"]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found = {"actions": options.actions, "items": options.items, **json.loads(done.stdout.splitlines()[-1])}
    print(json.dumps(found))
    sys.exit(0 if found["standing"] == options.standing else 1)


if __name__ == "__main__":
    main()
