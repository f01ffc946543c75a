"""What all benchmarks share: a broker, and texts."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterable, Iterator
from importlib.resources import files

import orjson

from infra import brokers
from policies.document import Policy
from streams import kafka, releases, settings
from streams.settings import Settings

Say = Callable[[str], None]


@contextlib.contextmanager
def broker(bootstrap: str | None) -> Iterator[str]:
    """The given broker, or Apache Kafka from its jars for the length of the run."""
    if bootstrap:
        yield bootstrap
        return
    with brokers.kafka_cluster(1, "1g") as nodes:
        yield brokers.addresses(nodes)


async def wait_for(bootstrap: str) -> None:
    """Raise when the broker does not answer."""
    await kafka.wait_for_broker(settings.load(bootstrap=bootstrap), patience=15)


def texts() -> list[str]:
    """The demo's texts, which no model was trained on."""
    lines = files("streams.demo").joinpath("events.jsonl").read_bytes().splitlines()
    return [orjson.loads(line)["text"] for line in lines]


async def fresh(bootstrap: str, partitions: int, policies: Iterable[Policy]) -> Settings:
    """Topics of a measurement's own, with these policies in force."""
    current = settings.load(bootstrap=bootstrap, prefix=f"bench-{uuid.uuid4().hex[:8]}.", partitions=partitions)
    await kafka.create_topics(current)
    await releases.release(current, policies, releases.Author("bench"))
    return current
