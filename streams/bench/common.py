"""The broker, the texts and the topics of a benchmark."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterable, Iterator
from importlib.resources import files

import orjson

from safeguard_streams.bus import kafka
from safeguard_streams.infra import brokers
from safeguard_streams.policies.document import Policy
from safeguard_streams.releases import operator
from safeguard_streams.runtime import settings
from safeguard_streams.runtime.settings import Settings

Say = Callable[[str], None]


@contextlib.contextmanager
def broker(bootstrap: str | None) -> Iterator[str]:
    """The given broker, or Apache Kafka started from its jars for the duration of the run."""
    if bootstrap:
        yield bootstrap
        return
    with brokers.kafka_cluster(1, "1g") as nodes:
        yield brokers.addresses(nodes)


async def wait_for(bootstrap: str) -> None:
    """Wait for the broker. Raises BusError when none answers within 15 s."""
    await kafka.wait_for_broker(settings.load(bootstrap=bootstrap), timeout=15)


def texts() -> list[str]:
    """The demo's texts, which are held out from all training."""
    lines = files("safeguard_streams.demo").joinpath("events.jsonl").read_bytes().splitlines()
    return [orjson.loads(line)["text"] for line in lines]


async def fresh(bootstrap: str, partitions: int, policies: Iterable[Policy]) -> Settings:
    """Create topics for one measurement and release the policies there; the settings lead to them."""
    current = settings.load(bootstrap=bootstrap, prefix=f"bench-{uuid.uuid4().hex[:8]}.", partitions=partitions)
    await kafka.create_topics(current)
    await operator.release(current, policies, operator.ChangedBy("bench"))
    return current
