"""Whether live labels say that a golden gate is better, and what its taking into force writes."""

from datetime import UTC, datetime

import msgspec
import numpy as np
import pytest

from safeguard_streams.cli.gate_tables import show_live
from safeguard_streams.contract.records import GoldenScore, PolicyChange, PolicyRelease, PrefilterResult
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.policies import distilled, golden_gates
from safeguard_streams.policies.files import load, load_library
from safeguard_streams.policies.golden_gates import Expected, GoldenGate, trust
from safeguard_streams.quality import golden_live
from safeguard_streams.quality.golden_live import from_labels, take_into_force
from safeguard_streams.quality.verdict_labels import LabeledItem, Labels
from safeguard_streams.releases.operator import ReleaseHistory

LABEL = load_library()["hate-harassment"]
NAME = "0123456789ab"


def item(number, violates, *, present, golden, gate=None, weight=1.0, name=NAME):
    """A judged item with both scores; the present gate's threshold is 0.5, the golden one's 0.4."""
    gate = gate or ("label" if present >= 0.5 else "audit")
    rate = 1.0 if gate == "audit" else 0.1
    result = PrefilterResult(gate, None, present, 0.5, golden=GoldenScore(name, golden, 0.4, rate))
    return LabeledItem(violates, weight, f"c{number}", prefilter=result)


def labels(*, separates, items=1200, name=NAME):
    """Content of which a fifth violates. `separates` tells how far the golden gate's scores are apart."""
    draw = np.random.default_rng(1)
    rows = []
    for number in range(items):
        violates = number % 5 == 0
        present = float(np.clip(draw.normal(0.5 if violates else 0.4, 0.2), 0.001, 0.999))
        golden = float(np.clip(draw.normal(0.5 + separates if violates else 0.3, 0.1), 0.001, 0.999))
        weight = 1.0 if present >= 0.5 else 10.0
        rows.append(item(number, violates, present=present, golden=golden, weight=weight, name=name))
    return Labels(rows, LABEL.version)


@pytest.fixture
def gate():
    weights = distilled.vector_weights(
        np.zeros(distilled.BUCKETS),
        np.ones(512),
        encoder="e",
        trust=trust(LABEL.gate),
        bias=0.0,
        least=-1,
        most=1,
    )
    return GoldenGate(NAME, LABEL.id, "c", LABEL.gate.harms, weights, 0.4, 60, Expected((1, 1, 1), (0, 0, 0)))


def test_labels_show_that_a_golden_gate_is_better(capsys):
    compared = from_labels(labels(separates=0.3), LABEL.id, 0.95)
    assert compared.better
    assert (compared.labels, compared.violating, compared.name) == (1200, 240, NAME)
    assert compared.golden.recall.value > 0.95 > compared.present.recall.value
    assert compared.golden.escalated.value < 0.4
    assert 0.4 < compared.proposed.threshold < 0.9
    show_live(compared, [])
    shown = capsys.readouterr().out
    assert "golden gate v present gate: escalates -" in shown
    assert "better, beyond chance" in shown
    assert "--write" in shown


def test_each_item_counts_by_how_it_was_drawn():
    rows = [
        item(0, True, present=0.9, golden=0.9),  # stands for ten escalated items
        item(1, False, present=0.9, golden=0.1),
        item(2, True, present=0.1, golden=0.1, weight=50.0),
        item(3, False, present=0.1, golden=0.9, weight=50.0),
    ]
    compared = from_labels(Labels(rows, "v"), LABEL.id, 0.95)
    assert compared.present.recall.value == pytest.approx(10 / 60, abs=1e-4)
    assert compared.present.escalated.value == pytest.approx(20 / 120, abs=1e-4)
    assert compared.golden.recall.value == pytest.approx(10 / 60, abs=1e-4)
    assert compared.golden.escalated.value == pytest.approx(60 / 120, abs=1e-4)


def test_what_a_term_escalates_the_golden_gate_would_escalate_too():
    rows = [item(n, True, present=0.0, golden=1.0, gate="terms") for n in range(30)]
    rows += [item(n, False, present=0.0, golden=0.2, gate="audit", weight=5.0) for n in range(30, 60)]
    compared = from_labels(Labels(rows, "v"), LABEL.id, 0.95)
    assert compared.present == compared.golden
    assert not compared.better
    assert compared.choice is not None
    assert compared.choice.more_labels is None, "no difference"


def test_a_golden_gate_is_compared_with_a_gate_that_escalates_everything():
    rows = [item(n, n % 5 == 0, present=0.0, golden=0.9 if n % 5 == 0 else 0.1, gate="everything") for n in range(200)]
    compared = from_labels(Labels(rows, "v"), LABEL.id, 0.95)
    assert (compared.present.escalated.value, compared.golden.escalated.value) == (1.0, 0.2)
    assert compared.better


def test_scores_of_the_newest_golden_gate_alone_are_compared():
    older, newest = labels(separates=0.0, items=40, name="old").rows, labels(separates=0.3, items=300).rows
    without = LabeledItem(True, prefilter=PrefilterResult("label", None, 0.9, 0.5))
    compared = from_labels(Labels([*older, *newest, without], "v"), LABEL.id, 0.95)
    assert (compared.name, compared.labels) == (NAME, 300)


def test_few_labels_and_none_say_what_to_do(capsys):
    with pytest.raises(ConfigurationError, match="no verdict has a score of a golden gate yet.*extra encoder"):
        from_labels(Labels([LabeledItem(True)], "v"), LABEL.id, 0.95)
    compared = from_labels(labels(separates=0.3, items=50), LABEL.id, 0.95)
    assert compared.choice is None
    assert "10 of 50 labels violate" in compared.why
    show_live(compared, [])
    assert "wait for more verdicts" in capsys.readouterr().out


def test_without_a_violating_label_no_recall_is_known(capsys):
    safe = [row for row in labels(separates=0.3, items=50).rows if not row.violates]
    compared = from_labels(Labels(safe, "v"), LABEL.id, 0.95)
    assert (compared.present.recall, compared.golden.recall) == (None, None)
    show_live(compared, [])
    assert capsys.readouterr().out.count("not known") == 2


def test_a_gate_that_is_better_is_written_and_decides_at_the_proposed_threshold(gate, tmp_path, capsys):
    compared = from_labels(labels(separates=0.3), LABEL.id, 0.95)
    files = take_into_force(LABEL, gate, compared, tmp_path)
    assert [path.name for path in files] == ["distilled.json", "policy.md"]
    written = load(tmp_path / "policy.md")
    assert written.distilled.origin == "golden"
    assert written.distilled.with_vectors == gate.weights
    assert written.gate.threshold == compared.proposed.threshold
    assert written.gate.terms == LABEL.gate.terms
    assert written.version != LABEL.version
    show_live(compared, files)
    assert "release the policy to put the golden gate into force" in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_is_named_and_stays_as_it_was(gate, tmp_path):
    compared = from_labels(labels(separates=0.3), LABEL.id, 0.95)
    (tmp_path / "policy.md").write_text(LABEL.document, encoding="utf-8")
    (tmp_path / "distilled.json").mkdir()
    with pytest.raises(ConfigurationError, match="cannot be written"):
        take_into_force(LABEL, gate, compared, tmp_path)
    assert (tmp_path / "policy.md").read_text(encoding="utf-8") == LABEL.document


@pytest.mark.parametrize(("separates", "items"), [(-0.15, 1200), (0.3, 50)], ids=["worse", "few"])
def test_a_gate_that_is_not_better_stays_in_shadow(gate, tmp_path, separates, items):
    compared = from_labels(labels(separates=separates, items=items), LABEL.id, 0.95)
    assert not compared.better
    with pytest.raises(ConfigurationError, match="live labels do not say that the golden gate is better"):
        take_into_force(LABEL, gate, compared, tmp_path)
    assert not list(tmp_path.iterdir())


async def test_the_compared_gate_is_found_in_the_history_of_this_version(gate, monkeypatch):
    compared = from_labels(labels(separates=0.3), LABEL.id, 0.95)
    when = datetime(2026, 1, 1, tzinfo=UTC)
    releases = [
        PolicyRelease(LABEL.id, LABEL.version, n, LABEL.document, when, "test", golden=golden)
        for n, golden in enumerate((golden_gates.write(gate), '{"name": 1}', None), 1)
    ]
    changes = [PolicyChange("release", LABEL.id, when, "test", "", release) for release in releases]

    async def read(settings):
        return ReleaseHistory(changes, {}, {})

    monkeypatch.setattr(golden_live.operator, "history", read)
    assert await golden_live.released(None, LABEL, compared) == gate
    gone = msgspec.structs.replace(compared, name="gone")
    with pytest.raises(ConfigurationError, match="no release has the golden gate gone"):
        await golden_live.released(None, LABEL, gone)
    edited = msgspec.structs.replace(LABEL, version="another")
    with pytest.raises(ConfigurationError, match="the file has version another"):
        await golden_live.released(None, edited, compared)
