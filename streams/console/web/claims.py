"""Claims on items of the queue: one person works on an item at a time, for as long as the lease runs.

A claim covers all rows of an item, since it may wait under several policies. No process has to return an abandoned
claim: a lease that ran out claims nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Connection, and_, exists, or_, select

from safeguard_streams.console.schema import actions, appeals, items, review_items, reviews
from safeguard_streams.contract.records import now

_CANDIDATES = 50  # items to try, while others claim the first of the queue at the same moment


class Queue:
    """The claims of one transaction. lease: how long a claim runs."""

    def __init__(self, connection: Connection, lease: timedelta) -> None:
        self._connection = connection
        self._lease = lease

    def next(self, by: str, filters: Mapping[str, str], without: Sequence[str] = ()) -> str | None:
        """Claim the next item for somebody: the one that they hold and have not decided, or else the first that is
        free, and that they did not pass on to a colleague. None where there is none. without: policies whose items are
        left to others.
        """
        held = self.held_by(by)
        if held is not None:
            return held
        for content_id in self._free(by, filters, without):
            if self.claim(content_id, by):
                return content_id
        return None

    def claim(self, content_id: str, by: str) -> bool:
        """Claim an item, or renew the claim. False where somebody else holds it, or claims it just now.

        Rows that another transaction has locked are skipped, never waited for. A claim needs all rows.
        """
        rows = self._connection.execute(
            select(review_items.c.policy_id, review_items.c.claimed_by, review_items.c.claim_expires_at)
            .where(review_items.c.content_id == content_id, review_items.c.state == "open")
            .with_for_update(skip_locked=True)
        ).all()
        waiting = self._connection.execute(
            select(review_items.c.policy_id).where(
                review_items.c.content_id == content_id, review_items.c.state == "open"
            )
        ).all()
        at = now()
        others = any(_is_others(row.claimed_by, row.claim_expires_at, by, at) for row in rows)
        if not rows or len(rows) < len(waiting) or others:
            return False
        self._connection.execute(
            review_items.update()
            .where(review_items.c.content_id == content_id, review_items.c.state == "open")
            .values(claimed_by=by, claim_expires_at=at + self._lease)
        )
        return True

    def give_back(self, content_id: str, by: str) -> None:
        """End somebody's claim on an item."""
        self._connection.execute(
            review_items.update()
            .where(review_items.c.content_id == content_id, review_items.c.claimed_by == by)
            .values(claimed_by=None, claim_expires_at=None)
        )

    def holder(self, content_id: str) -> str | None:
        """Who holds an item that waits now."""
        return self._connection.execute(
            select(review_items.c.claimed_by).where(
                review_items.c.content_id == content_id,
                review_items.c.state == "open",
                review_items.c.claim_expires_at > now(),
            )
        ).scalar()

    def held_by(self, by: str) -> str | None:
        """The item that somebody claimed and has not decided since."""
        begun = review_items.c.claim_expires_at
        claims = self._connection.execute(
            select(review_items.c.content_id, begun)
            .where(review_items.c.state == "open", review_items.c.claimed_by == by, begun > now())
            .order_by(begun)
        ).all()
        for content_id, expires in claims:
            decided = select(
                exists().where(
                    reviews.c.content_id == content_id, reviews.c.who == by, reviews.c.at >= expires - self._lease
                )
            )
            if not self._connection.execute(decided).scalar():
                return str(content_id)
        return None

    def _free(self, by: str, filters: Mapping[str, str], without: Sequence[str]) -> Sequence[str]:
        free = or_(review_items.c.claim_expires_at.is_(None), review_items.c.claim_expires_at <= now())
        others = [review_items.c.policy_id.not_in(without)] if without else []
        passed_on = exists().where(
            reviews.c.content_id == review_items.c.content_id,
            reviews.c.who == by,
            reviews.c.action == "review",
            reviews.c.at >= review_items.c.since,
        )
        appealed = exists().where(appeals.c.content_id == review_items.c.content_id, appeals.c.state == "open")
        decided = exists().where(actions.c.content_id == review_items.c.content_id, actions.c.by == by)
        barred = and_(appealed, decided)  # somebody else decides an appeal
        found = self._connection.execute(
            select(review_items.c.content_id)
            .where(and_(review_items.c.state == "open", free, ~passed_on, ~barred, *matching(filters), *others))
            .order_by(review_items.c.priority.desc(), review_items.c.since, review_items.c.content_id)
            .limit(_CANDIDATES)
        ).scalars()
        return list(dict.fromkeys(found))


def matching(filters: Mapping[str, str]) -> list[ColumnElement[bool]]:
    """Conditions on the queue, from the filters that are set."""
    conditions: list[ColumnElement[bool]] = []
    if policy := filters.get("policy"):
        conditions.append(review_items.c.policy_id == policy)
    if cause := filters.get("cause"):
        conditions.append(review_items.c.cause == cause)
    if language := filters.get("language"):
        written_in = items.alias("written_in")  # a query may show items, too
        same = written_in.c.content_id == review_items.c.content_id
        conditions.append(exists().where(same, written_in.c.language == language))
    return conditions


def _is_others(claimed_by: str | None, expires: datetime | None, by: str, at: datetime) -> bool:
    return claimed_by not in (None, by) and expires is not None and expires > at
