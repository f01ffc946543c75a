"""Items about which somebody decides before the verdict is shown: their decisions are labels without anchoring.

They are a share of what waits, the golden items among it (`golden_items`), and the second looks that somebody got
(`checks`). No page shows such a person what the verdict on such an item says, or that there is one, whether they
claimed it yet or not, until they have decided about its present text. People who may not decide see every verdict.

An item is drawn with a secret, for all people alike. Nobody can compute from what a page shows whether an item was
drawn, nor learn it from a colleague.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, and_, exists, select

from safeguard_streams.console.schema import (
    actions,
    appeals,
    checks,
    draws,
    items,
    review_items,
    reviews,
    verdicts,
)
from safeguard_streams.console.web import golden_items, item_facts, policy_text
from safeguard_streams.console.web.item_facts import Facts
from safeguard_streams.console.web.roles import Person
from safeguard_streams.contract.records import EVERY_POLICY

_DRAWS = 2**32
_MOST = 100  # policies of which an item may have verdicts


class Waits(NamedTuple):
    """What a page may show of the queue's row of an item that is decided blind."""

    policy_id: str
    state: str


def is_drawn(secret: str, content_id: str, content_sha256: str | None, share: float) -> bool:
    """Whether people are to decide blind about a text. Equal each time that it is asked. secret: of the database."""
    drawn = hmac.digest(secret.encode(), f"{content_id}\0{content_sha256}".encode(), hashlib.sha256)
    return int.from_bytes(drawn[:4], "big") < share * _DRAWS


def among(connection: Connection, person: Person, content_ids: Sequence[str], share: float) -> frozenset[str]:
    """Which of these items somebody has to decide about before the verdict is shown."""
    if not content_ids or not person.may("decide"):
        return frozenset()
    handed = select(checks.c.content_id).where(checks.c.who == person.name, checks.c.key.is_(None))
    second = connection.execute(handed.where(checks.c.content_id.in_(set(content_ids)))).scalars()
    golden = golden_items.among(connection, content_ids)
    return frozenset(second) | golden | _drawn(connection, person, content_ids, share)


def _drawn(connection: Connection, person: Person, content_ids: Sequence[str], share: float) -> frozenset[str]:
    decided = and_(
        reviews.c.content_id == review_items.c.content_id,
        reviews.c.who == person.name,
        reviews.c.content_sha256.is_not_distinct_from(items.c.content_sha256),
    )
    waiting = connection.execute(
        select(review_items.c.content_id, items.c.content_sha256)
        .distinct()
        .outerjoin(items, items.c.content_id == review_items.c.content_id)
        .where(
            review_items.c.content_id.in_(set(content_ids)), review_items.c.state == "open", ~exists().where(decided)
        )
    ).all()
    secret = connection.execute(select(draws.c.secret).where(draws.c.name == "queue")).scalar_one()
    return frozenset(one for one, sha in waiting if is_drawn(secret, one, sha, share))


def load(connection: Connection, person: Person, content_id: str, share: float) -> tuple[Facts | None, bool]:
    """What somebody may know of an item, and whether they are to decide about it before they know more.

    An open appeal names the verdict, so that its item is never decided blind.
    """
    appealed = exists().where(appeals.c.content_id == content_id, appeals.c.state == "open")
    if not connection.execute(select(appealed)).scalar() and content_id in among(
        connection, person, [content_id], share
    ):
        return _facts(connection, person, content_id), True
    return item_facts.load(connection, content_id), False


def _facts(connection: Connection, person: Person, content_id: str) -> Facts:
    """Text, language and policy alone. The same statements read them whatever kind of item it is."""
    shown = ("content_id", "text", "language", "context", "content_sha256")
    found = connection.execute(select(items).where(items.c.content_id == content_id)).mappings().first()
    item = _Item({name: found[name] if name in shown else None for name in found}) if found is not None else None
    open_row = review_items.c.content_id == content_id, review_items.c.state == "open"
    waiting = select(review_items.c.policy_id).where(*open_row).order_by(review_items.c.priority.desc())
    policies = list(connection.execute(waiting.limit(_MOST)).scalars())
    handed = select(checks.c.policy_id).where(
        checks.c.who == person.name, checks.c.content_id == content_id, checks.c.key.is_(None)
    )
    second = connection.execute(handed).scalar()
    said = select(verdicts.c.policy_id).where(verdicts.c.content_id == content_id)
    judged = list(connection.execute(said.order_by(verdicts.c.decided_at.desc()).limit(_MOST)).scalars())
    word = select(actions).where(actions.c.content_id == content_id, actions.c.policy_id.is_(None))
    last = connection.execute(word.order_by(actions.c.acted_at.desc()).limit(1)).all()
    named = [second] if second else [one for one in judged if one in policies] or judged
    policy_id = next((one for one in [*named, *policies] if one != EVERY_POLICY), None)
    policy = policy_text.version(connection, policy_id or "", None)
    nothing: dict[str, Any] = dict.fromkeys(Facts.__struct_fields__, ())
    known: dict[str, Any] = {
        "content_id": content_id,
        "item": item,
        "waiting": [Waits(policy_id or EVERY_POLICY, "open")] if policies or second else (),
        "actions": last,
        "policies": {(policy_id, None): policy} if policy_id and policy is not None else {},
    }
    return Facts(**{**nothing, **known, "erased_at": None, "with_rationale": frozenset()})


class _Item:
    """A row of `items` of which most columns are empty."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.__dict__.update(values)
