"""A coordinator that answers "not now" is asked again; its answer never counts as "no offset committed"."""

import asyncio
import contextlib
from types import SimpleNamespace

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    GroupLoadInProgressError,
    NotCoordinatorForGroupError,
)
from aiokafka.protocol.commit import OffsetFetchResponse_v3
from aiokafka.structs import OffsetAndMetadata

from safeguard_streams.runtime.aiokafka_patch import StrictConsumer, check_offset_fetches

PARTITION = TopicPartition("topic", 0)
OFFSET_42 = OffsetFetchResponse_v3(0, [("topic", [(0, 42, "done", 0)])], 0)
NO_OFFSET = OffsetFetchResponse_v3(0, [("topic", [(0, -1, "", 0)])], 0)


def not_now(error):
    return OffsetFetchResponse_v3(0, [], error.errno)


class Coordinator(GroupCoordinator):
    """aiokafka's coordinator with prepared answers."""

    def __init__(self, *answers):
        self.group_id, self.coordinator_id = "group", 1
        self._retry_backoff_ms = 1
        self._client = self
        self.answers, self.dead = list(answers), 0
        check_offset_fetches(self)

    async def send(self, node, request, group):
        return self.answers.pop(0)

    async def ensure_coordinator_known(self):
        return

    def coordinator_dead(self):
        self.dead += 1

    async def close(self):
        return

    def __del__(self, *_, **__):
        return


async def test_a_committed_offset_is_found_after_every_not_now():
    coordinator = Coordinator(not_now(GroupLoadInProgressError), not_now(NotCoordinatorForGroupError), OFFSET_42)
    assert await coordinator.fetch_committed_offsets([PARTITION]) == {PARTITION: OffsetAndMetadata(42, "done")}
    assert coordinator.dead == 2
    assert not coordinator.answers


async def test_no_offset_committed_is_an_answer():
    assert await Coordinator(NO_OFFSET).fetch_committed_offsets([PARTITION]) == {}


async def test_an_error_that_no_retry_mends_is_raised():
    with pytest.raises(GroupAuthorizationFailedError):
        await Coordinator(not_now(GroupAuthorizationFailedError)).fetch_committed_offsets([PARTITION])


async def test_a_start_that_is_cancelled_ends_a_join_that_swallows_the_first_cancellation(monkeypatch):
    async def join():
        with contextlib.suppress(asyncio.CancelledError):  # as while it stops its heartbeats
            await asyncio.sleep(60)
        await asyncio.sleep(60)

    async def start(consumer):
        consumer._coordinator = SimpleNamespace(_coordination_task=asyncio.create_task(join()))
        await asyncio.sleep(60)

    monkeypatch.setattr(AIOKafkaConsumer, "start", start)
    consumer = StrictConsumer("topic")
    starting = asyncio.create_task(consumer.start())
    await asyncio.sleep(0.01)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert consumer._coordinator._coordination_task.done()
