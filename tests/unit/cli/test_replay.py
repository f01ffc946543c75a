"""The commands of replays."""

import sys

import pytest

from safeguard_streams.errors import ConfigurationError
from tests.unit.cli import invoking


@pytest.mark.parametrize("command", ["diff", "promote", "revert"])
def test_a_host_without_duckdb_is_told_what_to_install(command, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("safeguard_streams.replay.diff")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(ConfigurationError, match="duckdb is not installed here: install infra/requirements/all-cpu"):
        invoking.invoke("replay", command, "r-1", "--bootstrap", "127.0.0.1:1")
