"""The demo's broker: Apache Kafka where this machine can run it, else the embedded broker, or one that is given."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

import msgspec

from safeguard_streams.bus import kafka
from safeguard_streams.infra import brokers
from safeguard_streams.runtime import settings
from safeguard_streams.runtime.settings import Settings

T = TypeVar("T")


class Broker(msgspec.Struct, frozen=True):
    """A broker that answers. transactional: whether it has transactions, without which delivery is at least once."""

    name: str
    settings: Settings
    transactional: bool


@contextlib.asynccontextmanager
async def started(bootstrap: str | None, say: Callable[[str], None]) -> AsyncIterator[Broker]:
    """The broker at this address, or one that ends with the context. Raises SafeguardError when there is none."""
    if bootstrap is not None:
        current = settings.load(bootstrap=bootstrap)
        await kafka.wait_for_broker(current, timeout=kafka.COMMAND_SECONDS)
        yield await _probed(f"the broker at {bootstrap}", current)
        return
    if _has_kafka(say):
        # Kafka's own minimum of a session timeout is 6 s.
        async with _in_thread(brokers.kafka_cluster()) as nodes:
            current = settings.load(bootstrap=brokers.addresses(nodes), session_timeout_ms=6000, partitions=2)
            yield await _probed("Apache Kafka 4.1.1", current)
        return
    async with _in_thread(brokers.embedded()) as address:
        # On the embedded broker a group forms only after half the session timeout.
        current = settings.load(bootstrap=address, session_timeout_ms=4000, partitions=2)
        yield await _probed("the embedded broker", current)


def _has_kafka(say: Callable[[str], None]) -> bool:
    """Whether Kafka's jars are here or can be downloaded."""
    say("starting Apache Kafka; on first use, Maven downloads it (43 MB)")
    try:
        brokers.jars()
    except brokers.BrokerError as error:
        say(f"the embedded broker replaces it: {str(error).splitlines()[0]}")
        return False
    return True


async def _probed(name: str, current: Settings) -> Broker:
    return Broker(name, current, await kafka.has_transactions(current, "safeguard-demo"))


@contextlib.asynccontextmanager
async def _in_thread(manager: contextlib.AbstractContextManager[T]) -> AsyncIterator[T]:
    """Enter and leave a context in a thread. A cancelled entry is completed first, and then left."""
    entering = asyncio.create_task(asyncio.to_thread(manager.__enter__))
    try:
        value = await asyncio.shield(entering)
    except asyncio.CancelledError:
        with contextlib.suppress(brokers.BrokerError):  # the interrupt also ended a child of it
            await entering
            await asyncio.to_thread(manager.__exit__, None, None, None)
        raise
    try:
        yield value
    finally:
        await asyncio.to_thread(manager.__exit__, None, None, None)
