"""Actions about authors to the webhook of the rules: the same signature, retries and order as for content items."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import msgspec
import orjson

from safeguard_streams.bus.dead_letters import was_requeued
from safeguard_streams.bus.interface import Output, Record
from safeguard_streams.contract.records import AuthorAction, AuthorStanding, decode
from safeguard_streams.enforcement.delivery import Delivery, WebhookMessage

StandingOf = Callable[[str, int], Awaitable[AuthorStanding | None]]


def message_for(action: AuthorAction, partition: int) -> WebhookMessage:
    """The message about an action. `partition` is the author's, where a person's record about the author belongs."""
    data = msgspec.to_builtins(action)
    body = {"type": "author-action", "timestamp": action.acted_at, "partition": partition, "data": data}
    return WebhookMessage(f"author-action-{action.action_id}", orjson.dumps(body))


class AuthorDelivery:
    """The transform of the engine, one record at a time: messages about an author go out in order.

    standing_of: reads what stands on an author in a partition. A requeued message is sent only if no later action
    replaced it.
    """

    def __init__(self, sender: Delivery, standing_of: StandingOf) -> None:
        self._sender = sender
        self._standing_of = standing_of

    async def process(self, records: Sequence[Record]) -> list[Output]:
        for record in records:
            action = decode(record.value, AuthorAction)
            await self._sender.in_order(action.author_id, action.acted_at, partial(self._message, action, record))
        return []

    async def _message(self, action: AuthorAction, record: Record) -> WebhookMessage | None:
        if was_requeued(record):
            standing = await self._standing_of(action.author_id, record.partition)
            newest = action.action == "none" if standing is None else standing.sequence == action.sequence
            if not newest:
                return None
        return message_for(action, record.partition)
