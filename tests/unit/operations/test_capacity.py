"""Capacity planning: the formula against a simulation of the queue, and the command."""

import heapq
import json
import random

import pytest
from typer.testing import CliRunner

from safeguard_streams.cli import app
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.operations.capacity import MAX_UTILIZATION, Load, MeasuredHost, erlang_c, late, plan

HOST = MeasuredHost(prefilter_rate=20_000, gpu_tokens=3000, slots=64)


def simulated(judged, service, servers, seconds, count=200_000):
    """The share of judgements that take longer, by simulation."""
    chance = random.Random(1)
    free = [0.0] * servers
    moment, longer = 0.0, 0
    for _ in range(count):
        moment += chance.expovariate(judged)
        start = max(moment, heapq.heappop(free))
        end = start + chance.expovariate(1 / service)
        heapq.heappush(free, end)
        longer += end - moment > seconds
    return longer / count


@pytest.mark.parametrize(
    ("judged", "servers", "seconds"), [(0.8, 1, 3.0), (3.6, 4, 4.0), (14.0, 16, 3.0), (1.0, 4, 3.0)]
)
def test_the_formula_agrees_with_a_simulated_queue(judged, servers, seconds):
    assert late(seconds, judged, 1.0, servers) == pytest.approx(simulated(judged, 1.0, servers, seconds), rel=0.15)


def test_erlangs_formula_at_known_values():
    assert erlang_c(0.5, 1.0, 1) == pytest.approx(0.5)
    assert erlang_c(8.0, 1.0, 10) == pytest.approx(0.4092, abs=1e-3)  # tables of Erlang C
    assert erlang_c(2.0, 1.0, 2) == 1.0
    assert erlang_c(900.0, 1.0, 1000) < 0.001


def test_a_plan_meets_its_objective_with_the_fewest_gpus():
    load = Load(rate=10_000, share=0.05, tokens=300, slo=60)
    result = plan(load, HOST)
    judged, service = 500, 300 * 64 / 3000
    assert result.p99 <= load.slo
    assert result.busy <= MAX_UTILIZATION
    fewer = (result.gpus - 1) * HOST.slots
    assert judged * service / fewer > MAX_UTILIZATION or late(load.slo, judged, service, fewer) > 0.01
    assert (result.prefilters, result.partitions) == (1, 66)
    tight = plan(Load(10_000, 0.05, 300, 30), HOST)
    assert tight.gpus >= result.gpus
    assert tight.p99 <= 30
    assert plan(Load(0.1, 0.05, 300, 60), HOST).gpus == 1


def test_an_objective_that_no_number_of_gpus_meets_is_refused():
    with pytest.raises(ConfigurationError, match="one judgement takes 6.4 s"):
        plan(Load(100, 0.05, 300, 10), HOST)


def test_the_command_reads_the_output_of_benchmarks(tmp_path):
    (tmp_path / "prefilter.json").write_text(json.dumps({"variants": {"safeguard": {"events_per_s": 25_000}}}))
    (tmp_path / "reason.json").write_text(json.dumps({"variants": {"safeguard": {"tokens_per_s": 3000.0}}}))
    words = ["capacity", "--rate", "100", "--rate", "1000000", "--slo", "60"]
    files = ["--bench-prefilter", str(tmp_path / "prefilter.json"), "--bench-reason", str(tmp_path / "reason.json")]
    small, large = json.loads(CliRunner().invoke(app, [*words, *files, "--json"]).stdout)
    assert (small["prefilters"], small["gpus"], small["partitions"]) == (1, 1, 6)
    assert large["prefilters"] == 60
    assert large["gpus"] == pytest.approx(50_000 * 0.1 / 0.8, rel=0.02)
    assert "6,2" in CliRunner().invoke(app, [*words, *files]).stdout
    assert "--bench-reason or --gpu-tokens" in str(CliRunner().invoke(app, [*words, "--prefilter-rate", "1"]).exception)
    (tmp_path / "reason.json").write_text("[]")
    assert "not the output of a benchmark" in str(CliRunner().invoke(app, [*words, *files]).exception)
