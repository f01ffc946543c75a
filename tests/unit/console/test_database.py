"""The URL of the console's database, and what errors of databases mean."""

import stat

import pytest
from typer.testing import CliRunner

from safeguard_streams.cli import app
from safeguard_streams.console.database import engine_of, to_json
from safeguard_streams.errors import ConfigurationError


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("console.db", "is no URL of a database"),
        ("mysql://host/name", "mysql is no database that the console uses"),
        ("sqlite://", "name the file"),
        ("sqlite:///:memory:", "name the file"),
        ("sqlite:////no/such/folder/console.db", "there is no folder /no/such/folder"),
        ("sqlite:////", "name the file|is a directory|Is a directory"),
    ],
)
def test_a_wrong_address_says_what_to_write(address, problem):
    with pytest.raises(ConfigurationError, match=problem):
        engine_of(address)


def test_a_password_is_in_no_message():
    with pytest.raises(ConfigurationError) as raised:
        engine_of("mysql://user:hunter2@host/name")
    assert "hunter2" not in str(raised.value)


def test_a_new_file_is_readable_by_its_user_only(tmp_path):
    engine_of(f"sqlite:///{tmp_path}/console.db").dispose()
    assert stat.S_IMODE((tmp_path / "console.db").stat().st_mode) == 0o600


@pytest.mark.parametrize("command", [["project"], ["rebuild", "--yes"]])
def test_a_command_without_a_database_says_which_setting_it_needs(command, monkeypatch):
    monkeypatch.delenv("SAFEGUARD_CONSOLE_DATABASE", raising=False)
    result = CliRunner().invoke(app, ["console", *command])
    assert result.exit_code == 1
    assert isinstance(result.exception, ConfigurationError)
    assert "SAFEGUARD_CONSOLE_DATABASE" in str(result.exception)


def test_json_holds_no_nul_and_no_number_that_is_none():
    assert (
        to_json({"a\0": ["\0", {"b": "\\u0000"}], "c": float("inf")})
        == '{"a\ufffd":["\ufffd",{"b":"\\\\u0000"}],"c":null}'
    )


def test_a_file_that_is_no_database_is_said(tmp_path):
    (tmp_path / "notes.txt").write_text("not a database, but a text")
    with pytest.raises(ConfigurationError, match=r"notes\.txt is no SQLite database"):
        engine_of(f"sqlite:///{tmp_path}/notes.txt")
