"""The worklist of a replay's flips: leases, and what people say about each flip.

A flip is worked on by one person at a time, and answered once. Its order is random: the flips that were answered are a
sample of all, and the share on which people agree has an interval.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any, Literal, NamedTuple

from sqlalchemy import ColumnElement, Connection, Row, and_, exists, func, or_, select

from safeguard_streams.console import native
from safeguard_streams.console.database import insert
from safeguard_streams.console.schema import erasures, flip_reviews, replay_flips
from safeguard_streams.console.web import blind
from safeguard_streams.console.web.roles import Person
from safeguard_streams.contract.records import now
from safeguard_streams.quality.proportions import Proportion, proportion

Answer = Literal["new", "old", "unsure"]
_CANDIDATES = 50


class Agreement(NamedTuple):
    """What people said: flips on which they hold the new verdict right, out of those that they are sure about."""

    name: str
    agreed: Proportion
    unsure: int


class Worklist:
    """The flips of a replay under a policy, in one transaction. lease: how long a claim runs."""

    def __init__(self, connection: Connection, replay_id: str, policy_id: str, lease: timedelta) -> None:
        self._connection = connection
        self._of = {"replay_id": replay_id, "policy_id": policy_id}
        self._lease = lease
        flips, erased = replay_flips.c, exists().where(erasures.c.content_id == replay_flips.c.content_id)
        self._all = and_(flips.replay_id == replay_id, flips.policy_id == policy_id, ~erased)
        self._answer = and_(*(flip_reviews.c[one.name] == flips[one.name] for one in flip_reviews.primary_key))

    def find(self, content_id: str) -> Row[Any] | None:
        """A flip, with who answered what."""
        return self._connection.execute(self._rows().where(replay_flips.c.content_id == content_id)).first()

    def page(self, after: int, most: int) -> Sequence[Row[Any]]:
        """Flips behind a place, in the order of the list."""
        rows = self._rows().where(replay_flips.c.place > after).order_by(replay_flips.c.place).limit(most)
        return self._connection.execute(rows).all()

    def next(self, person: Person, blind_share: float) -> Row[Any] | None:
        """Claim the flip that somebody holds, or else the first free one. None where there is none.

        Nobody gets a flip of an item that they are to decide about before they see any verdict.
        """
        native.alone(self._connection, name(**self._of))
        at = now()
        held = and_(replay_flips.c.claimed_by == person.name, replay_flips.c.claim_expires_at > at)
        free = or_(replay_flips.c.claim_expires_at.is_(None), replay_flips.c.claim_expires_at <= at)
        for wanted in (held, free):
            for row in self._unseen(wanted, person, blind_share):
                self._claim(row.content_id, person.name)
                return row
        return None

    @staticmethod
    def others(row: Row[Any], by: str) -> str | None:
        """Who else holds or answered a flip; None where this person may answer it."""
        if row.who is not None:
            return None if row.who == by else str(row.who)
        held = row.claimed_by not in (None, by) and row.claim_expires_at > now()
        return str(row.claimed_by) if held else None

    def take(self, content_id: str, by: str) -> Row[Any] | None:
        """Claim one flip unless it is another's, and return it as it was; None where there is none."""
        native.alone(self._connection, name(**self._of))
        row = self.find(content_id)
        if row is not None and self.others(row, by) is None:
            self._claim(content_id, by)
        return row

    def answer(self, row: Row[Any], answer: Answer, by: str) -> bool:
        """Keep what somebody says about a flip that they took, and end the claim. Returns whether that is new."""
        values = {**self._of, "content_id": row.content_id, "verdict_after": row.verdict_after}
        said = insert(self._connection.engine, flip_reviews).values(**values, answer=answer, who=by, at=now())
        over = {one: said.excluded[one] for one in ("answer", "at")}
        changed = self._connection.execute(
            said.on_conflict_do_update(
                index_elements=list(values), set_=over, where=flip_reviews.c.answer != said.excluded.answer
            ).returning(flip_reviews.c.content_id)
        ).first()
        own = and_(*(replay_flips.c[one] == value for one, value in values.items()))
        self._connection.execute(replay_flips.update().where(own).values(claimed_by=None, claim_expires_at=None))
        return changed is not None

    def last_of(self, by: str) -> str | None:
        """The flip that somebody answered last."""
        rows = self._rows().where(flip_reviews.c.who == by).order_by(flip_reviews.c.at.desc()).limit(1)
        found = self._connection.execute(rows).first()
        return None if found is None else str(found.content_id)

    def agreement(self) -> list[Agreement]:
        """What people said about all flips, those in each direction, and those that cite each rule."""
        rows = self._connection.execute(
            self._rows().with_only_columns(
                replay_flips.c.flip, replay_flips.c.rules_before, replay_flips.c.rules_after, flip_reviews.c.answer
            )
        ).all()
        rules = sorted({rule for row in rows for rule in (*row.rules_before, *row.rules_after)})
        return [
            _agreement("all flips", rows),
            _agreement("to violates", (row for row in rows if row.flip == "to_violates")),
            _agreement("to safe", (row for row in rows if row.flip == "to_safe")),
            *(_agreement(one, (r for r in rows if one in (*r.rules_before, *r.rules_after))) for one in rules),
        ]

    def size(self) -> tuple[int, int]:
        """How many flips there are, and how many of them were answered."""
        rows = self._rows().with_only_columns(func.count(), func.count(flip_reviews.c.answer))
        size, answered = self._connection.execute(rows).one()
        return int(size), int(answered)

    def _rows(self) -> Any:
        joined = replay_flips.outerjoin(flip_reviews, self._answer)
        said = (flip_reviews.c.answer, flip_reviews.c.who, flip_reviews.c.at)
        return select(*replay_flips.c, *said).select_from(joined).where(self._all)

    def _unseen(self, wanted: ColumnElement[bool], person: Person, blind_share: float) -> Iterable[Row[Any]]:
        rows = self._rows().where(wanted, flip_reviews.c.answer.is_(None)).order_by(replay_flips.c.place)
        after = -1
        while some := self._connection.execute(rows.where(replay_flips.c.place > after).limit(_CANDIDATES)).all():
            ids = [row.content_id for row in some]
            hidden = blind.among(self._connection, person, ids, blind_share)
            yield from (row for row in some if row.content_id not in hidden)
            after = some[-1].place

    def _claim(self, content_id: str, by: str) -> None:
        own = and_(*(replay_flips.c[one] == value for one, value in {**self._of, "content_id": content_id}.items()))
        lease = {"claimed_by": by, "claim_expires_at": now() + self._lease}
        self._connection.execute(replay_flips.update().where(own).values(**lease))


def name(replay_id: str, policy_id: str) -> str:
    """The name under which transactions change a worklist, one after the other."""
    return f"flips {replay_id} {policy_id}"


def _agreement(about: str, rows: Iterable[Any]) -> Agreement:
    answers = [row.answer for row in rows if row.answer is not None]
    new, old = answers.count("new"), answers.count("old")
    return Agreement(about, proportion(new, new + old), answers.count("unsure"))
