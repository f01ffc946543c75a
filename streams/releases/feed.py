"""The policies in force, followed on moderation.policies without a restart."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import sys
from collections.abc import Mapping

import msgspec

from safeguard_streams.bus import kafka
from safeguard_streams.bus.interface import Record
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import SHADOW, Headers, PolicyRelease, decode, policy_key
from safeguard_streams.errors import PolicyError, RecordError
from safeguard_streams.policies import golden_gates
from safeguard_streams.policies.document import Policy
from safeguard_streams.policies.golden_gates import GoldenGate
from safeguard_streams.policies.parsing import parse
from safeguard_streams.runtime import metrics
from safeguard_streams.runtime.settings import Settings

log = logging.getLogger(__name__)

REVISION = "revision"  # the header of a tombstone that names the revision that ended
LATE = 10.0  # seconds; a release that is awaited longer is logged and counted


class Released(msgspec.Struct, frozen=True):
    """A policy and its release.

    revision counts the policy's releases from 1. share is the share of content that the policy judges, 0 to 1. It is
    below 1 only for a shadow. golden is the golden gate beside the version in force, if it has one.
    """

    policy: Policy
    revision: int
    share: float = 1.0
    golden: GoldenGate | None = None


class PolicySet(msgspec.Struct, frozen=True):
    """All policies in force at one time and their shadows, both by policy id."""

    released: Mapping[str, Released]
    shadows: Mapping[str, Released] = {}

    @property
    def version(self) -> str:
        """12 hex digits that identify the policies in force; equal sets have equal versions. Shadows do not count."""
        names = " ".join(f"{name}@{r.policy.version}" for name, r in sorted(self.released.items()))
        return hashlib.sha256(names.encode()).hexdigest()[:12]


class PolicyFeed:
    """The newest readable release of each key. A broken record is logged and changes nothing."""

    def __init__(self) -> None:
        self.policies = PolicySet({})
        self.changed = asyncio.Event()
        self._by_key: dict[bytes, Released] = {}
        self._ended: dict[bytes, int] = {}  # each ended key's last revision

    @property
    def readable(self) -> list[Policy]:
        """Every policy that content may be judged by: those in force, their shadows, and versions under replay."""
        return [released.policy for released in self._by_key.values()]

    def take(self, key: bytes | None, value: bytes | None, headers: Headers = ()) -> None:
        """Apply one record of moderation.policies. Never raises."""
        if value is None:
            self._end(key or b"", headers)
        else:
            try:
                release, policy = _read(key, value)
            except (RecordError, PolicyError) as error:
                log.error("record of moderation.policies ignored error=%s", error)  # noqa: TRY400  (the message suffices)
                return
            share = 1.0 if release.shadow is None else release.shadow
            self._by_key[release.key] = Released(policy, release.revision, share, _golden(release))
            log.info(
                "policy applied key=%s version=%s revision=%d", release.key.decode(), policy.version, release.revision
            )
        self.policies = PolicySet(
            {r.policy.id: r for key, r in self._by_key.items() if key == policy_key(r.policy.id)},
            {r.policy.id: r for key, r in self._by_key.items() if key == policy_key(r.policy.id, SHADOW)},
        )
        self.changed.set()

    def _end(self, key: bytes, headers: Headers) -> None:
        """A tombstone ends the revision that its header names, or else all before it: they may be compacted away."""
        ended = self._by_key.pop(key, None)
        named = [int(value[:18]) for name, value in headers if name == REVISION and value and value.isdigit()]
        self._ended[key] = max([*named, *([ended.revision] if ended else [])], default=sys.maxsize)
        log.info("policy retired key=%s", key.decode("utf-8", "replace"))

    async def wait_for_any(self) -> PolicySet:
        """Wait until at least one policy is in force. A prefilter without policies would clear all content."""
        if not self.policies.released:
            log.warning("no released policy found, waiting; run: safeguard policy release --all-new")
        while not self.policies.released:
            self.changed.clear()
            await self.changed.wait()
        return self.policies

    async def wait_for(self, key: bytes, revision: int) -> Released | None:
        """The release under a key of moderation.policies, at this revision or a newer one; None once it has ended.

        Waits until it arrives. Only a tombstone is an end: a release that is late has not ended.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LATE):
                return await self._arrival(key, revision)
        current = self._by_key.get(key)
        log.warning(
            "release not arrived, content waits for it key=%s revision=%d newest=%s",
            key.decode("utf-8", "replace"),
            revision,
            current.revision if current else "none",
        )
        metrics.RELEASES_LATE.add(1)
        return await self._arrival(key, revision)

    async def _arrival(self, key: bytes, revision: int) -> Released | None:
        while True:
            current = self._by_key.get(key)
            if current is not None and current.revision >= revision:
                return current
            if current is None and self._ended.get(key, -1) >= revision:
                return None
            self.changed.clear()
            await self.changed.wait()

    async def follow(self, settings: Settings, caught_up: asyncio.Event) -> None:
        """Read the topic from its beginning until cancelled. Sets `caught_up` at the end offsets found at the start."""
        await kafka.follow(settings, topics.POLICIES, self._apply, caught_up)

    def _apply(self, record: Record) -> None:
        self.take(record.key, record.value, record.headers)


def _golden(release: PolicyRelease) -> GoldenGate | None:
    """The golden gate. It decides nothing: a broken one leaves the release as it is."""
    if release.golden is None:
        return None
    try:
        return golden_gates.read(release.golden)
    except PolicyError as error:
        log.warning("golden gate ignored policy=%s revision=%d error=%s", release.policy_id, release.revision, error)
        return None


def _read(key: bytes | None, value: bytes) -> tuple[PolicyRelease, Policy]:
    """A release and its parsed policy. Raises RecordError or PolicyError, also when the two disagree."""
    release = decode(value, PolicyRelease)
    policy = parse(release.document, f"release of {release.policy_id}", release.distilled)
    if (policy.id, policy.version) != (release.policy_id, release.version) or key != release.key:
        raise PolicyError(
            f"release of {release.policy_id} {release.version}: document is {policy.id} {policy.version}; "
            "release it again"
        )
    return release, policy
