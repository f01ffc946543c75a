"""How long it takes to restore what stands on authors, and how much memory: python tests/faults/author_standing.py.

Writes the standings of --authors authors, each several times, to one partition of a new Kafka, for each of the numbers
given. Then a process of its own restores the partition. Logs its steps; its last line is one JSON object. Exit status 0
only if all authors are restored, and an author of the largest number takes at most 1.5 times as long as one of the
smallest.
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

from processes import say
from standing import write

from safeguard_streams.authors.state import AuthorsState
from safeguard_streams.bus import kafka
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import AuthorStanding, Strike, encode, verdict_id
from safeguard_streams.infra import brokers
from safeguard_streams.runtime import settings

NOW = datetime.now(UTC)
MOST = 1.5  # times the time of an author of the smallest number


def standings(authors, history):
    """What stands on each author after each of so many strikes: a topic that was never compacted."""
    for strikes in range(1, history + 1):
        for number in range(authors):
            author = f"author-{number:012d}"
            given = tuple(
                Strike(
                    verdict_id(author, str(one)), author, "given", NOW, f"post-{number:012d}", "0" * 64, "fraud-spam",
                    verdict_id(author), verdict_id(author), ("FS2",), "medium", "any", 1,
                    NOW + timedelta(days=90 - one),
                )
                for one in range(strikes)
            )  # fmt: skip
            one = AuthorStanding(
                author, 1, given, strikes, "warn", "first", NOW, number, clock=NOW, due=given[-1].expires_at
            )
            yield author.encode(), encode(one)


async def prepare(current, authors, history):
    await kafka.create_topics(current)
    await write(current, topics.AUTHOR_STANDING, standings(authors, history), NOW)


def restore():
    """Restore the partition in this process; prints what it took."""
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    state = asyncio.run(AuthorsState.restore(settings.load(), 0, 1))
    took = time.monotonic() - started
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({
        "authors": len(state),
        "seconds": round(took, 2),
        "microseconds_an_author": round(1e6 * took / max(1, len(state)), 2),
        "mebibytes_of_the_state": round((memory - before) / 1024),
        "bytes_an_author": round(1024 * (memory - before) / max(1, len(state))),
    }))  # fmt: skip


def measured(address, authors, history):
    prefix = f"restore{authors}."
    asyncio.run(prepare(settings.load(bootstrap=address, partitions=1, prefix=prefix), authors, history))
    environment = {**os.environ, "SAFEGUARD_BOOTSTRAP": address, "SAFEGUARD_PREFIX": prefix}
    command = [sys.executable, __file__, "--restore"]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    say(found)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--authors", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--history", type=int, default=2, help="strikes of each author, with a record after each")
    parser.add_argument("--restore", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.restore:
        restore()
        return
    with contextlib.ExitStack() as stack:
        address = brokers.addresses(stack.enter_context(brokers.kafka_cluster(1, "768m")))
        found = [measured(address, authors, options.history) for authors in options.authors]
    ratio = found[-1]["microseconds_an_author"] / found[0]["microseconds_an_author"]
    passed = ratio <= MOST and [one["authors"] for one in found] == options.authors
    print(json.dumps({"restores": found, "ratio": round(ratio, 2), "passed": passed}))
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
