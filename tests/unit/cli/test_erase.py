"""safeguard erase: what it says about an id that no record has."""

import pytest
from typer.testing import CliRunner

from safeguard_streams.cli import app
from safeguard_streams.contract.records import now
from safeguard_streams.operations import erasure


@pytest.mark.parametrize(
    ("rationales", "said"), [(0, "no record is about post-1: check the id"), (2, "no other records remain")]
)
def test_an_id_that_no_record_has_is_named(monkeypatch, rationales, said):
    async def erased(*_):
        return erasure.Erasure("post-1", now(), rationales, now(), all_rationales=True, remains=[])

    monkeypatch.setattr(erasure, "erase", erased)
    done = CliRunner().invoke(app, ["erase", "post-1"])
    assert done.exit_code == 0
    assert said in done.stdout
