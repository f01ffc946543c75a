"""Creates the topics of the catalogue."""

from __future__ import annotations

import asyncio
import contextlib

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from safeguard_streams.bus.kafka.clients import FORBIDDEN_ERRORS, STOP_SECONDS, forbidden
from safeguard_streams.contract import topics
from safeguard_streams.errors import BusError
from safeguard_streams.runtime.security import client_options
from safeguard_streams.runtime.settings import Settings


async def create_topics(settings: Settings) -> dict[str, bool]:
    """Create the missing topics of the catalogue. Returns, by name with the prefix, whether it was created now.

    Raises ForbiddenError or BusError.
    """
    admin = AIOKafkaAdminClient(**client_options(settings))
    created: dict[str, bool] = {}
    try:
        await admin.start()
        replicas = settings.replication or min(3, len((await admin.describe_cluster())["brokers"]))
        catalogue = [
            NewTopic(
                settings.prefix + topic.name,
                topic.partitions or settings.partitions,
                replicas,
                topic_configs=topic.config,
            )
            for topic in topics.CATALOGUE
        ]
        for topic in catalogue:
            response = await admin.create_topics([topic])
            (name, code, *message), *_ = response.topic_errors
            if code and issubclass(for_code(code), FORBIDDEN_ERRORS):
                raise forbidden(for_code(code)([topic.name]))
            if code and for_code(code) is not TopicAlreadyExistsError:
                raise BusError(f"topic {name}: {for_code(code).__name__}: {message}")
            created[topic.name] = code == 0
    except FORBIDDEN_ERRORS as error:
        raise forbidden(error) from error
    except KafkaError as error:
        raise BusError(f"{settings.bootstrap}: {error!r}") from error
    finally:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                await admin.close()
    return created
