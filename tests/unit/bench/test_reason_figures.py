"""The figures of the reasoner's benchmark: how answers were had, the requests at once, and how all of it is shown."""

import asyncio
from datetime import UTC, datetime
from types import SimpleNamespace

import msgspec
import pytest
from typer.testing import CliRunner

from safeguard_streams.cli import app
from safeguard_streams.contract.records import Tokens, Verdict, encode
from safeguard_streams.workers.bench import drains, run
from safeguard_streams.workers.bench.items import at_once

PAGE = """# HELP safeguard_second_tries_total Requests made because an output was rejected.
# TYPE safeguard_second_tries_total counter
safeguard_second_tries_total{accepted="true",kind="constrained"} 7.0
safeguard_second_tries_total{accepted="false",kind="constrained"} 1.0
safeguard_second_tries_total{accepted="true",kind="again"} 2.0
# HELP safeguard_second_tries_tokens_total Tokens
# TYPE safeguard_second_tries_tokens_total counter
safeguard_second_tries_tokens_total{kind="constrained"} 240.0
safeguard_second_tries_tokens_total{kind="again"} 60.0
# HELP safeguard_verdicts_total Verdicts
# TYPE safeguard_verdicts_total counter
safeguard_verdicts_total{decision="safe",lane="live",policy="p"} 99.0
"""


def verdict(decision, answer):
    return Verdict(
        "v", "c", "sha", "p", "1", decision, "reasoner", "live", "m", decided_at=datetime.now(UTC), answer=answer
    )


def test_second_tries_come_from_the_workers_metrics():
    assert drains.second_tries(PAGE) == {"constrained_tries": 8, "tries_again": 2, "second_try_tokens": 300}
    assert drains.second_tries("") == {"constrained_tries": 0, "tries_again": 0, "second_try_tokens": 0}


def test_the_rates_count_items_whose_first_output_was_accepted_and_items_with_an_answer():
    first = [verdict("safe", "first")] * 6 + [verdict("violates", "first")]
    verdicts = [*first, *[verdict("safe", "constrained")] * 2, verdict("undetermined", None)]
    assert drains.parsed(verdicts) == {"first_try_rate": 0.7, "parse_rate": 0.9}


async def test_a_drains_figures_are_of_the_judgements_and_those_reused_take_no_time(monkeypatch):
    async def publish(*_):
        return {}

    def judged(end, milliseconds, tokens):
        decided = datetime.fromtimestamp(end, UTC)
        one = verdict("safe", "first")
        return msgspec.structs.replace(one, decided_at=decided, latency={"reasoner": milliseconds}, tokens=tokens)

    verdicts = [judged(1, 1000, Tokens(8, 4, 50)), judged(2, 1000, Tokens(8, 4, 50)), judged(2, 0, Tokens())]
    answers = SimpleNamespace(take=lambda *_: asyncio.sleep(0, [SimpleNamespace(value=encode(v)) for v in verdicts]))
    monkeypatch.setattr(drains, "publish", publish)
    drained = await drains.drain(None, answers, ["a", "b", "a"], "x")
    assert drained.verdicts == verdicts
    row = drained.row
    assert (row["requests"], row["requests_per_s"], row["tokens_per_s"]) == (3, 1.0, 50)
    assert row["prompt_cached_percent"] == 50.0


@pytest.mark.parametrize(("places", "handed_over"), [(1, 1), (8, 10), (64, 80)])
def test_every_variant_has_as_many_requests_at_once_as_the_worker(places, handed_over):
    assert at_once(places) == handed_over


@pytest.mark.parametrize(("count", "places", "judged"), [(300, 8, 300), (20, 8, 40), (300, 64, 320), (20, 1, 20)])
def test_there_are_enough_items_to_fill_the_places_for_most_of_the_time(count, places, judged):
    assert run.enough(count, places) == judged


@pytest.mark.parametrize(("given", "places"), [(64, 64), (None, 5), (1, 1)])
async def test_the_option_sets_what_every_engine_computes_at_once(monkeypatch, tmp_path, given, places):
    monkeypatch.setenv("SAFEGUARD_MAX_IN_FLIGHT", "5")
    monkeypatch.setattr(run, "_device", lambda: (True, 8))
    bench = await run._bench("", 20, "small", given, tmp_path, print)
    assert bench.concurrency == places
    assert bench.environment["SAFEGUARD_MAX_IN_FLIGHT"] == str(places)


def test_the_table_ends_with_the_ratios_and_the_counts(monkeypatch):
    row = {"requests": 20, "requests_per_s": 2.0}
    figures = {
        "variants": {"vllm-alone": row, "safeguard": row},
        "ratios": {"safeguard_to_vllm_alone": 1.0},
        "counts": {"first_try_rate": 0.95, "second_try_tokens": 31},
    }
    asked = []

    async def reason(*given):
        asked.append(given[2:4])
        return figures

    monkeypatch.setattr(run, "reason", reason)
    monkeypatch.setattr("safeguard_streams.bench.common.wait_for", lambda _: asyncio.sleep(0))
    done = CliRunner().invoke(app, ["bench", "reason", "--bootstrap", "127.0.0.1:1", "--in-flight", "3"])
    assert done.exit_code == 0, done.output
    assert asked == [("small", 3)]
    lines = done.stdout.splitlines()
    assert lines[-3:] == ["safeguard to vllm alone: 1.0", "first try rate: 0.95", "second try tokens: 31"]
    refused = CliRunner().invoke(app, ["bench", "reason", "--in-flight", "0"])
    assert refused.exit_code == 2


async def test_vllm_alone_is_measured_without_and_with_log_probabilities(monkeypatch):
    from safeguard_streams.runtime import settings
    from safeguard_streams.workers.bench import baselines

    config = SimpleNamespace(scheduler_config=SimpleNamespace(max_num_seqs=4))
    engine = SimpleNamespace(vllm_config=config, shutdown=lambda: None)
    asked = []
    running = most = 0

    async def ask(_, request, parameters):
        nonlocal running, most
        assert parameters is request, "the parameters are those of the request"
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1
        asked.append((request.scored, request.max_tokens))
        return baselines.Timed(float(len(asked)), len(asked) + 1.0, Tokens(10, 5, 2))

    monkeypatch.setattr(baselines, "engine", lambda _: engine)
    monkeypatch.setattr(baselines, "ask", ask)
    monkeypatch.setattr(baselines, "sampling", lambda request: request)
    rows = await baselines.alone(settings.load(), 20)
    assert [row["requests"] for row in rows] == [20, 20, 20]
    judged = [scored for scored, length in asked if length == baselines.MAX_ANSWER_TOKENS]
    assert judged == [False] * 20 + [True] * 20 + [False] * 20
    assert most == at_once(4)
