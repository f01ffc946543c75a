"""The policies in force, followed on moderation.policies without a restart."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import hashlib
import logging
from collections.abc import Iterable, Mapping

import msgspec

from policies.document import Policy, parse
from policies.errors import PolicyError
from streams import kafka, topics
from streams.bus import Record
from streams.errors import RecordError
from streams.records import PolicyRelease, decode, encode, now, schema_header
from streams.settings import Settings

log = logging.getLogger(__name__)


class Released(msgspec.Struct, frozen=True):
    """A policy as it was released; revision counts its releases."""

    policy: Policy
    revision: int


class PolicySet(msgspec.Struct, frozen=True):
    """All policies in force at one time, by id; version names the set."""

    released: Mapping[str, Released]

    @property
    def version(self) -> str:
        """12 hex digits, equal for equal policies and versions."""
        names = " ".join(f"{name}@{r.policy.version}" for name, r in sorted(self.released.items()))
        return hashlib.sha256(names.encode()).hexdigest()[:12]


class PolicyFeed:
    """Holds the newest readable release of each policy. A broken record is logged and changes nothing."""

    def __init__(self) -> None:
        self.policies = PolicySet({})
        self.changed = asyncio.Event()

    def take(self, key: bytes | None, value: bytes | None) -> None:
        """Apply one record of moderation.policies."""
        name = (key or b"").decode("utf-8", "replace")
        released = dict(self.policies.released)
        if value is None:
            released.pop(name, None)
            log.info("policy %s is retired", name)
        else:
            try:
                release = decode(value, PolicyRelease)
                policy = parse(release.document, f"release of {release.policy_id}", release.distilled)
                if policy.id != release.policy_id or policy.version != release.version:
                    raise PolicyError(f"release of {release.policy_id}: document is {policy.id} {policy.version}")
            except (RecordError, PolicyError) as error:
                log.error(  # noqa: TRY400  (the message says it all)
                    "a record of moderation.policies is ignored, the policies stay as they were: %s", error
                )
                return
            released[policy.id] = Released(policy, release.revision)
            log.info("policy %s is in force: version %s, revision %d", policy.id, policy.version, release.revision)
        self.policies = PolicySet(released)
        self.changed.set()

    async def wait_for_any(self) -> PolicySet:
        """Wait until at least one policy is released: without one, everything would be cleared."""
        if not self.policies.released:
            log.warning("no policy is released yet; waiting for: safeguard policy release")
        while not self.policies.released:
            self.changed.clear()
            await self.changed.wait()
        return self.policies

    async def wait_for(self, policy_id: str, revision: int, patience: float) -> Released | None:
        """The policy at this revision or a newer one; None when it has not come within `patience` seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while True:
                    found = self.policies.released.get(policy_id)
                    if found is not None and found.revision >= revision:
                        return found
                    self.changed.clear()
                    await self.changed.wait()
        return None

    async def follow(self, settings: Settings, caught_up: asyncio.Event) -> None:
        """Read the topic from its beginning for ever; sets `caught_up` at what was its end."""
        await kafka.wait_for_broker(settings)
        async with kafka.reader(settings, [topics.POLICIES]) as consumer:
            ends = await kafka.Ends.now(consumer)
            while True:
                for records in (await consumer.getmany(timeout_ms=200)).values():
                    for record in records:
                        self.take(record.key, record.value)
                if not caught_up.is_set() and not await ends.open():
                    caught_up.set()


async def current(settings: Settings) -> dict[str, PolicyRelease]:
    """The newest readable release of each policy that is not retired."""
    releases: dict[str, PolicyRelease] = {}
    record: Record
    async for record in kafka.read_all(settings, [topics.POLICIES]):
        name = (record.key or b"").decode("utf-8", "replace")
        releases.pop(name, None)
        if record.value is not None:
            with contextlib.suppress(RecordError):
                releases[name] = decode(record.value, PolicyRelease)
    return releases


async def release(settings: Settings, policies: Iterable[Policy], why: str = "") -> list[PolicyRelease]:
    """Publish policies; the revision of each goes up by one."""
    before = await current(settings)
    made = []
    async with kafka.producer(settings) as producer:
        for policy in policies:
            last = before.get(policy.id)
            record = PolicyRelease(
                policy_id=policy.id,
                version=policy.version,
                revision=1 + (last.revision if last else 0),
                document=policy.document,
                released_at=now(),
                released_by=getpass.getuser(),
                why=why,
                distilled=policy.distilled_file,
            )
            await producer.send_and_wait(
                settings.prefix + topics.POLICIES,
                key=policy.id.encode(),
                value=encode(record),
                headers=[schema_header(PolicyRelease)],
            )
            made.append(record)
    return made
