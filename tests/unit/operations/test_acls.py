"""Roles have the rights that their commands need."""

import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from safeguard_streams.cli import app
from safeguard_streams.console.folding import FOLDS
from safeguard_streams.contract import topics
from safeguard_streams.enforcement.cleared import STAGE as CLEARING
from safeguard_streams.enforcement.stages import ACTING, DELIVERING, STAGE
from safeguard_streams.operations.acls import ROLES, bindings
from safeguard_streams.runtime.settings import Settings


def test_agents_and_operators_may_read_how_far_agents_are():
    """`safeguard enforce repartition` asks for the positions of the agents' groups."""
    for role in ("enforcement", "operator"):
        for group in (STAGE, ACTING, CLEARING, DELIVERING):
            assert any(group.startswith(prefix) for prefix in ROLES[role].groups), (role, group)


def test_a_projector_may_read_what_it_projects_and_write_nothing():
    assert set(ROLES["projector"].reads) == set(FOLDS)
    assert not ROLES["projector"].writes
    assert not ROLES["projector"].groups
    assert not ROLES["projector"].transactions


def test_who_creates_topics_may_raise_their_record_size():
    granted = {(one.operation, one.name) for one in bindings("operator", "User:o", "eu.") if one.resource == "topic"}
    for operation in ("create", "describe-configs", "alter-configs"):
        assert {name for granted_one, name in granted if granted_one == operation} == {
            f"eu.{topic.name}" for topic in topics.CATALOGUE
        }


def test_security_names_all_who_may_write_what_decides():
    """A table of SECURITY.md tells operators whom the agent has to believe."""
    text = (Path(__file__).parents[3] / "SECURITY.md").read_text()
    rows = [line.strip("| ").split(" | ")[0] for line in text.splitlines() if line.startswith("| moderation.")]
    named = {}
    for row in rows:
        written, _, roles = row.partition(": ")
        named |= {topic: set(roles.split(", ")) for topic in written.split(" and ")}
    trusted = (topics.ACTIONS, topics.VERDICTS, topics.ENFORCEMENT, topics.STANDING)
    assert named == {topic: {name for name, role in ROLES.items() if topic in role.writes} for topic in trusted}


def test_commands_name_operations_as_kafkas_tool_does():
    commands = [one.command(Settings(bootstrap="k:9092")) for one in bindings("operator", "User:o")]
    assert any("--operation DescribeConfigs --topic content.events" in command for command in commands)
    assert all(command.startswith("kafka-acls.sh --bootstrap-server k:9092 --add ") for command in commands)


def test_commands_survive_a_shell_and_name_the_administrators_credentials():
    secured = Settings(bootstrap="k:9092", security_protocol="SASL_SSL")
    principal = "User:CN=web 1,O='x;rm -rf'"
    for one in bindings("consumer", principal, "eu.", "my group"):
        words = shlex.split(one.command(secured))
        assert words[words.index("--allow-principal") + 1] == principal
        assert words[words.index("--command-config") + 1] == "admin.properties"
        assert one.name in words


def test_a_consumer_reads_verdicts_and_statements_in_its_own_group_and_nothing_else():
    granted = {(one.operation, one.resource, one.name, one.prefixed) for one in bindings("consumer", "User:c", "eu.")}
    assert granted == {
        ("read", "topic", "eu.moderation.verdicts", False),
        ("read", "topic", "eu.moderation.cleared", False),
        ("read", "topic", "eu.moderation.statements", False),
        ("read", "group", "eu.consumer", True),
    }
    groups = [one for one in bindings("consumer", "User:c", "eu.", "my-service") if one.resource == "group"]
    assert [(one.name, one.prefixed) for one in groups] == [("my-service", False)]


def test_the_console_writes_what_people_do_and_runs_the_replays_that_they_start():
    rights = ROLES["console"]
    assert set(rights.writes) == {
        *(topics.ACTIONS, topics.POLICIES, topics.POLICIES_HISTORY, topics.REPLAY_JOBS),
        *(topics.REPLAY_PROGRESS, topics.ESCALATIONS_REPLAY, topics.DEAD_LETTERS, topics.POSITIONS, topics.VERDICTS),
        topics.STRIKES,  # decisions about authors
    }
    assert not rights.creates_topics
    assert rights.groups == ("replay-",), "its projector keeps its positions beside its rows"
    followed = {topics.VERDICTS, topics.RATIONALES, topics.ACTIONS, *topics.LANES.values(), topics.DEAD_LETTERS}
    assert set(rights.reads) > {*followed, topics.POLICIES, topics.POLICIES_HISTORY, topics.REPLAYS, topics.STANDING}
    assert topics.EVENTS in rights.reads
    assert rights.transactions == ("policy-releases", "replay-", "promote-")


@pytest.mark.parametrize("principal", ["", "web", "User:", ":web"])
def test_a_principal_that_kafka_refuses_is_refused(principal):
    shown = CliRunner().invoke(app, ["topics", "acls", "consumer", "--principal", principal])
    assert (shown.exit_code, shown.stdout) == (1, "")
    assert "--principal" in str(shown.exception)
