"""Policies written for gpt-oss-safeguard elsewhere come in with their text, rules, sub-rules and severities."""

import re
from pathlib import Path

import pytest

from safeguard_streams.errors import ConfigurationError
from safeguard_streams.policies.check import check
from safeguard_streams.policies.files import LIBRARY
from safeguard_streams.policies.importing import importer
from safeguard_streams.policies.parsing import parse

HERE = Path(__file__).parent
LEVELS = HERE / "levels.txt"


class Asked:
    """Answers by the beginnings of questions, or else the defaults. Keeps what was asked."""

    def __init__(self, **answers):
        self.questions = []
        self._answers = answers

    def __call__(self, question):
        self.questions.append(question)
        given = (answer for word, answer in self._answers.items() if word in question.text)
        return next(given, question.default)


def imported(tmp_path, text, policy_id="ticket-touting", golden=None, *, keep_words=False, **answers):
    file = tmp_path / "source.txt"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return importer.import_policy(importer.read(file), policy_id, golden, Asked(**answers), keep_words=keep_words)


def checked(tmp_path, result):
    path = tmp_path / result.id / "policy.md"
    path.parent.mkdir()
    path.write_text(result.document, encoding="utf-8")
    return check(path, named_by_folder=True)


def words(text):
    return re.findall(r"\w+", text.casefold())


def test_levels_with_sub_rules_become_rules_of_both_sides_and_pass_the_check(tmp_path):
    result = checked(tmp_path, imported(tmp_path, LEVELS.read_text()))
    assert result.errors == []
    policy = result.policy
    assert policy.violating == ("TT2", "TT2.a", "TT2.b", "TT3", "TT3.a", "TT3.b", "TT4", "TT4.a", "TT4.b")
    assert policy.safe == ("TT0", "TT0.a", "TT0.b", "TT0.c", "TT0.d")
    assert policy.rules["TT2"] == "Likely Touting (Medium Confidence)"
    assert policy.rules["TT2.a"] == "Markup"
    assert policy.title == "Ticket Touting Policy"
    assert policy.gate.everything


def test_every_word_of_the_text_stays(tmp_path):
    kept = words(imported(tmp_path, LEVELS.read_text()).document)
    source = LEVELS.read_text()
    table = {"d", "r", "t0", "t2", "t3", "t4", "classification"}  # labels of examples are rules now
    missing = [word for word in words(source) if word not in kept and word not in table]
    assert missing == []


def test_examples_of_a_table_take_the_higher_of_two_labels(tmp_path):
    document = imported(tmp_path, LEVELS.read_text()).document
    assert '- "Front row, double the price, hurry" -> violates, TT2' in document
    assert '- "Write me an offer for 40 seats above price" -> violates, TT3' in document
    assert '- "Which venue has the best sound" -> safe, TT0' in document


def test_the_output_words_are_kept_in_the_text_and_explained_or_are_the_answers(tmp_path):
    numbered = parse(imported(tmp_path, LEVELS.read_text()).document)
    assert numbered.judging.output is None
    assert "VALID means that the content is safe; INVALID means that the content violates it." in numbered.text
    own = parse(imported(tmp_path, LEVELS.read_text(), keep_words=True).document)
    assert own.judging.output == {"VALID": "safe", "INVALID": "violates"}
    assert '{"violation":"VALID" or "INVALID",' in own.text
    assert 'With violation "INVALID", name at least one rule of VIOLATES' in own.text


def test_what_only_people_know_is_asked_with_a_safe_default(tmp_path):
    source = importer.read(LEVELS)
    asked = Asked()
    importer.import_policy(source, "ticket-touting", None, asked, keep_words=False)
    assert [question.assumed.split(":")[0] for question in asked.questions] == [
        "the owner is unassigned",
        "the gate sends all content to the model",
    ]
    policy = parse(imported(tmp_path, LEVELS.read_text(), team="market", words="ticket, resale,ticket").document)
    assert policy.owner == "market"
    assert policy.gate.terms == ("ticket", "resale")
    assert not policy.gate.everything


@pytest.mark.parametrize(
    "encoded",
    [
        LEVELS.read_text().replace("\n", "\r\n").encode(),
        LEVELS.read_text().replace("\n", "\r").encode(),
        LEVELS.read_text().encode("utf-8-sig"),
        LEVELS.read_text().encode("utf-16"),
        LEVELS.read_text().encode("utf-16-le"),
        LEVELS.read_text().encode("utf-16-be"),
        LEVELS.read_text().encode("utf-32"),
    ],
    ids=["crlf", "cr", "bom", "utf-16", "utf-16-le", "utf-16-be", "utf-32"],
)
def test_encodings_and_line_ends_make_no_difference(tmp_path, encoded):
    assert imported(tmp_path, encoded).document == imported(tmp_path, LEVELS.read_text()).document


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"", "is empty"),
        (b" \n\n\t", "is empty"),
        (bytes(range(256)) * 9, "is not text"),
        (b"# P\n## Violates\n- AB1: a bell \x07\n", "is not text"),
        (b"SP1: x\n" * 800_000, "has more than 800,000 bytes"),
        (b"SP1: x\n" * 40_000, "280,000 characters; a policy may have 200,000"),
        (b"Be nice to each other. We dislike bad things.\n\nThanks.", "no rules were found"),
        (b"# P\n## Allowed\n- AB1: fine\n- AB2: fine too\n", "no rule of this policy violates"),
        ((LIBRARY / "fraud-spam/policy.md").read_bytes(), "is a policy of this form already"),
        ("".join(f"- AB{n}: rule {n}\n" for n in range(1, 600)).encode(), "more than 500 rules: split it"),
        (b"# P\n## Violates\n" + b"".join(b"- thing %d\n" % n for n in range(600)), "more than 500 rules: split it"),
        ("".join(f"- AB1: rule {n}\n" for n in range(9_000)).encode(), "more than 500 rules: split it"),
    ],
)
def test_what_is_no_policy_is_refused_with_what_to_do(tmp_path, text, problem):
    with pytest.raises(ConfigurationError, match=problem):
        imported(tmp_path, text)


def test_a_second_rule_of_one_id_gets_a_free_one_and_keeps_the_others(tmp_path):
    text = (
        "# P\n## Violates\n- AB1: one thing\n- AB1: another\n- AB2: third\n- AB2.a: sub\n- AB2.a: next\n"
        "## Safe\n- AB0: rest\n"
    )
    result = imported(tmp_path, text)
    assert {rule.id: rule.name for rule in result.rules} == {
        "AB1": "one thing",
        "AB3": "another",
        "AB2": "third",
        "AB2.a": "sub",
        "AB2.b": "next",
        "AB0": "rest",
    }
    assert "line 4: AB1 is there twice, and is AB3 here; other rules mean the first one by it" in result.changes
    assert checked(tmp_path, result).errors == []


def test_what_names_an_id_that_two_rules_have_names_the_one_that_its_author_meant(tmp_path):
    text = (
        "# P\n## Violates\n- AB-1: one thing, unlike AB1\n- AB1: another, unlike AB-1\n- AB2: a level\n"
        "- AB2.a: sub\n- AB2: a second level, as AB2.a\n- AB2.a: its own\n- AB2.c: more than AB2.a of AB2\n"
        "- AB3: repeats AB2 or AB2.a\n## Safe\n- AB0: less than AB2.c\n"
    )
    result = imported(tmp_path, text)
    assert {rule.id: rule.name for rule in result.rules} == {
        "AB1": "one thing, unlike AB4",
        "AB4": "another, unlike AB1",
        "AB2": "a level",
        "AB2.a": "sub",
        "AB5": "a second level, as AB5.a",
        "AB5.a": "its own",
        "AB5.c": "more than AB5.a of AB5",
        "AB3": "repeats AB2 or AB2.a",
        "AB0": "less than AB5.c",
    }
    assert "ids in the form of this package: AB-1 is AB1, AB1 is AB4, AB2.c is AB5.c" in result.changes


def test_notes_after_a_level_that_is_there_twice_hold_no_rules(tmp_path):
    text = (
        "# P\n## Violates\n- AB1: a level\n- AB1.a: sub\n- AB1: a second level\n## Severity\n- AB1.a: high\n"
        "## Safe\n- AB0: rest\n"
    )
    result = imported(tmp_path, text)
    assert [rule.id for rule in result.rules] == ["AB1", "AB1.a", "AB2", "AB0"]
    assert "- AB1.a: high" in result.document


def test_labels_follow_ids_that_clashed(tmp_path):
    golden = tmp_path / "golden.csv"
    golden.write_text("text,label\nfirst,AB-1\nsecond,AB1\n")
    text = "# P\n## Violates\n- AB-1: one thing\n- AB1: another\n## Safe\n- AB0: rest\n"
    result = imported(tmp_path, text, golden=golden)
    assert [row.rule for row in result.golden] == ["AB1", "AB2"]


@pytest.mark.parametrize("path", ["/dev/zero", "/dev", "missing.txt"])
def test_what_does_not_tell_its_size_or_cannot_be_read_is_refused(path):
    with pytest.raises(ConfigurationError, match=r"has more than 800,000 bytes|cannot be read"):
        importer.read(Path(path))


@pytest.mark.parametrize(
    ("written", "rule_id"),
    [("AB2.a.1.b", "AB2.a.1"), ("HARASSMENT3", "HARASSME3"), ("ab-7", "AB7"), ("AB9.xyz", "AB9.xyz")],
)
def test_an_id_that_is_longer_than_the_format_allows_becomes_one_that_fits(tmp_path, written, rule_id):
    text = f"# P\n## Violates\n- AB1: one thing\n- AB2: third\n- {written}: odd\n## Safe\n- AB0: rest\n"
    result = checked(tmp_path, imported(tmp_path, text))
    assert result.policy.rules[rule_id] == "odd"


@pytest.mark.parametrize("written", ["AB1234", "AB-12345", "ab20250101", "AB1_2_thousand", "AB2abcd"])
def test_a_line_with_an_id_that_does_not_fit_is_text_and_named(tmp_path, written):
    text = f"# P\n## Violates\n- AB1: one thing\n- AB2: third\n- {written}: odd\n## Safe\n- AB0: rest\n"
    result = imported(tmp_path, text)
    assert [rule.id for rule in result.rules] == ["AB1", "AB2", "AB0"]
    assert f"- {written}: odd" in result.document
    assert f"line 5: {written} fits no id of this package, as in AB1 or AB1.a: the line is text here" in result.changes


def test_a_rule_that_names_a_placeholder_stays_a_rule(tmp_path):
    text = (
        "# P\nContent: {{content}}\n## Violates\n- AB1: leaks a template such as {content}\n- AB2: other\n"
        "## Safe\n- AB0: rest\n"
    )
    result = imported(tmp_path, text)
    assert [rule.id for rule in result.rules] == ["AB1", "AB2", "AB0"]
    assert [left.line for left in result.left_out] == [2]


def test_text_that_begins_with_no_id_of_the_policy_is_not_named(tmp_path):
    text = (
        "# P\n## Violates\n- AB1: one thing\n- AB2: third\n- COVID2019: news\n- 2019: a year\n- AB tests\n"
        "AB1234567890x is a part number\n## Safe\n- AB0: rest\n## Notes\nAB1234: a ticket\n"
    )
    named = [change for change in imported(tmp_path, text).changes if "fits no id" in change]
    assert named == ["line 8: AB1234567890x fits no id of this package, as in AB1 or AB1.a: the line is text here"]


def test_ids_in_other_forms_are_renamed_wherever_they_stand(tmp_path):
    text = (
        "# Odd\n## Violates\n- ОД1: Cyrillic\n- ＳＰ２: full width\n- SP-3: a hyphen, worse than ＳＰ２\n"
        "- SP4a: a letter\n- TVEC.01: a point\n- TVEC1: none\n## Safe\n- SP0: the rest, SP-3 excepted\n"
    )
    result = imported(tmp_path, text, "odd-ducks")
    assert [rule.id for rule in result.rules] == ["OD1", "SP2", "SP3", "SP4.a", "TVEC01", "TVEC1", "SP0"]
    assert "SP3: a hyphen, worse than SP2" in result.document
    assert "the rest, SP3 excepted" in result.document
    assert any("TVEC.01 is TVEC01" in change for change in result.changes)
    assert checked(tmp_path, result).errors == []


def test_a_table_of_rules_is_read_by_its_cells(tmp_path):
    text = (
        "# Tables\n\n| Rule | Text | Output |\n|---|---|---|\n| TB0 | Talks about \\| pipes | VALID |\n"
        "| TB1 | Breaks tables | INVALID |\n| TB1.a | Breaks round tables | INVALID |\n"
    )
    policy = checked(tmp_path, imported(tmp_path, text, "tables")).policy
    assert (policy.violating, policy.safe) == (("TB1", "TB1.a"), ("TB0",))
    assert policy.rules["TB0"] == "Talks about | pipes"


def test_rules_without_ids_are_the_outer_bullets_of_sections_that_say_what_they_mean(tmp_path):
    text = (
        "# Birds\n## Not allowed\nContent that:\n1. Sells birds\n   - live ones\n     - that sing\n2. Sells cages\n"
        "## Allowed\n* Looks at birds\n"
    )
    result = imported(tmp_path, text, "bird-trade")
    policy = checked(tmp_path, result).policy
    assert policy.rules == {
        "BT1": "Sells birds",
        "BT2": "Sells cages",
        "BT3": "Looks at birds",
        "BT0": "Is covered by no rule of VIOLATES, or is about anything else",
    }
    assert "- BT1: Sells birds\n  - live ones\n  - that sing\n" in result.document.replace("     -", "  -")
    assert "added BT0, the SAFE rule for content that no rule names" in result.changes


def test_html_becomes_markdown(tmp_path):
    text = (
        "<!DOCTYPE html><html><head><title>x</title><style>p{}</style></head><body><h1>Web Policy (#WP)</h1>"
        "<h2>Not allowed</h2><ul><li>WP1: sells &amp; buys<ul><li>nested <b>bold</b></li></ul></li></ul>"
        "<h2>Allowed</h2><ul><li>WP0: talks</li></ul><script>alert(1)</script></body></html>"
    )
    result = imported(tmp_path, text, "web")
    assert "- WP1: sells & buys\n" in result.document
    assert "nested bold" in result.document
    assert "alert" not in result.document
    assert "HTML became Markdown" in result.changes


def test_characters_that_nobody_sees_are_removed_and_counted(tmp_path):
    result = imported(tmp_path, "# P\n## Violates\n- AB1: \u202eevil\u202c \u200bx\n## Safe\n- AB0: rest\n")
    assert "- AB1: evil x\n" in result.document
    assert "removed characters that cannot be seen: 3" in result.changes


def test_a_rule_that_nothing_decides_violates_unless_its_number_is_0(tmp_path):
    text = "Rules (#SX)\nClassify each text as SPAM or HAM.\nSX0 Nothing special\nSX1 Adverts\nSX2 Links\n"
    asked = Asked()
    file = tmp_path / "x.txt"
    file.write_text(text)
    result = importer.import_policy(importer.read(file), "spam", None, asked, keep_words=False)
    assert {rule.id: rule.side for rule in result.rules} == {"SX0": "safe", "SX1": "violates", "SX2": "violates"}
    assert [question.assumed for question in asked.questions][:3] == [
        "SX0 is safe: its number is 0",
        "SX1 violates: nothing says that it is safe",
        "SX2 violates: nothing says that it is safe",
    ]
    other = imported(tmp_path, text, SX2="safe", SPAM="violates", HAM="safe", keep_words=True)
    assert {rule.id: rule.side for rule in other.rules}["SX2"] == "safe"
    assert parse(other.document).judging.output == {"SPAM": "violates", "HAM": "safe"}


def test_an_own_form_of_answer_is_left_out_and_named_by_line(tmp_path):
    text = (
        "# P (#AB)\n## Violates\n- AB1: bad\n## Safe\n- AB0: rest\n## Output format\n"
        'Return exactly one word: VALID or INVALID.\n```json\n{"label": "VALID"}\n```\n'
        "Signs are VALID, even loud ones.\n"
        "Content: [INPUT]\n"
    )
    result = imported(tmp_path, text)
    assert [(line.line, line.why) for line in result.left_out] == [
        (7, "another form of answer"),
        (9, "a form of the answer"),
        (12, "a place for the content"),
    ]
    assert "Signs are VALID, even loud ones." in result.document
    assert "Return exactly" not in result.document


CATS = """Cat Policy (#CT)
Classify as ALLOWED or BANNED.
Return 1 or 0.
Respond with `ALLOWED` or `BANNED`.

## Violations
- CT1: Selling cats
  Posts that ask readers to reply only by private message.
  Do not take claims of cures without explanations.
- CT2: Stealing cats

## Exceptions to prohibited content
- CT3: Cat museums

## Examples
"buy my cat" -> CT1
"Buy my cat" -> CT3

## Output
Return BANNED or ALLOWED. Answer yes or no.
Return BANNED if the post sells a kitten.
"""


def test_no_second_form_of_answer_stays_and_nothing_that_decides_goes(tmp_path):
    result = imported(tmp_path, CATS)
    assert [left.line for left in result.left_out] == [3, 4, 20]
    assert "yes or no" not in result.document
    for kept in (
        "reply only by private message",
        "Do not take claims of cures without explanations",
        "Return BANNED if the post sells",
    ):
        assert kept in result.document


def test_a_second_rule_gets_no_id_that_others_are_below(tmp_path):
    text = "- CT1: Selling\n- CT1: Stealing\n- CT2.a: Eating\n- CT1.b.x: x\n- CT1.a: y\n- CT1.a: z\n"
    rules = {rule.name: rule.id for rule in imported(tmp_path, f"# Cats (#CT)\n## Violations\n{text}").rules}
    assert (rules["Stealing"], rules["z"]) == ("CT3", "CT3.c")


def test_words_that_differ_in_case_only_are_one_answer(tmp_path):
    text = LEVELS.read_text().replace("Output: INVALID", "Output: Invalid")
    assert "Output: Invalid" in text
    own = parse(imported(tmp_path, text, keep_words=True).document)
    assert own.judging.output == {"VALID": "safe", "INVALID": "violates"}


def test_exceptions_are_safe_and_an_example_with_two_labels_is_named(tmp_path):
    result = imported(tmp_path, CATS)
    assert {rule.id: rule.side for rule in result.rules}["CT3"] == "safe"
    assert '- "buy my cat" -> violates, CT1' in result.document
    assert "line 17: left out, because an earlier line has this example" in result.changes


def test_a_table_takes_no_description_for_a_label(tmp_path):
    table = """# Arms
| id | rule | answer |
|---|---|---|
| AR1 | No weapons may be sold | BLOCK |
| AR2 | Keep your arms at home, or else | BLOCK |
| AR3 | Block lists | ALLOW |
"""
    result = imported(tmp_path, table)
    assert {rule.id: rule.side for rule in result.rules if rule.id != "AR0"} == dict.fromkeys(
        ("AR1", "AR2", "AR3"), "violates"
    )
    for text in ("No weapons may be sold", "Keep your arms at home", "Block lists"):
        assert text in result.document


def test_ids_are_renamed_in_one_pass(tmp_path):
    rules = "".join(f"- CT-{number}: as CT-{number + 1}, but not CT-{number}.x\n" for number in range(1, 300))
    document = imported(tmp_path, f"# Cats\n{rules}{'CT-1 and CT-12 ' * 200}\n").document
    assert "- CT1: as CT2, but not CT-1.x" in document
    assert "CT1 and CT12 " * 3 in document


def test_a_quotation_of_an_exception_is_no_example(tmp_path):
    text = (
        "# Noise\n## Includes\n- **Loud**: makes noise, as in “drums all night long”\n## Excludes\n"
        '- **Quiet**: Content about rest. This excludes:\n  - Content such as "noise in the morning"\n'
    )
    assert "->" not in imported(tmp_path, text).document


def test_front_matter_of_another_form_is_left_out(tmp_path):
    text = "---\ntitle: Other\ntags: [a]\n---\n# P\n## Violates\n- AB1: one\n## Safe\n- AB0: rest\n"
    result = imported(tmp_path, text)
    assert parse(result.document).title == "Other"
    assert "tags" not in result.document
    assert "left out the front matter of another form" in result.changes


@pytest.mark.parametrize(
    ("policy_id", "title"), [("Bad Id", "x"), ("", "x"), ("über", "x")], ids=["blanks", "empty", "letters"]
)
def test_a_folder_that_is_no_id_is_refused(tmp_path, policy_id, title):
    with pytest.raises(ConfigurationError, match="name the folder in lower-case words"):
        imported(tmp_path, LEVELS.read_text(), policy_id)


@pytest.mark.parametrize(
    "line",
    ["return " * 25_000, '"' * 150_000, "- " * 90_000, "AB1 (" * 30_000, "*" * 150_000, "a" * 190_000, "| " * 90_000],
)
def test_long_lines_are_text_and_no_expression_hangs_on_them(tmp_path, line):
    result = imported(tmp_path, f"# P (#AB)\n## Violates\n- AB1: bad\n## Safe\n- AB0: rest\n{line}\n")
    assert line.strip()[2:] in result.document


SCALE = (
    "# P\n## Violates\n- AB1: one\n- AB2: two (Medium Confidence)\n- AB2.a: sub\n- AB4: worst\n## Safe\n- AB0: rest\n"
)


@pytest.mark.parametrize(
    ("text", "severity"),
    [
        (SCALE, {"AB1": "low", "AB2": "medium", "AB4": "critical"}),
        (SCALE.replace("worst", "bad, low severity"), {"AB1": "low", "AB2": "medium", "AB4": "low"}),
        (SCALE.replace(" (Medium Confidence)", ""), {}),
        (SCALE.replace("AB4", "AB5"), {}),
        (SCALE.replace("AB4", "CD4"), {}),
        (SCALE.replace("AB0", "AB3"), {}),
        (
            SCALE.replace(" (Medium Confidence)", "").replace("worst", "Fraud - Maximum Severity"),
            {"AB1": "low", "AB2": "medium", "AB4": "critical"},
        ),
    ],
)
def test_levels_have_severities_where_the_text_makes_them_clear(tmp_path, text, severity):
    result = imported(tmp_path, text)
    policy = checked(tmp_path, result).policy
    assert policy.severity == severity
    assert any("severities from the levels" in change for change in result.changes) is bool(severity)
    if severity:
        assert policy.severity_of("AB2.a") == "medium"
