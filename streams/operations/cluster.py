"""What a cluster holds of this deployment: brokers, topics, members of the stages' groups, and what waits for them.

Only reads. Each question is answered in few requests, whatever the topics hold.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple, TypeVar

import msgspec
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    GroupCoordinatorNotAvailableError,
    GroupLoadInProgressError,
    IncompatibleBrokerVersion,
    TopicAuthorizationFailedError,
    for_code,
)
from aiokafka.protocol.api import Request

from safeguard_streams.bus import kafka
from safeguard_streams.bus.kafka.topic_ids import _MetadataStruct
from safeguard_streams.bus.watermark import unpack
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import now
from safeguard_streams.contract.topics import Topic
from safeguard_streams.errors import BusError
from safeguard_streams.runtime.aiokafka_patch import StrictConsumer
from safeguard_streams.runtime.security import client_options
from safeguard_streams.runtime.settings import Settings

T = TypeVar("T")
# Kafka's operations on topics that roles need, by their numbers.
OPERATIONS = {"read": 3, "write": 4, "create": 5, "describe": 8, "describe-configs": 10, "alter-configs": 11}
_NO_RIGHTS_TOLD = -(2**31)
_COORDINATOR_RETRIES = 10
_COORDINATOR_PAUSE = 0.2  # seconds
FETCH_SECONDS = 3.0  # for the oldest waiting record of each partition


class Queue(NamedTuple):
    """What one stage reads: its consumer group without the deployment's prefix, its topic, and a name for people."""

    stage: str
    name: str
    group: str
    topic: str


QUEUES: tuple[Queue, ...] = (
    Queue("prefilter", "events", "prefilter", topics.EVENTS),
    Queue("prefilter", "reports", "prefilter-reports", topics.REPORTS),
    *(Queue("reasoner", lane, topics.LANE_GROUPS[lane], topic) for lane, topic in topics.LANES.items()),
    Queue("enforcement", "verdicts", "enforcement", topics.VERDICTS),
    Queue("enforcement", "cleared", "enforcement-cleared", topics.CLEARED),
    Queue("enforcement", "decisions", "enforcement", topics.ACTIONS),
    Queue("enforcement", "appeals", "enforcement", topics.APPEALS),
    Queue("enforcement", "actions", "enforcement-actions", topics.ENFORCEMENT),
    Queue("enforcement", "webhook", "enforcement-webhook", topics.ACTIONS),
    Queue("authors", "strikes", "authors", topics.STRIKES),
    Queue("authors", "author actions", "authors-webhook", topics.AUTHOR_ACTIONS),
    Queue("authors", "events for rates", "authors-posts", topics.EVENTS),
    Queue("authors", "posts", "authors-rates", topics.AUTHOR_POSTS),
)


class Brokers(msgspec.Struct, frozen=True):
    """The brokers that are up, as HOST:PORT, and the cluster's id."""

    addresses: list[str]
    cluster_id: str | None


class TopicState(msgspec.Struct, frozen=True):
    """A topic of the catalogue as the cluster has it. partitions: 0 if it is missing, as all else is then empty.

    replicas: the lowest number of a partition. offline: partitions without a leader. under_replicated: partitions of
    which a replica is not in sync. config, rights: None if the broker does not tell. rights: the operations that this
    user may perform. forbidden: whether the user may not even see whether the topic exists.
    """

    name: str
    partitions: int = 0
    replicas: int = 0
    offline: int = 0
    under_replicated: int = 0
    config: dict[str, str] | None = None
    rights: set[str] | None = None
    forbidden: bool = False

    @property
    def missing(self) -> bool:
        return self.partitions == 0 and not self.forbidden

    def differences(self, contract: Topic) -> dict[str, tuple[str, str]]:
        """What the cluster has, and what the contract says, by name of the setting. Larger records are allowed."""
        if self.config is None:
            return {}
        wanted = {name: (self.config.get(name), value) for name, value in contract.config.items()}
        return {
            name: (present, value)
            for name, (present, value) in wanted.items()
            if present is not None and not _suffices(name, present, value)
        }


def _suffices(name: str, present: str, wanted: str) -> bool:
    if name == "max.message.bytes":
        return int(present) >= int(wanted)
    if name == "cleanup.policy":
        return set(present.split(",")) == set(wanted.split(","))
    return present == wanted


class Group(msgspec.Struct, frozen=True):
    """A consumer group: Kafka's word for its state, and the hosts of its members, one entry for each member."""

    name: str
    state: str
    hosts: list[str]


class Lag(msgspec.Struct, frozen=True):
    """What waits for one stage. records: not completed yet. seconds: age of the oldest of them; None if none waits, or
    if it could not be read in time. started: whether the group has committed any position.
    """

    stage: str
    queue: str
    topic: str
    records: int
    seconds: float | None
    started: bool


@contextlib.asynccontextmanager
async def admin(settings: Settings) -> AsyncIterator[AIOKafkaAdminClient]:
    """A client for questions about the cluster. Raises BusError, or ForbiddenError for a refusal."""
    client = AIOKafkaAdminClient(**client_options(settings), request_timeout_ms=5000)
    async with kafka.started(settings, client, client.close):
        yield client


async def brokers(client: AIOKafkaAdminClient) -> Brokers:
    cluster = await client.describe_cluster()
    addresses = sorted(f"{broker['host']}:{broker['port']}" for broker in cluster["brokers"])
    return Brokers(addresses, cluster.get("cluster_id"))


async def topic_states(settings: Settings, client: AIOKafkaAdminClient) -> dict[str, TopicState]:
    """The topics of the catalogue, by name without the prefix. Raises KafkaError or BusError."""
    names = [settings.prefix + topic.name for topic in topics.CATALOGUE]
    try:
        # aiokafka has no public method that sends a request of one's own.
        response = await client._client.send(client._client.get_random_node(), _DescribeTopics(names))
    except (IncompatibleBrokerVersion, NotImplementedError):
        raise BusError("the broker is older than Kafka 2.8: it cannot tell what a user may do") from None
    described = {one[1]: one for one in response.topics}
    configs = await _configs(client, [name for name in names if not described[name][0]])
    return {
        name.removeprefix(settings.prefix): _topic_state(name, *described[name], config=configs.get(name))
        for name in names
    }


def _topic_state(name: str, code: int, *about: Any, config: dict[str, str] | None) -> TopicState:
    _, _, _, partitions, rights, _ = about
    if code:
        return TopicState(name, forbidden=for_code(code) is TopicAuthorizationFailedError)
    parts = [_PartitionState(*one[1:7]) for one in partitions]
    return TopicState(
        name,
        len(parts),
        min((len(one.replicas) for one in parts), default=0),
        sum(one.leader < 0 for one in parts),
        sum(len(one.in_sync) < len(one.replicas) for one in parts),
        config,
        rights=None if rights == _NO_RIGHTS_TOLD else {name for name, bit in OPERATIONS.items() if rights >> bit & 1},
    )


class _PartitionState(NamedTuple):
    """The part of Kafka's description of a partition that begins with its number."""

    number: int
    leader: int
    leader_epoch: int
    replicas: list[int]
    in_sync: list[int]
    offline: list[int]


class _DescribeTopics(Request[_MetadataStruct]):
    """Metadata of topics with what this user may do. Unlike aiokafka's own request, it never creates a topic."""

    API_KEY = 3

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def build(self, request_struct_class: type[_MetadataStruct]) -> _MetadataStruct:
        asked: list[tuple[uuid.UUID, str, dict[int, bytes]]] = [(uuid.UUID(int=0), name, {}) for name in self._names]
        return request_struct_class(asked, False, False, True, {})


async def _configs(client: AIOKafkaAdminClient, names: Sequence[str]) -> dict[str, dict[str, str]]:
    """The settings of topics; those that this user may not see are left out."""
    asked = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    responses = await client.describe_configs(asked) if asked else []
    return {
        name: {entry[0]: entry[1] for entry in entries}
        for response in responses
        for code, _, _, name, entries in response.resources
        if not code
    }


async def groups(settings: Settings, client: AIOKafkaAdminClient) -> dict[str, Group]:
    """The stages' consumer groups, by name without the prefix. Raises KafkaError."""
    names = list(dict.fromkeys(queue.group for queue in QUEUES))
    return {name: await _coordinated(partial(_group, client, settings.prefix + name)) for name in names}


async def _group(client: AIOKafkaAdminClient, full: str) -> Group:
    # One group at a time: aiokafka misreads a response about several.
    (response,) = await client.describe_consumer_groups([full])
    (code, name, state, _, _, members), *_ = response.groups
    if code:
        raise for_code(code)(full)
    return Group(name, state, sorted(host.lstrip("/") for _, _, host, *_ in members))


async def _coordinated(ask: Callable[[], Awaitable[T]]) -> T:
    """The answer of a group's coordinator. A new cluster has none until it has created its topic for offsets."""
    for _ in range(_COORDINATOR_RETRIES):
        with contextlib.suppress(GroupCoordinatorNotAvailableError, GroupLoadInProgressError):
            return await ask()
        await asyncio.sleep(_COORDINATOR_PAUSE)
    return await ask()


class _Waiting(msgspec.Struct, frozen=True):
    """A queue's position in a partition, the records done above it, and where the partition ends."""

    queue: Queue
    tp: TopicPartition
    position: int
    done: int
    end: int


async def lags(settings: Settings, states: Mapping[str, TopicState], client: AIOKafkaAdminClient) -> list[Lag]:
    """What waits, by stage and queue, of the topics that exist. Raises KafkaError, BusError or ForbiddenError."""
    queues = [queue for queue in QUEUES if states[queue.topic].partitions]
    parts = {
        queue: [TopicPartition(settings.prefix + queue.topic, n) for n in range(states[queue.topic].partitions)]
        for queue in queues
    }
    committed = {
        queue: await _coordinated(
            partial(client.list_consumer_group_offsets, settings.prefix + queue.group, partitions=tps)
        )
        for queue, tps in parts.items()
    }
    every = sorted({tp for tps in parts.values() for tp in tps})
    consumer = StrictConsumer(
        **client_options(settings), group_id=None, enable_auto_commit=False, isolation_level="read_committed"
    )
    consumer.assign(every)
    async with kafka.started(settings, consumer):
        firsts = await consumer.beginning_offsets(every)
        resolved = await (await kafka.EndOffsets.now(consumer)).resolve()
        ends = {TopicPartition(*partition): end for partition, end in resolved.items()}
        waiting = []
        for queue, tps in parts.items():
            for tp in tps:
                position, done = _position(committed[queue].get(tp), firsts[tp])
                waiting.append(_Waiting(queue, tp, position, done, ends[tp]))
        oldest = await _oldest(consumer, waiting)
    started = {queue: any(at.offset >= 0 for at in found.values()) for queue, found in committed.items()}
    return [_lag(queue, [one for one in waiting if one.queue == queue], oldest, started[queue]) for queue in queues]


def _position(committed: Any, first: int) -> tuple[int, int]:
    """The next offset that a group reads, and the number of records behind it that are done."""
    if committed is None or committed.offset < 0:
        return first, 0
    return max(first, committed.offset), len(unpack(committed.offset, committed.metadata or ""))


def _lag(queue: Queue, parts: Iterable[_Waiting], oldest: Mapping[_Waiting, int | None], started: bool) -> Lag:
    # A position may stay below the end where only markers of transactions follow: no record waits there then.
    waiting = [one for one in parts if one.position < one.end and oldest.get(one, 0) is not None]
    written = [moment for one in waiting if (moment := oldest.get(one)) is not None and kafka.plausible(moment)]
    age = round(max(0.0, time.time() - min(written) / 1000), 1) if written else None
    records = sum(max(0, one.end - one.position - one.done) for one in waiting)
    return Lag(queue.stage, queue.name, queue.topic, records, age, started)


async def _oldest(consumer: StrictConsumer, waiting: Iterable[_Waiting]) -> dict[_Waiting, int | None]:
    """When the first record behind each position was written, in ms since 1970; None if there is none.

    What cannot be read within FETCH_SECONDS is left out.
    """
    found: dict[_Waiting, int | None] = {}
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(FETCH_SECONDS):
            for number in range(len(QUEUES)):  # queues may share a partition: one position of each at a time
                asked = _one_for_each(waiting, number)
                for tp, one in asked.items():
                    consumer.seek(tp, one.position)
                while asked:
                    fetched = await consumer.getmany(*asked, timeout_ms=200, max_records=len(asked))
                    for tp, records in fetched.items():
                        if tp in asked and records:
                            one = asked.pop(tp)
                            found[one] = records[0].timestamp if records[0].offset < one.end else None
                    for tp in [tp for tp, one in asked.items() if await consumer.position(tp) >= one.end]:
                        found[asked.pop(tp)] = None
    return found


def _one_for_each(waiting: Iterable[_Waiting], number: int) -> dict[TopicPartition, _Waiting]:
    """The n-th position of each partition that has so many with something behind them."""
    behind: dict[TopicPartition, list[_Waiting]] = {}
    for one in waiting:
        if one.position < one.end:
            behind.setdefault(one.tp, []).append(one)
    return {tp: ones[number] for tp, ones in behind.items() if number < len(ones)}


async def verdicts_per_minute(settings: Settings, minutes: int, counted: int) -> float:
    """Verdicts on moderation.verdicts per minute of late. More than `counted` offsets are subtracted, not read."""
    since = now() - timedelta(minutes=minutes)
    async with kafka.reader(settings, [topics.VERDICTS]) as client:
        found = await (await kafka.EndOffsets.now(client)).resolve()
        ends = {TopicPartition(*partition): end for partition, end in found.items()}
        firsts = await client.beginning_offsets(list(ends))
        starts = await kafka.offsets_at(client, since, firsts, ends)
        offsets = sum(ends[tp] - starts[tp] for tp in ends)
    if offsets > counted:
        return offsets / minutes
    records = 0
    async for record in kafka.read_all(settings, [topics.VERDICTS], since=since):
        records += record.timestamp >= since.timestamp() * 1000
    return records / minutes
