"""What a draft of a policy is compared with: what stands now, and what changed since it began."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, select

from safeguard_streams.console.schema import policy_changes, policy_releases
from safeguard_streams.console.web.checkout import InGit
from safeguard_streams.console.web.pages.policies import DiffLine, difference
from safeguard_streams.console.web.policy_drafts import Base

_MOST_LINES = 4000  # of two texts that are compared while somebody waits


class Present(NamedTuple):
    """What stands of a policy: texts by place, the release in force, and what an editor that opens now begins from."""

    texts: Mapping[str, str]
    in_force: Row[Any] | None
    base: Base


class Meanwhile(NamedTuple):
    """What changed since a draft began.

    released: whether another version came into force. committed: whether the file in git changed. since: how the
    present text differs from the one at the beginning; None where that is not known, or the texts are too long. left:
    how the draft differs from the present text; None where they are too long.
    """

    began: Base
    released: bool
    committed: bool
    since: Sequence[DiffLine] | None
    left: Sequence[DiffLine] | None


def present(connection: Connection, policy_id: str, in_git: InGit | None) -> Present:
    """What stands of a policy now."""
    found = select(policy_releases).where(
        policy_releases.c.policy_id == policy_id, policy_releases.c.place.in_(["in-force", "shadow"])
    )
    rows = connection.execute(found).all()
    texts = {one.place: one.document for one in rows}
    if in_git is not None and in_git.document is not None:
        texts["git"] = in_git.document
    in_force = next((one for one in rows if one.place == "in-force"), None)
    named = (in_force.version, in_force.revision) if in_force is not None else (None, None)
    return Present(texts, in_force, Base(in_git.base if in_git is not None else "", *named))


def meanwhile(connection: Connection, policy_id: str, began: Base, now: Present, document: str) -> Meanwhile | None:
    """What changed since a draft began; None where nothing did."""
    released = (began.version, began.revision) != (now.base.version, now.base.revision)
    committed = began.git != now.base.git
    if not (released or committed):
        return None
    before = _document(connection, policy_id, began) if released else None
    text = now.texts.get("in-force" if released else "git") or next(iter(now.texts.values()), "")
    return Meanwhile(
        began, released, committed, _lines(before, text) if before else None, _lines(text, document) if text else None
    )


def _document(connection: Connection, policy_id: str, began: Base) -> str | None:
    """The text of the version that a draft began from."""
    changes = policy_changes.c
    same = changes.policy_id == policy_id, changes.version == began.version, changes.document.is_not(None)
    found = select(changes.document).where(*same).order_by(changes.changed_at.desc()).limit(1)
    return connection.execute(found).scalar()


def _lines(before: str, after: str) -> Sequence[DiffLine] | None:
    if before.count("\n") + after.count("\n") > _MOST_LINES:
        return None
    return list(difference(before, after))
