"""Members that keep an instance id across restarts: what a restart moves, who gives way, who finds new partitions."""

import asyncio
import contextlib

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions

from safeguard_streams.bus import kafka as kafka_bus
from safeguard_streams.bus.kafka import KafkaBus
from safeguard_streams.contract import topics
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.runtime.security import client_options
from tests.conftest import HEARTBEAT_MS, TIMEOUT, until

pytestmark = pytest.mark.slow


@pytest.fixture
def settings(kafka, patient):
    return patient(kafka)


class Member:
    """A member of one group that only polls. given_up: how often it had to give partitions up."""

    def __init__(self, current, name, **more):
        current = current.model_copy(update={"group_instance_id": name})
        self.bus = KafkaBus(current, [topics.EVENTS], "static", **more)
        self.given_up, self._polling = 0, None

    def assigned(self, partitions):
        return

    def reset(self, partition, offset):
        return

    async def revoked(self, partitions):
        self.given_up += bool(partitions)

    async def start(self):
        await self.bus.start(self)
        self._polling = asyncio.create_task(self._poll())
        return self

    async def _poll(self):
        while True:
            await self.bus.poll(0.1, 10)

    @property
    def owned(self):
        return {partition.partition for partition in self.bus.assignment()}

    async def ended(self):
        """Wait for the error that ends it."""
        with contextlib.suppress(ConfigurationError):
            await self._polling
        return self._polling.exception()

    async def stop(self):
        self._polling.cancel()
        await asyncio.gather(self._polling, return_exceptions=True)
        await self.bus.stop()


@contextlib.asynccontextmanager
async def members(current, **more):
    """Two members that share the partitions. Afterwards all that were appended are stopped."""
    await kafka_bus.create_topics(current)
    started = [await Member(current, name, **more).start() for name in ("pod-0", "pod-1")]
    try:
        await until(lambda: all(len(member.owned) == current.partitions // 2 for member in started))
        yield started
    finally:
        for member in started:
            await member.stop()


async def test_a_restart_within_the_session_moves_nothing(settings):
    async with members(settings) as (first, second):
        before, given_up = (first.owned, second.owned), second.given_up
        await first.stop()
        again = await Member(settings, "pod-0").start()
        try:
            await until(lambda: again.owned)
            assert (again.owned, second.owned) == before
            assert second.given_up == given_up
        finally:
            await again.stop()


async def test_a_member_whose_restart_takes_longer_than_the_session_leaves(settings):
    async with members(settings, restart_seconds=settings.session_timeout_ms / 1000) as (first, second):
        await first.stop()
        await until(lambda: second.owned == {0, 1})  # waits less than the session


async def test_of_two_with_one_id_the_earlier_ends_and_says_why(settings):
    async with members(settings) as (first, second):
        other = await Member(settings, "pod-0").start()
        try:
            error = await asyncio.wait_for(first.ended(), TIMEOUT)
            assert "another process joined with SAFEGUARD_GROUP_INSTANCE_ID=pod-0" in str(error)
            owned = other.owned
            await asyncio.sleep(3 * HEARTBEAT_MS / 1000)
            assert other.owned == owned
            assert other.owned | second.owned == {0, 1}
            assert not other._polling.done()
        finally:
            await other.stop()


async def test_new_partitions_are_found_after_every_member_was_restarted(kafka, consumers):
    consumers(metadata_max_age_ms=1000)
    async with members(kafka) as started:
        for number, name in enumerate(("pod-0", "pod-1")):
            await started[number].stop()
            started[number] = await Member(kafka, name).start()
            await until(lambda number=number: started[number].owned)
        client = AIOKafkaAdminClient(**client_options(kafka))
        await client.start()
        try:
            await client.create_partitions({kafka.prefix + topics.EVENTS: NewPartitions(4)})
        finally:
            await client.close()
        await until(lambda: started[0].owned | started[1].owned == {0, 1, 2, 3})
