"""The benchmark's policies leave about the share of the texts that they name to the encoder."""

import sys

import pytest
from typer.testing import CliRunner

from safeguard_streams.bench import policies, prefilter, second_stage
from safeguard_streams.bench.common import texts
from safeguard_streams.bench.variants import prefilter_under
from safeguard_streams.cli import bench
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.policies.parsing import parse
from safeguard_streams.prefilter import decision
from safeguard_streams.prefilter.encoder.encoder import Encoder


@pytest.fixture
def no_model(monkeypatch):
    """An encoder whose model is not loaded, because nothing here is encoded."""
    monkeypatch.setattr(decision.Prefilter.__init__, "__defaults__", (None, lambda: object.__new__(Encoder)))


@pytest.mark.usefixtures("no_model")
def test_two_of_six_gates_leave_the_named_share_of_texts_open():
    sample = texts()
    plain = policies.generate(sample)
    assert second_stage.share_encoded(plain, sample) == 0
    found = []
    for share in second_stage.SHARES:
        made = second_stage.with_vectors(plain, sample, share)
        assert [policy.id for policy in made] == [policy.id for policy in plain]
        assert [policy.distilled is not None for policy in made] == [True, True, False, False, False, False]
        assert parse(made[0].document, distilled=made[0].distilled_file) == made[0]
        found.append(second_stage.share_encoded(made, sample))
    assert found == pytest.approx(second_stage.SHARES, abs=0.03)


@pytest.mark.usefixtures("no_model")
def test_the_gates_still_escalate_few_texts():
    sample = texts()
    made = second_stage.with_vectors(policies.generate(sample), sample, 0.05)
    begun = prefilter_under(made).begin(prefilter.records(sample))
    reached = begun._batch._results.reached[:, :2].mean(axis=0)
    assert reached == pytest.approx([second_stage.ESCALATED] * 2, abs=0.02)


@pytest.mark.parametrize("command", ["prefilter", "pipeline"])
def test_without_the_extra_the_option_names_it_before_anything_is_started(command, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    ran = CliRunner().invoke(bench.app, [command, "--encoder"])
    assert isinstance(ran.exception, ConfigurationError)
    assert "safeguard-streams[encoder]" in str(ran.exception)
