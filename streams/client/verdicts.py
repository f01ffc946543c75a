"""Follow verdicts with an async iterator. It needs neither Faust nor vLLM.

    async with Verdicts("127.0.0.1:9092", "my-enforcement") as verdicts:
        async for followed in verdicts:
            apply(followed.verdict)
            await verdicts.commit()

`Verdicts` handles these cases:

- It reads committed records only, and drops a verdict that a broker without transactions holds twice.
- It yields the verdicts on one content item in the order in which the pipeline wrote them.
- It skips a verdict that was superseded before it was read. Each verdict names the one that it replaces, if this
  consumer saw it.
- It resumes after the last `commit`, or at the offsets that your own transaction stored (`positions`).

After a crash or a rebalance, verdicts that were handled and not committed come again. Make acting twice on one
verdict_id harmless, or store `partition` and `offset` in the transaction that acts and return them from `positions`.
"""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec
from aiokafka import ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import (
    CommitFailedError,
    ConsumerStoppedError,
    IllegalStateError,
    KafkaError,
    UnknownTopicOrPartitionError,
)

from safeguard_streams.client.kafka_errors import translated
from safeguard_streams.client.memory import MemoryConsumer
from safeguard_streams.client.recent_ids import RecentIds
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Verdict, decode
from safeguard_streams.errors import ConfigurationError, RecordError
from safeguard_streams.runtime.aiokafka_patch import StrictConsumer
from safeguard_streams.runtime.brokers import check_brokers
from safeguard_streams.runtime.memory_broker import MemoryBroker
from safeguard_streams.runtime.stopping import stopped

log = logging.getLogger(__name__)

WINDOW = 10_000  # verdicts of a partition
Positions = Callable[[int], Awaitable[int | None]]


class FollowedVerdict(msgspec.Struct, frozen=True):
    """A verdict that stands now.

    replaces: verdict_id of the verdict that stood on this item under this policy; None if this consumer knows of none.
    offset: the next offset to read of `partition`, once this verdict is handled.
    """

    verdict: Verdict
    replaces: str | None
    partition: int
    offset: int


class StandingVerdict(NamedTuple):
    """A verdict that stands: its number among those given, from 0, and the verdict_id that it replaces, if one is
    known.
    """

    number: int
    replaces: str | None


class Resolver:
    """Finds the verdicts of one partition that are new, and the verdict that each replaces.

    It remembers the last `window` verdicts. For Kafka Streams, Flink or any consumer of your own.
    """

    def __init__(self, window: int = WINDOW) -> None:
        self._seen = RecentIds(window)
        self._standing: OrderedDict[tuple[str, str], str] = OrderedDict()
        self._window = window

    def resolve(self, verdicts: Sequence[Verdict]) -> list[StandingVerdict]:
        """Take verdicts in topic order and return those that stand."""
        superseded = {verdict.supersedes for verdict in verdicts if verdict.supersedes}
        standing = []
        for index, verdict in enumerate(verdicts):
            if self._seen.add(verdict.verdict_id) and verdict.verdict_id not in superseded:
                standing.append(StandingVerdict(index, self._replace(verdict)))
        return standing

    def _replace(self, verdict: Verdict) -> str | None:
        key = (verdict.content_id, verdict.policy_id)
        previous = self._standing.pop(key, verdict.supersedes)
        self._standing[key] = verdict.verdict_id
        if len(self._standing) > self._window:
            self._standing.popitem(last=False)
        return previous


class VerdictConsumer(Protocol):
    """What `Verdicts` asks of a consumer: aiokafka's, or the one of a MemoryBroker."""

    def subscribe(self, topics: Sequence[str], *, listener: ConsumerRebalanceListener) -> None: ...
    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    async def getmany(self, *, timeout_ms: int) -> Mapping[TopicPartition, Sequence[Any]]: ...
    async def committed(self, partition: TopicPartition) -> int | None: ...
    async def commit(self, offsets: Mapping[TopicPartition, int]) -> None: ...
    def seek(self, partition: TopicPartition, offset: int) -> None: ...
    def highwater(self, partition: TopicPartition) -> int | None: ...


def _consumer(bootstrap: str | MemoryBroker, group: str, options: dict[str, Any]) -> VerdictConsumer:
    if isinstance(bootstrap, MemoryBroker):
        return MemoryConsumer(bootstrap, group)
    consumer: VerdictConsumer = StrictConsumer(
        bootstrap_servers=bootstrap,
        group_id=group,
        isolation_level="read_committed",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        **options,
    )
    return consumer


class _Partition:
    """An owned partition. Verdicts below offset `quiet` are remembered and not yielded.

    reached: whether the partition is known to extend to that offset.
    """

    def __init__(self, quiet: int, window: int) -> None:
        self.quiet = quiet
        self.reached = quiet == 0
        self.resolver = Resolver(window)


class Verdicts(ConsumerRebalanceListener):
    """The verdicts of all policies, from the partitions that this member of the group owns.

    bootstrap: brokers as HOST:PORT,HOST:PORT, or a MemoryBroker in tests. prefix: the deployment's topic prefix.
    positions: an async function from a partition number to the offset to resume at; None means the group's own offset.
    window: how many verdicts of each partition to remember. options: further options of aiokafka's consumer, such as
    security. Records that are no verdict are skipped, counted in `skipped` and logged.

    Raises BusError if Kafka cannot be reached and ForbiddenError if it refuses access. Raises ConfigurationError if
    these are no addresses of brokers, or if the topic is missing or ends before the offset to resume at. Raises the
    errors of `positions`, too.
    """

    def __init__(
        self,
        bootstrap: str | MemoryBroker,
        group: str,
        *,
        prefix: str = "",
        positions: Positions | None = None,
        window: int = WINDOW,
        **options: Any,
    ) -> None:
        if not group:
            raise ConfigurationError("group is empty; name the service that follows, so that its offsets can be kept")
        if not isinstance(bootstrap, MemoryBroker):
            check_brokers(bootstrap)
        self._topic = topics.prefixed(prefix, topics.VERDICTS)
        self._bootstrap = bootstrap
        self._group = group
        self._options = options
        self._stored = positions
        self._window = window
        self._partitions: dict[TopicPartition, _Partition] = {}
        self._waiting: deque[FollowedVerdict] = deque()
        self._handled: dict[TopicPartition, int] = {}
        self.skipped = 0
        self._failed: Exception | None = None  # why assigned partitions could not be taken
        self._consumer: VerdictConsumer | None = None

    async def __aenter__(self) -> Verdicts:
        for kept in (self._partitions, self._waiting, self._handled):  # from when it was open before
            kept.clear()
        self._consumer = _consumer(self._bootstrap, self._group, self._options)
        self._consumer.subscribe([self._topic], listener=self)
        try:
            await self._consumer.start()
        except UnknownTopicOrPartitionError as error:
            await self.__aexit__()
            problem = f"topic {self._topic} does not exist; check prefix, or run: safeguard topics create"
            raise ConfigurationError(problem) from error
        except KafkaError as error:
            await self.__aexit__()
            raise translated(error, f"opening {self._topic}") from error
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await stopped(consumer.stop)

    def _opened(self) -> VerdictConsumer:
        if self._consumer is None:
            raise ConfigurationError("Verdicts is not open; use it inside: async with Verdicts(...) as verdicts")
        return self._consumer

    def __aiter__(self) -> Verdicts:
        return self

    async def __anext__(self) -> FollowedVerdict:
        consumer = self._opened()
        while not self._waiting:
            if self._failed is not None:
                raise self._failed
            try:
                polled = await consumer.getmany(timeout_ms=1000)
            except ConsumerStoppedError:  # closed while this call waited
                self._opened()
                raise
            except KafkaError as error:
                raise translated(error, f"reading {self._topic}") from error
            self._check_ends(consumer)
            for tp, records in polled.items():
                self._take(tp, records)
        followed = self._waiting.popleft()
        self._handled[TopicPartition(self._topic, followed.partition)] = followed.offset
        return followed

    @property
    def positions(self) -> dict[TopicPartition, int]:
        """The offsets to commit once every yielded verdict is handled, for a transaction of your own."""
        return dict(self._handled)

    async def commit(self) -> None:
        """Commit every verdict that was yielded so far, the last one included. Skips partitions that were lost."""
        consumer = self._opened()
        try:
            if self._handled:
                await consumer.commit(self._handled)
        except (CommitFailedError, IllegalStateError):
            log.info("commit skipped, partitions were lost topic=%s", self._topic)
        except KafkaError as error:
            raise translated(error, f"committing offsets of {self._topic}") from error

    def _check_ends(self, consumer: VerdictConsumer) -> None:
        """Raise ConfigurationError for a partition that ends before the offset to resume at."""
        for tp, known in self._partitions.items():
            if known.reached or (end := consumer.highwater(tp)) is None:
                continue
            if end < known.quiet:
                raise ConfigurationError(
                    f"{self._topic}[{tp.partition}] ends at {end}, before offset {known.quiet}, at which group "
                    f"{self._group} resumes: the topic was created again or restored; store an offset that it has, or "
                    "use another group"
                )
            known.reached = True

    def _take(self, tp: TopicPartition, records: Sequence[Any]) -> None:
        known = self._partitions.get(tp)
        if known is None:  # revoked while these records were on their way
            return
        verdicts, offsets = [], []
        for record in records:
            try:
                verdicts.append(decode(record.value, Verdict))
                offsets.append(record.offset)
            except RecordError as error:
                self.skipped += 1
                log.warning("record skipped, not a verdict partition=%s offset=%d error=%s", tp, record.offset, error)
        split = sum(offset < known.quiet for offset in offsets)
        known.resolver.resolve(verdicts[:split])
        for number, replaces in known.resolver.resolve(verdicts[split:]):
            offset = offsets[split + number] + 1
            self._waiting.append(FollowedVerdict(verdicts[split + number], replaces, tp.partition, offset))

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Seek each partition to a window before its offset; verdicts in between are remembered and not yielded."""
        self._failed = None
        try:
            for tp in assigned:
                await self._assign(tp)
        except KafkaError as error:
            self._failed = translated(error, f"reading the offsets of {self._topic}")
        except Exception as error:  # aiokafka would log it, go on, and never give these partitions' verdicts
            self._failed = error

    async def _assign(self, tp: TopicPartition) -> None:
        consumer = self._opened()
        start = await self._stored(tp.partition) if self._stored else None
        if start is None:
            start = await consumer.committed(tp)
        self._partitions[tp] = _Partition(start or 0, self._window)
        if start is not None:
            consumer.seek(tp, max(0, start - self._window))

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Drop verdicts that were not yielded yet: the next owner reads them."""
        given_up = set(revoked)
        numbers = {tp.partition for tp in given_up}
        self._waiting = deque(one for one in self._waiting if one.partition not in numbers)
        for tp in given_up:
            self._partitions.pop(tp, None)
            self._handled.pop(tp, None)
