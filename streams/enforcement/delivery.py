"""Delivery of actions to a webhook: signed, at least once, with an id that lets the receiver drop duplicates.

Messages and signatures follow Standard Webhooks (https://www.standardwebhooks.com). `webhook-id` is the same in every
attempt; `webhook-signature` is an HMAC of id, time and body. Messages about one content item go out in order and one at
a time, and each names the action in effect on the item. A message that the receiver rejects permanently, or fails to
accept within the bounds of the rules, becomes a dead letter.
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
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Literal, NamedTuple

import aiohttp
import msgspec
import orjson

from safeguard_streams.bus import kafka, tracing
from safeguard_streams.bus.dead_letters import was_requeued
from safeguard_streams.bus.interface import Output, Record
from safeguard_streams.contract.intake import decode_sent
from safeguard_streams.contract.records import Action, now
from safeguard_streams.enforcement.rules import Webhook
from safeguard_streams.enforcement.signing import Signer
from safeguard_streams.enforcement.stages import REJECTED
from safeguard_streams.errors import ConfigurationError, RecordError
from safeguard_streams.releases.erasures import Erased, never, without_words
from safeguard_streams.runtime import metrics
from safeguard_streams.runtime.settings import Settings

log = logging.getLogger(__name__)

# Statuses that blame the message itself. Any other failure, such as a missing page or a wrong key, can be repaired.
_NON_RETRYABLE = {400, 413, 415, 422}
MAX_CONNECTIONS = 32
_SECRET_PREFIX = "whsec_"  # noqa: S105  (every secret of Standard Webhooks begins so)


async def begin(settings: Settings, group: str, topic: str) -> None:
    """Let a webhook that was never used begin with the actions that come next. Before the first of them is written.

    Nobody was to be told what was done before: without a webhook, those actions had no effect elsewhere, and agents
    without its secret did not sign them.
    """
    if await kafka.begin_unused_at_end(settings, group, topic):
        log.info(
            "the webhook is new and gets actions from now on; earlier ones are not sent, see what stands by: "
            "safeguard enforce standing group=%s",
            group,
        )


def receiver_session() -> aiohttp.ClientSession:
    """A session for a receiver, whose body nobody reads, in whatever encoding it is."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=MAX_CONNECTIONS),
        headers={"accept-encoding": "identity"},
        auto_decompress=False,
    )


class Backoff(msgspec.Struct, frozen=True):
    """Delays between attempts in seconds: they double from `initial` to `max_delay`, and each is shortened at random by
    up to half.
    """

    initial: float = 0.5
    max_delay: float = 15.0

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


def authorization(settings: Settings) -> str | None:
    """The value of the Authorization header, if one is set. Raises ConfigurationError that does not show it."""
    secret = settings.webhook_authorization
    if secret is None:
        return None
    value = secret.get_secret_value()
    if not (value.isascii() and value.isprintable()):
        raise ConfigurationError("SAFEGUARD_WEBHOOK_AUTHORIZATION: use printable ASCII characters on one line")
    return value


def configured_key(settings: Settings) -> bytes:
    """The signing key of the settings. Raises ConfigurationError if there is none."""
    if settings.webhook_secret is None:
        raise ConfigurationError(
            "the rules name a webhook: set SAFEGUARD_WEBHOOK_SECRET, the secret that signs its messages"
        )
    return signing_key(settings.webhook_secret.get_secret_value())


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


class _Failures(msgspec.Struct):
    """How often a message failed, and how often while the receiver accepted others. accepted: messages that it had
    accepted at the last attempt.
    """

    accepted: int
    started: float
    total: int = 0
    alone: int = 0


class Delivery:
    """The transform of the engine, one record at a time. It needs no state: the agent writes actions in the order in
    which they take effect, and each says what is in effect after it.

    delivered: messages that the receiver accepted, by type. rejected: messages that became dead letters. failing: the
    last problem with the receiver, None while it is healthy. authorization: value of the Authorization header, if the
    receiver asks for one. erased: tells by an id and a time in ms since 1970 whether the item was erased. Its actions
    are then delivered without words about it. signer: knows the agent's own actions. One that only says to be the
    agent's becomes a dead letter here, whatever the intake has read: it may have been written before the secret was
    changed. Without a signer, all are taken for the agent's.
    """

    def __init__(
        self,
        webhook: Webhook,
        key: bytes,
        http: aiohttp.ClientSession,
        *,
        authorization: str | None = None,
        backoff: Backoff | None = None,
        erased: Erased = never,
        signer: Signer | None = None,
    ) -> None:
        self._erased = erased
        self._signer = signer
        self.delivered: Counter[str] = Counter()
        self.rejected = 0
        self.failing: str | None = None
        self._webhook = webhook
        self._key = key
        self._http = http
        self._own_headers = {} if authorization is None else {"authorization": authorization}
        self._backoff = backoff or Backoff()
        self._connections = asyncio.Semaphore(MAX_CONNECTIONS)  # a message that waits for its next attempt holds none
        self._turns: dict[str, asyncio.Lock] = {}
        self._undelivered: dict[str, deque[float]] = {}  # since when each message of an item waits, oldest first

    @property
    def undelivered(self) -> int:
        """The number of messages that the receiver has not accepted yet."""
        return sum(map(len, self._undelivered.values()))

    @property
    def oldest(self) -> float:
        """The seconds since the oldest undelivered action was taken; 0 where none waits."""
        waiting = [since[0] for since in self._undelivered.values()]
        return max(0.0, time.time() - min(waiting)) if waiting else 0.0

    async def process(self, records: Sequence[Record]) -> list[Output]:
        for record in records:
            try:
                action = decode_sent(record.value, Action)
            except RecordError:
                continue  # the intake, which reads the same topic, makes it a dead letter
            # The agent writes moderators' records and requeued actions again, in their place in the order.
            if action.sequence is None or action.dry_run or was_requeued(record):
                continue
            if self._signer is not None:
                self._signer.check(record)
            if action.told:
                await self.in_order(action.content_id, action.acted_at, partial(self._message, action, record))
        return []

    async def _message(self, action: Action, record: Record) -> WebhookMessage:
        return message_for(without_words(action, self._erased), record.partition)

    async def in_order(
        self, subject: str, since: datetime, made: Callable[[], Awaitable[WebhookMessage | None]]
    ) -> None:
        """Send a message about an item or an author, after all earlier ones about it. since: when it was written.

        made: makes the message when its turn has come; None if it is outdated by then.
        """
        turn = self._turns.setdefault(subject, asyncio.Lock())
        waiting = self._undelivered.setdefault(subject, deque())
        waiting.append(since.timestamp())  # before the first await, hence in topic order, as is the lock
        try:
            async with turn:
                message = await made()
                if message is not None:
                    server = {"http.request.method": "POST", "server.address": self._webhook.origin}
                    with tracing.asking("POST", server):
                        await self._send(message)
        finally:
            waiting.popleft()
            if not waiting:
                del self._undelivered[subject], self._turns[subject]

    async def _send(self, message: WebhookMessage) -> None:
        """Send until the receiver accepts the message. Raises RecordError when it rejects the message permanently or
        when the bounds of the rules are reached.
        """
        failures = _Failures(self.delivered.total(), time.monotonic())
        while True:
            async with self._connections:
                attempt = await self._attempt(message)
            metrics.DELIVERIES.add(1, {"outcome": attempt.outcome})
            if attempt.outcome == "refused":
                self.rejected += 1
                log.error("webhook message rejected id=%s problem=%s", message.message_id, attempt.problem)
                raise RecordError("webhook", f"{REJECTED}: {attempt.problem}")
            if attempt.outcome == "delivered":
                self.delivered[message.message_id.partition("-")[0]] += 1
                self._mark_healthy()
                return
            self._mark_failing(attempt.problem)
            remaining = self._count(failures, message, attempt.problem)
            await asyncio.sleep(min(remaining, max(attempt.retry_after, self._backoff.delay(failures.total))))

    def _count(self, failures: _Failures, message: WebhookMessage, problem: str) -> float:
        """Count a failed attempt. Returns the seconds left for others; raises RecordError when it was the last."""
        accepted = self.delivered.total()
        failures.total += 1
        failures.alone += accepted != failures.accepted
        failures.accepted = accepted
        remaining = self._webhook.patience.total_seconds() - (time.monotonic() - failures.started)
        if failures.alone < self._webhook.max_attempts and remaining > 0:
            return remaining
        self.rejected += 1
        metrics.DELIVERIES.add(1, {"outcome": "given up"})
        log.error("webhook message given up id=%s attempts=%d problem=%s", message.message_id, failures.total, problem)
        raise RecordError(
            "webhook",
            f"the receiver did not accept the message in {failures.total} attempts: {problem}; repair the receiver, "
            "then run: safeguard dead-letters retry",
        )

    async def _attempt(self, message: WebhookMessage) -> _DeliveryAttempt:
        headers = {
            **signed_headers(self._key, message, int(time.time())),
            **self._own_headers,
            **tracing.current_headers(),
        }
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
            log.warning("webhook delivery failed, retrying receiver=%s problem=%s", self._webhook.origin, problem)
        self.failing = problem

    def _mark_healthy(self) -> None:
        if self.failing is not None:
            log.warning("webhook receiver recovered last_problem=%s", self.failing)
        self.failing = None


def _retry_after(header: str | None) -> float:
    """Seconds of a Retry-After header, at most 3600; 0 where it is missing or malformed."""
    if not header:
        return 0.0
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(header).astimezone(UTC) - now()).total_seconds()
        except (ValueError, OverflowError):
            return 0.0
    return min(3600.0, max(0.0, seconds))
