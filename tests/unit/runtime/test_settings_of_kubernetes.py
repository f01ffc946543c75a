"""Settings in a cluster: variables that Kubernetes sets by itself, and URLs that must hold no secret."""

import pytest

from safeguard_streams.errors import ConfigurationError
from safeguard_streams.runtime import settings
from safeguard_streams.runtime.security import OAuthTokenProvider


@pytest.fixture(autouse=True)
def bare(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAFEGUARD_SECRETS", str(tmp_path / "none"))


@pytest.mark.parametrize("value", ["tcp://10.0.0.1:8002", "udp://10.0.0.1:53", "TCP://[fd00::1]:8002", "sctp://a:1"])
@pytest.mark.parametrize("name", ["REASONER_PORT", "PREFILTER_PORT", "ENFORCEMENT_PORT"])
def test_a_port_of_a_service_link_is_no_setting(monkeypatch, name, value, tmp_path):
    monkeypatch.setenv(f"SAFEGUARD_{name}", value)
    monkeypatch.setenv(f"SAFEGUARD_{name}_8002_TCP_ADDR", "10.0.0.1")
    default = settings.Settings.model_fields[name.lower()].default
    assert getattr(settings.load(), name.lower()) == default
    (tmp_path / "safeguard.toml").write_text(f"{name.lower()} = 7000")
    assert getattr(settings.load(), name.lower()) == 7000, "a file's setting stands"


@pytest.mark.parametrize("value", ["tcp://", "http://10.0.0.1:8002", "a", "", "tcp://10.0.0.1:x"])
def test_another_value_that_is_no_port_is_named(monkeypatch, value):
    monkeypatch.setenv("SAFEGUARD_REASONER_PORT", value)
    with pytest.raises(ConfigurationError, match="SAFEGUARD_REASONER_PORT"):
        settings.load()


@pytest.mark.parametrize("name", ["oauth_url", "servers"])
def test_a_secret_in_a_url_is_refused_and_not_shown(name):
    with pytest.raises(ConfigurationError, match=f"SAFEGUARD_{name.upper()}.*no user and no password") as raised:
        settings.load(**{name: "https://ann:geheim@host/v1"})
    assert "geheim" not in str(raised.value)
    assert getattr(settings.load(**{name: "https://host/a@b/v1"}), name)


async def test_an_oauth_error_names_the_server_alone():
    provider = OAuthTokenProvider("http://127.0.0.1:9/path-geheim?token=geheim", "client", "geheim", "")
    with pytest.raises(Exception, match="http://127.0.0.1 returned no token") as raised:
        await provider.token()
    assert "geheim" not in str(raised.value)
