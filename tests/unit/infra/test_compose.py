"""The compose file: a start changes no policy that was ever released."""

from pathlib import Path

import yaml

SERVICES = yaml.safe_load(Path("docker-compose.kafka.yml").read_text(encoding="utf-8"))["services"]


def test_a_start_releases_only_what_was_never_released():
    releasing = [one["command"] for one in SERVICES.values() if "release" in one.get("command", ())]
    assert releasing == [["policy", "release", "--all-new", "--why", "compose"]]
