"""All that the database knows about one author: what stands, the strikes, what was done, and the author's items."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple

import msgspec
from sqlalchemy import Connection, exists, func, select

from safeguard_streams.console.schema import (
    actions,
    appeals,
    author_actions,
    author_decisions,
    author_standings,
    items,
    reports,
    strikes,
    verdicts,
)
from safeguard_streams.console.web.keyset import Keyset
from safeguard_streams.contract.limits import AUTHOR_STRIKES
from safeguard_streams.contract.records import aware, now

ITEMS = 20  # on a page
_PAGES = Keyset(items.c.text_at, items.c.content_id)
_MOST = 100  # rows of each other kind, the newest ones
_OTHERS = 20  # reports and appeals
_NEWEST_ITEMS = 1000  # of which reports and appeals are shown
_VERDICTS = 1000  # of the items on a page
_CLOCKS = timedelta(seconds=1)  # an action and the strike that it takes back are written together
AnyRow = Any  # a row
State = Literal["counts", "expired", "taken back", "forgiven"]


class ShownStrike(msgspec.Struct, frozen=True):
    """A strike as people read it. content_id: None where the item was erased, or its record is past its time.

    by, why: who forgave it, or whose decision about the item took it back, with the reason. cause: the action about the
    item after which it was taken back, where it is known.
    """

    strike_id: str
    state: State
    at: datetime
    expires_at: datetime | None
    weight: int
    policy_id: str | None
    rule_ids: Sequence[str]
    severity: str | None
    rule: str | None
    content_id: str | None = None
    verdict_id: str | None = None
    ended_at: datetime | None = None
    by: str | None = None
    why: str | None = None
    cause: AnyRow | None = None


class Done(NamedTuple):
    """An action about an author. later: the next one, which ended it; None for the newest."""

    action: AnyRow
    later: AnyRow | None


class ShownItem(NamedTuple):
    """An item of the author. verdict: the newest that nothing replaces."""

    item: AnyRow
    verdict: AnyRow | None
    reported: int


class ItemsPage(NamedTuple):
    """Items of the author, newest first. following: the place of the next page, if there is one."""

    items: Sequence[ShownItem]
    following: str | None


class AuthorFacts(msgspec.Struct, frozen=True):
    """What is known about an author apart from the items; rows newest first."""

    author_id: str
    standing: AnyRow | None
    strikes: Sequence[ShownStrike]
    done: Sequence[Done]
    decisions: Sequence[AnyRow]

    @property
    def last_word(self) -> str:
        """The id of what a person last wrote about the author; empty where nobody did."""
        if self.decisions:
            return str(self.decisions[0].decision_id)
        return (self.standing.decision_id or "") if self.standing is not None else ""

    @property
    def decision_id(self) -> str | None:
        """The decision that stands, or will once the ledger has followed it."""
        if self.decisions:
            return self.decisions[0].decision_id if self.decisions[0].state == "decided" else None
        return self.standing.decision_id if self.standing is not None else None

    @property
    def pending(self) -> AnyRow | None:
        """What a person last wrote, while the ledger has not followed it."""
        return self.decisions[0] if self.decisions and is_pending(self.decisions[0], self.standing) else None


def is_pending(decision: AnyRow, standing: AnyRow | None) -> bool:
    """Whether the ledger has not followed a decision yet. standing: what stands, with `followed`."""
    return standing is None or decision.decision_id not in standing.followed


def load(connection: Connection, author_id: str) -> AuthorFacts | None:
    """The facts; None for an author of whom the database knows nothing."""

    def newest(table: Any, *order: Any) -> Sequence[AnyRow]:
        found = select(table).where(table.c.author_id == author_id).order_by(*(one.desc() for one in order))
        return connection.execute(found.limit(_MOST)).all()

    standing = connection.execute(select(author_standings).where(author_standings.c.author_id == author_id)).first()
    done = newest(author_actions, author_actions.c.acted_at, author_actions.c.sequence)
    decisions = newest(author_decisions, author_decisions.c.at, author_decisions.c.decision_id)
    given = _strikes(connection, author_id, standing)
    if standing is None and not any((done, decisions, given)):
        published = select(exists().where(items.c.author_id == author_id))
        if not connection.execute(published).scalar():
            return None
    pairs = [Done(one, done[number - 1] if number else None) for number, one in enumerate(done)]
    return AuthorFacts(author_id, standing, given, pairs, decisions)


def _strikes(connection: Connection, author_id: str, standing: AnyRow | None) -> Sequence[ShownStrike]:
    """The strikes, newest first. What stands has those that are older than the topic keeps their records."""
    rows = connection.execute(
        select(strikes).where(strikes.c.author_id == author_id).order_by(strikes.c.at.desc()).limit(AUTHOR_STRIKES)
    ).all()
    kept = {str(one["strike_id"]): one for one in (standing.strikes if standing is not None else ())}
    causes = _causes(connection, [one for one in rows if one.state == "taken-back"])
    moment = now()
    shown = [_of_row(one, kept.pop(one.strike_id, None), causes.get(one.strike_id), moment) for one in rows]
    shown += [_of_kept(one, moment) for one in kept.values()]
    return sorted(shown, key=lambda one: (one.at, one.strike_id), reverse=True)


def _of_row(row: AnyRow, kept: Mapping[str, Any] | None, cause: AnyRow | None, moment: datetime) -> ShownStrike:
    """A strike from its record. The ledger knows its age: one that is given again is no younger."""
    given = _of_kept(kept, moment) if kept is not None else None
    expires_at = given.expires_at if given is not None else row.expires_at
    known = {name: getattr(row, name) for name in ("policy_id", "severity", "rule", "content_id", "verdict_id")}
    if given is not None:
        known |= {name: known[name] or getattr(given, name) for name in ("policy_id", "severity", "rule")}
    return ShownStrike(
        row.strike_id,
        _state(row.state, expires_at, moment),
        given.at if given is not None else row.at,
        expires_at,
        given.weight if given is not None else row.weight,
        rule_ids=row.rule_ids or (given.rule_ids if given is not None else ()),
        ended_at=row.ended_at,
        by=row.by or (cause.by if cause is not None else None),
        why=row.why or (cause.why if cause is not None else None),
        cause=cause,
        **known,
    )


def _of_kept(kept: Mapping[str, Any], moment: datetime) -> ShownStrike:
    """A strike as what stands on its author has it."""
    at, expires_at = (kept["at"], kept["expires_at"])
    expires = aware(datetime.fromisoformat(expires_at)) if expires_at else None
    return ShownStrike(
        kept["strike_id"],
        _state(kept["state"], expires, moment),
        aware(datetime.fromisoformat(at)),
        expires,
        kept["weight"],
        kept["policy_id"],
        kept["rule_ids"],
        kept["severity"],
        kept["rule"],
    )


def _state(state: str, expires_at: datetime | None, moment: datetime) -> State:
    if state == "forgiven":
        return "forgiven"
    if state == "taken-back":
        return "taken back"
    return "expired" if expires_at is not None and expires_at <= moment else "counts"


def _causes(connection: Connection, ended: Sequence[AnyRow]) -> Mapping[str, AnyRow]:
    """The actions about the items after which strikes were taken back, by the ids of these strikes."""
    content_ids = {one.content_id for one in ended if one.content_id}
    if not content_ids:
        return {}
    names = ("content_id", "policy_id", "action", "acted_at", "by", "why", "withdraws", "verdict_id")
    rows = connection.execute(
        select(*(actions.c[name] for name in names))
        .where(actions.c.content_id.in_(content_ids), actions.c.state != "held")
        .order_by(actions.c.acted_at.desc())
        .limit(_MOST * len(content_ids))
    ).all()
    about = defaultdict(list)
    for row in rows:
        about[row.content_id].append(row)
    return {
        one.strike_id: cause
        for one in ended
        if (cause := next((row for row in about[one.content_id] if _took_back(row, one)), None)) is not None
    }


def _took_back(action: AnyRow, strike: AnyRow) -> bool:
    """Whether an action about the item may be what took a strike back: it is under the strike's policy, or all."""
    return action.policy_id in (None, strike.policy_id) and strike.at <= action.acted_at <= strike.ended_at + _CLOCKS


def items_page(connection: Connection, author_id: str, after: str, unseen_by: Any) -> ItemsPage:
    """Items of an author after a place, without those that somebody is to decide about before the verdict is shown.

    after: `following` of the page before, or nothing. unseen_by: tells which of some ids these are.
    """
    query = select(items.c.content_id, items.c.effective, items.c.surface, items.c.language, items.c.text_at).where(
        items.c.author_id == author_id, items.c.text_at.is_not(None)
    )
    rows = connection.execute(query.where(_PAGES.after(after)).order_by(*_PAGES.order).limit(ITEMS + 1)).all()
    last = rows[ITEMS - 1] if len(rows) > ITEMS else None
    following = _PAGES.place(last.text_at, last.content_id) if last is not None else None
    ids = [one.content_id for one in rows[:ITEMS]]
    hidden: Collection[str] = unseen_by(ids)
    judged, reported = _verdicts(connection, ids), _reported(connection, ids)
    shown = [
        ShownItem(one, judged.get(one.content_id), reported.get(one.content_id, 0))
        for one in rows[:ITEMS]
        if one.content_id not in hidden
    ]
    return ItemsPage(shown, following)


def _verdicts(connection: Connection, ids: Sequence[str]) -> Mapping[str, AnyRow]:
    """The newest verdict on each item that nothing replaces."""
    names = ("verdict_id", "content_id", "policy_id", "decision", "rule_ids", "supersedes")
    rows = connection.execute(
        select(*(verdicts.c[name] for name in names))
        .where(verdicts.c.content_id.in_(ids))
        .order_by(verdicts.c.decided_at.desc())
        .limit(_VERDICTS)
    ).all()
    replaced = {one.supersedes for one in rows}
    return {one.content_id: one for one in reversed(rows) if one.verdict_id not in replaced}


def _reported(connection: Connection, ids: Sequence[str]) -> Mapping[str, int]:
    counted = select(reports.c.content_id, func.count()).where(reports.c.content_id.in_(ids))
    return {str(one): int(count) for one, count in connection.execute(counted.group_by(reports.c.content_id))}


def reports_on(connection: Connection, author_id: str) -> Sequence[AnyRow]:
    """The newest reports on the newest items of an author."""
    own = reports.c.content_id.in_(_newest_items(connection, author_id))
    found = select(reports.c.content_id, reports.c.reporter, reports.c.reported_at).where(own)
    return connection.execute(found.order_by(reports.c.reported_at.desc()).limit(_OTHERS)).all()


def appeals_of(connection: Connection, author_id: str) -> Sequence[AnyRow]:
    """The newest appeals about the newest items of an author, by the author or by who reported them."""
    found = select(appeals).where(appeals.c.content_id.in_(_newest_items(connection, author_id)))
    return connection.execute(found.order_by(appeals.c.opened_at.desc()).limit(_OTHERS)).all()


def _newest_items(connection: Connection, author_id: str) -> Sequence[str]:
    """Ids. A join reads all reports: PostgreSQL keeps no statistics of authors, and takes one to have many items."""
    own = items.c.author_id == author_id, items.c.text_at.is_not(None)
    found = select(items.c.content_id).where(*own).order_by(items.c.text_at.desc()).limit(_NEWEST_ITEMS)
    return connection.execute(found).scalars().all()
