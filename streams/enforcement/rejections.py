"""Messages that the webhook's receiver rejected or did not accept, and what became of them.

Each is a dead letter of the delivery. A retry lets the agent write the action again, if what it says still stands.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal

import msgspec

from safeguard_streams.bus import kafka
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Action, DeadLetter, Enforced, aware, decode
from safeguard_streams.enforcement.stages import DELIVERING, REJECTED
from safeguard_streams.errors import RecordError
from safeguard_streams.runtime.settings import Settings

State = Literal["not delivered", "sent again", "outdated"]
_SKEW = timedelta(hours=1)  # of the clocks of producers
_FIRST = datetime(2010, 1, 1, tzinfo=UTC)  # before Kafka existed


class Rejection(msgspec.Struct, frozen=True):
    """One message that the receiver has not accepted.

    state: sent again after a retry, outdated by a later action on the item, or else not delivered. problem: the
    receiver's last answer. attempts: of all retries together.
    """

    failed_at: datetime
    content_id: str
    action_id: str
    action: Enforced
    policy_id: str | None
    state: State
    attempts: int
    problem: str


async def rejections(settings: Settings, content_id: str | None = None) -> list[Rejection]:
    """The messages that the receiver has not accepted, oldest first; with content_id, those about one item."""
    letters = await _letters(settings, content_id)
    if not letters:
        return []
    places = {letter.origin.partition for letter, _ in letters.values()}
    partition = places.pop() if len(places) == 1 else None
    since = max(_FIRST, min(aware(action.acted_at) for _, action in letters.values())) - _SKEW
    followed: dict[str, list[tuple[int, int, Action]]] = {}
    items = {action.content_id for _, action in letters.values()}
    async for record, action in kafka.read_decoded(settings, [topics.ACTIONS], Action, partition, since=since):
        if action.content_id in items and action.sequence is not None and not action.dry_run:
            followed.setdefault(action.content_id, []).append((record.partition, record.offset, action))
    found = [_rejection(letter, action, followed.get(action.content_id, ())) for letter, action in letters.values()]
    return sorted(found, key=lambda one: aware(one.failed_at))


async def _letters(settings: Settings, content_id: str | None) -> dict[str, tuple[DeadLetter, Action]]:
    """The newest letter of each message, by the action's id.

    Those of the delivery have the item's id as their key, as the agent's actions have.
    """
    letters, key = {}, None if content_id is None else content_id.encode()
    async for record in kafka.read_all(settings, [topics.DEAD_LETTERS]):
        letter = kafka.decoded_or_left_out(settings, record, DeadLetter) if key in (None, record.key) else None
        if letter is None or letter.stage != DELIVERING:
            continue
        with contextlib.suppress(RecordError):  # a letter without its value
            action = decode(letter.original().value, Action)
            if content_id in (None, action.content_id):
                letters[action.action_id] = (letter, action)
    return letters


def _rejection(letter: DeadLetter, action: Action, followed: Sequence[tuple[int, int, Action]]) -> Rejection:
    later = [
        one
        for partition, offset, one in followed
        if partition == letter.origin.partition and offset > letter.origin.offset
    ]
    state: State = "not delivered"
    if any(one.action_id == action.action_id for one in later):
        state = "sent again"
    elif any(one.changes for one in later):
        state = "outdated"
    return Rejection(
        letter.failed_at,
        action.content_id,
        action.action_id,
        action.action,
        action.policy_id,
        state,
        letter.attempts,
        letter.reason.removeprefix("webhook: ").removeprefix(f"{REJECTED}: "),
    )
