"""A consumer that never mistakes a failed offset fetch for "no offset committed", and reads past what is broken.

A group's coordinator cannot answer while it loads the group or after another broker took over. Kafka then reports one
error for the whole response, and the response holds no offsets. aiokafka checks only the errors of single partitions.
It reads such a response as "nothing was committed" and starts again from the beginning.

`StrictConsumer` raises the error instead, and aiokafka retries, as it does after other retriable errors.

A record that aiokafka cannot decode would stop its partition: `getmany` raises at it again and again. Here, `getmany`
returns an `UnreadableRecord` in its place (see `record_batches`).

Only consumers of this class are changed; aiokafka itself stays unchanged.
"""

from __future__ import annotations

from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.consumer.fetcher import Fetcher, FetchResult, PartitionRecords
from aiokafka.errors import for_code
from aiokafka.protocol.commit import OffsetFetchRequest
from aiokafka.protocol.fetch import FetchRequest

from safeguard_streams.runtime.record_batches import ReadableRecords, UnreadableRecord

__all__ = ["StrictConsumer", "UnreadableRecord", "check_offset_fetches"]


class StrictConsumer(AIOKafkaConsumer):
    """aiokafka's consumer with checked offset fetches, and a fetcher that reads past what cannot be decoded."""

    def __init__(self, *topics: str, **options: Any) -> None:
        super().__init__(*topics, **options)
        check_offset_fetches(self._client)
        self._batches = _keep_batches(self._client)

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
