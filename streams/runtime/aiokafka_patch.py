"""A consumer that never mistakes a failed offset fetch for "no offset committed".

A group's coordinator cannot answer while it loads the group or after another broker took over. Kafka then reports one
error for the whole response, and the response holds no offsets. aiokafka checks only the errors of single partitions.
It reads such a response as "nothing was committed" and starts again from the beginning.

`StrictConsumer` raises the error instead, and aiokafka retries, as it does after other retriable errors. Only consumers
of this class are changed; aiokafka itself stays unchanged.
"""

from __future__ import annotations

from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import for_code
from aiokafka.protocol.commit import OffsetFetchRequest


class StrictConsumer(AIOKafkaConsumer):
    """aiokafka's consumer with checked offset fetches."""

    def __init__(self, *topics: str, **options: Any) -> None:
        super().__init__(*topics, **options)
        check_offset_fetches(self._client)


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
