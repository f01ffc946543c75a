"""Moves what stands on content items to where their records are after the topics got more partitions.

Kafka's clients choose a partition by a record's key and the number of partitions. With another number, verdicts on an
item arrive in another partition than what stands on it.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from safeguard_streams.bus import kafka
from safeguard_streams.bus.interface import Output
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Standing, encode, schema_header
from safeguard_streams.enforcement.moderators import PlacedStanding, all_standing
from safeguard_streams.enforcement.stages import ACTING, STAGE
from safeguard_streams.enforcement.state import check_partitions
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.runtime.settings import Settings

NEWEST = 1000  # offsets
CHUNK = 2000  # items in one transaction
TOPICS = (
    *(topics.VERDICTS, topics.ENFORCEMENT, topics.ACTIONS, topics.STANDING, topics.CLEARED),
    *(topics.APPEALS, topics.REFERRALS, topics.STATEMENTS),
)


async def partitions_of(settings: Settings) -> int:
    """The number of partitions that the topics of enforcement have. Raises ConfigurationError when they differ."""
    counts = {name: len(await kafka.partitions_of(settings, name)) for name in TOPICS}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise ConfigurationError(
            f"the records about a content item are in partitions of the same number, but the topics have different "
            f"numbers of partitions: {listed}; raise the lower ones, then run `safeguard enforce repartition`"
        )
    return counts[topics.STANDING]


async def repartition(settings: Settings) -> int:
    """Move what stands on each item to the partition of its key, and record the number of partitions.

    Returns the number of items. The writer fences no agent: stop all agents first.
    """
    partitions = await partitions_of(settings)
    placed = await all_standing(settings, lambda one: one.partitions != partitions)
    async with kafka.exclusive_writer(settings, "enforcement-people") as write:
        for start in range(0, len(placed), CHUNK):
            moves = [move for one in placed[start : start + CHUNK] for move in _moves(one, partitions)]
            await write([output for output, _ in moves], [partition for _, partition in moves])
    return len(placed)


async def unfollowed(settings: Settings) -> int:
    """The number of verdicts and other inputs, to within a few, that agents have still to follow where they lie."""
    left = 0
    for name, group in ((topics.VERDICTS, STAGE), (topics.ENFORCEMENT, ACTING)):
        async with kafka.reader(settings, [name]) as client:
            ends = await (await kafka.EndOffsets.now(client)).resolve()
        done = await kafka.group_positions(settings, group, name, [tp.partition for tp in ends])
        left += sum(max(0, end - done.get(tp.partition, 0) - 1) for tp, end in ends.items())
    return left


def _moves(placed: PlacedStanding, partitions: int) -> Sequence[tuple[Output, int]]:
    """The record in its new place, and a tombstone in the former one."""
    key, target = placed.standing.content_id.encode(), kafka.likely_partition(placed.standing.content_id, partitions)
    moved = msgspec.structs.replace(placed.standing, partitions=partitions)
    headers = [schema_header(Standing)]
    written = [(Output(topics.STANDING, key, encode(moved), headers), target)]
    if target != placed.partition:
        written.append((Output(topics.STANDING, key, None, headers), placed.partition))
    return written


async def check_recorded(settings: Settings, partitions: int) -> None:
    """Raise ConfigurationError when what stands was written with another number of partitions.

    Looks at the newest records of each partition. The agent checks all that stands when it restores a partition.
    """
    newest: dict[tuple[int, bytes | None], Standing] = {}
    async with kafka.reader(settings, [topics.STANDING]) as client:
        ends = await kafka.EndOffsets.now(client)
        for tp, first in (await client.beginning_offsets(list(client.assignment()))).items():
            client.seek(tp, max(first, ends[tp] - NEWEST))
        while unread := await ends.remaining():
            for tp, records in (await client.getmany(*unread, timeout_ms=500)).items():
                for record in records:
                    if record.value is None:
                        newest.pop((tp.partition, record.key), None)
                    elif (standing := kafka.decoded_or_left_out(settings, record, Standing)) is not None:
                        newest[tp.partition, record.key] = standing
    for standing in newest.values():
        check_partitions(standing, partitions)
