"""A consumer that never mistakes a failed offset fetch for "no offset committed", and reads past what is broken.

A group's coordinator cannot answer while it loads the group or after another broker took over. Kafka then reports one
error for the whole response, and the response holds no offsets. aiokafka checks only the errors of single partitions.
It reads such a response as "nothing was committed" and starts again from the beginning.

`StrictConsumer` raises the error instead, and aiokafka retries, as it does after other retriable errors.

A record that aiokafka cannot decode would stop its partition: `getmany` raises at it again and again. Here, `getmany`
returns an `UnreadableRecord` in its place (see `record_batches`).

With a group.instance.id, aiokafka keeps its partitions across restarts, but lacks two duties of such a static member.
A process whose id another has taken over does not learn why it is no longer known. It joins as a new member, takes the
id back, and the two displace each other without end. Here, it asks first as the member that it was. The coordinator
then tells whether its session has expired or another process has the id (`replaced`). And after a restart of the
group's leader no member would look for new partitions. Here, every static member does.

Only consumers of this class are changed; aiokafka itself stays unchanged.
"""

from __future__ import annotations

import asyncio
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.consumer.fetcher import Fetcher, FetchResult, PartitionRecords
from aiokafka.errors import UnknownMemberIdError, for_code
from aiokafka.protocol.commit import OffsetFetchRequest
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.group import JoinGroupRequest

from safeguard_streams.runtime.record_batches import ReadableRecords, UnreadableRecord

__all__ = ["StrictConsumer", "UnreadableRecord", "check_offset_fetches"]

_FENCED_INSTANCE_ID = 82  # another process joined with the same group.instance.id; aiokafka lacks the code


class StrictConsumer(AIOKafkaConsumer):
    """aiokafka's consumer with checked offset fetches, and a fetcher that reads past what cannot be decoded.

    replaced: another process has joined the group with this one's group.instance.id.
    """

    def __init__(self, *topics: str, **options: Any) -> None:
        super().__init__(*topics, **options)
        self.replaced = False
        check_offset_fetches(self._client)
        self._batches = _keep_batches(self._client)
        if self._group_instance_id:
            self._join_as_static_member()

    async def start(self) -> None:
        """Start, and join the group. A start that is cancelled cancels the join in progress, too.

        `stop` would wait for the broker's answer to the join, which takes as long as the group's rebalance.
        """
        try:
            await super().start()
        except asyncio.CancelledError:
            joining = getattr(self._coordinator, "_coordination_task", None)
            # It swallows one that arrives while it stops its heartbeats.
            while joining is not None and not joining.done():
                joining.cancel()
                await asyncio.wait({joining}, timeout=1.0)
            raise

    def leave_on_stop(self) -> None:
        """Give the partitions of a static member up when it stops, instead of keeping them for the session."""
        self._coordinator._group_instance_id = None

    def _join_as_static_member(self) -> None:
        """Ask to join as the member that this consumer was, and look for new partitions in any role."""
        send = self._client.send
        known = ""

        async def send_as_member(node_id: int, request: Any, **options: Any) -> Any:
            nonlocal known
            if not isinstance(request, JoinGroupRequest):
                return await send(node_id, request, **options)
            asked = request._member_id = request._member_id or known
            response = await send(node_id, request, **options)
            if asked and response.error_code == UnknownMemberIdError.errno:  # the session has expired
                request._member_id = ""
                response = await send(node_id, request, **options)
            if not response.error_code:
                known = response.member_id
                self._watch_partitions()
            self.replaced = self.replaced or response.error_code == _FENCED_INSTANCE_ID
            return response

        self._client.send = send_as_member

    def _watch_partitions(self) -> None:
        """Join again when a topic gets partitions, as the leader does: a restarted leader is told that it is none."""
        self._coordinator._group_subscription = set(self._subscription.topics)
        self._coordinator._metadata_snapshot = self._coordinator._get_metadata_snapshot()

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "_fetcher" and type(value) is Fetcher:  # `start` makes it, and takes no other class
            value.__class__ = _ReadableFetcher
            value.batches = self._batches
        super().__setattr__(name, value)


class _ReadableFetcher(Fetcher):
    """aiokafka's fetcher, whose results hold `ReadableRecords`."""

    batches: dict[TopicPartition, bytes]

    async def _proc_fetch_request(self, assignment: Any, node_id: int, request: FetchRequest) -> bool:
        wake: bool = await super()._proc_fetch_request(assignment, node_id, request)
        for topic, partitions in request.topics:
            for partition, *_ in partitions:
                tp = TopicPartition(topic, partition)
                raw, result = self.batches.pop(tp, None), self._records.get(tp)
                fetched = result._partition_records if type(result) is FetchResult else None
                if raw and type(fetched) is PartitionRecords:  # not read yet: no other task ran since it was made
                    result._partition_records = ReadableRecords(fetched, raw)
        return wake


def _keep_batches(client: Any) -> dict[TopicPartition, bytes]:
    """The batches of the fetches that were answered last, as bytes; aiokafka hands them to no one."""
    send = client.send
    batches: dict[TopicPartition, bytes] = {}

    async def send_and_keep(node_id: int, request: Any, **options: Any) -> Any:
        response = await send(node_id, request, **options)
        if isinstance(request, FetchRequest):
            for topic, partitions in response.topics:
                for partition, *_, raw in partitions:
                    batches[TopicPartition(topic, partition)] = raw
        return response

    client.send = send_and_keep
    return batches


def check_offset_fetches(client: Any) -> None:
    """Make a client raise the error of a failed offset fetch; aiokafka then looks for the coordinator again."""
    send = client.send

    async def send_checked(node_id: int, request: Any, **options: Any) -> Any:
        response = await send(node_id, request, **options)
        code = getattr(response, "error_code", 0) if isinstance(request, OffsetFetchRequest) else 0
        if code:
            raise for_code(code)("the group coordinator returned no offsets")
        return response

    client.send = send_checked
