"""Delivery of actions to a webhook: signed, at least once, with an id that lets the receiver drop duplicates.

Messages and signatures follow Standard Webhooks (https://www.standardwebhooks.com). `webhook-id` is the same in every
attempt; `webhook-signature` is an HMAC of id, time and body. Delivery retries a message until the receiver accepts it.
A message that the receiver rejects permanently becomes a dead letter. Messages about one content item go out in order
and one at a time.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import logging
import random
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Literal, NamedTuple

import aiohttp
import msgspec
import orjson

from safeguard_streams.bus import tracing
from safeguard_streams.bus.dead_letters import was_requeued
from safeguard_streams.bus.interface import Output, Partition, Record
from safeguard_streams.contract.records import Action, decode, now
from safeguard_streams.enforcement.rules import Webhook
from safeguard_streams.enforcement.state import EnforcementState, RestoreState
from safeguard_streams.errors import ConfigurationError, RecordError
from safeguard_streams.runtime import metrics

log = logging.getLogger(__name__)

STAGE = "enforcement-webhook"
# Statuses that blame the message itself. Any other failure, such as a missing page or a wrong key, can be repaired.
_NON_RETRYABLE = {400, 413, 415, 422}
_SECRET_PREFIX = "whsec_"  # noqa: S105  (every secret of Standard Webhooks begins so)


class Backoff(msgspec.Struct, frozen=True):
    """Delays between attempts in seconds: they double from `initial` to `max_delay`, and each is shortened at random by
    up to half.
    """

    initial: float = 0.5
    max_delay: float = 30.0

    def delay(self, failures: int) -> float:
        return random.uniform(0.5, 1) * min(self.max_delay, self.initial * float(2 ** min(failures - 1, 20)))


def signing_key(secret: str) -> bytes:
    """The bytes of a secret, as in whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw. Raises ConfigurationError that does not show
    it.
    """
    try:
        key = base64.b64decode(secret.removeprefix(_SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not secret.startswith(_SECRET_PREFIX) or len(key) < 24:
        raise ConfigurationError(
            "SAFEGUARD_WEBHOOK_SECRET: set whsec_ followed by the base64 of at least 24 random bytes; "
            'echo "whsec_$(head -c 32 /dev/urandom | base64)" generates one'
        )
    return key


class WebhookMessage(NamedTuple):
    """A message of the webhook: the id, which receivers use to drop duplicates, and the JSON body."""

    message_id: str
    body: bytes


def signed_headers(key: bytes, message: WebhookMessage, timestamp: int) -> dict[str, str]:
    """The headers of a message; timestamp in seconds since 1970."""
    digest = hmac.new(key, f"{message.message_id}.{timestamp}.".encode() + message.body, hashlib.sha256).digest()
    return {
        "webhook-id": message.message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
        "content-type": "application/json",
    }


def message_for(action: Action, partition: int) -> WebhookMessage:
    """The message about an action. Its type is `action`, or `alert` for the first action that is held above a cap.

    `partition` is the action's own partition of moderation.actions. A moderator's decision on the content item belongs
    there.
    """
    kind = "alert" if action.alert else "action"
    body = {"type": kind, "timestamp": action.acted_at, "partition": partition, "data": msgspec.to_builtins(action)}
    return WebhookMessage(f"{kind}-{action.action_id}", orjson.dumps(body))


class _DeliveryAttempt(msgspec.Struct, frozen=True):
    """The result of sending a message once. retry_after: seconds that the receiver asked to wait."""

    outcome: Literal["delivered", "failed", "refused"]
    problem: str = ""
    retry_after: float = 0.0


class Delivery:
    """The transform of the engine, one record at a time. `states` are those of the partitions that it owns:
    `restore` reads one when its partition is opened, and it is dropped when the partition is closed.

    delivered: messages that the receiver accepted, by type. failing: the last problem with the receiver, None while it
    is healthy.
    """

    def __init__(
        self,
        webhook: Webhook,
        key: bytes,
        http: aiohttp.ClientSession,
        restore: RestoreState,
        backoff: Backoff | None = None,
    ) -> None:
        self.states: dict[int, EnforcementState] = {}
        self._restore = restore
        self.delivered: Counter[str] = Counter()
        self.failing: str | None = None
        self._webhook = webhook
        self._key = key
        self._http = http
        self._backoff = backoff or Backoff()
        self._turns: dict[str, asyncio.Lock] = {}
        self._waiting: Counter[str] = Counter()

    async def opened(self, partition: Partition) -> None:
        self.states[partition.partition] = await self._restore(partition)

    def closed(self, partition: Partition) -> None:
        self.states.pop(partition.partition, None)

    async def process(self, records: Sequence[Record]) -> list[Output]:
        for record in records:
            action = decode(record.value, Action)
            state = self.states[record.partition]
            requeued = was_requeued(record)
            if not requeued and record.offset >= state.restored:
                state.apply(action)  # before the first await, hence in topic order
            if not action.dry_run and (action.changes or action.alert):
                await self._deliver_in_order(action, record.partition, state, requeued=requeued)
        return []

    async def _deliver_in_order(
        self, action: Action, partition: int, state: EnforcementState, *, requeued: bool
    ) -> None:
        content_id = action.content_id
        turn = self._turns.setdefault(content_id, asyncio.Lock())
        self._waiting[content_id] += 1
        try:
            async with turn:
                if action.alert or _stands(action, state, requeued=requeued):
                    with tracing.asking("POST", {"http.request.method": "POST", "url.full": self._webhook.url}):
                        await self._send(message_for(action, partition))
        finally:
            self._waiting[content_id] -= 1
            if not self._waiting[content_id]:
                del self._waiting[content_id], self._turns[content_id]

    async def _send(self, message: WebhookMessage) -> None:
        """Send until the receiver accepts the message. Raises RecordError when the receiver rejects it permanently."""
        failures = 0
        while True:
            attempt = await self._attempt(message)
            metrics.DELIVERIES.add(1, {"outcome": attempt.outcome})
            if attempt.outcome == "refused":
                raise RecordError("webhook", f"the receiver rejected the message: {attempt.problem}")
            if attempt.outcome == "delivered":
                self.delivered[message.message_id.partition("-")[0]] += 1
                self._mark_healthy()
                return
            failures += 1
            self._mark_failing(attempt.problem)
            await asyncio.sleep(max(attempt.retry_after, self._backoff.delay(failures)))

    async def _attempt(self, message: WebhookMessage) -> _DeliveryAttempt:
        headers = {**signed_headers(self._key, message, int(time.time())), **tracing.current_headers()}
        try:
            async with self._http.post(
                self._webhook.url,
                data=message.body,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=self._webhook.timeout),
                allow_redirects=False,
            ) as response:
                problem = f"answered {response.status}"
                if 200 <= response.status < 300:
                    return _DeliveryAttempt("delivered")
                if response.status in _NON_RETRYABLE:
                    return _DeliveryAttempt("refused", problem)
                return _DeliveryAttempt("failed", problem, _retry_after(response.headers.get("retry-after")))
        except TimeoutError:
            return _DeliveryAttempt("failed", f"timed out after {self._webhook.timeout:g} s")
        except (aiohttp.ClientError, OSError) as error:
            return _DeliveryAttempt("failed", type(error).__name__)

    def _mark_failing(self, problem: str) -> None:
        if self.failing is None:
            log.warning("webhook delivery failed, retrying until the receiver accepts problem=%s", problem)
        self.failing = problem

    def _mark_healthy(self) -> None:
        if self.failing is not None:
            log.warning("webhook receiver recovered last_problem=%s", self.failing)
        self.failing = None


def _stands(action: Action, state: EnforcementState, *, requeued: bool) -> bool:
    """Whether an action still holds when its turn comes. A moderator's decision overrides it. A requeued dead letter
    and a released action arrive out of order, so a newer action overrides those too.
    """
    if action.human:
        return not requeued or state.decisions.get(action.content_id) == action.action
    if action.content_id in state.decisions:
        return False
    applied = state.standing(action.content_id, action.policy_id or "").applied
    return applied.action == action.action or not (requeued or action.releases)


def _retry_after(header: str | None) -> float:
    """Seconds of a Retry-After header, at most 3600; 0 where it is missing or malformed."""
    if not header:
        return 0.0
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(header).astimezone(UTC) - now()).total_seconds()
        except ValueError:
            return 0.0
    return min(3600.0, max(0.0, seconds))
