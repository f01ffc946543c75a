"""A gate is taken whole or not at all: into a library of the user's own, beside the release in force."""

import asyncio

import msgspec
import numpy as np
import pytest

from safeguard_streams.errors import ConfigurationError, PolicyError
from safeguard_streams.policies import distilled
from safeguard_streams.policies.files import LIBRARY, PolicyFiles, load
from safeguard_streams.policies.golden_gates import Expected, GoldenGate
from safeguard_streams.quality import gate_taking
from safeguard_streams.quality.gate_taking import policy_folder
from safeguard_streams.releases.operator import ChangedBy, PlannedRelease
from safeguard_streams.runtime.settings import Settings
from tests.unit.quality.gate_cases import evidence, policy

NOW = policy(harms=["fraud_spam"], threshold=0.3, terms=["kettle"])
NEXT = policy(harms=["fraud_spam"], threshold=0.2, terms=["kettle"])
STATE = evidence(NOW, []).state
FILES = PolicyFiles(NEXT.document, None)


@pytest.fixture
def library(tmp_path):
    folder = tmp_path / NOW.id
    folder.mkdir()
    (folder / "policy.md").write_text(NOW.document, encoding="utf-8")
    return tmp_path


@pytest.fixture
def released(monkeypatch):
    """What was released; the policy in force is STATE's, or what the test puts there."""
    done = {"in_force": STATE.release, "policies": [], "golden": {}, "error": None}

    async def release(_settings, policies, changed_by, *, shadow, golden, review):
        done["golden"] = golden
        review([PlannedRelease(one, done["in_force"], unchanged=one.version == NOW.version) for one in policies])
        if done["error"]:
            raise done["error"]
        done["policies"] += [(one.version, changed_by.why, shadow) for one in policies]
        return []

    monkeypatch.setattr(gate_taking.operator, "release", release)
    return done


def take(folder, files=FILES, shadow=None, state=STATE):
    return asyncio.run(gate_taking.take(Settings(), state, files, folder, ChangedBy("why", "ann"), shadow=shadow))


def test_the_packages_own_library_and_a_missing_one_are_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="an upgrade would replace.* give --library"):
        gate_taking.require_own(LIBRARY)
    with pytest.raises(ConfigurationError, match="there is no folder .*nosuch"):
        policy_folder(tmp_path / "nosuch", STATE)


def test_a_library_whose_policy_is_another_than_the_one_in_force_is_refused(library):
    assert policy_folder(library, STATE) == library / NOW.id
    path = library / NOW.id / "policy.md"
    path.write_text(NOW.document + "\nEdited.\n", encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"policy.md differs from the release in force, revision 3"):
        policy_folder(library, STATE)
    path.unlink()
    assert policy_folder(library, STATE) == library / NOW.id


def test_the_files_are_written_and_released(library, released):
    planned, _ = take(policy_folder(library, STATE))
    assert load(library / NOW.id / "policy.md").version == NEXT.version
    assert released["policies"] == [(NEXT.version, "why", None)]
    assert planned[0].in_force is STATE.release


def test_a_library_without_the_policy_gets_its_files(tmp_path, released):
    take(policy_folder(tmp_path, STATE), shadow=0.1)
    assert load(tmp_path / NOW.id / "policy.md").version == NEXT.version
    assert released["policies"] == [(NEXT.version, "why", 0.1)]


@pytest.mark.parametrize("error", [ConfigurationError("no broker"), KeyboardInterrupt()])
def test_without_a_release_the_files_are_as_before(library, released, error):
    released["error"] = error
    with pytest.raises(type(error)):
        take(library / NOW.id, PolicyFiles(NEXT.document, "{}"))
    assert (library / NOW.id / "policy.md").read_text(encoding="utf-8") == NOW.document
    assert not (library / NOW.id / "distilled.json").exists()


def test_a_policy_that_was_released_meanwhile_is_not_replaced(library, released):
    released["in_force"] = msgspec.structs.replace(STATE.release, revision=4)
    with pytest.raises(ConfigurationError, match="was released or retired meanwhile"):
        take(library / NOW.id)
    assert load(library / NOW.id / "policy.md").version == NOW.version
    assert not released["policies"]


def test_a_gate_that_is_in_force_already_is_not_taken(library, released):
    with pytest.raises(ConfigurationError, match="has this gate already"):
        take(library / NOW.id, PolicyFiles(NOW.document, None))
    assert not released["policies"]


def test_a_policy_that_is_not_fit_for_release_is_not_released(library, released):
    with pytest.raises(PolicyError, match="error"):
        take(library / NOW.id, PolicyFiles(NEXT.document.replace("## VIOLATES", "## VIOLATED"), None))
    assert load(library / NOW.id / "policy.md").version == NOW.version
    assert not released["policies"]


def test_a_folder_that_cannot_be_written_is_named(library, released):
    (library / "file").write_text("")
    with pytest.raises(ConfigurationError, match="file: cannot be written"):
        take(library / "file")
    assert not released["policies"]


@pytest.mark.parametrize(("harms", "kept"), [(("fraud_spam",), "golden"), ((), None)])
def test_a_golden_gate_stays_in_shadow_beside_another_threshold(library, released, harms, kept):
    weights = distilled.vector_weights(
        np.zeros(distilled.BUCKETS), np.zeros(distilled.VECTOR), encoder="e", trust=(0, 0), bias=0, least=0, most=0
    )
    golden = GoldenGate("name", NOW.id, "c", harms, weights, 0.5, 30, Expected((1, 1, 1), (0, 0, 0)))
    release = msgspec.structs.replace(STATE.release, golden="golden")
    take(library / NOW.id, state=msgspec.structs.replace(STATE, release=release, golden=golden))
    assert released["golden"] == {NOW.id: kept}
