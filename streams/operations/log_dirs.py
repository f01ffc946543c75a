"""How much room the brokers' disks have (KIP-827): what fills up first in a deployment that works.

aiokafka lacks the request. Kafka answers it since version 3.3, to users who may describe the cluster.
"""

from __future__ import annotations

import asyncio

import msgspec
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import IncompatibleBrokerVersion, for_code
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Int64,
    Schema,
    TaggedFields,
)

from safeguard_streams.errors import BusError


class LogDir(msgspec.Struct, frozen=True):
    """A folder of a broker's logs, and the size and the free space of its disk in bytes."""

    broker: int
    folder: str
    total: int
    usable: int


async def log_dirs(client: AIOKafkaAdminClient) -> list[LogDir]:
    """The folders of all brokers. Raises KafkaError, or BusError if the brokers do not tell."""
    nodes = [broker["node_id"] for broker in (await client.describe_cluster())["brokers"]]
    return [found for one in await asyncio.gather(*(_of_broker(client, node) for node in nodes)) for found in one]


async def _of_broker(client: AIOKafkaAdminClient, node: int) -> list[LogDir]:
    try:
        response = await client._send_request(_DescribeLogDirs(), node)
    except (IncompatibleBrokerVersion, NotImplementedError):
        raise BusError("the brokers do not tell, which Kafka does since version 3.3") from None
    if response.error_code:
        raise for_code(response.error_code)("cluster")
    return [
        LogDir(node, folder, total, usable)
        for code, folder, _, total, usable, _ in response.results
        if not code and total >= 0
    ]


class _DescribeLogDirsResponse(Response):
    API_KEY = 35
    API_VERSION = 4
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("error_code", Int16),
        (
            "results",
            CompactArray(
                ("error_code", Int16),
                ("log_dir", CompactString("utf-8")),
                (
                    "topics",
                    CompactArray(
                        ("name", CompactString("utf-8")),
                        (
                            "partitions",
                            CompactArray(
                                ("partition", Int32),
                                ("size", Int64),
                                ("offset_lag", Int64),
                                ("is_future", Boolean),
                                ("tags", TaggedFields),
                            ),
                        ),
                        ("tags", TaggedFields),
                    ),
                ),
                ("total_bytes", Int64),
                ("usable_bytes", Int64),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class _DescribeLogDirsStruct(RequestStruct):
    API_KEY = 35
    API_VERSION = 4
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _DescribeLogDirsResponse
    SCHEMA = Schema(
        (
            "topics",
            CompactArray(
                ("topic", CompactString("utf-8")), ("partitions", CompactArray(Int32)), ("tags", TaggedFields)
            ),
        ),
        ("tags", TaggedFields),
    )


class _DescribeLogDirs(Request[_DescribeLogDirsStruct]):
    """Asks for no partition: the answer then holds the folders alone."""

    API_KEY = 35

    def build(self, request_struct_class: type[_DescribeLogDirsStruct]) -> _DescribeLogDirsStruct:
        return request_struct_class([], {})
