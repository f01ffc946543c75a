"""The transform of the ledger: records of moderation.strikes, in order, to standings and actions about authors."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from safeguard_streams.authors.ledger import Place, follow
from safeguard_streams.authors.state import AuthorsState, RestoreAuthors
from safeguard_streams.bus.interface import Output, Partition, Record
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import (
    AuthorAction,
    AuthorStanding,
    Strike,
    carried,
    decode,
    encode,
    schema_header,
)
from safeguard_streams.enforcement.author_rules import AuthorRules
from safeguard_streams.errors import RecordError
from safeguard_streams.runtime import metrics

STAGE = "authors"  # the stage and group of the ledger
DELIVERING = "authors-webhook"  # those that send actions about authors to the webhook
_ACTION, _STANDING = schema_header(AuthorAction), schema_header(AuthorStanding)


class Ledger:
    """The transform of the engine, in batches. `states` are those of the partitions that it owns."""

    def __init__(self, rules: AuthorRules, restore: RestoreAuthors) -> None:
        self.states: dict[int, AuthorsState] = {}
        self._rules = rules
        self._names = rules.givers  # whatever a record names, metrics name these alone
        self._restore = restore

    async def opened(self, partition: Partition) -> None:
        self.states[partition.partition] = await self._restore(partition)

    def closed(self, partition: Partition) -> None:
        self.states.pop(partition.partition, None)

    async def process(self, records: Sequence[Record]) -> list[Output]:
        # Decode all records first: a malformed one then fails the batch before any strike counts.
        entries = [checked(decode(record.value, Strike)) for record in records]
        outputs: list[Output] = []
        standings: dict[str, AuthorStanding] = {}
        dues: dict[str, datetime | None] = {}
        for record, entry in zip(records, entries, strict=True):
            state, author_id = self.states[record.partition], entry.author_id
            before = standings.get(author_id) or state[author_id]
            dues.setdefault(author_id, before.due)
            standings[author_id], action = follow(before, entry, self._rules, Place(record.partition, record.offset))
            metrics.STRIKES.add(1, {"state": entry.state, "rule": entry.rule if entry.rule in self._names else ""})
            if action is not None:
                metrics.AUTHOR_ACTIONS.add(1, {"action": action.action, "rule": action.rule or ""})
                headers = [_ACTION, *carried(record.headers)]
                outputs.append(Output(topics.AUTHOR_ACTIONS, author_id.encode(), encode(action), headers))
        state = self.states[records[0].partition]
        for author_id, standing in standings.items():
            record_value = state.put(standing, dues[author_id])
            outputs.append(Output(topics.AUTHOR_STANDING, author_id.encode(), record_value, [_STANDING]))
        return outputs


def checked(entry: Strike) -> Strike:
    """A record with all that its state needs. Raises RecordError otherwise."""
    if entry.state == "given" and entry.expires_at is None:
        raise RecordError("expires_at", "is missing; a strike that is given expires at some time")
    if entry.state == "decided" and entry.action is None:
        raise RecordError("action", "is missing; name what was decided about the author")
    return entry
