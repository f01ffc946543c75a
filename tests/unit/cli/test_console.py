"""What `safeguard console serve` says before it serves."""

import socket

import pytest
from typer.testing import CliRunner

from safeguard_streams.cli import app
from safeguard_streams.errors import ConfigurationError

pytest.importorskip("starlette")


def serve(monkeypatch, *arguments, **variables):
    for name, value in variables.items():
        monkeypatch.setenv(f"SAFEGUARD_{name}", value)
    return CliRunner().invoke(app, ["console", "serve", *arguments]).exception


def test_a_console_without_a_database_says_what_to_set(monkeypatch):
    monkeypatch.delenv("SAFEGUARD_CONSOLE_DATABASE", raising=False)
    error = serve(monkeypatch)
    assert isinstance(error, ConfigurationError)
    assert "SAFEGUARD_CONSOLE_DATABASE" in str(error)


def test_a_console_without_sign_in_serves_no_other_machine(monkeypatch, tmp_path):
    error = serve(monkeypatch, "--port", "0", HOST="0.0.0.0", CONSOLE_DATABASE=f"sqlite:///{tmp_path}/c.db")
    assert isinstance(error, ConfigurationError)
    assert "serves 127.0.0.1 only, not 0.0.0.0" in str(error)


def test_a_port_that_another_process_has_is_said_before_anything_is_opened(monkeypatch, tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        error = serve(monkeypatch, "--port", port, CONSOLE_DATABASE=f"sqlite:///{tmp_path}/c.db")
    assert isinstance(error, ConfigurationError)
    assert f"127.0.0.1:{port}" in str(error)
    assert not (tmp_path / "c.db").exists()
