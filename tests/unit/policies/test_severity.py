"""Severities and notes of rules: what a document may say, and what follows from it."""

import json
from datetime import UTC, datetime

import pytest

from safeguard_streams.cli.policy_tables import print_plan
from safeguard_streams.contract.records import PolicyRelease
from safeguard_streams.policies.difference import difference
from safeguard_streams.policies.files import load_library
from safeguard_streams.policies.parsing import MAX_NOTE, parse, parse_with_lines
from safeguard_streams.releases.operator import PlannedRelease
from tests.unit.cli.invoking import invoke

DOCUMENT = """---
id: sub
title: Sub-rules
owner: test
rules:
  AB1: first
  AB1.a: first, in part
  AB1.b: first, in another part
  AB2: second
  AB3: third
  AB4: rest
{extra}gate: {{everything: true}}
---
# Sub-rules

## VIOLATES
- AB1: first
- AB1.a: first, in part
- AB1.b: first, in another part
- AB2: second
- AB3: third

## SAFE
- AB4: rest
"""
LIBRARY = load_library()


def policy(extra=""):
    return parse(DOCUMENT.format(extra=extra))


SOME = "severity: {AB1: high, AB1.b: critical, AB3: low}\n"


@pytest.mark.parametrize(
    ("rule", "severity"), [("AB1", "high"), ("AB1.a", "high"), ("AB1.b", "critical"), ("AB2", "medium"), ("AB3", "low")]
)
def test_a_rule_has_its_own_severity_or_that_of_the_rule_above_or_the_default(rule, severity):
    assert policy(SOME).severity_of(rule) == severity
    assert policy().severity_of(rule) == "medium"


@pytest.mark.parametrize(
    ("cited", "severity"),
    [(("AB3",), "low"), (("AB3", "AB1.b", "AB2"), "critical"), (("AB2",), "medium"), ((), "low"), (("AB4",), "low")],
)
def test_a_violation_has_the_highest_severity_that_it_cites_and_else_the_lowest_of_the_policy(cited, severity):
    assert policy(SOME).severity_of_violation(cited) == severity


@pytest.mark.parametrize(
    ("extra", "line", "message"),
    [
        ("severity: {AB1: sever}\n", 12, "AB1 is 'sever'; write one of: low, medium, high, critical"),
        ("severity:\n  AB1: high\n  AB2: HIGH\n", 14, "AB2 is 'HIGH'; write one of: low, medium, high, critical"),
        ("severity: {AB1: 3}\n", 12, "AB1 is '3'; write one of"),
        ("severity: {AB1: [high]}\n", 12, "write one of"),
        ("severity: high\n", 12, "severity: write a line for each rule"),
        ("severity:\n", 12, "severity: write a line for each rule"),
        (
            "severity: {AB9: high}\n",
            12,
            "AB9 is none; a severity is for a rule of VIOLATES: AB1, AB1.a, AB1.b, AB2, AB3",
        ),
        ("severity: {AB4: high}\n", 12, "AB4 is none; a severity is for a rule of VIOLATES"),
        ("severity: {1: high}\n", 12, "1 is 'high'"),
        ("notes: {AB4: said}\n", 12, "AB4 is none; a note is for a rule of VIOLATES"),
        ("notes: {AB1: no}\n", 12, "AB1 is 'False'; write a sentence"),
        ('notes: {AB1: " "}\n', 12, "write the note of AB1 as one line of 1 to 500 characters"),
        ('notes: {AB1: "two\\nlines"}\n', 12, "write the note of AB1 as one line"),
        ('notes: {AB1: "\\e[2J"}\n', 12, "write the note of AB1 as one line"),
        (f"notes: {{AB1: {'a' * (MAX_NOTE + 1)}}}\n", 12, "write the note of AB1 as one line"),
    ],
)
def test_what_is_wrong_is_named_with_its_line_and_what_is_allowed(extra, line, message):
    parsed = parse_with_lines(DOCUMENT.format(extra=extra), "policy", None)
    assert parsed.policy is None
    found = [problem.message for problem in parsed.document.problems if problem.line == line]
    assert any(message in one for one in found), parsed.document.problems


def test_severities_and_notes_leave_the_version_and_show_in_the_difference():
    before = policy("severity: {AB1: high}\n")
    after = policy("severity: {AB1: low, AB2: critical}\nnotes: {AB1: Not allowed.}\n")
    assert before.version == after.version == policy().version
    differs = difference(before, after)
    assert not differs.decides
    assert not differs.text
    assert not differs.describes
    assert [*map(str, differs.enforces)] == [
        "severity.AB1: high -> low",
        "severity.AB2: not set -> critical",
        "notes.AB1: not set -> Not allowed.",
    ]


def test_a_release_shows_changed_severities_before_it_is_made(capsys):
    before, after = policy("severity: {AB1: high}\n"), policy("severity: {AB1: low}\n")
    in_force = PolicyRelease("sub", before.version, 1, before.document, datetime(2026, 1, 1, tzinfo=UTC), "ann")
    print_plan([PlannedRelease(after, in_force, unchanged=False)], shadow=False)
    shown = capsys.readouterr().out
    assert "decides as before: the version stays\n  severity.AB1: high -> low (for enforcement)\n" in shown


@pytest.mark.parametrize("name", LIBRARY)
def test_each_rule_of_the_library_has_a_severity_and_a_note(name):
    shipped = LIBRARY[name]
    assert set(shipped.severity) == set(shipped.notes) == set(shipped.violating)


def test_people_in_danger_are_critical():
    assert LIBRARY["self-harm"].severity_of_violation(["SH3"]) == "critical"


def test_a_policy_is_shown_with_the_severity_of_each_rule():
    shown = json.loads(invoke("policy", "show", "fraud-spam", "--json").stdout)
    shipped = LIBRARY["fraud-spam"]
    assert shown["version"] == shipped.version
    assert {rule["id"]: rule["severity"] for rule in shown["rules"]} == {
        **{rule: shipped.severity_of(rule) for rule in shipped.violating},
        **dict.fromkeys(shipped.safe),
    }
    table = invoke("policy", "show", "fraud-spam").stdout
    assert all(severity in table for severity in map(shipped.severity_of, shipped.violating))
    assert shipped.notes["FS1"] in table
