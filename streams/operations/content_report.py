"""What is reported about one content item, from the records found: without the words about an erased item."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

import msgspec

from safeguard_streams.bus import kafka
from safeguard_streams.contract import topics
from safeguard_streams.contract.intake import Received, ReceivedReport
from safeguard_streams.contract.records import (
    Action,
    DeadLetter,
    Escalation,
    Lane,
    Message,
    PrefilterResult,
    Rationale,
    Reporter,
    Standing,
    Verdict,
    content_sha256,
    origin_of,
    verdict_id,
)
from safeguard_streams.operations.content_records import FoundRecords, Placed, judgement
from safeguard_streams.operations.dead_letters import LetterPlace
from safeguard_streams.releases.erasures import Erased, is_about_erased, standing_without_words, without_words


class TextVersion(msgspec.Struct, frozen=True):
    """One text that was published under the id. text is None if it is erased.

    origin: where the event stands on content.events, as 3@1042. published_at: None if the record's time cannot be true.
    """

    origin: str
    text: str | None
    content_sha256: str
    created_at: datetime
    published_at: datetime | None
    author_id: str | None = None
    surface: str | None = None
    language: str | None = None
    context: tuple[Message, ...] = ()


class ItemVerdict(msgspec.Struct, frozen=True):
    """A verdict on the item and the topic that holds it.

    stands: whether it is the newest under its policy on moderation.verdicts. superseded_by: the verdict that replaced
    it. rationale: what the model wrote; None for users who may not read it, and where there is none.
    """

    verdict: Verdict
    topic: str
    stands: bool
    superseded_by: str | None
    rationale: Rationale | None


class WaitingEscalation(msgspec.Struct, frozen=True):
    """An escalation of the item without a verdict."""

    policy_id: str
    policy_version: str
    lane: Lane
    prefilter: PrefilterResult
    escalated_at: datetime
    origin: str | None
    replay_id: str | None


class ItemLetter(msgspec.Struct, frozen=True):
    """A dead letter about the item: its id for `dead-letters show`, and the place of the record that it holds."""

    letter: str
    origin: str
    stage: str
    reason: str
    attempts: int
    failed_at: datetime


class ItemReport(msgspec.Struct, frozen=True):
    """A report of the item by somebody. reason: None if the item is erased."""

    report_id: str
    reporter: Reporter
    reported_at: datetime
    reason: str | None
    policies: tuple[str, ...]
    content_sha256: str


class ItemRecords(msgspec.Struct, frozen=True):
    """What the topics hold about a content item, each kind of record oldest first.

    read_partition: the only one that was read of each topic; None if all were. cleared: the prefilter's verdicts that
    let it pass. forbidden: topics that this user may not read. dropped: earlier records beyond MAX_RECORDS of a kind.
    """

    content_id: str
    read_partition: int | None
    erased_at: datetime | None
    texts: list[TextVersion]
    cleared: list[Verdict]
    verdicts: list[ItemVerdict]
    waiting: list[WaitingEscalation]
    actions: list[Action]
    standing: Standing | None
    dead_letters: list[ItemLetter]
    forbidden: list[str]
    dropped: int
    reports: list[ItemReport] = []


def of_records(found: FoundRecords, erased: Erased) -> ItemRecords:
    """What was found, without the words about an erased item."""
    standing = found.read(topics.STANDING, Standing)
    return ItemRecords(
        content_id=found.content_id,
        read_partition=None,
        erased_at=None,
        texts=[_text(one, erased) for one in found.placed(topics.EVENTS, Received)],
        cleared=found.read(topics.CLEARED, Verdict),
        verdicts=_verdicts(found, erased),
        waiting=_waiting(found),
        actions=[without_words(action, erased) for action in found.read(topics.ACTIONS, Action)],
        standing=standing_without_words(standing[0], erased) if standing else None,
        dead_letters=[_letter(one) for one in found.placed(topics.DEAD_LETTERS, DeadLetter)],
        forbidden=[],
        dropped=found.dropped,
        reports=[_item_report(one, erased) for one in found.placed(topics.REPORTS, ReceivedReport)],
    )


def _verdicts(found: FoundRecords, erased: Erased) -> list[ItemVerdict]:
    live, replayed = found.read(topics.VERDICTS, Verdict), found.read(topics.REPLAYS, Verdict)
    superseded_by = _superseded(live)
    newest = {verdict.policy_id: verdict.verdict_id for verdict in live}
    rationales = {one.verdict_id: one for one in found.read(topics.RATIONALES, Rationale)}
    judged_as = {verdict_id(one.verdict_id, "promote"): one.verdict_id for one in replayed}
    return [
        ItemVerdict(
            verdict=without_words(verdict, erased),
            topic=topic,
            stands=topic == topics.VERDICTS and newest[verdict.policy_id] == verdict.verdict_id,
            superseded_by=superseded_by.get(verdict.verdict_id),
            rationale=None
            if is_about_erased(verdict, erased)
            else rationales.get(judged_as.get(verdict.verdict_id, verdict.verdict_id)),
        )
        for topic, verdicts in ((topics.VERDICTS, live), (topics.REPLAYS, replayed))
        for verdict in verdicts
    ]


def _waiting(found: FoundRecords) -> list[WaitingEscalation]:
    verdicts = [*found.read(topics.VERDICTS, Verdict), *found.read(topics.REPLAYS, Verdict)]
    judged = set(map(judgement, verdicts))
    escalations = [one for lane in topics.LANES.values() for one in found.read(lane, Escalation)]
    return [
        WaitingEscalation(
            one.policy_id,
            one.policy_version,
            one.lane,
            one.prefilter,
            one.escalated_at,
            one.origin,
            one.replay_id,
        )
        for one in escalations
        if judgement(one) not in judged
    ]


def _superseded(verdicts: Iterable[Verdict]) -> dict[str, str]:
    """The verdict that replaced each of these, by id: the one that names it or else the next under its policy."""
    superseded_by: dict[str, str] = {}
    newest: dict[str, str] = {}
    for verdict in verdicts:
        previous = newest.get(verdict.policy_id)
        newest[verdict.policy_id] = verdict.verdict_id
        if previous is not None:
            superseded_by.setdefault(previous, verdict.verdict_id)
        if verdict.supersedes is not None:
            superseded_by[verdict.supersedes] = verdict.verdict_id
    return superseded_by


def _text(placed: Placed[Received], erased: Erased) -> TextVersion:
    record, event = placed.record, placed.read.event
    published = datetime.fromtimestamp(record.timestamp / 1000, UTC) if kafka.plausible(record.timestamp) else None
    version = TextVersion(
        origin_of(record.partition, record.offset), None, content_sha256(event.text), event.created_at, published
    )
    if erased(event.content_id, record.timestamp):
        return version
    return msgspec.structs.replace(
        version,
        text=event.text,
        author_id=event.author_id,
        surface=event.surface,
        language=event.language,
        context=event.context,
    )


def _item_report(placed: Placed[ReceivedReport], erased: Erased) -> ItemReport:
    record, (report, event) = placed.record, (placed.read.report, placed.read.received.event)
    gone = erased(event.content_id, record.timestamp)
    return ItemReport(
        report.report_id,
        report.reporter,
        report.reported_at,
        None if gone else report.reason,
        report.policies,
        content_sha256(event.text),
    )


def _letter(placed: Placed[DeadLetter]) -> ItemLetter:
    record, letter = placed
    origin = letter.origin
    return ItemLetter(
        letter=LetterPlace.of(record).id,
        origin=f"{origin.topic}[{origin.partition}]@{origin.offset}",
        stage=letter.stage,
        reason=letter.reason,
        attempts=letter.attempts,
        failed_at=letter.failed_at,
    )
