"""Sub-rules and a policy's own words in the check: what is accepted, and what is reported with its line."""

import pytest

from safeguard_streams.policies.check import check
from safeguard_streams.policies.files import LIBRARY
from safeguard_streams.policies.vocabulary import is_within

GOOD = (LIBRARY / "fraud-spam/policy.md").read_text(encoding="utf-8")
SUB = GOOD.replace("FS2", "FS1.a").replace("FS3", "FS1.a.2")
WORDED = SUB.replace("effort: low", "effort: low\njudging:\n  output: {BAD: violates, GOOD: safe}").replace(
    '"violation":0 or 1', '"violation":"GOOD" or "BAD"'
)


def checked(tmp_path, document):
    path = tmp_path / "policy.md"
    path.write_text(document, encoding="utf-8")
    return check(path)


def errors(tmp_path, document):
    return [problem.message for problem in checked(tmp_path, document).errors]


def test_sub_rules_are_rules_of_the_sections_the_front_matter_and_the_examples(tmp_path):
    result = checked(tmp_path, SUB)
    assert result.errors == []
    assert result.policy.violating == ("FS1", "FS1.a", "FS1.a.2")


@pytest.mark.parametrize(
    ("mention", "message"),
    [
        ("Cite FS1.a before FS1.", None),
        ("FS1.a.2 is worse than FS1.a, and FS1 is worst.", None),
        ("Not FS10, and not FS1.b.", "the policy has no rule FS10"),
        ("See FS1.b.", "the policy has no rule FS1.b"),
        ("It costs 4.FS1x, or xFS9.", None),
    ],
)
def test_a_mention_of_a_rule_that_there_is_not_is_an_error(tmp_path, mention, message):
    found = errors(tmp_path, SUB.replace("Judge what the", f"{mention} Judge what the", 1))
    assert (message in found) if message else (found == [])


def test_a_level_that_is_only_named_by_its_sub_rules_may_be_mentioned(tmp_path):
    document = GOOD.replace("FS1", "FS1.a").replace("Judge what the", "FS1 is the worst. Judge what the", 1)
    assert errors(tmp_path, document) == []


@pytest.mark.parametrize("rule", ["fs2", "FS", "FS2.A", "FS2.", "FS2.abcd", "FS2.a.b.c", "ABCDEFGHI1", "FS2.é"])
def test_ids_of_another_form_begin_no_rule(tmp_path, rule):
    assert "begin each rule with its id, as in '- AB1: ...'" in errors(tmp_path, GOOD.replace("- FS2:", f"- {rule}:"))


def test_own_words_are_accepted_where_the_output_offers_them(tmp_path):
    assert errors(tmp_path, WORDED) == []
    assert errors(tmp_path, WORDED.replace('"GOOD" or', "0 or")) == [
        '## Output must offer "GOOD", a word of judging.output, as a value of "violation"'
    ]


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("{BAD: violates}", "needs a word for violates and one for safe"),
        ("{}", "needs a word for violates and one for safe"),
        ("{BAD: violates, GOOD: maybe}", "'maybe' is not one of its values; available: safe, violates"),
        ("{BAD: violates, ' GOOD': safe}", "is no word for an answer"),
        ("{BAD: violates, 'a\"b': safe}", "is no word for an answer"),
        ('{BAD: violates, "a\\nb": safe}', "is no word for an answer"),
        ("{BAD: violates, '': safe}", "is no word for an answer"),
        ("{'0': violates, '1': safe}", "is no word for an answer"),
        ("{BAD: violates, '<|end|>': safe}", "is no word for an answer"),
        ("{BAD: violates, 'a\\': safe}", "is no word for an answer"),
        ("{BAD: violates, bad: safe}", "'BAD' and 'bad' differ in their form only"),
        ("{\u00e1: violates, a\u0301: safe}", "differ in their form only"),
        ("{safe: safe, \u017fafe: violates}", "differ in their form only"),
        (f"{{BAD: violates, {'G' * 41}: safe}}", "is no word for an answer"),
        ("[BAD]", "got a list"),
        ("{YES: violates, NO: safe}", "judging.output: expected text, got true or false"),
        ("{1: violates, 0: safe}", "judging.output: expected text, got a number"),
    ],
)
def test_words_that_no_answer_can_have_are_reported_at_their_line(tmp_path, output, message):
    result = checked(tmp_path, WORDED.replace("{BAD: violates, GOOD: safe}", output))
    problem = next(problem for problem in result.errors if message in problem.message)
    assert problem.line == WORDED[: WORDED.index("  output:")].count("\n") + 1


def test_a_rule_that_quotes_its_own_example_is_shown(tmp_path):
    """FS4 has no example here, and FS5 quotes one below its line."""
    document = GOOD[: GOOD.index('- "i sent you')] + GOOD[GOOD.index("\n## Output") :]
    document = document.replace("a price or link that", "a price or a link that")
    document = document.replace(
        "whether something is a scam.", "whether something is a scam.\n  As in “is this a scam?”"
    )
    warned = [problem.message for problem in checked(tmp_path, document).problems if problem.code == "unreached"]
    assert warned == ["no example shows what FS4 means"]


def test_a_rule_is_within_itself_and_the_levels_above_it():
    assert is_within("SP2.a", "SP2")
    assert is_within("SP2", "SP2")
    assert not is_within("SP2", "SP2.a")
    assert not is_within("SP20", "SP2")
