"""Which golden gates a release learns, and which it takes as they stand."""

from datetime import UTC, datetime

import msgspec
import pytest

from safeguard_streams.contract.records import PolicyRelease
from safeguard_streams.policies import check, golden_gates
from safeguard_streams.policies.files import with_changes
from safeguard_streams.prefilter.classifier import SHIPPED, Classifier
from safeguard_streams.quality import benign_bank, golden_corpus, golden_release
from safeguard_streams.quality.golden_gate import TextVectors

from .test_golden_gate import TERMS, Meanings, rows


@pytest.fixture
def checked(tmp_path, monkeypatch):
    """A policy with a golden set, given the changes of its gate."""
    bank, vectors = benign_bank.load()[::20], TextVectors(Meanings())
    monkeypatch.setattr(golden_corpus.benign_bank, "load", lambda: bank)
    monkeypatch.setattr(golden_release, "shared_vectors", lambda: vectors)
    folder = tmp_path / TERMS.id
    folder.mkdir()
    (folder / "golden.jsonl").write_bytes(b"\n".join(msgspec.json.encode(row) for row in rows()))

    def write(**changes):
        (folder / "policy.md").write_text(with_changes(TERMS.document, "gate", **changes), encoding="utf-8")
        return check.check(folder / "policy.md", named_by_folder=True)

    return write


def learned(one, standing=None):
    (value,) = golden_release.golden_releases([one], standing or {}).gates.values()
    return value


def standing(one, golden):
    policy = one.policy
    release = PolicyRelease(policy.id, policy.version, 1, policy.document, datetime.now(UTC), "test", golden=golden)
    return {policy.id: release}


def test_a_gate_with_other_terms_gets_another_threshold(checked):
    before = checked()
    first = learned(before)
    after = checked(terms=["wasp"])
    second = learned(after, standing(before, first))
    assert golden_gates.read(second).threshold > golden_gates.read(first).threshold, "the term finds all by itself"
    assert second == learned(after)


def test_what_was_learned_from_the_same_texts_under_this_version_is_taken_as_it_stands(checked, monkeypatch):
    one = checked()
    first = learned(one)
    monkeypatch.setattr(golden_release, "learn", None)
    assert learned(one, standing(one, first)) == first


def test_a_broken_gate_of_the_release_in_force_is_learned_again(checked):
    one = checked()
    assert learned(one, standing(one, '{"name": 1}')) == learned(one)


def test_a_gate_is_learned_for_the_model_of_the_prefilters(checked, tmp_path):
    one, own = checked(), tmp_path / "own.bin"
    own.write_bytes(SHIPPED.read_bytes() + bytes(8))  # reads as the same model, under another name
    first = learned(one)
    (value,) = golden_release.golden_releases([one], standing(one, first), own).gates.values()
    assert golden_gates.read(value).classifier == Classifier(own).name != golden_gates.read(first).classifier
