"""What stands against authors, read for people and moved after the topics got more partitions."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from safeguard_streams.authors.state import check_partitions
from safeguard_streams.bus import kafka
from safeguard_streams.bus.interface import Output
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import AuthorAction, AuthorStanding, encode, schema_header
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.runtime.settings import Settings

CHUNK = 2000  # authors in one transaction
TOPICS = (topics.STRIKES, topics.AUTHOR_ACTIONS, topics.AUTHOR_STANDING)
WRITER = "authors-people"  # a transactional id


class Known(NamedTuple):
    """What is known of an author: what stands, and the actions that are kept, oldest first."""

    standing: AuthorStanding
    actions: list[AuthorAction]


async def partitions_of(settings: Settings, *, rates: bool = False) -> int:
    """The number of partitions that the topics about authors have. Raises ConfigurationError when they differ.

    rates: whether posts are counted. People who ask about authors may not read moderation.author-posts.
    """
    names = (*TOPICS, topics.AUTHOR_POSTS) if rates else TOPICS
    counts = {name: len(await kafka.partitions_of(settings, name)) for name in names}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise ConfigurationError(
            "the records about an author are in partitions of the same number, but the topics have different numbers "
            f"of partitions: {listed}; raise the lower ones, then run `safeguard authors repartition`"
        )
    return counts[topics.AUTHOR_STANDING]


async def known(settings: Settings, author_id: str) -> Known:
    """What stands against an author, and what was done. Raises ConfigurationError when nothing was ever written."""
    partitions = await partitions_of(settings)
    partition = kafka.likely_partition(author_id, partitions)
    standing = await standing_of(settings, author_id, partition)
    actions = await _actions(settings, author_id.encode(), partition)
    if standing is not None:
        check_partitions(standing.partitions, partitions)
    elif not actions and not await _has_strikes(settings, author_id.encode(), partition):
        raise ConfigurationError(
            f"no strike was ever given to an author {author_id!r}: check the id and SAFEGUARD_PREFIX"
        )
    return Known(standing or AuthorStanding(author_id, partitions), actions)


async def standing_of(settings: Settings, author_id: str, partition: int) -> AuthorStanding | None:
    """What stands against an author, if anything does. Decodes no other author's record."""
    key, found = author_id.encode(), None
    async for record in kafka.read_all(settings, [topics.AUTHOR_STANDING], partition):
        if record.key == key:
            found = None if record.value is None else kafka.decoded_or_left_out(settings, record, AuthorStanding)
    return found


async def _actions(settings: Settings, key: bytes, partition: int) -> list[AuthorAction]:
    """The actions about an author that are kept, oldest first. Decodes no other author's records."""
    records = kafka.read_all(settings, [topics.AUTHOR_ACTIONS], partition)
    found = [kafka.decoded_or_left_out(settings, one, AuthorAction) async for one in records if one.key == key]
    return [action for action in found if action is not None]


async def _has_strikes(settings: Settings, key: bytes, partition: int) -> bool:
    async for record in kafka.read_all(settings, [topics.STRIKES], partition):
        if record.key == key:
            return True
    return False


async def repartition(settings: Settings) -> int:
    """Move what stands against each author to the partition of its key. Returns the number of authors.

    The writer fences no ledger: stop all of them first, when they have followed all strikes.
    """
    partitions = await partitions_of(settings)
    placed = await _written_with_others(settings, partitions)
    async with kafka.exclusive_writer(settings, WRITER) as write:
        for start in range(0, len(placed), CHUNK):
            moves = [move for one in placed[start : start + CHUNK] for move in _moves(*one, partitions)]
            await write([output for output, _ in moves], [partition for _, partition in moves])
    return len(placed)


async def _written_with_others(settings: Settings, partitions: int) -> list[tuple[int, AuthorStanding]]:
    """What stands by records of another number of partitions, with the partitions that these are in."""
    found: dict[tuple[int, bytes], AuthorStanding] = {}
    async for record in kafka.read_all(settings, [topics.AUTHOR_STANDING]):
        if record.key is None:
            continue
        place = (record.partition, record.key)
        standing = None if record.value is None else kafka.decoded_or_left_out(settings, record, AuthorStanding)
        if standing is not None and standing.partitions != partitions:
            found[place] = standing
        elif standing is not None or record.value is None:
            found.pop(place, None)
    return [(partition, standing) for (partition, _), standing in found.items()]


def _moves(partition: int, standing: AuthorStanding, partitions: int) -> list[tuple[Output, int]]:
    """The record in its new place, and a tombstone in the former one."""
    key, target = standing.author_id.encode(), kafka.likely_partition(standing.author_id, partitions)
    headers = [schema_header(AuthorStanding)]
    moved = encode(msgspec.structs.replace(standing, partitions=partitions))
    written = [(Output(topics.AUTHOR_STANDING, key, moved, headers), target)]
    if target != partition:
        written.append((Output(topics.AUTHOR_STANDING, key, None, headers), partition))
    return written
