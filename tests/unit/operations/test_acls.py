"""Roles have the rights that their commands need."""

from safeguard_streams.contract import topics
from safeguard_streams.enforcement.cleared import STAGE as CLEARING
from safeguard_streams.enforcement.transform import ACTING, DELIVERING, STAGE
from safeguard_streams.operations.acls import ROLES, bindings


def test_agents_and_operators_may_read_how_far_agents_are():
    """`safeguard enforce repartition` asks for the positions of the agents' groups."""
    for role in ("enforcement", "operator"):
        for group in (STAGE, ACTING, CLEARING, DELIVERING):
            assert any(group.startswith(prefix) for prefix in ROLES[role].groups), (role, group)


def test_who_creates_topics_may_raise_their_record_size():
    granted = {(one.operation, one.name) for one in bindings("operator", "User:o", "eu.") if one.resource == "topic"}
    for operation in ("create", "describe-configs", "alter-configs"):
        assert {name for granted_one, name in granted if granted_one == operation} == {
            f"eu.{topic.name}" for topic in topics.CATALOGUE
        }


def test_commands_name_operations_as_kafkas_tool_does():
    commands = [one.command for one in bindings("operator", "User:o")]
    assert any("--operation DescribeConfigs --topic 'content.events'" in command for command in commands)
