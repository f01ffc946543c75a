"""The costs of texts, at small sizes; no time is compared."""

import json

import pytest
from typer.testing import CliRunner

from safeguard_streams.bench import costs, texts
from safeguard_streams.cli import app
from safeguard_streams.workers.bench import texts as prompts


@pytest.mark.parametrize("kind", costs.KINDS)
def test_a_text_has_its_length_and_is_the_same_every_time(kind):
    text = costs.text_of(kind, 5000)
    assert 4900 <= len(text.encode()) <= 5000
    assert costs.text_of(kind, 5000) == text


def test_costs_are_shown_by_kind_and_length_without_what_this_host_lacks(monkeypatch):
    monkeypatch.setattr(texts, "KINDS", {kind: costs.KINDS[kind] for kind in ("posts", "emoji")})
    monkeypatch.setitem(texts.MEASURED, "prompt", "safeguard_streams.no_such_module")
    monkeypatch.setattr(texts, "SIZES", (300, 20_000))
    shown = CliRunner().invoke(app, ["bench", "texts", "--largest", "300", "--json"])
    assert shown.exit_code == 0, shown.output
    variants = json.loads(shown.stdout)["variants"]
    assert list(variants) == ["posts, 300 bytes", "emoji, 300 bytes"]
    for row in variants.values():
        assert list(row) == ["prefilter_us", "prefilter_mib"]
        assert row["prefilter_us"] > 0


def test_a_measurement_that_takes_too_long_has_no_figures(monkeypatch):
    monkeypatch.setattr(texts, "SECONDS", 0.01)
    assert texts.measured(texts.MEASURED["prefilter"], "posts", 300) is None


def test_the_prompt_is_measured_as_the_reasoner_makes_it():
    windows = prompts._prompt(costs.text_of("CJK", 3_000_000))
    assert windows.truncated, "a text beyond the bound is sampled before it is tokenised"
    assert len(windows.messages) == prompts.MAX_WINDOWS
