"""Creates the topics of the catalogue, and brings those that are there up to date: record size, set retention."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Collection, Mapping, Sequence
from typing import TypeVar

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    KafkaConnectionError,
    KafkaError,
    NotControllerError,
    TopicAlreadyExistsError,
    for_code,
)
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Array, Boolean, Int8, Int16, Int32, Schema, String

from safeguard_streams.bus.kafka.clients import FORBIDDEN_ERRORS, bounded_stop, failed, forbidden
from safeguard_streams.contract import topics
from safeguard_streams.errors import BusError
from safeguard_streams.runtime.security import client_options
from safeguard_streams.runtime.settings import Settings

log = logging.getLogger(__name__)
T = TypeVar("T")

_SIZE, _CLEANUP, _RETENTION, _KEPT = "max.message.bytes", "cleanup.policy", "retention.ms", "retention.bytes"
PATIENCE = 30.0  # seconds in which another broker takes over
_RETRY_SECONDS = 0.5
_LISTED_SECONDS, _LOOK_SECONDS = 10.0, 0.1
_SET = 0  # operation of IncrementalAlterConfigs


async def create_topics(settings: Settings) -> dict[str, bool]:
    """Create the missing topics of the catalogue. Returns, by name with the prefix, whether it was created now.

    Topics that exist and take only smaller records than the catalogue says are changed to its size, and
    moderation.actions to the retention that the settings name, if they name one. Topics that are kept for good are
    changed to be of any size. If this user may not do that, or a topic has another cleanup policy, a warning in the log
    says what to change.

    Raises ForbiddenError or BusError. Once a broker has answered, it retries temporary errors for PATIENCE seconds.
    """
    created: dict[str, bool] = {}
    began = time.monotonic()
    try:
        while True:
            try:
                await _create_topics(settings, created)
            except KafkaError as error:
                reached = bool(created) or not isinstance(error, KafkaConnectionError)
                if not (error.retriable and reached and time.monotonic() - began < PATIENCE):
                    raise
                log.warning("topics not created yet, trying again error=%s", type(error).__name__)
            else:
                return created
            await asyncio.sleep(_RETRY_SECONDS)
    except FORBIDDEN_ERRORS as error:
        raise forbidden(error) from error
    except KafkaError as error:
        raise failed(settings, error) from error


async def _create_topics(settings: Settings, created: dict[str, bool]) -> None:
    """Create what is missing. created: what earlier attempts created, which names all topics once a broker answered."""
    admin = AIOKafkaAdminClient(**client_options(settings))
    try:
        await admin.start()
        for one in settings.catalogue:
            created.setdefault(settings.prefix + one.name, False)
        replicas = settings.replication or min(3, len((await admin.describe_cluster())["brokers"]))
        catalogue = [
            NewTopic(
                settings.prefix + topic.name,
                topic.partitions or settings.partitions,
                replicas,
                topic_configs=topic.config,
            )
            for topic in settings.catalogue
        ]
        for topic in catalogue:
            created[topic.name] |= await _create_topic(admin, topic)
        await _bring_up_to_date(admin, [topic for topic in catalogue if not created[topic.name]], _set_by(settings))
        await _until_listed(admin, {name for name, new in created.items() if new})
    finally:
        await bounded_stop(admin.close)


async def _until_listed(admin: AIOKafkaAdminClient, names: set[str]) -> None:
    """A controller answers before brokers list a new topic. Wait for it, so that whatever comes next finds it."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LISTED_SECONDS):
            while not names <= set(await admin.list_topics()):
                await asyncio.sleep(_LOOK_SECONDS)


async def _create_topic(admin: AIOKafkaAdminClient, topic: NewTopic) -> bool:
    """Whether the topic was created now. Raises KafkaError, or BusError for a refusal with the broker's words."""
    response = await _answered(admin.create_topics([topic]))
    (name, code, *message), *_ = response.topic_errors
    refusal = for_code(code)
    if not code or refusal is TopicAlreadyExistsError:
        return not code
    if issubclass(refusal, FORBIDDEN_ERRORS):
        raise refusal([name])
    if refusal.retriable:
        raise refusal(name)
    raise BusError(f"topic {name}: {refusal.__name__}: {message}")


async def _answered(request: Awaitable[T]) -> T:
    """The controller's answer. Raises NotControllerError, which is retried."""
    try:
        return await request
    except (TimeoutError, AttributeError) as error:  # the client's, where no controller answers, or there is none
        raise NotControllerError("no controller answered") from error


def _set_by(settings: Settings) -> set[str]:
    """The topics whose retention a person set. That of the others may have been changed on the broker, and stays."""
    return {settings.prefix + topics.ACTIONS} if "actions_retention_days" in settings.model_fields_set else set()


async def _bring_up_to_date(
    admin: AIOKafkaAdminClient, existing: Sequence[NewTopic], retention_set: Collection[str]
) -> None:
    configs = await _configs(admin, [topic.name for topic in existing])
    for topic in existing:
        wanted, present = topic.topic_configs, configs.get(topic.name, {})
        if present.get(_CLEANUP, wanted[_CLEANUP]) != wanted[_CLEANUP]:
            _warn(topic.name, _CLEANUP, present[_CLEANUP], wanted[_CLEANUP])
        size, kept = present.get(_SIZE), present.get(_RETENTION)
        if size is not None and int(size) < int(wanted[_SIZE]):
            await _change(admin, topic, _SIZE, size)
        if kept is not None and kept != wanted.get(_RETENTION) and topic.name in retention_set:
            await _change(admin, topic, _RETENTION, kept)
        most = present.get(_KEPT)
        if most is not None and _KEPT in wanted and most != wanted[_KEPT]:
            await _change(admin, topic, _KEPT, most)


async def _change(admin: AIOKafkaAdminClient, topic: NewTopic, config: str, present: str) -> None:
    wanted = topic.topic_configs[config]
    request = _AlterConfigs(topic.name, {config: wanted})
    response = await _answered(admin._send_to_controller(request))
    if any(code for code, *_ in response.resources):
        _warn(topic.name, config, present, wanted)
    else:
        log.info("topic changed topic=%s %s=%s before=%s", topic.name, config, wanted, present)


async def _configs(admin: AIOKafkaAdminClient, names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Size, cleanup policy and retention of topics; those that this user may not see are left out."""
    wanted = dict.fromkeys((_SIZE, _CLEANUP, _RETENTION, _KEPT))
    asked = [ConfigResource(ConfigResourceType.TOPIC, name, wanted) for name in names]
    found: dict[str, dict[str, str]] = {}
    try:
        responses = await admin.describe_configs(asked) if asked else []
    except KafkaConnectionError:  # so a broker hangs up that lacks the request, such as the embedded one
        log.warning("existing topics not checked against the catalogue: the broker did not answer the request")
        return found
    for response in responses:
        for code, _, _, name, entries in response.resources:
            if code:
                log.warning("topic not checked topic=%s error=%s", name, for_code(code).__name__)
            else:
                found[name] = {entry[0]: entry[1] for entry in entries}
    return found


def _warn(topic: str, config: str, present: str, wanted: str) -> None:
    change = f"kafka-configs.sh --alter --topic {topic} --add-config {config}=[{wanted}]"
    log.warning("topic differs from the catalogue topic=%s %s=%s change=%r", topic, config, present, change)


class _AlterConfigsResponse(Response):
    API_KEY = 44
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "resources",
            Array(
                ("error_code", Int16),
                ("error_message", String("utf-8")),
                ("resource_type", Int8),
                ("resource_name", String("utf-8")),
            ),
        ),
    )


class _AlterConfigsStruct(RequestStruct):
    API_KEY = 44
    API_VERSION = 0
    RESPONSE_TYPE = _AlterConfigsResponse
    SCHEMA = Schema(
        (
            "resources",
            Array(
                ("resource_type", Int8),
                ("resource_name", String("utf-8")),
                ("configs", Array(("name", String("utf-8")), ("operation", Int8), ("value", String("utf-8")))),
            ),
        ),
        ("validate_only", Boolean),
    )


class _AlterConfigs(Request[_AlterConfigsStruct]):
    """IncrementalAlterConfigs, which leaves other settings alone; aiokafka has only the request that resets them."""

    API_KEY = 44

    def __init__(self, topic: str, configs: Mapping[str, str]) -> None:
        self._topic = topic
        self._configs = configs

    def build(self, request_struct_class: type[_AlterConfigsStruct]) -> _AlterConfigsStruct:
        changes = [(name, _SET, value) for name, value in self._configs.items()]
        return request_struct_class([(ConfigResourceType.TOPIC, self._topic, changes)], False)
