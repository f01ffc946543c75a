"""Verdicts for those who act on them: an async iterator that needs neither Faust nor vLLM.

    async with Verdicts("127.0.0.1:9092", "my-enforcement") as verdicts:
        async for followed in verdicts:
            apply(followed.verdict)
            await verdicts.commit()

What it takes care of
- Only what is committed is read. A verdict that was written twice, as brokers without transactions allow, comes once.
- What is said of one content comes in the order in which it was said.
- A verdict that another has taken the place of already, when both are read at once, does not come at all; and each says which
  verdict, as far as this consumer was told, it takes the place of.
- It goes on where the consumer left off: after the last `commit`, or from where the consumer's own transaction says (`positions`).

Whatever was handled and not committed before a crash, or before other consumers joined, comes again: let acting twice on one
verdict_id be harmless, or store `partition` and `offset` in the transaction that acts, and give them back as `positions`.
"""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

import msgspec
from aiokafka import ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError

from safeguard_streams.client.recent_ids import RecentIds
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Verdict, decode
from safeguard_streams.errors import BusError, RecordError
from safeguard_streams.runtime.aiokafka_patch import StrictConsumer

log = logging.getLogger(__name__)

WINDOW = 10_000  # verdicts of a partition
Positions = Callable[[int], Awaitable[int | None]]


class Followed(msgspec.Struct, frozen=True):
    """A verdict that stands now. replaces: the verdict_id that stood on this content under this policy, None where none is
    known. offset is the next to be read of `partition`, once this one is handled.
    """

    verdict: Verdict
    replaces: str | None
    partition: int
    offset: int


class Resolver:
    """What of a partition's verdicts is news, and what each takes the place of. It remembers the last `window` of them."""

    def __init__(self, window: int = WINDOW) -> None:
        self._seen = RecentIds(window)
        self._standing: OrderedDict[tuple[str, str], str] = OrderedDict()
        self._window = window

    def resolve(self, verdicts: Sequence[Verdict]) -> list[tuple[int, str | None]]:
        """Of verdicts in their order, the numbers of those that stand, and what each replaces."""
        superseded = {verdict.supersedes for verdict in verdicts if verdict.supersedes}
        found = []
        for number, verdict in enumerate(verdicts):
            if self._seen.add(verdict.verdict_id) and verdict.verdict_id not in superseded:
                found.append((number, self._put(verdict)))
        return found

    def _put(self, verdict: Verdict) -> str | None:
        name = (verdict.content_id, verdict.policy_id)
        before = self._standing.pop(name, verdict.supersedes)
        self._standing[name] = verdict.verdict_id
        if len(self._standing) > self._window:
            self._standing.popitem(last=False)
        return before


class _Partition:
    """What is known of a partition that is owned: below `quiet`, verdicts are only remembered."""

    def __init__(self, quiet: int, window: int) -> None:
        self.quiet = quiet
        self.resolver = Resolver(window)


class Verdicts(ConsumerRebalanceListener):
    """Verdicts of all policies, of the partitions that this member of the group owns.

    positions, by the number of a partition: the offset to go on from, None where the group's own is to be taken. client:
    options of aiokafka's consumer, for security. Raises BusError where Kafka cannot be reached.
    """

    def __init__(
        self,
        bootstrap: str,
        group: str,
        *,
        prefix: str = "",
        positions: Positions | None = None,
        window: int = WINDOW,
        **client: Any,
    ) -> None:
        self._topic = prefix + topics.VERDICTS
        self._stored = positions
        self._window = window
        self._partitions: dict[TopicPartition, _Partition] = {}
        self._waiting: deque[Followed] = deque()
        self._handled: dict[TopicPartition, int] = {}
        self._consumer = StrictConsumer(
            bootstrap_servers=bootstrap,
            group_id=group,
            isolation_level="read_committed",
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            **client,
        )

    async def __aenter__(self) -> Verdicts:
        self._consumer.subscribe([self._topic], listener=self)
        try:
            await self._consumer.start()
        except KafkaError as error:
            await self._consumer.stop()
            raise BusError(f"cannot follow {self._topic}: {error!r}") from error
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._consumer.stop()

    def __aiter__(self) -> Verdicts:
        return self

    async def __anext__(self) -> Followed:
        while not self._waiting:
            for tp, records in (await self._consumer.getmany(timeout_ms=1000)).items():
                self._take(tp, records)
        followed = self._waiting.popleft()
        self._handled[TopicPartition(self._topic, followed.partition)] = followed.offset
        return followed

    @property
    def positions(self) -> dict[TopicPartition, int]:
        """The next offset of each partition, when all that has come so far is handled: for a transaction of one's own."""
        return dict(self._handled)

    async def commit(self) -> None:
        """Say that all that has come so far, the last one too, is handled. What others own by now is theirs to say."""
        try:
            if self._handled:
                await self._consumer.commit(self._handled)
        except (CommitFailedError, IllegalStateError):
            log.info("%s: partitions have gone to others; what was not committed comes to them", self._topic)
        except KafkaError as error:
            raise BusError(f"{self._topic}: {error!r}") from error

    def _take(self, tp: TopicPartition, records: Sequence[Any]) -> None:
        known = self._partitions.get(tp)
        if known is None:  # it was given up while these were on their way
            return
        verdicts, offsets = [], []
        for record in records:
            try:
                verdicts.append(decode(record.value, Verdict))
                offsets.append(record.offset)
            except RecordError as error:
                log.warning("%s, offset %d: no verdict, left out: %s", tp, record.offset, error)
        split = sum(offset < known.quiet for offset in offsets)
        known.resolver.resolve(verdicts[:split])
        for number, replaces in known.resolver.resolve(verdicts[split:]):
            offset = offsets[split + number] + 1
            self._waiting.append(Followed(verdicts[split + number], replaces, tp.partition, offset))

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Begin each at its position, a window earlier: what lies between is remembered, and does not come."""
        for tp in assigned:
            start = await self._stored(tp.partition) if self._stored else None
            if start is None:
                start = await self._consumer.committed(tp)
            self._partitions[tp] = _Partition(start or 0, self._window)
            if start is not None:
                self._consumer.seek(tp, max(0, start - self._window))

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Forget what has not come yet: it comes to the next owner."""
        given_up = set(revoked)
        numbers = {tp.partition for tp in given_up}
        self._waiting = deque(one for one in self._waiting if one.partition not in numbers)
        for tp in given_up:
            self._partitions.pop(tp, None)
            self._handled.pop(tp, None)
