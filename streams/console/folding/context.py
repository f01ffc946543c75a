"""What all folds know: which items were erased, and how long texts are kept."""

from __future__ import annotations

from datetime import datetime, timedelta

from safeguard_streams.console.database import clean
from safeguard_streams.contract.records import in_utc


class Context:
    """erasures: when each item was erased, by content id. text_days: how long the text of an item is kept."""

    def __init__(self, erasures: dict[str, datetime], text_days: float) -> None:
        self.erasures = erasures
        self.kept = timedelta(days=text_days)

    def erased(self, content_id: str, written: datetime) -> bool:
        """Whether an item was erased after a record about it was written."""
        at = self.erasures.get(clean(content_id))
        return at is not None and in_utc(written) <= at

    def expires(self, escalated_at: datetime) -> datetime:
        """When the text of an item is to be removed."""
        try:
            return in_utc(escalated_at) + self.kept
        except OverflowError:
            return in_utc(escalated_at)


def key_of(key: bytes | None) -> str:
    """The key of a record as text."""
    return (key or b"").decode(errors="replace")
