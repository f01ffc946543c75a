"""Publish content events, reports of content, and appeals."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Protocol

import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, UnknownError

from safeguard_streams.client.kafka_errors import translated
from safeguard_streams.client.memory import MemoryProducer
from safeguard_streams.contract import topics
from safeguard_streams.contract.appeals import read_appeal
from safeguard_streams.contract.intake import content_id_of, read_event, read_report
from safeguard_streams.contract.records import (
    Appeal,
    ContentEvent,
    ContentReport,
    Message,
    encode,
    place_of,
    schema_header,
)
from safeguard_streams.errors import ConfigurationError, RecordError
from safeguard_streams.runtime.brokers import check_brokers
from safeguard_streams.runtime.memory_broker import MemoryBroker
from safeguard_streams.runtime.stopping import stopped

log = logging.getLogger(__name__)

_HEADERS = [schema_header(ContentEvent)]
_REPORT_HEADERS = [schema_header(ContentReport)]
_APPEAL_HEADERS = [schema_header(Appeal)]


class Publisher:
    """Publishes content events, reports and appeals to content.events, content.reports and moderation.appeals. All are
    keyed by content_id.

        async with Publisher("127.0.0.1:9092") as publisher:
            await publisher.publish(ContentEvent(content_id="c1", text="...", created_at=datetime.now(UTC)))

    bootstrap: brokers as HOST:PORT,HOST:PORT, or a MemoryBroker in tests. prefix: the deployment's topic prefix.
    options: further options of aiokafka's producer, such as security.
    Raises ConfigurationError if these are no addresses of brokers, BusError if Kafka does not acknowledge, and
    ForbiddenError if it refuses access.
    """

    def __init__(self, bootstrap: str | MemoryBroker, *, prefix: str = "", **options: Any) -> None:
        if not isinstance(bootstrap, MemoryBroker):
            check_brokers(bootstrap)
        self._topic = topics.prefixed(prefix, topics.EVENTS)
        self._reports = topics.prefixed(prefix, topics.REPORTS)
        self._appeals = topics.prefixed(prefix, topics.APPEALS)
        self._bootstrap = bootstrap
        self._options = options
        self._producer: EventProducer | None = None

    async def __aenter__(self) -> Publisher:
        try:
            self._producer = await self._started()
        except KafkaError as error:
            raise translated(error, f"opening {self._topic}") from error
        return self

    async def _started(self) -> EventProducer:
        try:
            return await _start(_producer(self._bootstrap, self._options))
        except UnknownError:
            log.warning("broker has no idempotent producers, events may be written twice topic=%s", self._topic)
            return await _start(_producer(self._bootstrap, {**self._options, "enable_idempotence": False}))

    async def __aexit__(self, *_: object) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            await stopped(producer.stop)

    async def publish(self, event: ContentEvent) -> None:
        """Publish an event; returns when the brokers have it.

        Raises RecordError, naming the field, for an invalid event.
        """
        await self.publish_many([event])

    async def publish_many(self, events: Iterable[ContentEvent]) -> None:
        """Publish events in order; returns when the brokers have them all.

        Checks all of them before it sends the first.
        """
        await self._send(self._topic, [ReadyRecord(*_checked(event), _HEADERS) for event in events])

    async def report(self, report: ContentReport) -> None:
        """Report a content item, which the model then judges whatever the gates say; returns when the brokers have it.

        The report holds the event as it was published. Where its `origin` is known, the report goes to the event's
        partition. Otherwise the id decides, as for events that are published by `publish`. Raises RecordError, naming
        the field, for an invalid report.
        """
        await self._send(self._reports, [ready_report(report)])

    async def appeal(self, appeal: Appeal) -> None:
        """Appeal what was done about a content item, or that nothing was; returns when the brokers have it.

        Where its `origin` is known, the appeal goes to the event's partition. Otherwise the id decides. The same appeal
        again is one appeal. Raises RecordError, naming the field, for an invalid appeal.
        """
        await self._send(self._appeals, [ready_appeal(appeal)])

    async def _send(self, topic: str, records: list[ReadyRecord]) -> None:
        producer = self._producer
        if producer is None:
            raise ConfigurationError("the Publisher is not open; use it inside: async with Publisher(...) as publisher")
        try:
            await send_ready(producer, topic, records)
        except MessageSizeTooLargeError:
            raise _too_large() from None
        except KafkaError as error:
            raise translated(error, f"publishing to {topic}") from error


class ReadyRecord(NamedTuple):
    """A record that was checked. partition: None lets the key decide."""

    key: bytes
    value: bytes
    headers: Iterable[tuple[str, bytes]]
    partition: int | None = None


def ready_report(report: ContentReport) -> ReadyRecord:
    """The record of a report, if the pipeline can read it. Raises RecordError."""
    _checked(report.event)
    return ready_line(_encoded(report))


def ready_line(line: bytes) -> ReadyRecord:
    """The record of a report that is JSON already. Raises RecordError if the pipeline cannot read it."""
    read = read_report(line)
    place = place_of(read.report.origin)
    if read.report.origin is not None and place is None:
        raise RecordError("origin", "is no place; write partition and offset, as 3@1042")
    return ReadyRecord(read.received.event.content_id.encode(), line, _REPORT_HEADERS, place[0] if place else None)


def ready_appeal(appeal: Appeal) -> ReadyRecord:
    """The record of an appeal, if the pipeline can read it. Raises RecordError."""
    return ready_appeal_line(_encoded(appeal))


def ready_appeal_line(line: bytes) -> ReadyRecord:
    """The record of an appeal that is JSON already. Raises RecordError if the pipeline cannot read it."""
    appeal = read_appeal(line)
    place = place_of(appeal.origin)
    return ReadyRecord(appeal.content_id.encode(), line, _APPEAL_HEADERS, place[0] if place else None)


def _encoded(record: ContentReport | Appeal) -> bytes:
    try:
        return encode(record)
    except (UnicodeEncodeError, TypeError, ValueError):
        raise RecordError("record", "holds what JSON in UTF-8 cannot represent") from None


async def send_ready(producer: EventProducer, topic: str, records: Iterable[ReadyRecord]) -> None:
    """Send records; returns when the brokers have them all."""
    sent = []
    for key, value, headers, partition in records:
        sent.append(await producer.send(topic, value=value, key=key, headers=headers, partition=partition))
        sent[-1].add_done_callback(_retrieve)
    for acknowledged in sent:
        await acknowledged


def _checked(event: ContentEvent) -> tuple[bytes, bytes]:
    """The event's key and JSON, if the pipeline can read them."""
    if not isinstance(event, ContentEvent):
        raise RecordError("record", f"expected `ContentEvent`, got `{type(event).__name__}`")
    try:
        value = encode(event)
    except (UnicodeEncodeError, TypeError, ValueError, RecursionError) as error:
        name = next((name for name in event.__struct_fields__ if not _encodable(getattr(event, name))), "record")
        if isinstance(error, UnicodeEncodeError):
            raise RecordError(name, "holds half of a surrogate pair; send valid Unicode") from None
        raise RecordError(name, "holds what JSON cannot represent; send text, numbers, lists and dicts") from None
    if len(value) > topics.LARGEST_CONTENT:
        raise _too_large()
    read = read_event(value).event
    # The encoder writes bytes in base64, which the model would judge instead of the text.
    context = ((f"context[{n}].text", m.text) for n, m in enumerate(event.context) if isinstance(m, Message))
    for name, text in (("content_id", event.content_id), ("text", event.text), *context):
        if not isinstance(text, str):
            raise RecordError(name, f"expected `str`, got `{type(text).__name__}`")
    return read.content_id.encode(), value


def _encodable(value: object) -> bool:
    try:
        msgspec.json.encode(value)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def _retrieve(acknowledged: asyncio.Future[Any]) -> None:
    """Keep asyncio from logging each event of a failed batch: `publish_many` raises the first error."""
    if not acknowledged.cancelled():
        acknowledged.exception()


def _too_large() -> RecordError:
    return RecordError("record", f"exceeds the topic's maximum ({topics.LARGEST_CONTENT:,} bytes)")


class EventProducer(Protocol):
    """What `Publisher` asks of a producer: aiokafka's, or the one of a MemoryBroker."""

    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    async def send(
        self,
        topic: str,
        *,
        value: bytes,
        key: bytes | None,
        headers: Iterable[tuple[str, bytes]],
        partition: int | None = None,
    ) -> Any: ...


def _producer(bootstrap: str | MemoryBroker, options: Mapping[str, Any]) -> EventProducer:
    if isinstance(bootstrap, MemoryBroker):
        return MemoryProducer(bootstrap)
    producer: EventProducer = AIOKafkaProducer(
        bootstrap_servers=bootstrap,
        **{"acks": "all", "enable_idempotence": True, "max_request_size": topics.LARGEST_RECORD, **options},
    )
    return producer


async def _start(producer: EventProducer) -> EventProducer:
    try:
        await producer.start()
    except BaseException:
        await stopped(producer.stop)
        raise
    return producer


def key_of(line: bytes) -> bytes | None:
    """The content_id of an event's JSON as a record key; None if there is none, in which case the prefilter
    dead-letters it.
    """
    content_id = content_id_of(line)
    return None if content_id is None else content_id.encode()


async def send(producer: EventProducer, topic: str, lines: Iterable[bytes]) -> int:
    """Publish lines of JSON unchanged. Returns their number when the brokers have them all."""
    sent = [await producer.send(topic, value=line, key=key_of(line), headers=_HEADERS) for line in lines]
    for acknowledged in sent:
        await acknowledged
    return len(sent)
