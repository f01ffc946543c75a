"""What can be exported: the table of kinds, each with its topic and record."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from safeguard_streams.contract import topics
from safeguard_streams.contract.appeals import read_appeal
from safeguard_streams.contract.intake import read_report
from safeguard_streams.contract.records import (
    Action,
    Appeal,
    ContentEvent,
    ContentReport,
    PolicyChange,
    StatementOfReasons,
    Verdict,
    aware,
    decode,
)


def _report(value: bytes | None, _kind: type[ContentReport]) -> ContentReport:
    """A report, with the event that the intake reads and repairs. Raises RecordError."""
    read = read_report(value)
    return msgspec.structs.replace(read.report, event=decode(read.received.json, ContentEvent))


def _appeal(value: bytes | None, _kind: type[Appeal]) -> Appeal:
    """An appeal with its id, which outcomes name, whether the platform gave it one or not. Raises RecordError."""
    appeal = read_appeal(value)
    return msgspec.structs.replace(appeal, appeal_id=appeal.identity)


class Kind(NamedTuple):
    """Records of one topic that can be exported.

    written: the field with the record's own time. holds: the personal data in it, for people. read: makes a record of a
    value, or raises RecordError.
    """

    topic: str
    record: type[msgspec.Struct]
    written: str
    holds: str
    read: Callable[[bytes | None, Any], msgspec.Struct] = decode

    def record_of(self, value: bytes | None) -> msgspec.Struct:
        """The record of a value. Raises RecordError."""
        return self.read(value, self.record)

    def written_at(self, record: msgspec.Struct) -> int:
        """When a record was made, in ms since 1970, as it says itself."""
        at: datetime = aware(getattr(record, self.written))
        return round((at - _EPOCH).total_seconds() * 1000)


_EPOCH = datetime.fromtimestamp(0, UTC)
_IDS = "ids of items and authors"
KINDS: dict[str, Kind] = {
    "verdicts": Kind(topics.VERDICTS, Verdict, "decided_at", f"{_IDS}, and reasons that may quote a text"),
    "actions": Kind(
        topics.ACTIONS, Action, "acted_at", f"{_IDS}, reasons that may quote a text, and moderators' names"
    ),
    "reports": Kind(
        topics.REPORTS, ContentReport, "reported_at", f"the reported texts, {_IDS}, and what reporters say", _report
    ),
    "appeals": Kind(topics.APPEALS, Appeal, "created_at", f"{_IDS}, and what appellants say", _appeal),
    "statements": Kind(topics.STATEMENTS, StatementOfReasons, "stated_at", f"{_IDS}, and what authors are told"),
    "policies": Kind(topics.POLICIES_HISTORY, PolicyChange, "changed_at", "operators' names"),
}


def content_id_of(record: msgspec.Struct) -> str | None:
    """The content item that a record is about, if it is about one."""
    about = getattr(record, "event", record)
    content_id: str | None = getattr(about, "content_id", None)
    return content_id
