"""What all folds know: which items were erased, which authors forgotten, and how long texts are kept."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple

from safeguard_streams.console.database import clean
from safeguard_streams.contract.records import AuthorAction, in_utc


class Forgotten(NamedTuple):
    """When a person ended all that is known of an author, and the place of that record on moderation.strikes."""

    at: datetime
    sequence: int


class Context:
    """erasures: when each item was erased, by content id. forgotten: the authors of whom nothing is to be known.
    text_days: how long the text of an item is kept.
    """

    def __init__(self, erasures: dict[str, datetime], text_days: float) -> None:
        self.erasures = erasures
        self.forgotten: dict[str, Forgotten] = {}
        self.kept = timedelta(days=text_days)

    def erased(self, content_id: str, written: datetime) -> bool:
        """Whether an item was erased after a record about it was written."""
        at = self.erasures.get(clean(content_id))
        return at is not None and in_utc(written) <= at

    def forget(self, author_id: str, at: datetime, sequence: int) -> Forgotten:
        """Note that an author was forgotten. Of several times, the latest counts."""
        name, new = clean(author_id), Forgotten(in_utc(at), sequence)
        self.forgotten[name] = max(new, self.forgotten.get(name, new))
        return self.forgotten[name]

    def is_forgotten(self, action: AuthorAction) -> bool:
        """Whether an author was forgotten after an action, or by what caused it."""
        known = self.forgotten.get(clean(action.author_id))
        if known is None:
            return False
        is_its_own = action.action == "none" and action.sequence == known.sequence
        return is_its_own or in_utc(action.acted_at) <= known.at

    def expires(self, escalated_at: datetime) -> datetime:
        """When the text of an item is to be removed."""
        try:
            return in_utc(escalated_at) + self.kept
        except OverflowError:
            return in_utc(escalated_at)


def key_of(key: bytes | None) -> str:
    """The key of a record as text."""
    return (key or b"").decode(errors="replace")
