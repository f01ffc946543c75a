"""Time in the ledger: strikes expire and leave windows also where nobody writes.

The clock looks at the authors whose next change is due, and writes a record of state `aged` with the time at which that
was. The ledger follows it as it follows any other record. What the clock writes depends on what stands alone: after a
crash, and beside an owner that was overtaken, the same record comes again and changes nothing more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime

from safeguard_streams.authors.state import AuthorsState
from safeguard_streams.bus import kafka
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import AuthorStanding, Strike, encode, now, schema_header, verdict_id
from safeguard_streams.runtime.process import unless_stopped
from safeguard_streams.runtime.settings import Settings

SECONDS = 1.0  # between two looks
AT_ONCE = 1000  # authors of a partition in one look
_STRIKE = schema_header(Strike)


def aged(standing: AuthorStanding) -> Strike:
    """The record that lets an author's strikes age to where the next change is due."""
    assert standing.due is not None
    name = verdict_id(standing.author_id, standing.due.isoformat(), "aged")
    return Strike(name, standing.author_id, "aged", standing.due)


def due(states: Mapping[int, AuthorsState], moment: datetime) -> list[tuple[int, Strike]]:
    """The records to write now, with their partitions."""
    return [
        (partition, aged(standing))
        for partition, state in list(states.items())
        for standing in state.take_due(moment, AT_ONCE)
    ]


async def run(settings: Settings, states: Mapping[int, AuthorsState], stop: asyncio.Event) -> None:
    """Write what is due, until `stop`."""
    async with kafka.producer(settings) as client:
        while not stop.is_set():
            sent = [
                await client.send(
                    settings.prefix + topics.STRIKES,
                    value=encode(entry),
                    key=entry.author_id.encode(),
                    partition=partition,
                    headers=[_STRIKE],
                )
                for partition, entry in due(states, now())
            ]
            await asyncio.gather(*sent)
            await unless_stopped(asyncio.sleep(SECONDS), stop)
