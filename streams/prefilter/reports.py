"""Reports of content items: each reported text is escalated once, whatever the gates say.

The stage runs in the prefilter's process, which follows the policies and has their gates. It escalates to the lane of
live content, which is judged ahead of audits. What it escalated is on content.reported, one record for each text and
version of a policy, written in the transaction of the escalation. The next owner of the partition restores the set from
there. A report whose texts are all in the set is done without an output.

The record belongs to its escalation alone. A later report of the same text, committed before the first one, can
therefore not make it look done.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from safeguard_streams.bus import kafka
from safeguard_streams.bus.interface import Output, Partition, Record
from safeguard_streams.contract import topics
from safeguard_streams.contract.intake import ReceivedReport, read_report
from safeguard_streams.contract.records import (
    ContentEvent,
    Escalation,
    PrefilterResult,
    ReportedText,
    aware,
    carried,
    content_sha256,
    encode,
    milliseconds_since,
    now,
    place_of,
    schema_header,
)
from safeguard_streams.errors import RecordError
from safeguard_streams.prefilter.outputs import as_sent
from safeguard_streams.releases.erasures import Erased
from safeguard_streams.releases.feed import PolicySet, Released
from safeguard_streams.runtime import metrics
from safeguard_streams.runtime.settings import Settings

STAGE = "prefilter-reports"
GATE = "report"
_ESCALATION, _REPORTED = schema_header(Escalation), schema_header(ReportedText)

# The ids of the policies in force whose gates escalate each of some events.
Gates = Callable[[Sequence[ContentEvent]], Sequence[set[str]]]


class ReportedTexts:
    """The texts of one partition that were escalated for a report, with the time, oldest first.

    Each takes about 240 bytes. Those that content.reported no longer holds are forgotten.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[str, datetime] = OrderedDict()

    def __contains__(self, key: str) -> bool:
        return key in self._known

    def __len__(self) -> int:
        return len(self._known)

    def add(self, text: ReportedText) -> None:
        self._known[text.key] = aware(text.escalated_at)

    def forget(self, moment: datetime) -> None:
        """Forget those past the retention of content.reported."""
        while self._known:
            oldest = next(iter(self._known))
            if (moment - self._known[oldest]).total_seconds() * 1000 < topics.REPORTED_FOR:
                return
            del self._known[oldest]

    @classmethod
    async def restore(cls, settings: Settings, partition: int) -> ReportedTexts:
        """Read what content.reported holds of a partition."""
        known = cls()
        async for _, text in kafka.read_decoded(settings, [topics.REPORTED], ReportedText, partition):
            known.add(text)
        return known


Restore = Callable[[int], Awaitable[ReportedTexts]]


class _Report(NamedTuple):
    """A report that was read, its record, and the policies to judge its text under."""

    record: Record
    read: ReceivedReport
    policies: Sequence[Released]


class Reports:
    """The transform of the engine, which may run one call at a time for each partition.

    policies: gives those in force, once there are any. gates: asked in a thread of their own. erased: reports of erased
    items are left out.
    """

    def __init__(
        self, policies: Callable[[], Awaitable[PolicySet]], gates: Gates, erased: Erased, restore: Restore
    ) -> None:
        self._policies = policies
        self._gates = gates
        self._erased = erased
        self._restore = restore
        self._texts: dict[int, ReportedTexts] = {}

    async def opened(self, partition: Partition) -> None:
        self._texts[partition.partition] = await self._restore(partition.partition)

    def closed(self, partition: Partition) -> None:
        self._texts.pop(partition.partition, None)

    async def process(self, records: Sequence[Record]) -> list[Output]:
        # Read all reports first: a malformed one then fails the batch before any text counts as escalated.
        policies = await self._policies()
        reports = [one for record in records if (one := self._report(record, policies)) is not None]
        if not reports:
            return []
        gates = await asyncio.to_thread(self._gates, [report.read.received.event for report in reports])
        known = self._texts[records[0].partition]
        known.forget(now())
        escalated: dict[str, ReportedText] = {}  # the texts join the others once nothing can fail any more
        outputs: list[Output] = []
        for report, caught in zip(reports, gates, strict=True):
            texts = {text.key: text for text in _texts(report) if text.key not in known and text.key not in escalated}
            for text in texts.values():
                outputs += _escalated(report, text, caught)
            escalated |= texts
            outcome = "escalated" if texts else "known"
            metrics.REPORTS.add(1, {"reporter": report.read.report.reporter, "outcome": outcome})
        for text in escalated.values():
            known.add(text)
            metrics.ESCALATED.add(1, {"policy": text.policy_id, "gate": GATE, "lane": "live"})
        return outputs

    def _report(self, record: Record, policies: PolicySet) -> _Report | None:
        """A report and its policies; None if the item was erased. Raises RecordError."""
        read = read_report(record.value)
        event = read.received.event
        if self._erased(event.content_id, min(record.timestamp, _in_ms(event.created_at))):
            return None
        place = place_of(read.report.origin)
        if read.report.origin is not None and (place is None or place[0] != record.partition):
            raise RecordError("origin", "names another partition; write the report to that of its event, 3 for 3@1042")
        return _Report(record, read, _policies_for(read, policies))


def _policies_for(read: ReceivedReport, policies: PolicySet) -> list[Released]:
    """The policies that a report names, or those of its event that are in force, or else all that cover the event.

    A policy that an event names may have been retired since it was published. Raises RecordError.
    """
    event, in_force, named = read.received.event, policies.released, read.report.policies
    if unknown := set(named) - set(in_force):
        known = f"{len(unknown)} of them" if len(unknown) > 1 else "one"
        raise RecordError("policies", f"names policies of which {known} is not in force; see safeguard policy list")
    wanted = named or [name for name in event.policies if name in in_force]
    if wanted:
        return [in_force[name] for name in dict.fromkeys(wanted)]
    covering = [one for _, one in sorted(in_force.items()) if one.policy.applies(event.surface, event.language)]
    if not covering:
        raise RecordError("event.surface", "is covered by no policy in force, nor is its language; name policies")
    return covering


def _texts(report: _Report) -> list[ReportedText]:
    """The reported text under each policy's version that is to judge it."""
    said, event, at = report.read.report, report.read.received.event, now()
    digest = content_sha256(event.text)
    return [
        ReportedText(event.content_id, digest, one.policy.id, one.policy.version, one.revision, said.report_id, at)
        for one in report.policies
    ]


def _escalated(report: _Report, text: ReportedText, caught: set[str]) -> tuple[Output, Output]:
    """The escalation of a reported text, and the record of it. caught: the policies whose gates escalate it, too."""
    said, received = report.read.report, report.read.received
    escalation = Escalation(
        event=as_sent(received),
        policy_id=text.policy_id,
        policy_version=text.policy_version,
        policy_revision=text.policy_revision,
        prefilter=PrefilterResult(GATE, live=text.policy_id in caught, reporter=said.reporter),
        lane="live",
        escalated_at=text.escalated_at,
        latency={"queue": milliseconds_since(said.reported_at, text.escalated_at)},
        origin=said.origin,
        repaired=received.repaired,
    )
    headers = [_ESCALATION, *carried(report.record.headers)]
    return (
        Output(topics.ESCALATIONS, text.content_id.encode(), encode(escalation), headers),
        Output(topics.REPORTED, text.key.encode(), encode(text), [_REPORTED]),
    )


def _in_ms(date: datetime) -> int:
    return round(date.replace(tzinfo=date.tzinfo or UTC).timestamp() * 1000)
