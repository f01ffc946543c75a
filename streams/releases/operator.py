"""What an operator does to the policies in force: release, roll back, retire, shadow; each with its entry in the history."""

from __future__ import annotations

import contextlib
import getpass
from collections.abc import Callable, Iterable, Sequence

import msgspec

from safeguard_streams.bus import kafka
from safeguard_streams.bus.interface import Output
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import (
    SHADOW,
    Change,
    PolicyChange,
    PolicyRelease,
    decode,
    encode,
    now,
    policy_key,
    schema_header,
)
from safeguard_streams.errors import ConfigurationError, PolicyError, RecordError
from safeguard_streams.policies.document import Policy
from safeguard_streams.policies.parsing import parse
from safeguard_streams.runtime.settings import Settings

_WRITER = "policy-releases"


class Author(msgspec.Struct, frozen=True):
    """Who changes a policy, and why."""

    why: str = ""
    by: str = msgspec.field(default_factory=getpass.getuser)


class ReleaseHistory(msgspec.Struct, frozen=True):
    """The history, oldest first, and what stands in force and in shadow now, by id."""

    changes: Sequence[PolicyChange]
    in_force: dict[str, PolicyRelease]
    shadows: dict[str, PolicyRelease]

    def revision(self, policy_id: str) -> int:
        """The newest revision of a policy, 0 before its first."""
        releases = [c.release for c in self.changes if c.policy_id == policy_id and c.release]
        releases += [current[policy_id] for current in (self.in_force, self.shadows) if policy_id in current]
        return max((release.revision for release in releases), default=0)

    def find(self, policy_id: str, which: str) -> PolicyRelease:
        """A release by its revision, by its version or the beginning of it, or by 'live' or 'shadow'.

        Raises ConfigurationError when there is none.
        """
        if which in ("live", "shadow"):
            found = (self.in_force if which == "live" else self.shadows).get(policy_id)
        else:
            of_policy = [c.release for c in self.changes if c.policy_id == policy_id and c.release]
            matching = [
                r for r in of_policy if which == str(r.revision) or (len(which) >= 4 and r.version.startswith(which))
            ]
            found = matching[-1] if matching else None
        if found is None:
            raise ConfigurationError(f"{policy_id} has no release {which!r}; see: safeguard policy history {policy_id}")
        return found


async def past(settings: Settings) -> ReleaseHistory:
    """Read the history and what is in force. Records that cannot be read are left out."""
    changes = []
    async for record in kafka.read_all(settings, [topics.POLICIES_HISTORY]):
        with contextlib.suppress(RecordError):
            changes.append(decode(record.value, PolicyChange))
    newest: dict[bytes, PolicyRelease] = {}
    async for record in kafka.read_all(settings, [topics.POLICIES]):
        newest.pop(record.key or b"", None)
        if record.value is not None:
            with contextlib.suppress(RecordError):
                newest[record.key or b""] = decode(record.value, PolicyRelease)
    return ReleaseHistory(
        changes,
        {r.policy_id: r for r in newest.values() if r.shadow is None and not r.replay},
        {r.policy_id: r for r in newest.values() if r.shadow is not None},
    )


async def release(
    settings: Settings, policies: Iterable[Policy], author: Author, *, shadow: float | None = None
) -> list[PolicyRelease]:
    """Put policies into force, or each as the shadow of its version in force on this share of content, 0 to 1.

    The revision of each goes up by one. A policy that comes into force as it stands in the shadow ends that shadow.
    """
    wanted = list(policies)

    def plan(known: ReleaseHistory) -> list[PolicyChange]:
        changes = []
        for policy in wanted:
            made = _made(known, policy.id, policy.version, policy.document, policy.distilled_file, author, shadow)
            changes.append(_change("release" if shadow is None else "shadow", policy.id, author, made))
            beside = known.shadows.get(policy.id)
            if shadow is None and beside is not None and beside.version == policy.version:
                changes.append(_change("end-shadow", policy.id, author))
        return changes

    return [change.release for change in await _change_policies(settings, plan) if change.release is not None]


async def rollback(settings: Settings, policy_id: str, to: str | None, author: Author) -> PolicyRelease:
    """Release a former version again; by default the one that was in force before. Raises ConfigurationError without one."""

    def plan(known: ReleaseHistory) -> list[PolicyChange]:
        before = known.find(policy_id, to) if to else _before(known, policy_id)
        try:
            parse(before.document, f"revision {before.revision} of {policy_id}", before.distilled)
        except PolicyError as error:
            raise ConfigurationError(f"revision {before.revision} cannot be read any more: {error}") from error
        made = _made(known, policy_id, before.version, before.document, before.distilled, author, None)
        return [_change("rollback", policy_id, author, made)]

    (change,) = await _change_policies(settings, plan)
    assert change.release is not None
    return change.release


def _before(known: ReleaseHistory, policy_id: str) -> PolicyRelease:
    """The last release with another document than what is in force; after a policy was retired, its last one."""
    current = known.in_force.get(policy_id)
    for change in reversed(known.changes):
        former = change.release
        if change.policy_id != policy_id or former is None or former.shadow is not None:
            continue
        if current is None or former.document != current.document:
            return former
    raise ConfigurationError(f"{policy_id} has no release before; see: safeguard policy history {policy_id}")


async def retire(settings: Settings, policy_id: str, author: Author, *, shadow: bool = False) -> None:
    """Take a policy out of force, with its shadow; or end the shadow only. Raises ConfigurationError when there is none."""

    def plan(known: ReleaseHistory) -> list[PolicyChange]:
        ends: list[PolicyChange] = []
        if not shadow and policy_id in known.in_force:
            ends.append(_change("retire", policy_id, author))
        if policy_id in known.shadows:
            ends.append(_change("end-shadow", policy_id, author))
        if not ends:
            there = ", ".join(sorted(known.shadows if shadow else known.in_force)) or "none"
            raise ConfigurationError(f"{policy_id} is not {'a shadow' if shadow else 'in force'}; there are: {there}")
        return ends

    await _change_policies(settings, plan)


def _made(
    known: ReleaseHistory,
    policy_id: str,
    version: str,
    document: str,
    distilled: str | None,
    author: Author,
    shadow: float | None,
) -> PolicyRelease:
    return PolicyRelease(
        policy_id=policy_id,
        version=version,
        revision=known.revision(policy_id) + 1,
        document=document,
        released_at=now(),
        released_by=author.by,
        why=author.why,
        distilled=distilled,
        shadow=shadow,
    )


def _change(action: Change, policy_id: str, author: Author, made: PolicyRelease | None = None) -> PolicyChange:
    return PolicyChange(action, policy_id, now(), author.by, author.why, made)


async def _change_policies(
    settings: Settings, plan: Callable[[ReleaseHistory], list[PolicyChange]]
) -> list[PolicyChange]:
    """Read what is, decide, write: in one transaction, and by one operator at a time, where the broker has transactions."""
    async with kafka.exclusive_writer(settings, _WRITER) as write:
        changes = plan(await past(settings))
        outputs = []
        for change in changes:
            key = policy_key(change.policy_id, SHADOW if change.action in ("shadow", "end-shadow") else "")
            value = encode(change.release) if change.release else None
            outputs.append(Output(topics.POLICIES, key, value, [schema_header(PolicyRelease)]))
            entry = encode(change)
            outputs.append(
                Output(topics.POLICIES_HISTORY, change.policy_id.encode(), entry, [schema_header(PolicyChange)])
            )
        await write(outputs)
    return changes
