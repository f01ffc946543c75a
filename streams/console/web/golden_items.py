"""Golden items: texts of a policy's golden set that wait in the queue as other items do, to measure how people decide.

Such an item has the rows that every item has, in `items` and in the queue. The list, the counts, filters, claims, the
item's page and search read these rows, and cannot tell it from an item that somebody is to decide blind. Everybody sees
the same one, and everybody decides it blind. Nothing follows the decision: it is kept as a label, the person is told
what the item was, and its rows go.

It is one only as long as the platform has no item of its id. A real one replaces it.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from random import SystemRandom
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, delete, exists, func, select, update

from safeguard_streams.console import native
from safeguard_streams.console.database import clean, insert
from safeguard_streams.console.schema import (
    checks,
    draws,
    golden_items,
    items,
    reports,
    review_items,
    reviews,
    verdicts,
)
from safeguard_streams.console.web import policy_text
from safeguard_streams.console.web.disguise import disguise
from safeguard_streams.contract.records import EVERY_POLICY, content_sha256, now
from safeguard_streams.errors import PolicyError
from safeguard_streams.policies import golden
from safeguard_streams.policies.files import LIBRARY
from safeguard_streams.policies.golden import Golden
from safeguard_streams.runtime.settings import Settings

# What sends an item to review without a person's word, of which a golden item could show nothing.
_CAUSES = ("rule", "undetermined", "held")
_ARRIVALS = 1000  # items that are looked at in one transaction
_NEAR = 50  # ids before and after, among which an id is made
_LOOKED_UP = 50  # ids that are made until one is free
_LATER = 30.0  # seconds at most after the item that it resembles
_WAITS = ("cause", "action", "effective", "rule", "severity", "priority")
_ALONE = "golden items"
_random: random.Random = SystemRandom()  # nobody can foresee a golden item

_same = and_(items.c.content_id == golden_items.c.content_id, items.c.content_sha256 == golden_items.c.content_sha256)
# The platform's own item of this id has a place on a topic, something that stands on it, or a verdict.
_placed = items.c.event_offset.is_not(None) | items.c.standing_partition.is_not(None)
_is_one: ColumnElement[bool] = and_(
    golden_items.c.key.is_(None),
    exists().where(_same, ~_placed),
    ~exists().where(verdicts.c.content_id == golden_items.c.content_id),
)


def among(connection: Connection, content_ids: Collection[str]) -> frozenset[str]:
    """Which of these are golden items that nobody has judged."""
    found = select(golden_items.c.content_id).where(golden_items.c.content_id.in_(set(content_ids)), _is_one)
    return frozenset(connection.execute(found).scalars())


def find(connection: Connection, content_id: str) -> Row[Any] | None:
    """A golden item that nobody has judged."""
    return connection.execute(select(golden_items).where(golden_items.c.content_id == content_id, _is_one)).first()


def judged_by(connection: Connection, content_id: str, who: str, key: str) -> Row[Any] | None:
    """A golden item that somebody judged by this form."""
    same = golden_items.c.content_id == content_id, golden_items.c.who == who, golden_items.c.key == key
    return connection.execute(select(golden_items).where(*same)).first()


def judge(connection: Connection, item: Row[Any], who: str, key: str, **said: Any) -> None:
    """Keep what somebody decided about a golden item, and take it out of the queue.

    key: of the form. said: decision, rule and action, as columns of a review.
    """
    own = golden_items.c.content_id == item.content_id
    connection.execute(update(golden_items).where(own).values(key=key, who=who, text=None))
    for table in (review_items, items):
        connection.execute(delete(table).where(table.c.content_id == item.content_id))
    connection.execute(
        reviews.insert().values(
            who=who,
            content_id=item.content_id,
            policy_id=item.policy_id,
            content_sha256=item.content_sha256,
            blind=True,
            golden=True,
            second=False,
            expected=item.expected,
            at=now(),
            **said,
        )
    )


def told(item: Row[Any], decision: str) -> str:
    """What a golden item was, for who has judged it."""
    right = "You decided the same." if decision == item.expected else f"You decided {decision}."
    return f"This was a text of the golden set: {item.expected}, {item.rule}. {right} Nothing follows."


def keep_up(connection: Connection, settings: Settings) -> None:
    """Add golden items to the queue, on the share that is set, for what began to wait since this was called last.

    A golden item resembles a real one that has just begun to wait, in policy, language, cause, place in the queue, time
    and id. It resembles none that has what a golden item cannot have, and what people see also of an item that they
    decide blind: a context, a report, a colleague's decision.
    """
    native.alone(connection, _ALONE)
    _end_replaced(connection)
    _restore(connection)
    until = connection.execute(select(draws.c.until).where(draws.c.name == "queue")).scalar()
    arrived = _arrived(connection, until) if until is not None else ()
    own = among(connection, [one.content_id for one in arrived])
    real = [one for one in arrived if one.content_id not in own]
    if not real:
        return
    alike = [one for one in real if _may_be_resembled(one)]
    for one in real:
        if alike and _random.random() < settings.console_golden_share:
            _add(connection, settings, one if one in alike else _random.choice(alike), one.since)
    newest = max(one.since for one in real)
    connection.execute(update(draws).where(draws.c.name == "queue").values(until=newest))


def _arrived(connection: Connection, until: datetime) -> Sequence[Row[Any]]:
    """What began to wait after a time, the first first. What an agent's clock says of the future waits until then."""
    reported = exists().where(reports.c.content_id == review_items.c.content_id).label("reported")
    known = (items.c.language, items.c.context, items.c.text.is_not(None).label("has_text"))
    return connection.execute(
        select(review_items, *known, reported)
        .outerjoin(items, items.c.content_id == review_items.c.content_id)
        .where(review_items.c.state == "open", review_items.c.since > until, review_items.c.since <= now())
        .order_by(review_items.c.since)
        .limit(_ARRIVALS)
    ).all()


def _may_be_resembled(row: Row[Any]) -> bool:
    plain = row.has_text and not row.context and not row.reported and not row.edited
    return bool(plain) and row.policy_id != EVERY_POLICY and row.cause in _CAUSES


def _add(connection: Connection, settings: Settings, like: Row[Any], since: datetime) -> None:
    """Add a golden text of the policy and the language of an item. Of those that were judged least often, any."""
    rows = _texts(connection, settings, like.policy_id, like.language)
    content_id = _id_like(connection, like) if rows else None
    if content_id is None:
        return
    chosen = _random.choice(rows)
    at = _as_exact(min(now(), since + timedelta(seconds=_random.uniform(0, _LATER))), since)
    connection.execute(
        golden_items.insert().values(
            content_id=content_id,
            policy_id=like.policy_id,
            content_sha256=content_sha256(chosen.text),
            text=clean(chosen.text),
            expected=chosen.decision,
            rule=chosen.rule,
            language=like.language,
            since=at,
            text_expires_at=at + timedelta(days=settings.console_text_days),
            waits={name: getattr(like, name) for name in _WAITS},
        )
    )
    _put(connection, content_id)


def _as_exact(at: datetime, like: datetime) -> datetime:
    """A time in the unit of another one: records hold seconds, milliseconds or microseconds."""
    step = next(step for step in (1_000_000, 1000, 1) if like.microsecond % step == 0)
    return at.replace(microsecond=at.microsecond // step * step)


def _texts(connection: Connection, settings: Settings, policy_id: str, language: str | None) -> Sequence[Golden]:
    policy = policy_text.version(connection, policy_id, None)
    rows = [
        one
        for one in _golden_set(settings, policy_id)
        if policy is not None and policy.rule(one.rule) is not None
        if language is None or _primary(one.language) == _primary(language)
    ]
    same = golden_items.c.policy_id == policy_id
    counted = select(golden_items.c.content_sha256, func.count(), func.count(golden_items.c.key)).where(same)
    used = {sha: (n, n - done) for sha, n, done in connection.execute(counted.group_by(golden_items.c.content_sha256))}
    often = {one: used.get(content_sha256(one.text), (0, 0)) for one in rows}
    free = [one for one in rows if not often[one][1]]  # of equal texts, one waits at a time
    fewest = min((often[one][0] for one in free), default=0)
    return [one for one in free if often[one][0] == fewest]


def _golden_set(settings: Settings, policy_id: str) -> list[Golden]:
    """The golden texts of a policy; none where it has no golden set here, or its id is no folder's name."""
    library = settings.console_policies or LIBRARY
    if policy_id in ("", ".", "..") or {"/", "\\", "\0"} & {*policy_id}:
        return []
    try:
        return [row.golden for row in golden.read(library / policy_id / golden.NAME).rows]
    except PolicyError:
        return []


def _primary(language: str) -> str:
    return language.partition("-")[0].lower()


def _id_like(connection: Connection, like: Row[Any]) -> str | None:
    """An id that looks like those that began to wait at about the same time, and that no known item has."""
    since = review_items.c.since
    waiting = select(review_items.c.content_id, since).where(review_items.c.state == "open")
    before = waiting.where(since <= like.since).order_by(since.desc()).limit(_NEAR)
    after = waiting.where(since > like.since).order_by(since).limit(_NEAR)
    some = [*connection.execute(before), *connection.execute(after)]
    near = sorted(some, key=lambda one: (abs((one.since - like.since).total_seconds()), one.content_id))
    taken: set[str] = set()
    for _ in range(_LOOKED_UP):
        made = disguise(like.content_id, [one.content_id for one in near], taken)
        if made is None or not any(_has(connection, table, made) for table in (items, verdicts, checks, golden_items)):
            return made
        taken.add(made)
    return None


def _has(connection: Connection, table: Any, content_id: str) -> bool:
    return bool(connection.execute(select(exists().where(table.c.content_id == content_id))).scalar())


def _put(connection: Connection, content_id: str) -> None:
    """Write the rows that every item of the queue has."""
    one = connection.execute(select(golden_items).where(golden_items.c.content_id == content_id)).one()
    shown = {"content_id": content_id, "content_sha256": one.content_sha256}
    text = {"text": one.text, "language": one.language, "text_at": one.since, "text_expires_at": one.text_expires_at}
    rows = (
        (items, {**shown, **text, "effective": one.waits["effective"], "held": 0}),
        (
            review_items,
            {**shown, **one.waits, "policy_id": one.policy_id, "state": "open", "since": one.since, "edited": False},
        ),
    )
    for table, row in rows:
        connection.execute(insert(connection.engine, table).values(**row).on_conflict_do_nothing())


def _restore(connection: Connection) -> None:
    """Write the rows of golden items once more that a rebuild deleted, each as soon as an item of its time is back."""
    real = review_items.alias("real")
    gone = ~exists().where(review_items.c.content_id == golden_items.c.content_id)
    back = exists().where(real.c.state == "open", real.c.since >= golden_items.c.since)
    wanted = select(golden_items.c.content_id).where(golden_items.c.key.is_(None), gone, back)
    for content_id in connection.execute(wanted).scalars().all():
        _put(connection, content_id)


def _end_replaced(connection: Connection) -> None:
    """Forget golden items of whose id the platform has an item by now, and what they had of its rows."""
    placed = exists().where(items.c.content_id == golden_items.c.content_id, _placed)
    judged = exists().where(verdicts.c.content_id == golden_items.c.content_id)
    replaced = select(golden_items).where(golden_items.c.key.is_(None), placed | judged)
    for one in connection.execute(replaced).all():
        name = one.content_id
        own_text = items.c.content_sha256 == one.content_sha256, items.c.event_offset.is_(None)
        words = dict.fromkeys(("text", "language", "content_sha256", "text_at", "text_expires_at"))
        connection.execute(update(items).where(items.c.content_id == name, *own_text).values(**words))
        own_row = review_items.c.policy_id == one.policy_id, review_items.c.since == one.since
        connection.execute(delete(review_items).where(review_items.c.content_id == name, *own_row))
        connection.execute(delete(golden_items).where(golden_items.c.content_id == name))
