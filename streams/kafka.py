"""Kafka behind the contract of streams.bus, and the few other clients that the commands need.

Why one transactional producer for each input partition: the client library sends no group generation with a
transaction's offsets, so what fences a process that lost a partition without noticing is the transactional id,
which only one living producer can hold: GROUP-TOPIC-PARTITION.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from itertools import zip_longest
from ssl import SSLCertVerificationError
from typing import Any, Protocol

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import (
    AuthenticationFailedError,
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    IllegalOperation,
    InvalidProducerEpoch,
    KafkaError,
    ProducerFenced,
    SaslAuthenticationFailed,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
    UnknownError,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.protocol.admin import CreateAclsRequest
from aiokafka.structs import OffsetAndMetadata

from streams import topics
from streams.access import Binding
from streams.bus import Committed, Listener, Output, Partition, Record, Writer
from streams.errors import BusError, ConfigurationError, FencedError, ForbiddenError
from streams.positions import read_strictly
from streams.settings import Settings

log = logging.getLogger(__name__)
read_strictly()

_STOP_SECONDS = 3.0
_SIGHT_SECONDS = 3.0
_PRODUCER: dict[str, Any] = {
    "acks": "all",
    "max_batch_size": 2**19,
    "max_request_size": topics.LARGEST_RECORD,
    # Kafka 4 answers the first produce after a commit with a retriable error until the commit's markers are written.
    "retry_backoff_ms": 5,
    "request_timeout_ms": 20_000,
}
# What no further try will change, unless somebody changes the access lists.
_FORBIDDEN = (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
)
# A producer that was fenced says so once; after that it only says that it is in no transaction.
_FENCED = (ProducerFenced, InvalidProducerEpoch, IllegalOperation)


def _forbidden(error: KafkaError) -> ForbiddenError:
    what = type(error).__name__.partition("Authorization")[0].lower()
    named = error.args[0] if error.args else ""
    names = named if isinstance(named, str) else ", ".join(sorted(map(str, named)))
    return ForbiddenError(f"the broker refuses this user: {what} {names}".rstrip() + "; see: safeguard topics acls")


async def _bounded_stop(stop: Callable[[], Awaitable[None]]) -> None:
    """Clients may wait forever for a broker that is gone."""
    try:
        async with asyncio.timeout(_STOP_SECONDS):
            await stop()
    except asyncio.CancelledError:
        # A client that is stopped before it did anything says that it was cancelled; only if this task was, it is so.
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
    except (TimeoutError, KafkaError) as error:
        log.debug("a client did not stop in time: %r", error)


class _Reasons(logging.Filter):
    """Why connections failed: the client says it in its log alone."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: list[BaseException] = []

    def filter(self, record: logging.LogRecord) -> bool:
        self.errors += [said for said in record.args or () if isinstance(said, BaseException)]
        return True

    def check(self, address: str) -> None:
        """Raise ConfigurationError for what no patience mends."""
        for error in self.errors:
            if isinstance(error, (AuthenticationFailedError, SaslAuthenticationFailed)):
                raise ConfigurationError(
                    f"{address}: the broker refused these credentials; see SAFEGUARD_USERNAME and SAFEGUARD_PASSWORD"
                )
            if isinstance(error, SSLCertVerificationError):
                raise ConfigurationError(
                    f"{address}: the broker's certificate is not trusted ({error.verify_message}); see SAFEGUARD_CA_FILE"
                )


async def wait_for_broker(settings: Settings, patience: float | None = None) -> None:
    """Return when the broker answers. With patience (seconds), raises BusError when that has passed; ConfigurationError when
    it refuses this user, or is not to be trusted.
    """
    reasons, client_log = _Reasons(), logging.getLogger("aiokafka")
    client_log.addFilter(reasons)
    try:
        await _wait_for_broker(settings, patience, reasons)
    finally:
        client_log.removeFilter(reasons)


async def _wait_for_broker(settings: Settings, patience: float | None, reasons: _Reasons) -> None:
    loop = asyncio.get_running_loop()
    start = loop.time()
    said = False
    while True:
        producer = AIOKafkaProducer(**settings.kafka(), request_timeout_ms=5000)
        try:
            async with asyncio.timeout(6):
                await producer.start()
            return
        except (KafkaError, TimeoutError, OSError) as error:
            reasons.check(settings.bootstrap)
            if patience is not None and loop.time() - start > patience:
                raise BusError(f"no Kafka broker answers at {settings.bootstrap}; check SAFEGUARD_BOOTSTRAP") from error
            if not said:
                log.warning("no broker answers at %s yet, waiting for it", settings.bootstrap)
                said = True
            await asyncio.sleep(0.5)
        finally:
            await _bounded_stop(producer.stop)


async def has_transactions(settings: Settings, group: str) -> bool:
    """Ask the broker. Only its plain 'unknown error' to a transactional id means no; other failures raise BusError."""
    producer = AIOKafkaProducer(**settings.kafka(), transactional_id=f"{group}-probe", **_PRODUCER)
    logging.getLogger("aiokafka.producer.sender").addFilter(_quiet_probe)
    try:
        async with asyncio.timeout(30):
            await producer.start()
        return True
    except UnknownError:
        return False
    except _FORBIDDEN as error:
        raise _forbidden(error) from error
    except (KafkaError, TimeoutError) as error:
        raise BusError(f"cannot find out whether the broker has transactions: {error!r}") from error
    finally:
        logging.getLogger("aiokafka.producer.sender").removeFilter(_quiet_probe)
        await _bounded_stop(producer.stop)


def _quiet_probe(record: logging.LogRecord) -> bool:
    return "InitProducerIdRequest" not in record.getMessage()


class KafkaBus:
    """A group member on some topics (names without the prefix)."""

    def __init__(self, settings: Settings, topic_names: Sequence[str], group: str) -> None:
        self._settings = settings
        self._topics = [settings.prefix + name for name in topic_names]
        self.group = settings.prefix + group
        self.transactional = False
        self._consumer: AIOKafkaConsumer | None = None
        self._shared: AIOKafkaProducer | None = None

    @property
    def consumer(self) -> AIOKafkaConsumer:
        assert self._consumer is not None, "start the bus first"
        return self._consumer

    async def start(self, listener: Listener) -> None:
        """Wait for the broker, ask whether it has transactions, join the group."""
        await wait_for_broker(self._settings)
        self.transactional = await has_transactions(self._settings, self.group)
        if self.transactional:
            log.info("%s: exactly once (transactions)", self.group)
        else:
            log.warning("%s: the broker has no transactions: at least once, with deterministic ids", self.group)
            self._shared = AIOKafkaProducer(**self._settings.kafka(), **_PRODUCER)
            await self._shared.start()
        session = self._settings.session_timeout_ms
        self._consumer = AIOKafkaConsumer(
            **self._settings.kafka(),
            group_id=self.group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            session_timeout_ms=session,
            heartbeat_interval_ms=session // 5,
            rebalance_timeout_ms=60_000,
            max_partition_fetch_bytes=4 * topics.MiB,
        )
        self._consumer.subscribe(self._topics, listener=_Rebalance(listener))
        await self._consumer.start()

    async def poll(self, timeout: float, most: int) -> Mapping[Partition, Sequence[Record]]:
        try:
            polled = await self.consumer.getmany(timeout_ms=int(timeout * 1000), max_records=most)
        except _FORBIDDEN as error:
            raise _forbidden(error) from error
        except KafkaError as error:
            log.warning("polling failed: %r", error)
            await asyncio.sleep(0.5)
            return {}
        return {Partition(*tp): records for tp, records in polled.items()}

    def assignment(self) -> set[Partition]:
        return {Partition(*tp) for tp in self._consumer.assignment()} if self._consumer is not None else set()

    def end(self, partition: Partition) -> int | None:
        if self._consumer is None or partition not in self.assignment():
            return None
        found: int | None = self._consumer.last_stable_offset(TopicPartition(*partition))
        return found if found is not None and found >= 0 else None

    def pause(self, partition: Partition) -> None:
        if partition in self.assignment():
            self.consumer.pause(TopicPartition(*partition))

    def resume(self, partition: Partition) -> None:
        if partition in self.assignment():
            self.consumer.resume(TopicPartition(*partition))

    def seek(self, partition: Partition, offset: int) -> None:
        if partition in self.assignment():
            self.consumer.seek(TopicPartition(*partition), offset)

    async def writer(self, partition: Partition) -> Writer:
        if self._shared is not None:
            return _PlainWriter(self, partition, self._shared)
        transactional_id = f"{self.group}-{partition.topic}-{partition.partition}"
        producer = AIOKafkaProducer(
            **self._settings.kafka(), **_PRODUCER, transactional_id=transactional_id, transaction_timeout_ms=60_000
        )
        try:
            async with asyncio.timeout(30):
                await producer.start()
        except (KafkaError, TimeoutError) as error:
            await _bounded_stop(producer.stop)
            raise BusError(f"{transactional_id}: {error!r}") from error
        except asyncio.CancelledError:
            await _bounded_stop(producer.stop)
            raise
        return _TransactionalWriter(self, partition, producer)

    async def position(self, partition: Partition) -> Committed:
        """What the group has committed, with its metadata (the public `committed` leaves the metadata out)."""
        tp = TopicPartition(*partition)
        try:
            async with asyncio.timeout(30):
                found: Mapping[
                    TopicPartition, OffsetAndMetadata
                ] = await self.consumer._coordinator.fetch_committed_offsets([tp])
        except (KafkaError, TimeoutError) as error:
            raise BusError(f"{partition}: cannot read the committed position: {error!r}") from error
        return Committed(found[tp].offset, found[tp].metadata or "") if tp in found else Committed(None, "")

    async def produce(self, producer: AIOKafkaProducer, outputs: Sequence[Output], number: int) -> None:
        """Write outputs in order, in few batches; returns when the broker has them all."""
        by_topic: dict[str, list[Output]] = {}
        for output in outputs:
            by_topic.setdefault(output.topic, []).append(output)
        sent = []
        for name, group in by_topic.items():
            topic = self._settings.prefix + name
            count = len(await producer.partitions_for(topic))
            target = number % count
            batch = producer.create_batch()
            for output in group:
                if not _append(batch, output):
                    sent.append(await producer.send_batch(batch, topic, partition=target))
                    batch = producer.create_batch()
                    if not _append(batch, output):
                        raise BusError(f"{topic}: a record is too large for a batch")
            sent.append(await producer.send_batch(batch, topic, partition=target))
        for done in await asyncio.gather(*sent, return_exceptions=True):
            if isinstance(done, BaseException):
                raise done

    async def stop(self) -> None:
        if self._consumer is not None:
            await _bounded_stop(self._consumer.stop)
        if self._shared is not None:
            await _bounded_stop(self._shared.stop)


def _append(batch: Any, output: Output) -> bool:
    return batch.append(key=output.key, value=output.value, timestamp=None, headers=[*output.headers]) is not None


class _Rebalance(ConsumerRebalanceListener):
    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        self._listener.assigned([Partition(*tp) for tp in assigned])

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        await self._listener.revoked([Partition(*tp) for tp in revoked])


class _TransactionalWriter:
    def __init__(self, bus: KafkaBus, partition: Partition, producer: AIOKafkaProducer) -> None:
        self._bus = bus
        self._partition = partition
        self._producer = producer

    async def committed(self) -> Committed:
        # The producer's start ended any transaction of an earlier holder, so the position is stable.
        return await self._bus.position(self._partition)

    async def commit(self, outputs: Sequence[Output], offset: int, metadata: str) -> None:
        producer = self._producer
        position = {TopicPartition(*self._partition): OffsetAndMetadata(offset, metadata)}
        try:
            await producer.begin_transaction()
            await self._bus.produce(producer, outputs, self._partition.partition)
            await producer.send_offsets_to_transaction(position, self._bus.group)
            await producer.commit_transaction()
        except _FENCED as error:
            raise FencedError(f"{self._partition} is owned by another process: {error!r}") from error
        except _FORBIDDEN as error:
            raise _forbidden(error) from error
        except (KafkaError, AssertionError) as error:
            raise BusError(f"{self._partition}: {error!r}") from error

    async def close(self) -> None:
        await _bounded_stop(self._producer.stop)


class _PlainWriter:
    """At least once: outputs, then the position; a crash in between repeats outputs, with the same ids."""

    def __init__(self, bus: KafkaBus, partition: Partition, producer: AIOKafkaProducer) -> None:
        self._bus = bus
        self._partition = partition
        self._producer = producer

    async def committed(self) -> Committed:
        return await self._bus.position(self._partition)

    async def commit(self, outputs: Sequence[Output], offset: int, metadata: str) -> None:
        try:
            await self._bus.produce(self._producer, outputs, self._partition.partition)
            await self._bus.consumer.commit({TopicPartition(*self._partition): (offset, metadata)})
        except KafkaError as error:
            raise BusError(f"{self._partition}: {error!r}") from error

    async def close(self) -> None:
        return


@contextlib.asynccontextmanager
async def _started(
    settings: Settings, client: Any, stop: Callable[[], Awaitable[None]] | None = None
) -> AsyncIterator[Any]:
    """A client for as long as it is needed; what the broker refuses is a BusError, and it stops in bounded time."""
    try:
        await client.start()
        yield client
    except _FORBIDDEN as error:
        raise _forbidden(error) from error
    except KafkaError as error:
        raise BusError(f"{settings.bootstrap}: {error!r}") from error
    finally:
        await _bounded_stop(stop or client.stop)


@contextlib.asynccontextmanager
async def _outsider(settings: Settings, group: str, partitions: Iterable[TopicPartition]) -> AsyncIterator[Any]:
    """A client that speaks for a group without being a member."""
    client = AIOKafkaConsumer(**settings.kafka(), group_id=settings.prefix + group, enable_auto_commit=False)
    client.assign(list(partitions))
    async with _started(settings, client):
        yield client


async def group_positions(settings: Settings, group: str, topic: str, partitions: Iterable[int]) -> dict[int, int]:
    """Where a group stands in partitions of a topic: the next offset that it reads; without those that it has not read."""
    wanted = [TopicPartition(settings.prefix + topic, partition) for partition in partitions]
    async with _outsider(settings, group, wanted) as client:
        found = {tp.partition: await client.committed(tp) for tp in wanted}
    return {partition: offset for partition, offset in found.items() if offset is not None}


async def set_first_positions(settings: Settings, group: str, topic: str, starts: Mapping[int, int]) -> None:
    """Where a group that has not read yet begins; positions that it has already stay as they are."""
    known = await group_positions(settings, group, topic, starts)
    first = {TopicPartition(settings.prefix + topic, p): at for p, at in starts.items() if p not in known}
    if first:
        async with _outsider(settings, group, first) as client:
            await client.commit({tp: OffsetAndMetadata(at, "") for tp, at in first.items()})


async def begin_at_end(settings: Settings, group: str, topic: str) -> None:
    """Let a group that has not read yet begin with what comes next."""
    async with reader(settings, [topic]) as client:
        ends = await (await Ends.now(client)).fixed()
    await set_first_positions(settings, group, topic, {tp.partition: end for tp, end in ends.items()})


@contextlib.asynccontextmanager
async def producer(settings: Settings) -> AsyncIterator[AIOKafkaProducer]:
    """A plain producer for commands; all acknowledgements, stopped in bounded time."""
    async with _started(settings, AIOKafkaProducer(**settings.kafka(), **_PRODUCER)) as client:
        yield client


class Write(Protocol):
    """Writes records together; partitions, where they are given, one for each record, None for that of its key."""

    async def __call__(self, outputs: Sequence[Output], partitions: Sequence[int | None] = ()) -> None: ...


@contextlib.asynccontextmanager
async def exclusive_writer(settings: Settings, name: str) -> AsyncIterator[Write]:
    """A function that writes records all or nothing, for the one holder of a name: whoever opens it later fences the former.
    What it wrote can be read when it returns: a transaction is committed a moment before its records come into sight.

    On a broker without transactions they are written one after the other, and nobody is fenced.
    """
    group = settings.prefix + name
    transactional = await has_transactions(settings, group)
    client = AIOKafkaProducer(**settings.kafka(), **_PRODUCER, **({"transactional_id": group} if transactional else {}))

    async def write(outputs: Sequence[Output], partitions: Sequence[int | None] = ()) -> None:
        async with client.transaction() if transactional else contextlib.nullcontext():
            sent = [
                await client.send(
                    settings.prefix + output.topic,
                    value=output.value,
                    key=output.key,
                    partition=partition,
                    headers=list(output.headers),
                )
                for output, partition in zip_longest(outputs, partitions)
            ]
            written = await asyncio.gather(*sent)
        if transactional:
            await _in_sight(sight, {TopicPartition(at.topic, at.partition): at.offset for at in written})

    sight = AIOKafkaConsumer(**settings.kafka(), group_id=None, isolation_level="read_committed")
    async with _started(settings, client), _started(settings, sight):
        try:
            yield write
        except _FENCED as error:
            raise BusError(f"another process does the same at this moment ({name}); try again") from error


async def _in_sight(client: AIOKafkaConsumer, last: Mapping[TopicPartition, int]) -> None:
    """Wait until readers of what is committed see these offsets; not for ever, as another's transaction may be open before."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_SIGHT_SECONDS):
            while any(end <= last[tp] for tp, end in (await client.end_offsets(list(last))).items()):
                await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def reader(
    settings: Settings, names: Sequence[str], *, from_end: bool = False, partition: int | None = None
) -> AsyncIterator[AIOKafkaConsumer]:
    """A consumer of whole topics, or of one partition of each, without a group: read_committed, from the beginning or from
    what comes next.
    """
    full = [settings.prefix + name for name in names]
    client = AIOKafkaConsumer(
        *(full if partition is None else ()),
        **settings.kafka(),
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        max_partition_fetch_bytes=4 * topics.MiB,
    )
    try:
        if partition is not None:
            client.assign([TopicPartition(name, partition) for name in full])
        await client.start()
        partitions = client.assignment()
        if from_end:
            await client.seek_to_end(*partitions)
        else:
            await client.seek_to_beginning(*partitions)
        yield client
    except UnknownTopicOrPartitionError as error:
        raise ConfigurationError(
            f"not all of these topics exist: {', '.join(full)}; run: safeguard topics create"
        ) from error
    except _FORBIDDEN as error:
        raise _forbidden(error) from error
    except KafkaError as error:
        raise BusError(f"{settings.bootstrap}: {error!r}") from error
    finally:
        await _bounded_stop(client.stop)


class Ends:
    """Where a consumer's partitions ended when it was asked. Some brokers answer the plain question with too low an
    offset, so the first fetch of each partition may raise it."""

    def __init__(self, client: AIOKafkaConsumer, ends: dict[TopicPartition, int]) -> None:
        self._client = client
        self._ends = ends
        self._open = {tp for tp, end in ends.items() if end > 0}
        self._raised: set[TopicPartition] = set()

    @classmethod
    async def now(cls, client: AIOKafkaConsumer) -> Ends:
        return cls(client, await client.end_offsets(list(client.assignment())))

    async def fixed(self) -> dict[TopicPartition, int]:
        """The ends, after a fetch of each partition that has one."""
        waiting = set(self._open)
        while waiting:
            await self._client.getmany(*waiting, timeout_ms=200, max_records=1)
            waiting = {tp for tp in waiting if (self._client.last_stable_offset(tp) or -1) < 0}
        await self.open()
        return dict(self._ends)

    async def open(self) -> set[TopicPartition]:
        """The partitions that are not read to their ends yet."""
        for tp in list(self._open):
            fetched = self._client.last_stable_offset(tp)
            if tp not in self._raised and fetched is not None and fetched >= 0:
                self._raised.add(tp)
                self._ends[tp] = max(self._ends[tp], fetched)
            # A position is past the end also when only markers of transactions remain.
            if await self._client.position(tp) >= self._ends[tp]:
                self._open.discard(tp)
        return self._open


async def read_all(
    settings: Settings, names: Sequence[str], partition: int | None = None
) -> AsyncGenerator[Record, None]:
    """Every record that the topics hold now, or one partition of each; partition by partition in order."""
    async with reader(settings, names, partition=partition) as client:
        ends = await Ends.now(client)
        while unread := await ends.open():
            for records in (await client.getmany(*unread, timeout_ms=500)).values():
                for record in records:
                    yield record


async def partitions_of(settings: Settings, name: str) -> list[int]:
    """The numbers of a topic's partitions."""
    async with reader(settings, [name]) as client:
        return sorted(tp.partition for tp in client.assignment())


_TYPES = {"topic": 2, "group": 3, "transactional-id": 5}
_OPERATIONS = {"read": 3, "write": 4, "create": 5}
_LITERAL, _PREFIXED, _ALLOW = 3, 4, 3


async def allow(settings: Settings, wanted: Sequence[Binding]) -> None:
    """Write access lists; what is there already stays as it is. Raises BusError when the broker has no authorizer, or refuses."""
    admin = AIOKafkaAdminClient(**settings.kafka())
    async with _started(settings, admin, admin.close):
        for binding in wanted:
            request = CreateAclsRequest(
                _TYPES[binding.resource],
                binding.name,
                _PREFIXED if binding.prefixed else _LITERAL,
                binding.principal,
                "*",
                _OPERATIONS[binding.operation],
                _ALLOW,
            )
            # The library has the request, and no method for it yet.
            for code, message in (await admin._send_to_controller(request)).creation_responses:
                if code:
                    raise BusError(f"{binding.resource} {binding.name}: {message or for_code(code).__name__}")


async def create_topics(settings: Settings) -> dict[str, bool]:
    """Create what is missing of the catalogue; name -> whether it was created now."""
    admin = AIOKafkaAdminClient(**settings.kafka())
    made: dict[str, bool] = {}
    try:
        await admin.start()
        replicas = settings.replication or min(3, len((await admin.describe_cluster())["brokers"]))
        wanted = [
            NewTopic(
                settings.prefix + topic.name,
                topic.partitions or settings.partitions,
                replicas,
                topic_configs=topic.config,
            )
            for topic in topics.CATALOGUE
        ]
        for topic in wanted:
            response = await admin.create_topics([topic])
            (name, code, *message), *_ = response.topic_errors
            if code and issubclass(for_code(code), _FORBIDDEN):
                raise _forbidden(for_code(code)([topic.name]))
            if code and for_code(code) is not TopicAlreadyExistsError:
                raise BusError(f"topic {name}: {for_code(code).__name__}: {message}")
            made[topic.name] = code == 0
    except _FORBIDDEN as error:
        raise _forbidden(error) from error
    except KafkaError as error:
        raise BusError(f"{settings.bootstrap}: {error!r}") from error
    finally:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STOP_SECONDS):
                await admin.close()
    return made
