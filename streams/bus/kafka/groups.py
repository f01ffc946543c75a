"""Consumer groups that are used no longer: their positions are forgotten, by Kafka and on moderation.positions."""

from __future__ import annotations

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import GroupIdNotFound, NonEmptyGroup, for_code
from aiokafka.protocol.admin import DeleteGroupsRequest

from safeguard_streams.bus.kafka.clients import producer, started
from safeguard_streams.bus.kafka.recording import recorded_positions
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Position, schema_header
from safeguard_streams.runtime.security import client_options
from safeguard_streams.runtime.settings import Settings


async def forget_group(settings: Settings, group: str) -> bool:
    """Forget all positions of a group. False if it has members: it is in use, and nothing is forgotten.

    To repeat it changes nothing more. Raises BusError, or ForbiddenError where access lists refuse it.
    """
    name = settings.prefix + group
    client = AIOKafkaAdminClient(**client_options(settings))
    async with started(settings, client, client.close):
        coordinator = await client.find_coordinator(name)
        response = await client._send_request_to_node(coordinator, DeleteGroupsRequest([name]))
        error = for_code(response.results[0][1])
        if error is NonEmptyGroup:
            return False
        if error.errno not in (0, GroupIdNotFound.errno):
            raise error(name)
    recorded = await recorded_positions(settings, name)
    if recorded:
        async with producer(settings) as sending:
            for position in recorded.values():
                await sending.send_and_wait(
                    settings.prefix + topics.POSITIONS, key=position.key, headers=[schema_header(Position)]
                )
    return True
