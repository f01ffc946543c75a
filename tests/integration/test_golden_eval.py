"""`safeguard policy test` and `diff` with the small model on vLLM's own server."""

import json
import shutil

import pytest
from typer.testing import CliRunner

from safeguard_streams.cli import app
from safeguard_streams.errors import ConfigurationError, SafeguardError
from safeguard_streams.policies.check import check
from safeguard_streams.policies.files import LIBRARY

pytestmark = [pytest.mark.slow, pytest.mark.model]
NAME = "fraud-spam"
OTHER_SIDE = {"violates": ("safe", "FS4"), "safe": ("violates", "FS3")}


@pytest.fixture
def run(inference_server):
    """Standard output, and the error or None."""

    def invoke(*words):
        result = CliRunner().invoke(app, ["policy", *words, "--backend", "remote", "--server", inference_server])
        return result.stdout, None if isinstance(result.exception, SystemExit) else result.exception

    return invoke


def turned(line):
    row = json.loads(line)
    row["decision"], row["rule"] = OTHER_SIDE[row["decision"]]
    return json.dumps(row)


def test_a_golden_set_is_judged_and_one_that_contradicts_its_policy_is_caught(run, tmp_path):
    shown, error = run("test", NAME, "--json", "--min-f1", "0.1")
    assert error is None
    found = json.loads(shown)
    lines = (LIBRARY / NAME / "golden.jsonl").read_text().splitlines()
    assert found["texts"] == len(lines)
    assert sum(sum(counts.values()) for counts in found["confusion"].values()) == len(lines)
    assert len(found["f1"]) == 2
    assert found["noise"]["of"] == len(lines)
    assert found["tokens"]["cached"] > 0
    assert set(found["rules"]) == {"FS1", "FS2", "FS3", "FS4", "FS5"}
    assert all(one["outcome"]["rationale"] for one in found["disagreements"])

    wrong = {one["golden"]["text"] for one in found["disagreements"]}
    right = [number for number, line in enumerate(lines) if json.loads(line)["text"] not in wrong]
    edited = set(right[::2])  # half of what the model and the labels agreed on
    shutil.copytree(LIBRARY / NAME, tmp_path / NAME)
    contradicting = [turned(line) if number in edited else line for number, line in enumerate(lines)]
    (tmp_path / NAME / "golden.jsonl").write_text("\n".join(contradicting))
    policy = tmp_path / NAME / "policy.md"
    assert check(policy).errors == [], "its form is right; only a judge sees what is wrong"
    least = min(found["f1"]) - 0.05
    shown, error = run("test", str(policy), "--runs", "1", "--json", "--min-f1", f"{least:g}")
    assert isinstance(error, SafeguardError)
    assert f"is below {least:g}" in str(error)
    caught = {one["golden"]["text"] for one in json.loads(shown)["disagreements"]}
    missed = {json.loads(lines[number])["text"] for number in edited} - caught
    assert len(missed) <= found["noise"]["count"], "each edited label is among the disagreements"


def test_a_changed_policy_shows_which_golden_verdicts_flip(run, tmp_path):
    lenient = str(LIBRARY.parents[1] / "demo" / "lenient" / "policy.md")
    shown, error = run("diff", "hate-harassment", lenient, "--json")
    assert error is None
    found = json.loads(shown)
    assert found["rules_removed"] == ["HH2"]
    assert any(line.startswith("-- HH2:") for line in found["text"])
    to_safe = [flip for flip in found["flips"] if flip["after"]["decision"] == "safe"]
    assert len(to_safe) > found["noise"]["count"]
    assert "HH2" in {flip["golden"]["rule"] for flip in to_safe}
    few = [flip["golden"] for flip in found["flips"][:3]]
    (tmp_path / "few.jsonl").write_text("\n".join(map(json.dumps, few)))
    shown, _ = run("diff", "hate-harassment", lenient, "--golden", str(tmp_path / "few.jsonl"))
    assert "of 3 golden verdicts flip" in shown
    assert "rules removed: HH2" in shown
    assert "noise floor" in shown
    shown, _ = run("test", "hate-harassment", "--golden", str(tmp_path / "few.jsonl"))
    assert "rationale: It" in shown or "disagreements" not in shown
    assert "tokens: " in shown


def test_the_small_model_prints_no_figures_of_a_policy_that_it_has_not_learned(run, tmp_path):
    """F1 and disagreements would blame the policy's text."""
    shutil.copytree(LIBRARY / NAME, tmp_path / NAME)
    policy = tmp_path / NAME / "policy.md"
    policy.write_text(policy.read_text().replace("bank", "savings bank"))
    for words in (("test", str(policy)), ("diff", NAME, str(policy))):
        shown, error = run(*words)
        assert isinstance(error, ConfigurationError)
        assert "has not learned fraud-spam (an edited text)" in str(error)
        assert shown == ""
    shown, error = run("diff", NAME, str(policy), "--text-only")
    assert error is None
    assert "savings bank" in shown


def test_a_remote_backend_needs_a_server(monkeypatch):
    monkeypatch.delenv("SAFEGUARD_SERVERS", raising=False)
    result = CliRunner().invoke(app, ["policy", "test", NAME, "--backend", "remote"])
    assert isinstance(result.exception, ConfigurationError)
    assert "--backend remote needs a server" in str(result.exception)
