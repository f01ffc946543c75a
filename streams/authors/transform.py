"""The transform of the ledger: records of moderation.strikes, in order, to standings and actions about authors."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from safeguard_streams.authors.ledger import AGENT, Place, follow
from safeguard_streams.authors.state import AuthorsState, RestoreAuthors
from safeguard_streams.authors.statements import AccountStatements
from safeguard_streams.bus.interface import Output, Partition, Record
from safeguard_streams.contract import topics
from safeguard_streams.contract.intake import decode_sent
from safeguard_streams.contract.records import (
    AuthorAction,
    AuthorStanding,
    Strike,
    aware,
    carried,
    encode,
    now,
    schema_header,
)
from safeguard_streams.enforcement.author_rules import AuthorRules
from safeguard_streams.errors import RecordError
from safeguard_streams.runtime import metrics

STAGE = "authors"  # the stage and group of the ledger
DELIVERING = "authors-webhook"  # those that send actions about authors to the webhook
_CLOCKS_DIFFER = timedelta(days=1)  # at most, between those of the machines that write and read strikes
_ACTION, _STANDING = schema_header(AuthorAction), schema_header(AuthorStanding)


class Ledger:
    """The transform of the engine, in batches. `states` are those of the partitions that it owns.

    statements: issues the statements of reasons about accounts.
    """

    def __init__(self, rules: AuthorRules, restore: RestoreAuthors, statements: AccountStatements) -> None:
        self.states: dict[int, AuthorsState] = {}
        self._rules = rules
        self._names = rules.givers  # whatever a record names, metrics name these alone
        self._restore = restore
        self._statements = statements

    async def opened(self, partition: Partition) -> None:
        self.states[partition.partition] = await self._restore(partition)

    def closed(self, partition: Partition) -> None:
        self.states.pop(partition.partition, None)

    async def process(self, records: Sequence[Record]) -> list[Output]:
        # Decode all records first: a malformed one then fails the batch before any strike counts.
        entries = [checked(decode_sent(record.value, Strike)) for record in records]
        state = self.states[records[0].partition]
        standings = {author_id: state[author_id] for author_id in {one.author_id: None for one in entries}}
        dues = {author_id: standing.due for author_id, standing in standings.items()}
        await self._statements.prepare(entries, standings.values())
        outputs: list[Output] = []
        for record, entry in zip(records, entries, strict=True):
            author_id = entry.author_id
            before = standings[author_id]
            step = follow(before, entry, self._rules, Place(record.partition, record.offset))
            after, action, stated = self._statements.follow(before, *step)
            # Of an author of whom nothing is known, the next record finds nothing, be it in this batch or a later one.
            standings[author_id] = AuthorStanding(author_id, state.partitions) if after.empty else after
            metrics.STRIKES.add(1, {"state": entry.state, "rule": entry.rule if entry.rule in self._names else ""})
            if action is not None:
                metrics.AUTHOR_ACTIONS.add(1, {"action": action.action, "rule": action.rule or ""})
                headers = [_ACTION, *carried(record.headers)]
                outputs.append(Output(topics.AUTHOR_ACTIONS, author_id.encode(), encode(action), headers))
                outputs += stated
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
    if entry.state in AGENT and aware(entry.at) > now() + _CLOCKS_DIFFER:
        raise RecordError("at", "is more than a day ahead; the author's other strikes would expire by it")
    return entry
