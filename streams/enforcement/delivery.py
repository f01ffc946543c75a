"""Actions delivered to a URL, signed: at least once, with a key by which a receiver drops what it has had.

Messages and signatures follow Standard Webhooks (https://www.standardwebhooks.com): `webhook-id` is the key and stays
the same however often a message is sent, `webhook-signature` is an HMAC of id, time and body. What a receiver cannot take now
is tried again until it can; what it refuses for good becomes a dead letter. Of one content, messages go out in order and
one at a time.
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
# What blames the message itself. All else, a missing page or a wrong key too, is mended at the receiver or here.
_REFUSED = {400, 413, 415, 422}
_PREFIX = "whsec_"


class Backoff(msgspec.Struct, frozen=True):
    """Seconds between tries: doubling from first to longest, each shortened at random by up to half."""

    first: float = 0.5
    longest: float = 30.0

    def wait(self, failures: int) -> float:
        return random.uniform(0.5, 1) * min(self.longest, self.first * float(2 ** min(failures - 1, 20)))


def key_of(secret: str) -> bytes:
    """The bytes of a secret, as in whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw. Raises ConfigurationError without naming it."""
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not secret.startswith(_PREFIX) or len(key) < 24:
        raise ConfigurationError(
            "SAFEGUARD_WEBHOOK_SECRET: write whsec_ and the base64 of at least 24 random bytes, as "
            'echo "whsec_$(head -c 32 /dev/urandom | base64)" makes one'
        )
    return key


def signed(key: bytes, name: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The headers of a message; timestamp in s since 1970."""
    digest = hmac.new(key, f"{name}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return {
        "webhook-id": name,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
        "content-type": "application/json",
    }


def message(action: Action, partition: int) -> tuple[str, bytes]:
    """Id and body: type is action, or alert where actions are held above a cap. `partition` is that of moderation.actions,
    to which a person's decision on the content has to be written.
    """
    kind = "alert" if action.alert else "action"
    body = {"type": kind, "timestamp": action.acted_at, "partition": partition, "data": msgspec.to_builtins(action)}
    return f"{kind}-{action.action_id}", orjson.dumps(body)


class Delivery:
    """The transform of the engine, singly. `states` are those of the partitions that it owns: `restore` reads one when its
    partition is opened, and it is dropped when the partition is closed.
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
            standing_state = self.states[record.partition]
            retried = was_requeued(record)
            if not retried and record.offset >= standing_state.restored:
                standing_state.take(action)  # before anything is waited for, so in the order of the topic
            if not action.dry_run and (action.changes or action.alert):
                await self._in_turn(action, record.partition, standing_state, retried=retried)
        return []

    async def _in_turn(
        self, action: Action, partition: int, standing_state: EnforcementState, *, retried: bool
    ) -> None:
        content = action.content_id
        turn = self._turns.setdefault(content, asyncio.Lock())
        self._waiting[content] += 1
        try:
            async with turn:
                if action.alert or self._stands(action, standing_state, retried=retried):
                    with tracing.asking("POST", {"http.request.method": "POST", "url.full": self._webhook.url}):
                        await self._send(*message(action, partition))
        finally:
            self._waiting[content] -= 1
            if not self._waiting[content]:
                del self._waiting[content], self._turns[content]

    @staticmethod
    def _stands(action: Action, standing_state: EnforcementState, *, retried: bool) -> bool:
        """Not what a person has decided otherwise; of what came out of its order (a dead letter put back, a held action let
        through), not what another action has taken the place of.
        """
        if action.human:
            return not retried or standing_state.people.get(action.content_id) == action.action
        if action.content_id in standing_state.people:
            return False
        standing = standing_state.standing(action.content_id, action.policy_id or "").applied
        return standing.action == action.action or not (retried or action.releases)

    async def _send(self, name: str, body: bytes) -> None:
        """Until the receiver has it. Raises RecordError when it refuses it for good."""
        failures = 0
        while True:
            pause = 0.0
            try:
                headers = {**signed(self._key, name, int(time.time()), body), **tracing.current_headers()}
                async with self._http.post(
                    self._webhook.url,
                    data=body,
                    headers=headers,
                    timeout=aiohttp.ClientTimeout(total=self._webhook.timeout),
                    allow_redirects=False,
                ) as response:
                    status, pause = response.status, _asked_to_wait(response.headers.get("retry-after"))
                if 200 <= status < 300:
                    self.delivered[name.partition("-")[0]] += 1
                    metrics.DELIVERIES.add(1, {"outcome": "delivered"})
                    self._well()
                    return
                problem = f"answered {status}"
                if status in _REFUSED:
                    metrics.DELIVERIES.add(1, {"outcome": "refused"})
                    raise RecordError("webhook", f"the receiver refused it: {problem}")
            except TimeoutError:
                problem = f"gave no answer within {self._webhook.timeout:g} s"
            except (aiohttp.ClientError, OSError) as error:
                problem = type(error).__name__
            failures += 1
            metrics.DELIVERIES.add(1, {"outcome": "failed"})
            self._unwell(problem)
            await asyncio.sleep(max(pause, self._backoff.wait(failures)))

    def _unwell(self, problem: str) -> None:
        if self.failing is None:
            log.warning("the webhook's receiver %s; trying again until it takes what is sent", problem)
        self.failing = problem

    def _well(self) -> None:
        if self.failing is not None:
            log.warning("the webhook's receiver is well again")
        self.failing = None


def _asked_to_wait(header: str | None) -> float:
    """Seconds of a Retry-After header, at most an hour; 0 where there is none that can be read."""
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
