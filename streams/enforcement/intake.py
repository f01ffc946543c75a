"""One order for all that enforcement follows: verdicts, and what moderators write, on moderation.enforcement.

Verdicts, moderators' records and appeals come on three topics, and no order between topics is the same for every
reader. The intake copies them into one partition, and the place there settles which came first: for the agent, for the
webhook's receiver, and for the next owner of the partition.
"""

from __future__ import annotations

from collections.abc import Sequence

from safeguard_streams.bus.dead_letters import was_requeued
from safeguard_streams.bus.interface import Output, Record
from safeguard_streams.contract import limits, topics
from safeguard_streams.contract.appeals import read_appeal, without_statement
from safeguard_streams.contract.intake import decode_sent
from safeguard_streams.contract.records import (
    Action,
    EnforcementInput,
    Verdict,
    carried,
    decode,
    encode,
    place_of,
    schema_header,
)
from safeguard_streams.enforcement.signing import Signer, kept
from safeguard_streams.errors import RecordError
from safeguard_streams.releases.erasures import Erased, never, without_words

_SCHEMA = schema_header(EnforcementInput)


async def collect(records: Sequence[Record], erased: Erased = never, signer: Signer | None = None) -> list[Output]:
    """The inputs of moderation.enforcement from records of moderation.verdicts, moderation.actions or
    moderation.appeals.

    Those about erased items have no words that may quote them, and appeals have no words at all.

    The agent's own actions lead to none, except those that were requeued because the receiver had not accepted them.
    signer: knows the agent's own actions. Raises RecordError for a record that says to be one and is not. None where
    the delivery, which reads the same records, raises it.
    """
    inputs = [(record, _input(record, erased, signer)) for record in records]
    return [
        Output(topics.ENFORCEMENT, record.key, encode(one), [_SCHEMA, *carried(record.headers), *kept(record.headers)])
        for record, one in inputs
        if one is not None
    ]


def _input(record: Record, erased: Erased, signer: Signer | None) -> EnforcementInput | None:
    if record.topic.endswith(topics.APPEALS):
        return EnforcementInput(appeal=without_statement(read_appeal(record.value)))
    if not record.topic.endswith(topics.ACTIONS):
        verdict = decode(record.value, Verdict)
        return None if verdict.appeal_id else EnforcementInput(verdict=without_words(verdict, erased))  # advice
    action, requeued = decode_sent(record.value, Action), was_requeued(record)
    if action.dry_run:
        return None
    if action.sequence is not None and not requeued:
        if signer is not None:
            signer.check(record)
        return None
    if action.sequence is None:
        _check(record.value or b"", action)
    return EnforcementInput(action=without_words(action, erased), requeued=requeued)


def _check(value: bytes, action: Action) -> None:
    """Raise RecordError for a moderator's record that would make what stands on its item too large, or wrong."""
    if len(value) > limits.DECISION_RECORD_BYTES:
        raise RecordError("record", f"has {len(value):,} bytes, not at most {limits.DECISION_RECORD_BYTES:,}")
    if action.origin is not None and place_of(action.origin) is None:
        raise RecordError("origin", "is no place; write partition and offset, as 3@1042")
