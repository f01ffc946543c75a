"""What operators do to policies: release, roll back, retire, shadow. Each change has an entry in the history."""

from __future__ import annotations

import getpass
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from safeguard_streams.bus import kafka
from safeguard_streams.bus.interface import Output
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import (
    SHADOW,
    Change,
    PolicyChange,
    PolicyRelease,
    encode,
    now,
    policy_key,
    schema_header,
)
from safeguard_streams.errors import ConfigurationError, PolicyError, choices
from safeguard_streams.policies.document import Policy
from safeguard_streams.policies.parsing import parse
from safeguard_streams.releases.feed import REVISION
from safeguard_streams.runtime.settings import Settings

_WRITER = "policy-releases"


def _logged_in_user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # as in a container that runs under a bare number
        raise ConfigurationError("this user id has no name on this host: say who you are with --by") from None


class ChangedBy(msgspec.Struct, frozen=True):
    """Who changes something, and why, for the history. The default is the logged-in user."""

    why: str = ""
    by: str = msgspec.field(default_factory=_logged_in_user)


class ReleaseHistory(msgspec.Struct, frozen=True):
    """All changes, oldest first, and what is in force and in shadow now, by policy id."""

    changes: Sequence[PolicyChange]
    in_force: dict[str, PolicyRelease]
    shadows: dict[str, PolicyRelease]

    @property
    def policy_ids(self) -> set[str]:
        """The policies that were ever released, shadows included."""
        return {change.policy_id for change in self.changes} | set(self.in_force) | set(self.shadows)

    def releases(self, policy_id: str) -> list[PolicyRelease]:
        """The releases of a policy, shadows included, oldest first."""
        return [change.release for change in self.changes if change.policy_id == policy_id and change.release]

    def revision(self, policy_id: str) -> int:
        """The newest revision of a policy, 0 before its first."""
        current = [held[policy_id] for held in (self.in_force, self.shadows) if policy_id in held]
        return max((release.revision for release in [*self.releases(policy_id), *current]), default=0)

    def find(self, policy_id: str, which: str) -> PolicyRelease:
        """A release by its revision, by its version or at least 4 leading characters of it, or by 'live' or 'shadow'.

        Of several the newest. Raises ConfigurationError when there is none.
        """
        if which in ("live", "shadow"):
            release = (self.in_force if which == "live" else self.shadows).get(policy_id)
        else:
            by_version = len(which) >= 4
            matches = [
                r
                for r in self.releases(policy_id)
                if which == str(r.revision) or (by_version and r.version.startswith(which))
            ]
            release = matches[-1] if matches else None
        if release is None:
            self.require_known(policy_id)
            raise ConfigurationError(f"{policy_id} has no release {which!r}; see: safeguard policy history {policy_id}")
        return release

    def require_known(self, policy_id: str) -> None:
        """Raises ConfigurationError, with what there is, when the policy was never released, not even as a shadow."""
        if policy_id not in self.policy_ids:
            raise ConfigurationError(f"no policy {policy_id!r} was ever released{choices(policy_id, self.policy_ids)}")

    def previous(self, policy_id: str) -> PolicyRelease:
        """The last release whose document differs from the one in force; of a retired policy, its last release.

        Raises ConfigurationError when there is none.
        """
        current = self.in_force.get(policy_id)
        for release in reversed(self.releases(policy_id)):
            if release.shadow is None and (current is None or release.document != current.document):
                return release
        self.require_known(policy_id)
        raise ConfigurationError(f"{policy_id} has no earlier release; see: safeguard policy history {policy_id}")


async def history(settings: Settings) -> ReleaseHistory:
    """Read the history and the policies in force. Unreadable records are left out and counted."""
    changes = [change async for _, change in kafka.read_decoded(settings, [topics.POLICIES_HISTORY], PolicyChange)]
    newest = await kafka.read_table(settings, topics.POLICIES, PolicyRelease)
    return ReleaseHistory(
        changes,
        {r.policy_id: r for r in newest.values() if r.shadow is None and not r.replay},
        {r.policy_id: r for r in newest.values() if r.shadow is not None},
    )


class _ReleasedVersion(msgspec.Struct, frozen=True):
    """What a release puts into force: a document with its classifiers, and the share of content of a shadow."""

    policy_id: str
    version: str
    document: str
    distilled: str | None
    shadow: float | None = None
    golden: str | None = None


class PlannedRelease(msgspec.Struct, frozen=True):
    """A policy to release, beside its version in force, if there is one.

    unchanged: whether exactly this is in force or, for a shadow, judges this share of content already. Nothing is
    written then. golden: the golden gate of the release, as JSON.
    """

    policy: Policy
    in_force: PolicyRelease | None
    unchanged: bool
    golden: str | None = None


def plan_releases(
    current: ReleaseHistory,
    policies: Iterable[Policy],
    *,
    shadow: float | None = None,
    only_new: bool = False,
    golden: Mapping[str, str | None] = {},
) -> list[PlannedRelease]:
    """What a release would do. only_new leaves out policies with any release before, also a retired one or a shadow.

    golden: golden gates by policy id, as JSON; None releases a policy without one. A policy that is not named keeps the
    golden gate that is in force with the same version.
    Raises ConfigurationError when a policy is given twice.
    """
    planned: dict[str, PlannedRelease] = {}
    for policy in policies:
        if policy.id in planned:
            raise ConfigurationError(f"{policy.id} is named twice; name one version of it")
        if only_new and current.revision(policy.id):
            continue
        standing = (current.in_force if shadow is None else current.shadows).get(policy.id)
        kept = standing.golden if standing is not None and standing.version == policy.version else None
        own = golden.get(policy.id, kept) if shadow is None else None
        unchanged = standing is not None and (
            (standing.version, standing.document, standing.distilled, standing.shadow, standing.golden)
            == (policy.version, policy.document, policy.distilled_file, shadow, own)
        )
        planned[policy.id] = PlannedRelease(policy, current.in_force.get(policy.id), unchanged, own)
    return list(planned.values())


Plan = Callable[[ReleaseHistory], list[PolicyChange]]  # what is to change, by what stands when it is written


def _ignore(_planned: Sequence[PlannedRelease]) -> None:
    """Look at no plan."""


async def release(
    settings: Settings,
    policies: Iterable[Policy],
    changed_by: ChangedBy,
    *,
    shadow: float | None = None,
    only_new: bool = False,
    golden: Mapping[str, str | None] = {},
    review: Callable[[Sequence[PlannedRelease]], None] = _ignore,
) -> list[PolicyRelease]:
    """Put policies into force or, with shadow, release each as a shadow on this share of content, 0 to 1.

    Returns what was written. The revision of each policy goes up by one, unless nothing changes. Releasing the version
    that is in shadow ends the shadow. only_new, golden: as in `plan_releases`. review: called with the plan
    before anything is written; an error that it raises prevents the release.
    """
    plan = releasing(policies, changed_by, shadow=shadow, only_new=only_new, golden=golden, review=review)
    return [done.release for done in await change(settings, plan) if done.release is not None]


def releasing(
    policies: Iterable[Policy],
    changed_by: ChangedBy,
    *,
    shadow: float | None = None,
    only_new: bool = False,
    golden: Mapping[str, str | None] = {},
    review: Callable[[Sequence[PlannedRelease]], None] = _ignore,
) -> Plan:
    """The plan of a release, for `change`."""
    requested = list(policies)

    def plan(current: ReleaseHistory) -> list[PolicyChange]:
        planned = plan_releases(current, requested, shadow=shadow, only_new=only_new, golden=golden)
        review(planned)
        changes = []
        for one in planned:
            if one.unchanged:
                continue
            policy, files = one.policy, (one.policy.document, one.policy.distilled_file)
            version = _ReleasedVersion(policy.id, policy.version, *files, shadow, one.golden)
            new = _release(current, version, changed_by)
            changes.append(_change("release" if shadow is None else "shadow", policy.id, changed_by, new))
            in_shadow = current.shadows.get(policy.id)
            if shadow is None and in_shadow is not None and in_shadow.version == policy.version:
                changes.append(_change("end-shadow", policy.id, changed_by))
        return changes

    return plan


async def rollback(settings: Settings, policy_id: str, to: str | None, changed_by: ChangedBy) -> PolicyRelease:
    """Release an earlier version again, by default the previous one. Raises ConfigurationError when there is none."""
    (done,) = await change(settings, rolling_back(policy_id, to, changed_by))
    assert done.release is not None
    return done.release


def rolling_back(policy_id: str, to: str | None, changed_by: ChangedBy) -> Plan:
    """The plan of a rollback, for `change`."""

    def plan(current: ReleaseHistory) -> list[PolicyChange]:
        earlier = current.find(policy_id, to) if to else current.previous(policy_id)
        try:
            policy = parse(earlier.document, f"revision {earlier.revision} of {policy_id}", earlier.distilled)
        except PolicyError as error:
            raise ConfigurationError(
                f"revision {earlier.revision} no longer parses, release a corrected document: {error}"
            ) from error
        in_force = current.in_force.get(policy_id)
        if in_force and (in_force.version, in_force.document) == (policy.version, earlier.document):
            raise ConfigurationError(
                f"{policy_id} has version {policy.version} in force already, as revision {in_force.revision}; "
                f"see: safeguard policy history {policy_id}"
            )
        version = _ReleasedVersion(
            policy_id, policy.version, earlier.document, earlier.distilled, golden=earlier.golden
        )
        return [_change("rollback", policy_id, changed_by, _release(current, version, changed_by))]

    return plan


async def retire(settings: Settings, policy_id: str, changed_by: ChangedBy, *, shadow: bool = False) -> None:
    """Take a policy and its shadow out of force; with shadow, end only its shadow.

    Raises ConfigurationError when there is nothing to end.
    """
    await change(settings, retiring(policy_id, changed_by, shadow=shadow))


def retiring(policy_id: str, changed_by: ChangedBy, *, shadow: bool = False) -> Plan:
    """The plan of an end, for `change`."""

    def plan(current: ReleaseHistory) -> list[PolicyChange]:
        ends: list[PolicyChange] = []
        if not shadow and policy_id in current.in_force:
            ends.append(_change("retire", policy_id, changed_by))
        if policy_id in current.shadows:
            ends.append(_change("end-shadow", policy_id, changed_by))
        if not ends:
            held = current.shadows if shadow else current.in_force
            raise ConfigurationError(
                f"{policy_id} is not {'a shadow' if shadow else 'in force'}{choices(policy_id, held)}"
            )
        return ends

    return plan


def _release(current: ReleaseHistory, version: _ReleasedVersion, changed_by: ChangedBy) -> PolicyRelease:
    return PolicyRelease(
        policy_id=version.policy_id,
        version=version.version,
        revision=current.revision(version.policy_id) + 1,
        document=version.document,
        released_at=now(),
        released_by=changed_by.by,
        why=changed_by.why,
        distilled=version.distilled,
        shadow=version.shadow,
        golden=version.golden,
    )


def _change(
    action: Change, policy_id: str, changed_by: ChangedBy, release: PolicyRelease | None = None
) -> PolicyChange:
    return PolicyChange(action, policy_id, now(), changed_by.by, changed_by.why, release)


async def change(settings: Settings, plan: Plan) -> list[PolicyChange]:
    """Read the history, plan, and write in one transaction. What the plan raises prevents the change.

    On a broker with transactions only one operator writes at a time.
    """
    async with kafka.exclusive_writer(settings, _WRITER) as write:
        current = await history(settings)
        changes = plan(current)
        outputs = []
        for one in changes:
            key = policy_key(one.policy_id, SHADOW if one.action in ("shadow", "end-shadow") else "")
            value = encode(one.release) if one.release else None
            revision = (REVISION, str(current.revision(one.policy_id)).encode())
            outputs.append(Output(topics.POLICIES, key, value, [schema_header(PolicyRelease), revision]))
            entry = encode(one)
            outputs.append(
                Output(topics.POLICIES_HISTORY, one.policy_id.encode(), entry, [schema_header(PolicyChange)])
            )
        if outputs:
            await write(outputs)
    return changes
