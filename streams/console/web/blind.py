"""Items about which somebody decides before the verdict is shown: their decisions are labels without anchoring.

They are a share of what waits, and the checks that somebody got (`checks`). No page shows such a person what the
verdict on such an item says, whether they claimed it yet or not, until they have decided about its present text. People
who may not decide see every verdict.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from sqlalchemy import Connection, and_, exists, select

from safeguard_streams.console.schema import checks, items, review_items, reviews
from safeguard_streams.console.web.roles import Person

_DRAWS = 2**32


def is_drawn(by: str, content_id: str, content_sha256: str | None, share: float) -> bool:
    """Whether somebody is to decide blind about a text. Equal each time that it is asked."""
    drawn = hashlib.sha256(f"{by}\0{content_id}\0{content_sha256}".encode()).digest()
    return int.from_bytes(drawn[:4], "big") < share * _DRAWS


def among(connection: Connection, person: Person, content_ids: Sequence[str], share: float) -> frozenset[str]:
    """Which of these items somebody has to decide about before the verdict is shown."""
    if not content_ids or not person.may("decide"):
        return frozenset()
    handed = select(checks.c.content_id).where(checks.c.who == person.name, checks.c.key.is_(None))
    checked = connection.execute(handed.where(checks.c.content_id.in_(set(content_ids)))).scalars()
    return frozenset(checked) | (_drawn(connection, person, content_ids, share) if share else frozenset())


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
    )
    return frozenset(one for one, sha in waiting if is_drawn(person.name, one, sha, share))
