"""The history of releases: which release an operator means, and what a process applies."""

from datetime import UTC, datetime

import pytest

from safeguard_streams.contract.records import PolicyChange, PolicyRelease, encode
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.policies.files import load_library
from safeguard_streams.policies.parsing import parse
from safeguard_streams.releases.feed import PolicyFeed
from safeguard_streams.releases.operator import ReleaseHistory, plan_releases

WHEN = datetime(2026, 1, 1, tzinfo=UTC)
ID = "spam"


def released(revision, version, *, shadow=None, policy_id=ID):
    return PolicyRelease(policy_id, version, revision, f"document {version}", WHEN, "test", shadow=shadow)


def history(*releases, in_force=None, in_shadow=None):
    changes = [PolicyChange("release", release.policy_id, WHEN, "test", "", release) for release in releases]
    held = [{release.policy_id: release} if release else {} for release in (in_force, in_shadow)]
    return ReleaseHistory(changes, *held)


FIRST, SECOND, SHADOW = released(1, "aaaa11"), released(2, "bbbb22"), released(3, "cccc33", shadow=0.1)
KNOWN = history(FIRST, SECOND, SHADOW, released(9, "dddd44", policy_id="other"), in_force=SECOND, in_shadow=SHADOW)


def test_a_revision_counts_releases_and_shadows_of_one_policy():
    assert [KNOWN.revision(name) for name in (ID, "other", "unknown")] == [3, 9, 0]


@pytest.mark.parametrize(
    ("which", "release"),
    [("1", FIRST), ("bbbb22", SECOND), ("aaaa", FIRST), ("cccc", SHADOW), ("live", SECOND), ("shadow", SHADOW)],
)
def test_a_release_is_found_by_revision_version_or_place(which, release):
    assert KNOWN.find(ID, which) is release


@pytest.mark.parametrize("which", ["4", "bbb", "dddd44", "nonsense"])
def test_a_release_that_does_not_exist_is_refused_with_the_next_step(which):
    with pytest.raises(ConfigurationError, match="safeguard policy history spam"):
        KNOWN.find(ID, which)


def test_the_previous_release_has_another_document_and_is_no_shadow():
    assert KNOWN.previous(ID) is FIRST
    assert history(FIRST, SECOND, SHADOW).previous(ID) is SECOND, "a retired policy returns to its last release"
    with pytest.raises(ConfigurationError, match="no earlier release"):
        history(FIRST, in_force=FIRST).previous(ID)


def test_a_feed_applies_releases_and_tombstones_and_ignores_broken_records():
    policy = load_library()["fraud-spam"]
    release = PolicyRelease(policy.id, policy.version, 1, policy.document, WHEN, "test")
    feed = PolicyFeed()
    feed.take(release.key, encode(release))
    in_force = feed.policies
    assert in_force.released[policy.id].policy.version == policy.version
    for key, value in ((release.key, b"no record"), (None, encode(release)), (b"other", encode(release))):
        feed.take(key, value)
        assert feed.policies is in_force
    feed.take(release.key, None)
    assert not feed.policies.released


def test_a_changed_severity_is_released_as_a_new_revision_of_the_same_version():
    library = load_library()
    policy = library["fraud-spam"]
    changed = parse(policy.document.replace("  FS1: high\n", "  FS1: low\n"))
    assert (changed.version, changed.severity["FS1"]) == (policy.version, "low")
    in_force = PolicyRelease(policy.id, policy.version, 1, policy.document, WHEN, "test")
    current = history(in_force, in_force=in_force)
    (same,), (planned,) = plan_releases(current, [policy]), plan_releases(current, [changed])
    assert (same.unchanged, planned.unchanged) == (True, False)
    feed = PolicyFeed()
    feed.take(policy.id.encode(), encode(in_force))
    again = PolicyRelease(policy.id, policy.version, 2, changed.document, WHEN, "test")
    feed.take(policy.id.encode(), encode(again))
    released = feed.policies.released[policy.id]
    assert (released.revision, released.policy.severity["FS1"]) == (2, "low")
