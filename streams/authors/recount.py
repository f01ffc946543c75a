"""Counts strikes again by other thresholds, where an author's own records would come late.

What stands on an author changes with the author's records. After a change of the thresholds, this writes a record of
state `aged` for each author on whom something stands by others. It moves no time: the ledger follows it, as any other
record, by the thresholds that it has now. To write it twice changes nothing more.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from safeguard_streams.authors.ledger import AT_FIRST
from safeguard_streams.authors.standings import partitions_of
from safeguard_streams.authors.state import check_partitions
from safeguard_streams.bus import kafka
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import (
    AuthorEnforced,
    AuthorStanding,
    Strike,
    encode,
    schema_header,
    verdict_id,
)
from safeguard_streams.enforcement.author_rules import AuthorRules
from safeguard_streams.runtime.settings import Settings

_STRIKE = schema_header(Strike)


class Placed(NamedTuple):
    """What stands on an author, and the partition of the record."""

    partition: int
    standing: AuthorStanding


class Change(NamedTuple):
    """What stands on an author, and what the thresholds say stands."""

    before: AuthorEnforced
    after: AuthorEnforced


async def outdated(settings: Settings, rules: AuthorRules) -> list[Placed]:
    """What stands by other thresholds than these. Raises ConfigurationError where partitions do not fit."""
    partitions, found = await partitions_of(settings), dict[tuple[int, bytes | None], Placed]()
    async for record in kafka.read_all(settings, [topics.AUTHOR_STANDING]):
        standing = None if record.value is None else kafka.decoded_or_left_out(settings, record, AuthorStanding)
        found.pop((record.partition, record.key), None)
        if standing is not None:
            check_partitions(standing.partitions, partitions)
            if standing.thresholds != rules.digest:
                found[record.partition, record.key] = Placed(record.partition, standing)
    return list(found.values())


def changes(placed: Iterable[Placed], rules: AuthorRules) -> Counter[Change]:
    """How often each change follows. What a person decided about an author stays."""
    counts: Counter[Change] = Counter()
    for _, one in placed:
        if one.decision is None:
            after = rules.stands(one.strikes, one.clock or AT_FIRST).action
            if after != one.action:
                counts[Change(one.action, after)] += 1
    return counts


def recounted(standing: AuthorStanding, rules: AuthorRules) -> Strike:
    """The record that lets the ledger count an author's strikes again, at the time up to which it has counted."""
    name = verdict_id(standing.author_id, rules.digest, "recounted")
    return Strike(name, standing.author_id, "aged", standing.clock or AT_FIRST)


async def recount(settings: Settings, placed: Sequence[Placed], rules: AuthorRules) -> None:
    """Write the records about these authors; returns when the broker has them all."""
    async with kafka.producer(settings) as client:
        sent = [
            await client.send(
                settings.prefix + topics.STRIKES,
                value=encode(recounted(standing, rules)),
                key=standing.author_id.encode(),
                partition=partition,
                headers=[_STRIKE],
            )
            for partition, standing in placed
        ]
        await asyncio.gather(*sent)
