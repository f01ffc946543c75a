"""The compose file: a start changes no policy that was ever released, and the console's secrets are not in it."""

from pathlib import Path

import yaml

from safeguard_streams.runtime.settings import Settings

SERVICES = yaml.safe_load(Path("docker-compose.kafka.yml").read_text(encoding="utf-8"))["services"]


def test_a_start_releases_only_what_was_never_released():
    releasing = [one["command"] for one in SERVICES.values() if "release" in one.get("command", ())]
    assert releasing == [["policy", "release", "--all-new", "--why", "compose"]]


def test_the_console_starts_only_with_its_profile_on_this_machine_alone():
    profile = {name for name, service in SERVICES.items() if service.get("profiles") == ["console"]}
    assert profile == {"console", "console-database"}
    port = Settings.model_fields["console_port"].default
    assert SERVICES["console"]["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert "ports" not in SERVICES["console-database"], "only containers reach it"
    assert all("healthcheck" in SERVICES[name] for name in profile)
    assert SERVICES["console"]["depends_on"]["console-database"] == {"condition": "service_healthy"}


def test_no_secret_of_the_console_is_in_the_file():
    console, database = (SERVICES[name]["environment"] for name in ("console", "console-database"))
    assert console["PGPASSWORD"] == database["POSTGRES_PASSWORD"] == "${CONSOLE_PASSWORD:-}"
    assert ":" not in console["SAFEGUARD_CONSOLE_DATABASE"].partition("://")[2], "no password"
    given = {name for name, value in console.items() if value is None}
    known = {f"SAFEGUARD_{name.upper()}" for name in Settings.model_fields}
    assert "SAFEGUARD_CONSOLE_OIDC_CLIENT_SECRET" in given
    assert given <= known


def test_no_service_asks_for_the_consoles_variables_without_its_profile():
    """Compose stops at a required variable of any service, whatever the profile."""
    assert ":?" not in Path("docker-compose.kafka.yml").read_text(encoding="utf-8")
