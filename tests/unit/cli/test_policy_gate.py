"""`safeguard policy gate`, `check` and `release` on hosts without the extras, and with options that do not fit."""

import shutil
import sys

import numpy as np
import pytest

from safeguard_streams.cli.policy_gate import golden_for_release, with_coverage
from safeguard_streams.errors import ConfigurationError, PolicyError
from safeguard_streams.policies.check import check_library
from safeguard_streams.policies.files import LIBRARY
from safeguard_streams.quality import benign_bank, gate_evidence, golden_gate

from .invoking import invoke


@pytest.fixture
def without_encoder(monkeypatch):
    golden_gate.shared_vectors.cache_clear()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    yield
    golden_gate.shared_vectors.cache_clear()


@pytest.mark.usefixtures("without_encoder")
def test_without_the_encoder_a_release_learns_none_and_says_why(capsys):
    assert golden_for_release(check_library(), {}) == {}
    captured = capsys.readouterr()
    assert captured.err.startswith("no golden gate was learned: onnxruntime is not installed here: pip install")
    assert captured.err.count("\n") == 1
    assert not captured.out


@pytest.mark.usefixtures("without_encoder")
def test_without_the_encoder_the_command_names_what_to_install():
    with pytest.raises(ConfigurationError, match=r"pip install 'safeguard-streams\[encoder\]'"):
        invoke("policy", "gate", "self-harm")


def test_without_the_libraries_of_quality_a_release_learns_none_and_says_why(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "safeguard_streams.quality.golden_release", None)
    assert golden_for_release(check_library(), {}) == {}
    assert "no golden gate was learned: " in capsys.readouterr().err


def test_without_the_prefilters_libraries_a_check_says_what_it_left_out(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "safeguard_streams.prefilter.classifier", None)
    checked = check_library()
    assert with_coverage(checked) == checked
    assert "gates were not tried on golden sets" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["self-harm", "--write"], "needs --live"),
        (["self-harm", "--since", "7d"], "needs --live"),
        (["--live"], "name one policy for --live"),
        (["self-harm", "fraud-spam", "--live"], "name one policy for --live"),
        (["self-harm", "--target-recall", "0"], "0.01"),
    ],
)
def test_options_that_do_not_fit_end_with_2(words, problem):
    done = invoke("policy", "gate", *words)
    assert done.exit_code == 2
    assert problem in " ".join(done.output.split())


def test_the_packages_own_files_are_not_written():
    with pytest.raises(ConfigurationError, match="an upgrade would replace.* give --library"):
        invoke("policy", "gate", "self-harm", "--live", "--write", "--bootstrap", "127.0.0.1:1")


def test_a_policy_without_a_golden_set_and_an_unknown_one_are_named(tmp_path):
    with pytest.raises(ConfigurationError, match="no policy 'selfharm'.*self-harm"):
        invoke("policy", "gate", "selfharm")
    folder = tmp_path / "mine"
    folder.mkdir()
    source = next(result.path for result in check_library() if result.policy.id == "self-harm")
    shutil.copy(source, folder / "policy.md")
    with pytest.raises(PolicyError, match="golden.jsonl: cannot be read"):
        invoke("policy", "gate", folder / "policy.md")


def test_several_policies_fit_the_terminal_and_one_without_a_golden_set_stops_no_other(tmp_path, monkeypatch):
    class Meanings:
        name = "vectors"

        def encode(self, texts):
            return np.random.default_rng(0).normal(size=(len(texts), 512)).astype(np.float32)

    vectors, bank = golden_gate.TextVectors(Meanings()), benign_bank.load()[::20]
    monkeypatch.setattr(golden_gate, "shared_vectors", lambda: vectors)
    monkeypatch.setattr(benign_bank, "load", lambda: bank)
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("biomedical-misinformation", "fraud-spam", "self-harm"):
        shutil.copytree(LIBRARY / name, tmp_path / name)
    (tmp_path / "self-harm" / "golden.jsonl").unlink()
    done = invoke("policy", "gate", "--library", tmp_path)
    assert "self-harm/golden.jsonl: cannot be read" in done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:5]] == ["biomedical-misinformation"] * 2 + ["fraud-spam"] * 2
    assert max(map(len, lines)) <= 80


def test_gates_are_tried_with_the_model_that_prefilters_have(monkeypatch, tmp_path, capsys):
    """A golden gate of another model would be ignored, and advice by another model's scores would be wrong."""
    monkeypatch.setenv("SAFEGUARD_PREFILTER_MODEL", str(tmp_path / "own.bin"))
    monkeypatch.setattr(golden_gate, "shared_vectors", lambda: None)

    async def read(*_):
        return gate_evidence.ReadEvidence({}, {})

    monkeypatch.setattr(gate_evidence, "read", read)
    for words in (["policy", "check", "self-harm"], ["policy", "gate", "self-harm"], ["gates", "advise"]):
        with pytest.raises(ConfigurationError, match=r"own.bin: no such fastText model"):
            invoke(*words)
    assert golden_for_release(check_library(), {}, tmp_path / "own.bin") == {}
    assert "own.bin: no such fastText model" in capsys.readouterr().err
