"""Checks: second looks, which somebody gets from the queue although they do not wait in it.

A second look is an item about which a colleague decided. Its page is that of an item which is decided blind. Nothing
follows the decision: it is kept as a label, and the person is told what it was. It comes instead of an item that waits,
so that an empty queue hands out none.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import timedelta
from random import SystemRandom
from typing import Any

from sqlalchemy import Connection, Row, Select, and_, delete, exists, select, update

from safeguard_streams.console.schema import actions, audit_log, checks, items, review_items, reviews
from safeguard_streams.console.web import harms
from safeguard_streams.contract.records import EVERY_POLICY, now
from safeguard_streams.runtime.settings import Settings

_CANDIDATES = 50  # newest decisions to choose a second look from
_random = SystemRandom()  # nobody can foresee a check


def find(connection: Connection, who: str, content_id: str) -> Row[Any] | None:
    """Somebody's check of this id, judged or not."""
    return connection.execute(select(checks).where(checks.c.who == who, checks.c.content_id == content_id)).first()


def held(connection: Connection, who: str, lease: timedelta, without: Collection[str] = ()) -> str | None:
    """The check that somebody got within the lease, and has not judged.

    without: policies of which they get none, except what they revealed today.
    """
    current = checks.c.who == who, checks.c.key.is_(None), checks.c.since > now() - lease
    found = select(checks.c.content_id, checks.c.policy_id).where(*current).order_by(checks.c.since)
    for content_id, policy_id in connection.execute(found).all():
        if policy_id not in without or harms.was_revealed(connection, who, content_id):
            return str(content_id)
    return None


def give_back(connection: Connection, who: str, content_id: str) -> None:
    """End somebody's check that they have not judged."""
    connection.execute(
        delete(checks).where(checks.c.who == who, checks.c.content_id == content_id, checks.c.key.is_(None))
    )


def draw(
    connection: Connection, settings: Settings, who: str, filters: Mapping[str, str], without: Collection[str]
) -> str | None:
    """Hand somebody a check instead of the next item of the queue, on the share that is set. None where it is none.

    without: policies whose items they do not get. An earlier check that they have not judged ends.
    """
    connection.execute(delete(checks).where(checks.c.who == who, checks.c.key.is_(None)))
    return _second(connection, who, filters, without) if _random.random() < settings.console_second_share else None


def _second(connection: Connection, who: str, filters: Mapping[str, str], without: Collection[str]) -> str | None:
    """An item about which a colleague decided lately, and of which this person has seen nothing."""
    found = connection.execute(_decided_by_others(who, filters, without).limit(_CANDIDATES)).all()
    if not found:
        return None
    chosen = _random.choice(found)
    about = {"content_id": chosen.content_id, "policy_id": chosen.policy_id, "content_sha256": chosen.content_sha256}
    connection.execute(checks.insert().values(who=who, since=now(), **about))
    return str(chosen.content_id)


def _decided_by_others(who: str, filters: Mapping[str, str], without: Collection[str]) -> Select[Any]:
    again, about = reviews.alias("again"), reviews.c.content_id
    wanted = [items.c.language == filters["language"]] if filters.get("language") else []
    wanted += [reviews.c.policy_id == filters["policy"]] if filters.get("policy") else []
    return (
        select(about, reviews.c.policy_id, reviews.c.content_sha256)
        .join(items, and_(items.c.content_id == about, items.c.content_sha256 == reviews.c.content_sha256))
        .where(
            reviews.c.action_id.is_not(None),
            reviews.c.decision != "undetermined",
            reviews.c.policy_id.not_in([EVERY_POLICY, *without]),
            items.c.text.is_not(None),
            *wanted,
            ~exists().where(again.c.content_id == about, (again.c.who == who) | again.c.action_id.is_(None)),
            ~exists().where(checks.c.content_id == about, checks.c.who == who),
            ~exists().where(audit_log.c.object == about, audit_log.c.who == who),
            ~exists().where(actions.c.content_id == about, actions.c.withdraws == reviews.c.action_id),
            ~exists().where(review_items.c.content_id == about, review_items.c.state == "open"),
        )
        .order_by(reviews.c.at.desc())
    )


def is_there(connection: Connection, check: Row[Any]) -> bool:
    """Whether the text that a check is about is still there, unchanged."""
    same = items.c.content_id == check.content_id, items.c.content_sha256 == check.content_sha256
    return bool(connection.execute(select(exists().where(*same, items.c.text.is_not(None)))).scalar())


def judge(connection: Connection, check: Row[Any], key: str, **said: Any) -> bool:
    """Keep what somebody decided about their check. False where that was kept before.

    key: of the form. said: decision, rule and action, as columns of a review.
    """
    first = update(checks).where(checks.c.who == check.who, checks.c.content_id == check.content_id)
    if not connection.execute(first.where(checks.c.key.is_(None)).values(key=key)).rowcount:
        return False
    connection.execute(
        reviews.insert().values(
            who=check.who,
            content_id=check.content_id,
            policy_id=check.policy_id,
            content_sha256=check.content_sha256,
            blind=True,
            golden=False,
            second=True,
            verdict_id=_verdict_before(connection, check),
            at=now(),
            **said,
        )
    )
    return True


def _verdict_before(connection: Connection, check: Row[Any]) -> str | None:
    """The verdict that the colleague of a second look had before them."""
    same = reviews.c.content_id == check.content_id, reviews.c.content_sha256 == check.content_sha256
    before = select(reviews.c.verdict_id).where(*same, reviews.c.action_id.is_not(None))
    return connection.execute(before.order_by(reviews.c.at.desc())).scalar()


def told(connection: Connection, check: Row[Any]) -> str:
    """What a check was, for who has judged it."""
    colleagues = connection.execute(
        select(reviews.c.who, reviews.c.decision)
        .where(reviews.c.content_id == check.content_id, reviews.c.action_id.is_not(None))
        .order_by(reviews.c.at.desc())
    ).first()
    before = f"{colleagues.who} decided before you: {colleagues.decision}." if colleagues else "It was decided before."
    return f"{before} Your decision is kept as a second opinion. Nothing follows."
