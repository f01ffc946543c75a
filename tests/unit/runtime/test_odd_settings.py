"""Settings that nothing could work with are refused by name, before anything is done."""

import pytest

from safeguard_streams.errors import ConfigurationError
from safeguard_streams.runtime import settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("prefix", "eu/"),
        ("prefix", "ü."),
        ("prefix", "eu. "),
        ("prefix", "x" * 201),
        ("reasoner_port", 65_536),
        ("enforcement_port", -1),
        ("max_tokens", 0),
        ("max_model_len", 0),
        ("group_instance_id", "pod 0"),
        ("group_instance_id", "x" * 201),
        ("commit_interval", -0.1),
        ("lanes", ""),
        ("lanes", "live,"),
        ("lanes", "live;audit"),
        ("lanes", "replays"),
        ("lanes", []),
        ("lanes", [1]),
        ("lanes", 3),
    ],
)
def test_a_value_that_cannot_work_is_refused_by_its_name(name, value):
    with pytest.raises(ConfigurationError, match=f"SAFEGUARD_{name.upper()}"):
        settings.load(**{name: value})


def test_values_at_the_bounds_are_taken():
    loaded = settings.load(prefix="eu-1.prod_", reasoner_port=0, enforcement_port=65_535, max_tokens=1)
    assert (loaded.prefix, loaded.reasoner_port, loaded.enforcement_port) == ("eu-1.prod_", 0, 65_535)


def test_lanes_are_joined_by_commas_and_each_counts_once(monkeypatch, tmp_path):
    assert settings.load().lanes == ("live", "audit", "shadow", "replay")
    monkeypatch.setenv("SAFEGUARD_LANES", " audit, replay,audit")
    assert settings.load().lanes == ("audit", "replay"), "a lane has one consumer in a process"
    monkeypatch.delenv("SAFEGUARD_LANES")
    for line in ('lanes = ["live"]', 'lanes = "live"'):
        (tmp_path / "s.toml").write_text(line)
        monkeypatch.setenv("SAFEGUARD_CONFIG", str(tmp_path / "s.toml"))
        assert settings.load().lanes == ("live",)
