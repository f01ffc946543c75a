"""Capacity planning: the formula against a simulation of the queue, and the command."""

import heapq
import json
import math
import random

import pytest
from typer.testing import CliRunner

from safeguard_streams.cli import app
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.operations.capacity import (
    LOGGED,
    MAX_UTILIZATION,
    AnswerLengths,
    GpuSpeed,
    Load,
    MeasuredHost,
    Queue,
    erlang_c,
    plan,
)

HOST = MeasuredHost(prefilter_rate=20_000, gpu=[GpuSpeed(64, 3000)])
EVEN = AnswerLengths(280, 295, 310, 320)  # a policy that asks for rules alone
EXPONENTIAL = [-math.log(1 - (number + 0.5) / 1000) for number in range(1000)]


def of_mean_one(lengths):
    points = lengths.points()
    return [one * len(points) / sum(points) for one in points]


def simulated(judged, service, servers, seconds, count=100_000):
    """The share of judgements that take longer, by simulation."""
    chance = random.Random(1)
    free = [0.0] * servers
    moment, longer = 0.0, 0
    for _ in range(count):
        moment += chance.expovariate(judged)
        start = max(moment, heapq.heappop(free))
        end = start + chance.choice(service)
        heapq.heappush(free, end)
        longer += end - moment > seconds
    return longer / count


@pytest.mark.parametrize(
    ("service", "judged", "servers", "seconds"),
    [
        (EXPONENTIAL, 0.8, 1, 3.0),
        (EXPONENTIAL, 3.6, 4, 4.0),
        (EXPONENTIAL, 14.0, 16, 3.0),
        (of_mean_one(LOGGED), 3.2, 4, 4.0),
        (of_mean_one(LOGGED), 13.0, 16, 4.0),
        (of_mean_one(LOGGED), 56.0, 64, 3.0),
        (of_mean_one(EVEN), 3.6, 4, 2.0),
        (of_mean_one(EVEN), 14.5, 16, 1.3),
    ],
)
def test_the_formula_agrees_with_a_simulated_queue(service, judged, servers, seconds):
    expected = simulated(judged, service, servers, seconds)
    assert Queue(judged, service).late(seconds, servers) == pytest.approx(expected, rel=0.25, abs=0.003)


def test_erlangs_formula_at_known_values():
    assert erlang_c(0.5, 1) == pytest.approx(0.5)
    assert erlang_c(8.0, 10) == pytest.approx(0.4092, abs=1e-3)  # tables of Erlang C
    assert erlang_c(2.0, 2) == 1.0
    assert erlang_c(900.0, 1000) < 0.001


def test_the_distribution_passes_through_its_percentiles_and_keeps_its_shape():
    for share, length in ((0.1, 72), (0.5, 171), (0.9, 749), (0.99, 1641)):
        assert LOGGED.at(share) == pytest.approx(length)
    assert LOGGED.points() == sorted(LOGGED.points())
    assert 290 < sum(LOGGED.points()) / 1000 < 340  # their mean was 306
    half = LOGGED.scaled(150)
    assert sum(half.points()) / 1000 == pytest.approx(150)
    assert half.p99 / half.p10 == pytest.approx(1641 / 72)
    assert sum(AnswerLengths(5, 5, 5, 5).points()) / 1000 == pytest.approx(5)


def test_a_plan_meets_its_objective_with_the_fewest_gpus():
    load = Load(rate=10_000, share=0.05, tokens=LOGGED, slo=60)
    result = plan(load, HOST)
    queue = Queue(500, [one * 64 / 3000 for one in LOGGED.points()])
    assert result.p99 <= load.slo
    assert result.busy <= MAX_UTILIZATION
    fewer = (result.gpus - 1) * 64
    assert queue.offered / fewer > MAX_UTILIZATION or queue.late(load.slo, fewer) > 0.01
    assert (result.prefilters, result.partitions, result.slots) == (1, 72, 64)
    tight = plan(Load(10_000, 0.05, LOGGED, 36), HOST)
    assert tight.gpus >= result.gpus
    assert tight.p99 <= 36
    assert plan(Load(0.1, 0.05, LOGGED, 60), HOST).gpus == 1


def test_answers_of_like_length_meet_an_objective_that_exponential_service_times_would_not():
    """The mean is 6.4 s. 21% of exponential service times exceed 10 s, but none of these does."""
    load = Load(100, 0.05, EVEN.scaled(300), 10)
    result = plan(load, HOST)
    service = [one * 64 / 3000 for one in load.tokens.points()]
    assert simulated(5.0, service, result.gpus * 64, load.slo) < 0.01
    assert result.p99 <= load.slo


def test_lengths_that_spread_more_than_exponential_ones_need_a_longer_objective():
    """The p99 of exponential service times with this mean is 32 s; these have one of 35 s."""
    with pytest.raises(ConfigurationError, match="1% of judgements take more than 3"):
        plan(Load(100, 0.05, LOGGED, 33), HOST)


@pytest.mark.parametrize("slo", [10.0, 34.9, 35.0, 35.1, 35.2, 36.0, 40.0])
def test_an_objective_near_the_longest_judgements_ends_in_a_plan_or_a_refusal(slo):
    try:
        assert plan(Load(100, 0.05, LOGGED, slo), HOST).p99 <= slo + 0.01
    except ConfigurationError as error:
        assert "with 64 slots," in str(error)
        assert slo < 36


def test_a_plan_takes_the_slots_that_need_the_fewest_gpus():
    """More slots are faster as a whole, and slower for each judgement."""
    swept = MeasuredHost(20_000, [GpuSpeed(16, 1500), GpuSpeed(64, 3000), GpuSpeed(256, 5000)])
    assert plan(Load(10_000, 0.05, LOGGED, 200), swept).slots == 256
    assert plan(Load(10_000, 0.05, LOGGED, 40), swept).slots == 64
    assert plan(Load(10_000, 0.05, LOGGED, 20), swept).slots == 16
    with pytest.raises(ConfigurationError, match="with 16 slots"):
        plan(Load(10_000, 0.05, LOGGED, 10), swept)


def invoked(*words):
    return CliRunner().invoke(app, ["capacity", "--rate", "100", "--slo", "60", *words])


def test_the_command_reads_the_output_of_benchmarks(tmp_path):
    (tmp_path / "prefilter.json").write_text(json.dumps({"variants": {"safeguard": {"events_per_s": 25_000}}}))
    files = ["--bench-prefilter", str(tmp_path / "prefilter.json"), "--bench-reason", str(tmp_path / "reason.json")]
    figures = {"in_flight": 32, "variants": {"safeguard": {"tokens_per_s": 3000.0}, "plain-chat-loop": {"p99_ms": 1}}}
    (tmp_path / "reason.json").write_text(json.dumps(figures))
    small, large = json.loads(invoked(*files, "--rate", "1000000", "--tokens", "300", "--json").stdout)
    assert (small["prefilters"], small["gpus"], small["partitions"], small["slots"]) == (1, 1, 6, 32)
    assert large["prefilters"] == 60
    assert large["gpus"] == pytest.approx(50_000 * 0.1 / 0.8, rel=0.02)
    assert "6,2" in invoked(*files, "--rate", "1000000", "--tokens", "300").stdout
    assert "--bench-reason or --gpu-tokens" in str(invoked("--prefilter-rate", "1").exception)
    steps = {"8 at once": {"in_flight": 8, "tokens_per_s": 900}, "64 at once": {"in_flight": 64, "tokens_per_s": 3000}}
    measured = {"p10": 10, "p50": 20, "p90": 30, "p99": 40}
    (tmp_path / "reason.json").write_text(json.dumps({"variants": steps, "completion_tokens": measured}))
    (swept,) = json.loads(invoked(*files, "--json").stdout)
    (given,) = json.loads(invoked(*files, "--tokens", "10,20,30,40", "--json").stdout)
    assert swept == given
    assert swept["p99"] < 1
    for broken in (
        "[]",
        "{}",
        '{"variants": {}}',
        '{"variants": {"safeguard": {"tokens_per_s": 0}}}',
        '{"variants": {"a": {"in_flight": -1, "tokens_per_s": 5}}}',
        '{"variants": {"safeguard": {"tokens_per_s": 5}}, "completion_tokens": {"p10": 0, "p50": 1, "p90": 1}}',
    ):
        (tmp_path / "reason.json").write_text(broken)
        assert "not the output of a benchmark" in str(invoked(*files).exception), broken


@pytest.mark.parametrize("tokens", ["x", "0", "nan", "inf", "-5", "1,2,3", "9,2,3,10", "1,2,3,4,5", "1,2,3,\x1b[2J"])
def test_other_lengths_are_refused(tokens):
    result = invoked("--prefilter-rate", "1", "--gpu-tokens", "3000", "--tokens", tokens)
    assert "give a mean, as in 300, or four rising percentiles" in str(result.exception)
    assert "\x1b" not in str(result.exception)
