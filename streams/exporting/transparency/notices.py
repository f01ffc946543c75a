"""What became of notices: reports of content items by users, trusted flaggers and authorities."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec

from safeguard_streams.contract.records import Decision
from safeguard_streams.exporting.transparency.history import RESTRICTIONS, History

_CLOCKS_DIFFER = timedelta(days=1)
OUTCOMES = ("restricted", "already_restricted", "not_restricted", "in_review", "undecided")


class Notice(msgspec.Struct, frozen=True):
    """A report of an item."""

    report_id: str
    content_id: str
    reporter: str
    at: datetime


class Judgement(msgspec.Struct, frozen=True):
    """The last verdict on an item under a policy that a report led to."""

    at: datetime
    decision: Decision


class NoticeOutcome(msgspec.Struct, frozen=True):
    """What became of a notice. at: when it was decided; None if it was not, or had been before. automated: by no
    person; None if it is not decided.
    """

    outcome: str
    at: datetime | None = None
    automated: bool | None = None


def in_time(notices: Sequence[Notice], judgements: Sequence[Judgement]) -> Sequence[Notice]:
    """The notices of an item, the first of them no later than the verdicts that notices led to.

    The platform's clock may be ahead of those of the pipeline by more than a verdict takes. A notice that is more than
    a day later came after those verdicts: the export lacks the one that led to them.
    """
    if not notices or not judgements:
        return notices
    first, judged = min(notices, key=lambda one: one.at), min(one.at for one in judgements)
    if first.at - judged > _CLOCKS_DIFFER:
        return notices
    return [msgspec.structs.replace(one, at=min(one.at, judged)) if one is first else one for one in notices]


def outcome_of(notice: Notice, history: History, judgements: Sequence[Judgement]) -> NoticeOutcome:
    """What the first decision after a notice was: a restriction, a person's word, or the model's safe verdicts.

    judgements: one for each policy under which the reported item was judged. A text is judged once however many reports
    it has, so that they may be older than the notice.
    """
    before = [change for change in history.changes if change.at < notice.at]
    after = [change for change in history.changes if change.at >= notice.at]
    standing = before[-1].effective if before else "allow"
    restricted = standing in RESTRICTIONS
    found: list[NoticeOutcome] = []
    for change in after:
        if change.effective in RESTRICTIONS and not restricted:
            found.append(NoticeOutcome("restricted", change.at, change.automated))
        elif change.decided and change.effective == "allow":
            found.append(NoticeOutcome("not_restricted", change.at, automated=False))
    if judgements and not restricted and all(one.decision == "safe" for one in judgements):
        at = max(one.at for one in judgements)
        if at >= notice.at:
            found.append(NoticeOutcome("not_restricted", at, automated=True))
        elif not found:
            return NoticeOutcome("not_restricted", None, automated=True)
    if found:
        return min(found, key=lambda one: one.at or notice.at)
    if restricted:
        return NoticeOutcome("already_restricted", None, before[-1].automated)
    last = after[-1].effective if after else standing
    return NoticeOutcome("in_review" if last == "review" else "undecided")
