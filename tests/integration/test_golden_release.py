"""Golden gates on a broker: `safeguard policy release` learns them, `safeguard policy gate` puts one into force."""

import asyncio
import json
import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

from safeguard_streams.bus import kafka as kafka_bus
from safeguard_streams.bus.interface import Output
from safeguard_streams.cli import app
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import GoldenScore, PrefilterResult, Verdict, encode, now
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.policies import golden_gates
from safeguard_streams.policies.files import LIBRARY, load, with_changes
from safeguard_streams.prefilter.encoder.files import NAME as ENCODER
from safeguard_streams.quality import benign_bank, golden_gate, golden_release
from safeguard_streams.quality.golden_gate import TextVectors
from safeguard_streams.releases import operator
from tests.conftest import own_topics

pytestmark = pytest.mark.slow
ID = "fraud-spam"


class Encoder:
    """Stands for the encoder: vectors that depend on the text alone."""

    name = ENCODER

    def encode(self, texts):
        vectors = [np.random.default_rng(sum(map(ord, text))).normal(size=512) for text in texts]
        return np.array(vectors, dtype=np.float32).reshape(-1, 512)


@pytest.fixture
def run(embedded_address, monkeypatch, tmp_path):
    """The command line with a library of one policy; its `history` reads what was released."""
    current = own_topics(embedded_address)
    monkeypatch.setenv("SAFEGUARD_BOOTSTRAP", current.bootstrap)
    monkeypatch.setenv("SAFEGUARD_PREFIX", current.prefix)
    asyncio.run(kafka_bus.create_topics(current))
    shutil.copytree(LIBRARY / ID, tmp_path / ID)
    bank, vectors = benign_bank.load()[::10], TextVectors(Encoder())
    monkeypatch.setattr(benign_bank, "load", lambda: bank)  # a tenth takes a tenth of the time
    for module in (golden_release, golden_gate):
        monkeypatch.setattr(module, "shared_vectors", lambda: vectors)

    def invoke(*words, fails=False):
        library = () if words[0] == "rollback" else ("--library", str(tmp_path))
        done = CliRunner().invoke(app, ["policy", *words, *library])
        if done.exception is not None and not fails:
            raise done.exception
        return done

    invoke.history = lambda: asyncio.run(operator.history(current))
    invoke.settings = current
    invoke.folder = tmp_path / ID
    return invoke


def in_force(run):
    return run.history().in_force[ID]


def test_a_release_learns_a_golden_gate_once_and_keeps_it(run, monkeypatch):
    shown = run("release", ID)
    assert "golden gate" in shown.stdout
    assert "in shadow, optimistic: recall 0." in shown.stdout
    gate = golden_gates.read(in_force(run).golden)
    assert (gate.policy_id, gate.threshold) == (ID, pytest.approx(gate.threshold))
    assert "unchanged" in run("release", ID).stdout
    assert in_force(run).revision == 1

    def missing():
        raise ConfigurationError("onnxruntime is not installed here: pip install 'safeguard-streams[encoder]'")

    monkeypatch.setattr(golden_release, "shared_vectors", missing)
    assert "unchanged" in run("release", ID).stdout, "the gate would be the same: nothing is to be learned"
    with (run.folder / "golden.jsonl").open("a") as file:
        row = {"text": "send me your card number", "decision": "violates", "rule": "FS1", "kind": "clear"}
        file.write(json.dumps(row) + "\n")
    told = run("release", ID)
    assert "no golden gate was learned: onnxruntime is not installed here" in told.stderr
    assert "unchanged" in told.stdout, "without the extra, it goes on as before"
    assert golden_gates.read(in_force(run).golden) == gate


def test_learning_holds_no_event_loop_which_would_hold_ctrl_c_back(run, monkeypatch):
    def interrupted():
        with pytest.raises(RuntimeError, match="no running event loop"):
            asyncio.get_running_loop()
        raise KeyboardInterrupt

    monkeypatch.setattr(golden_release, "shared_vectors", interrupted)
    assert run("release", ID, fails=True).exit_code == 130
    assert not run.history().in_force


def test_a_release_without_a_golden_gate_and_one_whose_set_is_too_small(run):
    run("release", ID)
    row = json.loads(run("release", ID, "--no-golden", "--json").stdout)[0]
    assert (row["golden"], row["unchanged"], row["revision"]) == (None, False, 2)
    assert in_force(run).golden is None
    lines = (run.folder / "golden.jsonl").read_text().splitlines()[:4]
    (run.folder / "golden.jsonl").write_text("\n".join(lines) + "\n")
    told = run("release", ID)
    assert "too few to learn from" in told.stderr
    assert in_force(run).golden is None


def test_a_changed_golden_set_gives_a_new_gate_in_a_new_revision_and_a_rollback_takes_its_own_along(run):
    run("release", ID)
    first = in_force(run)
    policy = run.folder / "policy.md"
    policy.write_text(with_changes(policy.read_text(), "gate", threshold=0.2, calibration=None))
    row = {"text": "send me your card number", "decision": "violates", "rule": "FS1", "kind": "clear"}
    with (run.folder / "golden.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    run("release", ID)
    second = in_force(run)
    assert second.revision == 2
    assert golden_gates.read(second.golden).name != golden_gates.read(first.golden).name
    run("rollback", ID)
    assert in_force(run).golden == first.golden


def write_verdicts(run, name, items=600):
    """Verdicts on items that the present gate and the golden one scored: the golden one is right."""
    version, draw = in_force(run).version, np.random.default_rng(1)

    def verdict(number):
        violates = number % 4 == 0
        present, golden = (
            float(draw.uniform(0.001, 0.9)),
            float(draw.uniform(0.6, 0.9) if violates else draw.uniform(0, 0.5)),
        )
        reached = present >= 0.5
        rate = None if reached else 0.1
        score = GoldenScore(name, round(golden, 4), 0.55, 0.1 if reached else 1.0)
        stratum = None if reached else "near"
        gate = "label" if reached else "audit"
        result = PrefilterResult(gate, None, round(present, 4), 0.5, rate, stratum, fingerprint="f", golden=score)
        return Verdict(
            verdict_id=f"v{number}", content_id=f"c{number}", content_sha256="0", policy_id=ID, policy_version=version,
            decision="violates" if violates else "safe", stage="reasoner", lane="live", model="m", decided_at=now(),
            prefilter=result,
        )  # fmt: skip

    async def write():
        async with kafka_bus.exclusive_writer(run.settings, "test") as send:
            await send([Output(topics.VERDICTS, b"c", encode(verdict(number))) for number in range(items)])

    asyncio.run(write())


def test_live_verdicts_take_a_golden_gate_into_force(run):
    run("release", ID)
    told = run("gate", ID, "--live", fails=True)
    assert "no verdict has a score of a golden gate yet" in str(told.exception)
    name = golden_gates.read(in_force(run).golden).name
    write_verdicts(run, name)
    compared = json.loads(run("gate", ID, "--live", "--json").stdout)
    assert compared["better"]
    assert compared["files"] == []
    shown = run("gate", ID, "--live", "--write").stdout
    assert "better, beyond chance" in shown
    policy = load(run.folder / "policy.md")
    assert policy.distilled.origin == "golden"
    released = run("release", ID)
    assert "its gate has a classifier already, learned from its golden set" in released.stderr
    assert in_force(run).distilled == policy.distilled_file
    assert in_force(run).golden is None


def _small(folder):
    """The policy's file beside a golden set of one text."""
    other = folder.parent / "small"
    other.mkdir()
    shutil.copy(folder / "policy.md", other)
    rows = (folder / "golden.jsonl").read_text().splitlines(keepends=True)
    (other / "golden.jsonl").write_text(next(row for row in rows if '"safe"' in row))
    return other / "policy.md"


def test_the_command_shows_what_to_expect(run):
    shown = run("gate", ID).stdout
    assert all(cell in shown for cell in ("present gate", "golden gate", "ROC-AUC against benign texts", "optimistic"))
    assert max(map(len, shown.splitlines())) <= 80
    (row,) = json.loads(run("gate", ID, "--json").stdout)
    assert row["golden"]["recall"]["of"] == row["present"]["recall"]["of"]
    several = run("gate", ID, str(run.folder / "policy.md"), str(_small(run.folder)))
    assert "0 violating and 1 safe golden texts: too few to learn from" in several.stderr
    table = several.stdout.splitlines()
    assert [line.split()[1] for line in table[1:3]] == ["present", "golden"]
    assert "needs --live" in run("gate", ID, "--write", fails=True).output
    assert "name one policy" in run("gate", "--live", fails=True).output
