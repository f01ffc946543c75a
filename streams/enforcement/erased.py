"""Records about erased items without the words that may quote them: what follows from them stays.

An erasure covers what was written until then. A record that repeats a reason later, such as the release of a held
action, goes by the time of what it repeats.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeVar

import msgspec

from safeguard_streams.contract.records import Action, Verdict

T = TypeVar("T", Verdict, Action)
# Whether an item was erased, by its content id and the time of what was written about it in ms since 1970.
Erased = Callable[[str, int], bool]


def never(_content_id: str, _timestamp: int) -> bool:
    """No item was erased."""
    return False


def without_words(record: T, erased: Erased) -> T:
    """A verdict or an action as it is or, about an erased item, without its reasons."""
    written = record.decided_at if isinstance(record, Verdict) else record.acted_at
    if not erased(record.content_id, _in_ms(written)):
        return record
    if isinstance(record, Action):
        return msgspec.structs.replace(record, reason=None, why="")
    return msgspec.structs.replace(record, reason=None)


def _in_ms(date: datetime) -> int:
    return round((date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() * 1000)
