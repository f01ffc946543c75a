"""Claims on items of the queue: one person works on an item at a time, for as long as the lease runs.

A claim covers all rows of an item, since it may wait under several policies. No process has to return an abandoned
claim: a lease that ran out claims nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Connection, and_, exists, or_, select

from safeguard_streams.console.schema import actions, appeals, items, reports, review_items, reviews, verdicts
from safeguard_streams.contract.records import EVERY_POLICY, now

REPORTED = "reported"  # as a cause: items that somebody reported, whatever sent them to review
_CANDIDATES = 50  # items to try, while others claim the first of the queue at the same moment


class Queue:
    """The claims of one transaction. lease: how long a claim runs."""

    def __init__(self, connection: Connection, lease: timedelta) -> None:
        self._connection = connection
        self._lease = lease

    def claim_first(self, content_ids: Sequence[str], by: str) -> str | None:
        """Claim the first of these items that nobody else claims at this moment. None where there is none."""
        return next((content_id for content_id in content_ids if self.claim(content_id, by)), None)

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

    def waits_under(self, content_id: str, policies: Sequence[str]) -> str | None:
        """One of these policies that an item which waits is about; None where it is about none of them."""
        rows = self._connection.execute(
            select(verdicts.c.policy_id, review_items.c.policy_id)
            .select_from(review_items)
            .outerjoin(verdicts, and_(verdicts.c.content_id == content_id, review_items.c.policy_id == EVERY_POLICY))
            .where(review_items.c.content_id == content_id, review_items.c.state == "open", is_under(policies))
        ).all()
        return next((name for row in rows for name in row if name in policies), None)

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

    def free(self, by: str, filters: Mapping[str, str], without: Sequence[str] = ()) -> Sequence[str]:
        """The first items of the queue that nobody holds, and that somebody did not pass on to a colleague.

        without: policies whose items are left to others.
        """
        free = or_(review_items.c.claim_expires_at.is_(None), review_items.c.claim_expires_at <= now())
        others = [~is_under(without)] if without else []
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
    if (cause := filters.get("cause")) == REPORTED:
        conditions.append(exists().where(reports.c.content_id == review_items.c.content_id))
    elif cause:
        conditions.append(review_items.c.cause == cause)
    for name, column in (("language", "language"), ("author", "author_id")):
        if value := filters.get(name):
            written = items.alias(f"written_{name}")  # a query may show items, too
            conditions.append(
                exists().where(written.c.content_id == review_items.c.content_id, written.c[column] == value)
            )
    return conditions


def is_under(policies: Sequence[str]) -> ColumnElement[bool]:
    """A condition on the queue: an item waits under one of these policies, or for a colleague with a verdict of one."""
    other, said = review_items.alias("other"), verdicts.alias("said")  # a query may show both, too
    same = other.c.content_id == review_items.c.content_id, other.c.state == "open"
    waits = exists().where(*same, other.c.policy_id.in_(policies))
    judged = exists().where(said.c.content_id == review_items.c.content_id, said.c.policy_id.in_(policies))
    return or_(waits, and_(review_items.c.policy_id == EVERY_POLICY, judged))


def _is_others(claimed_by: str | None, expires: datetime | None, by: str, at: datetime) -> bool:
    return claimed_by not in (None, by) and expires is not None and expires > at
