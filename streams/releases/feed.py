"""The policies in force, followed on moderation.policies without a restart."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import Mapping

import msgspec

from safeguard_streams.bus import kafka
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import SHADOW, PolicyRelease, decode, policy_key
from safeguard_streams.errors import PolicyError, RecordError
from safeguard_streams.policies.document import Policy
from safeguard_streams.policies.parsing import parse
from safeguard_streams.runtime.settings import Settings

log = logging.getLogger(__name__)


class Released(msgspec.Struct, frozen=True):
    """A policy as it was released; revision counts its releases. share: of content that it judges, 1 but for a shadow."""

    policy: Policy
    revision: int
    share: float = 1.0


class PolicySet(msgspec.Struct, frozen=True):
    """All policies in force at one time, and the shadows beside them, by id; version names those in force."""

    released: Mapping[str, Released]
    shadows: Mapping[str, Released] = {}

    @property
    def version(self) -> str:
        """12 hex digits, equal for equal policies and versions."""
        names = " ".join(f"{name}@{r.policy.version}" for name, r in sorted(self.released.items()))
        return hashlib.sha256(names.encode()).hexdigest()[:12]


class PolicyFeed:
    """Holds the newest readable release of each key. A broken record is logged and changes nothing."""

    def __init__(self) -> None:
        self.policies = PolicySet({})
        self.changed = asyncio.Event()
        self._by_key: dict[bytes, Released] = {}
        self._ended: dict[bytes, int] = {}  # keys to the last revision before they ended

    def take(self, key: bytes | None, value: bytes | None) -> None:
        """Apply one record of moderation.policies. Never raises, whatever the record."""
        if value is None:
            ended = self._by_key.pop(key or b"", None)
            if ended is not None and key is not None:
                self._ended[key] = ended.revision
            log.info("policy %s is retired", (key or b"").decode("utf-8", "replace"))
        else:
            try:
                release = decode(value, PolicyRelease)
                policy = parse(release.document, f"release of {release.policy_id}", release.distilled)
                if (policy.id, policy.version) != (release.policy_id, release.version) or key != release.key:
                    raise PolicyError(f"release of {release.policy_id}: document is {policy.id} {policy.version}")
            except (RecordError, PolicyError) as error:
                log.error(  # noqa: TRY400  (the message says it all)
                    "a record of moderation.policies is ignored, the policies stay as they were: %s", error
                )
                return
            share = 1.0 if release.shadow is None else release.shadow
            self._by_key[release.key] = Released(policy, release.revision, share)
            log.info("policy %s is taken: version %s, revision %d", key.decode(), policy.version, release.revision)
        self.policies = PolicySet(
            {r.policy.id: r for key, r in self._by_key.items() if key == policy_key(r.policy.id)},
            {r.policy.id: r for key, r in self._by_key.items() if key == policy_key(r.policy.id, SHADOW)},
        )
        self.changed.set()

    async def wait_for_any(self) -> PolicySet:
        """Wait until at least one policy is released: without one, everything would be cleared."""
        if not self.policies.released:
            log.warning("no policy is released yet; waiting for: safeguard policy release")
        while not self.policies.released:
            self.changed.clear()
            await self.changed.wait()
        return self.policies

    async def wait_for(self, key: bytes, revision: int, timeout: float) -> Released | None:
        """What stands under a key of moderation.policies, at this revision or a newer one; None when it has ended since, or has
        not come within `patience` seconds.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while True:
                    found = self._by_key.get(key)
                    if found is not None and found.revision >= revision:
                        return found
                    if found is None and self._ended.get(key, -1) >= revision:
                        return None
                    self.changed.clear()
                    await self.changed.wait()
        return None

    async def follow(self, settings: Settings, caught_up: asyncio.Event) -> None:
        """Read the topic from its beginning for ever; sets `caught_up` at what was its end."""
        await kafka.wait_for_broker(settings)
        async with kafka.reader(settings, [topics.POLICIES]) as consumer:
            ends = await kafka.EndOffsets.now(consumer)
            while True:
                for records in (await consumer.getmany(timeout_ms=200)).values():
                    for record in records:
                        self.take(record.key, record.value)
                if not caught_up.is_set() and not await ends.remaining():
                    caught_up.set()
