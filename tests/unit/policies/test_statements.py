"""What a policy says for statements of reasons."""

import json

import pytest

from safeguard_streams.enforcement.statement_texts import languages
from safeguard_streams.policies.check import check
from safeguard_streams.policies.difference import difference
from safeguard_streams.policies.files import load_library
from safeguard_streams.policies.parsing import parse_with_lines
from safeguard_streams.policies.statements import CATEGORIES, KEYWORDS_OF, MAX_NOTE, OTHER_VIOLATION, of_rule
from tests.unit.cli.invoking import invoke
from tests.unit.policies.test_severity import DOCUMENT, policy

LIBRARY = load_library()
SOME = """statements:
  AB1:
    category: STATEMENT_CATEGORY_VIOLENCE
    keyword: KEYWORD_COORDINATED_HARM
    law: Section 1 of the Act
    notes: {de: Nein.}
  AB1.b: {category: STATEMENT_CATEGORY_SELF_HARM}
"""


@pytest.mark.parametrize(
    ("rule", "category"),
    [
        ("AB1", "STATEMENT_CATEGORY_VIOLENCE"),
        ("AB1.a", "STATEMENT_CATEGORY_VIOLENCE"),
        ("AB1.b", "STATEMENT_CATEGORY_SELF_HARM"),
        ("AB2", OTHER_VIOLATION),
    ],
)
def test_a_rule_has_its_own_entry_or_that_of_the_rule_above(rule, category):
    assert of_rule(policy(SOME).statements, rule).category == category


@pytest.mark.parametrize(
    ("extra", "line", "message"),
    [
        ("statements: {AB1: {category: VIOLENCE}}\n", 12, "available: STATEMENT_CATEGORY_ANIMAL_WELFARE, STATEMENT_"),
        (
            "statements:\n  AB1: {}\n  AB2: {keyword: KEYWORD_SUICIDE}\n",
            14,
            "KEYWORD_SUICIDE is no keyword of STATE",
        ),
        ("statements: {AB1: {legal: x}}\n", 12, "AB1: object contains unknown field legal"),
        ("statements: {AB1: {notes: {german: x}}}\n", 12, "AB1: expected"),
        ('statements: {AB1: {notes: {"de\\n": x}}}\n', 12, "AB1: expected"),
        ("statements: {AB1: {notes: {de: 1}}}\n", 12, "AB1: expected str, got int"),
        ('statements: {AB1: {notes: {de: "a\\nb"}}}\n', 12, "write law and notes as one line"),
        (f"statements: {{AB1: {{law: {'a' * (MAX_NOTE + 1)}}}}}\n", 12, "length <= 500"),
        ("statements: {AB4: {}}\n", 12, "AB4 is none; a statement is for a rule of VIOLATES: AB1"),
        ("statements: {3: {}}\n", 12, "3: write the id of the rule as text"),
        ("statements: none\n", 12, "statements: write an entry for each rule"),
    ],
)
def test_what_no_statement_can_say_is_reported_with_its_line(extra, line, message):
    parsed = parse_with_lines(DOCUMENT.format(extra=extra), "policy.md", None)
    assert any(one.line == line and message in one.message for one in parsed.document.problems), (
        parsed.document.problems
    )
    assert parsed.policy is None


def test_statements_leave_the_version_and_show_in_the_difference():
    before, after = policy(), policy(SOME)
    assert before.version == after.version
    changed = [*map(str, difference(before, after).enforces)]
    assert "statements.AB1.notes.de: not set -> Nein." in changed
    assert "statements.AB1.b.category: not set -> STATEMENT_CATEGORY_SELF_HARM" in changed


@pytest.mark.parametrize("name", LIBRARY)
def test_each_rule_of_the_library_has_a_category_and_notes_in_each_language_with_sentences(name):
    shipped = LIBRARY[name]
    assert set(shipped.statements) == set(shipped.violating)
    assert all({"en", *one.notes} == set(languages()) and one.keyword for one in shipped.statements.values())


def test_a_check_names_the_rules_without_an_entry(tmp_path):
    shipped = LIBRARY["fraud-spam"].document
    start = shipped.index("  FS2:\n    category")
    (tmp_path / "policy.md").write_text(shipped[:start] + shipped[shipped.index("gate:") :], "utf-8")
    found = [problem for problem in check(tmp_path / "policy.md").problems if problem.code == "statements"]
    assert [(one.severity, one.message[:19]) for one in found] == [("warning", "FS2, FS3: no entry,")]
    (tmp_path / "policy.md").write_text(shipped, "utf-8")
    assert "statements" not in {problem.code for problem in check(tmp_path / "policy.md").problems}


def test_a_policy_is_shown_with_the_category_of_each_rule():
    shown = json.loads(invoke("policy", "show", "fraud-spam", "--json").stdout)
    categories = {rule["id"]: rule["statement"] and rule["statement"].get("category") for rule in shown["rules"]}
    assert categories["FS1"] == "STATEMENT_CATEGORY_SCAMS_AND_FRAUD"
    assert categories["FS4"] is None
    shipped = invoke("policy", "show", "fraud-spam").stdout
    assert "category of FS1: STATEMENT_CATEGORY_SCAMS_AND_FRAUD KEYWORD_PHISHING" in shipped


def test_each_category_has_its_keywords():
    assert set(KEYWORDS_OF) == set(CATEGORIES)
