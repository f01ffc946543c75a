"""What Kafka does with the positions of consumer groups, at once instead of after seven days."""

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Array, Int16, Int32, Schema, String

from safeguard_streams.runtime.security import client_options
from tests.conftest import until


class _DeleteGroupsResponse(Response):
    API_KEY = 42
    API_VERSION = 0
    SCHEMA = Schema(("throttle_time_ms", Int32), ("results", Array(("group", String("utf-8")), ("error_code", Int16))))


class _DeleteGroupsStruct(RequestStruct):
    API_KEY = 42
    API_VERSION = 0
    RESPONSE_TYPE = _DeleteGroupsResponse
    SCHEMA = Schema(("groups", Array(String("utf-8"))))


class _DeleteGroups(Request[_DeleteGroupsStruct]):
    API_KEY = 42

    def __init__(self, group):
        self._group = group

    def build(self, request_struct_class):
        return request_struct_class([self._group])


async def forget(current, group):
    """Delete an empty group with its positions; aiokafka has no public method for it."""
    client = AIOKafkaAdminClient(**client_options(current))
    await client.start()
    try:
        coordinator = await client.find_coordinator(current.prefix + group)

        async def deleted():
            response = await client._send_request(_DeleteGroups(current.prefix + group), coordinator)
            return response.results[0][1] == 0

        await until(deleted, 60)
    finally:
        await client.close()
