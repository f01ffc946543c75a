"""All that the database knows about one content item."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, and_, select

from safeguard_streams.console.schema import (
    actions,
    appeal_statements,
    appeals,
    erasures,
    escalations,
    items,
    rationales,
    replay_verdicts,
    reports,
    review_items,
    verdicts,
)
from safeguard_streams.console.web import policy_text
from safeguard_streams.console.web.policy_text import PolicyText
from safeguard_streams.contract.records import EVERY_POLICY
from safeguard_streams.enforcement.appeals import person

_MOST = 100  # rows of each kind; an item with more is being tried, and its newest rows matter
_OTHERS = 10

AnyRow = Row[Any]


class Facts(msgspec.Struct, frozen=True):
    """Rows about an item, newest first.

    policies: the text of each policy version that a verdict names, by id and version; in force, by id and None.
    appeals: with what the appellants say.
    """

    content_id: str
    item: AnyRow | None
    waiting: Sequence[AnyRow]
    verdicts: Sequence[AnyRow]
    compared: Sequence[AnyRow]
    escalations: Sequence[AnyRow]
    actions: Sequence[AnyRow]
    reports: Sequence[AnyRow]
    erased_at: datetime | None
    others: Sequence[Any]
    with_rationale: frozenset[str]
    policies: dict[tuple[str, str | None], PolicyText]
    appeals: Sequence[AnyRow] = ()

    @property
    def open_appeals(self) -> Sequence[AnyRow]:
        """The appeals that wait for a person, the first due first."""
        return sorted((one for one in self.appeals if one.state == "open"), key=lambda one: one.due_at)

    def bars(self, name: str) -> bool:
        """Whether an appeal is open and somebody, who decided about the item before, may change nothing meanwhile."""
        before = {*(one for row in self.open_appeals for one in row.not_by)}
        before |= {person(one.by) for one in self.actions if one.by and one.state != "overridden"}
        return bool(self.open_appeals) and person(name) in before

    @property
    def first_seen(self) -> datetime | None:
        """When the oldest of these rows was written."""
        times = [one.escalated_at for one in self.escalations[-1:]]
        times += [one.decided_at for one in self.verdicts[-1:]]
        times += [one.acted_at for one in self.actions[-1:]]
        times += [one.reported_at for one in self.reports[-1:]]
        return min(times, default=None)

    @property
    def superseded(self) -> frozenset[str]:
        """The verdicts that a later one replaces."""
        return frozenset(one.supersedes for one in self.verdicts if one.supersedes)

    @property
    def judged(self) -> AnyRow | None:
        """The verdict that matters most: of what waits, or else the newest that nothing replaces."""
        live = [one for one in self.verdicts if one.verdict_id not in self.superseded]
        waits = {one.policy_id for one in self.waiting if one.state == "open"}
        return next((one for one in live if one.policy_id in waits), live[0] if live else None)

    @property
    def policy_id(self) -> str | None:
        """The policy that the item is about here."""
        if self.judged is not None:
            return str(self.judged.policy_id)
        named = [one.policy_id for one in self.waiting if one.policy_id != EVERY_POLICY]
        named += [one.policy_id for one in self.escalations]
        return named[0] if named else None

    @property
    def last_word(self) -> AnyRow | None:
        """What a moderator last wrote about the item: a decision, or that one is taken back."""
        return next((one for one in self.actions if one.policy_id is None), None)

    @property
    def decision(self) -> AnyRow | None:
        """A moderator's decision that is in force: the newest one, unless it was taken back."""
        withdrawn = {one.withdraws for one in self.actions if one.withdraws}
        for one in self.actions:
            if one.policy_id is None and not one.withdraws:
                return None if one.action_id in withdrawn else one
        return None


def load(connection: Connection, content_id: str) -> Facts | None:
    """The facts; None for an item that the database does not know."""

    def rows(table: Any, at: Any) -> Sequence[AnyRow]:
        found = select(table).where(table.c.content_id == content_id).order_by(at.desc()).limit(_MOST)
        return connection.execute(found).all()

    reported = rows(reports, reports.c.reported_at)
    item = connection.execute(select(items).where(items.c.content_id == content_id)).first()
    judged = rows(verdicts, verdicts.c.decided_at)
    acted = rows(actions, actions.c.acted_at)
    waiting = rows(review_items, review_items.c.priority)
    if item is None and not any((judged, acted, waiting, reported)):
        return None
    compared = rows(replay_verdicts, replay_verdicts.c.decided_at)
    facts = Facts(
        content_id,
        item,
        waiting,
        judged,
        compared,
        rows(escalations, escalations.c.escalated_at),
        acted,
        reported,
        connection.execute(select(erasures.c.erased_at).where(erasures.c.content_id == content_id)).scalar(),
        _others(connection, item),
        _with_rationale(connection, [one.verdict_id for one in (*judged, *compared)]),
        {},
        _appeals(connection, content_id),
    )
    wanted: set[tuple[str, str | None]] = {(one.policy_id, one.policy_version) for one in (*judged, *compared)}
    if facts.policy_id:
        wanted.add((facts.policy_id, None))
    texts = {key: policy_text.version(connection, *key) for key in wanted}
    return msgspec.structs.replace(facts, policies={key: text for key, text in texts.items() if text is not None})


def _appeals(connection: Connection, content_id: str) -> Sequence[AnyRow]:
    """The appeals of an item with what the appellants say, the newest first."""
    said, one = appeal_statements.c, appeals.c
    same = and_(said.content_id == one.content_id, said.appeal_id == one.appeal_id)
    found = select(appeals, said.reason, said.new_context, said.language).outerjoin(appeal_statements, same)
    return connection.execute(
        found.where(one.content_id == content_id).order_by(one.opened_at.desc()).limit(_MOST)
    ).all()


def _others(connection: Connection, item: AnyRow | None) -> Sequence[Any]:
    if item is None or not item.author_id:
        return ()
    return connection.execute(
        select(items.c.content_id, items.c.effective, items.c.text_at, items.c.surface)
        .where(items.c.author_id == item.author_id, items.c.content_id != item.content_id)
        .order_by(items.c.text_at.desc())
        .limit(_OTHERS)
    ).all()


def _with_rationale(connection: Connection, verdict_ids: Sequence[str]) -> frozenset[str]:
    found = select(rationales.c.verdict_id).where(rationales.c.verdict_id.in_(verdict_ids))
    return frozenset(connection.execute(found).scalars()) if verdict_ids else frozenset()
