"""The sweep of the reasoner's benchmark: lengths of answers, places that are all taken, and figures of that time."""

import asyncio
import json
import time
from functools import partial
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from safeguard_streams.cli import app
from safeguard_streams.contract.records import Tokens
from safeguard_streams.operations.capacity import LOGGED
from safeguard_streams.runtime import settings
from safeguard_streams.workers.bench import baselines, run
from safeguard_streams.workers.bench.baselines import Timed, _at_once, steady
from safeguard_streams.workers.bench.items import answer_lengths


def test_lengths_spread_as_the_logged_ones_within_what_the_model_takes():
    lengths = sorted(answer_lengths(4000, 4096))
    for share, expected in ((0.1, LOGGED.p10), (0.5, LOGGED.p50), (0.9, LOGGED.p90)):
        assert lengths[int(share * len(lengths))] == pytest.approx(expected, rel=0.15)
    assert max(answer_lengths(4000, 100)) == 100
    assert answer_lengths(5, 4096) == answer_lengths(5, 4096)


async def test_as_many_calls_run_at_once_as_there_are_places():
    running = most = 0

    async def call(number):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1
        return number

    assert sorted(await _at_once(5, [partial(call, number) for number in range(40)])) == list(range(40))
    assert most == 5


def test_the_figures_leave_out_the_end_in_which_places_are_free():
    """Two places: 2 s in which both write 10 tokens a second, then 8 s in which one of them does."""
    requests = [
        Timed(0.0, 2.0, Tokens(5, 0, 20)),
        Timed(0.0, 1.0, Tokens(5, 0, 10)),
        Timed(1.0, 2.0, Tokens(5, 0, 10)),
        Timed(2.0, 10.0, Tokens(5, 5, 80)),
    ]
    row = steady(requests)
    assert (row["tokens_per_s"], row["requests_per_s"], row["requests"]) == (20, 1.5, 4)
    assert row["prompt_cached_percent"] == 25.0


async def test_a_sweep_measures_each_number_of_requests_and_capacity_plans_with_it(monkeypatch, tmp_path):
    config = SimpleNamespace(model_config=SimpleNamespace(max_model_len=8192))
    engine = SimpleNamespace(vllm_config=config, shutdown=lambda: None)

    async def ask(_, request, length):
        begin = time.perf_counter()
        await asyncio.sleep(length / 1e5)
        return Timed(begin, time.perf_counter(), Tokens(len(request.prompt), 0, length))

    async def measured(bench, environment, name, *steps):
        assert (name, steps) == ("sweep", ("2", "4", "8", "16", "32"))
        assert environment["SAFEGUARD_MAX_IN_FLIGHT"] == "32", "the engine takes as many as the last step needs"
        return await baselines.sweep(settings.load(), bench.count, [int(step) for step in steps])

    monkeypatch.setattr(baselines, "engine", lambda _: engine)
    monkeypatch.setattr(baselines, "ask", ask)
    monkeypatch.setattr(baselines, "_exactly", lambda length: length)
    monkeypatch.setattr(run, "_baseline", measured)
    monkeypatch.setattr(run, "_device", lambda: (True, 8))
    monkeypatch.delenv("SAFEGUARD_MAX_IN_FLIGHT", raising=False)
    said = []
    figures = await run.sweep(20, "small", None, tmp_path, said.append)
    assert "2, 4, 8, 16, 32 requests at once" in said[0]
    rows = list(figures["variants"].values())
    assert [row["in_flight"] for row in rows] == [2, 4, 8, 16, 32]
    assert [row["requests"] for row in rows] == [20, 20, 32, 64, 128]
    fastest = max(rows, key=lambda row: row["tokens_per_s"])
    (tmp_path / "sweep.json").write_text(json.dumps(figures))
    words = ["capacity", "--rate", "10000000", "--prefilter-rate", "20000", "--json"]
    planned = CliRunner().invoke(app, [*words, "--bench-reason", str(tmp_path / "sweep.json")])
    (plan,) = json.loads(planned.stdout)
    assert plan["slots"] == fastest["in_flight"], "in this sweep, more at once slow none"
