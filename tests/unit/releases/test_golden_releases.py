"""Golden gates in the plan of a release: what is kept, replaced, taken away, and what counts as unchanged."""

from datetime import UTC, datetime

import msgspec
import pytest

from safeguard_streams.contract.records import PolicyRelease
from safeguard_streams.policies.files import load_library
from safeguard_streams.releases.operator import ReleaseHistory, plan_releases

POLICY = load_library()["hate-harassment"]


def standing(golden, version=POLICY.version):
    when = datetime(2026, 1, 1, tzinfo=UTC)
    release = PolicyRelease(POLICY.id, version, 1, POLICY.document, when, "test", golden=golden)
    return ReleaseHistory([], {POLICY.id: release}, {})


@pytest.mark.parametrize(
    ("before", "given", "after", "unchanged"),
    [
        ("old", {}, "old", True),
        ("old", {POLICY.id: "old"}, "old", True),
        ("old", {POLICY.id: "new"}, "new", False),
        ("old", {POLICY.id: None}, None, False),
        (None, {}, None, True),
        (None, {POLICY.id: "new"}, "new", False),
        ("old", {"other": "new"}, "old", True),
    ],
)
def test_a_release_of_the_same_version_keeps_its_golden_gate_unless_told_otherwise(before, given, after, unchanged):
    (planned,) = plan_releases(standing(before), [POLICY], golden=given)
    assert (planned.golden, planned.unchanged) == (after, unchanged)


def test_another_version_does_not_take_over_the_golden_gate():
    (planned,) = plan_releases(standing("old", "other"), [POLICY])
    assert (planned.golden, planned.unchanged) == (None, False)


def test_a_shadow_has_no_golden_gate():
    (planned,) = plan_releases(standing("old"), [POLICY], shadow=0.1, golden={POLICY.id: "new"})
    assert planned.golden is None
    release = standing("old").in_force[POLICY.id]
    shadow = msgspec.structs.replace(release, shadow=0.1, golden=None)
    current = ReleaseHistory([], {POLICY.id: release}, {POLICY.id: shadow})
    (planned,) = plan_releases(current, [POLICY], shadow=0.1, golden={POLICY.id: "new"})
    assert planned.unchanged
