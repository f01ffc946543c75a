"""Policy documents: each is parsed or refused, and each problem is one line with its place and the fix."""

import base64
import json
import re
import shutil
import zlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from safeguard_streams.cli import app
from safeguard_streams.errors import PolicyError
from safeguard_streams.policies.check import check, check_library, require
from safeguard_streams.policies.distilled import BUCKETS
from safeguard_streams.policies.distilled import read as read_distilled
from safeguard_streams.policies.files import LIBRARY, load, load_library
from safeguard_streams.policies.golden import NAME
from safeguard_streams.policies.parsing import parse

# Without its terms and patterns, which the tests write themselves.
GOOD = re.sub(r"  terms: .*?(?=  sample:)", "", (LIBRARY / "fraud-spam" / "policy.md").read_text(), flags=re.DOTALL)
GOLDEN = (LIBRARY / "fraud-spam" / NAME).read_text()
SIX = {
    *("hate-harassment", "self-harm", "fraud-spam", "biomedical-misinformation", "gaming-conduct", "prompt-injection"),
}


def line_of(text, document=GOOD):
    return document[: document.index(text)].count("\n") + 1


def test_the_library_has_the_six_policies_fit_for_release_without_a_warning():
    results = {result.policy.id: result for result in check_library()}
    assert set(results) == SIX
    assert [str(problem) for result in results.values() for problem in result.problems] == []
    assert all(400 <= result.tokens <= 600 for result in results.values())
    assert all(result.golden >= 60 for result in results.values())


@pytest.mark.parametrize("name", sorted(SIX))
def test_a_golden_set_has_both_sides_each_rule_and_each_kind_of_difficulty(name):
    policy = load_library()[name]
    rows = [json.loads(line) for line in (LIBRARY / name / NAME).read_text().splitlines()]
    assert {row["rule"] for row in rows} == set(policy.rules)
    assert {"clear", "boundary", "language", "evasion", "quotation", "news"} <= {row["kind"] for row in rows}
    boundary = [row["decision"] for row in rows if row["kind"] == "boundary"]
    assert min(boundary.count("violates"), boundary.count("safe")) >= 4
    assert len({row.get("language", "en") for row in rows}) >= 5


def test_the_version_follows_what_the_model_reads_and_nothing_else():
    policy = parse(GOOD)
    assert parse(GOOD.replace("owner: trust-and-safety", "owner: someone")).version == policy.version
    assert parse(GOOD.replace("asked for\n", "wanted\n")).version == policy.version
    assert parse(GOOD.replace("Judge what the content", "Judge that the content")).version != policy.version


OUTPUT = GOOD[GOOD.index("## Output") :]
LONG = "- Word: " + "the same again and again, " * 2500 + "\n"
# Old text, new text, the line of the problem (as a text in that line, or as a number), and its message.
BROKEN = [
    ("---\nid: fraud-spam", "id: fraud-spam", 1, "begin with front matter"),
    ("id: fraud-spam\n", "", 1, "id is missing in the front matter"),
    ("id: fraud-spam", "id: Fraud Spam", 2, "lower-case words joined by hyphens"),
    ("title: Spam", "title: [", 3, "not YAML"),
    ("title: Spam", 'title: "Spam\\n" #', 3, "title: write one line of plain text"),
    ("title: Spam", 'title: "" #', 3, "title: write one line of plain text"),
    ("owner: trust-and-safety", 'owner: "\\e[31mme"', 4, "owner: write one line of plain text"),
    ("owner: trust-and-safety", "owner: 7", 4, "owner: expected text, got a number"),
    ("owner: trust-and-safety", "owner: &me you", 4, "anchors and aliases"),
    ("effort: low", "effort: none", "effort:", "effort: 'none' is not one of its values; available: high, low, medium"),
    ("effort: low", "effort: low\neffort: high", "rules:", "effort is set twice"),
    ("  sample: 0.01", "  samples: 0.01", "  sample: 0.01", "unknown field samples in gate"),
    ("  threshold: 0.", "  threshold: 2.", "  threshold: ", "gate.threshold must be between 0 and 1"),
    ("  threshold: ", "  threshold: high #", "  threshold: ", "gate.threshold: expected a number, got text"),
    (
        "harms: [fraud_spam]",
        "harms: [spam]",
        "  harms:",
        "gate.harms[0]: 'spam' is not one of its values; available: fraud_spam, ",
    ),
    ("harms: [fraud_spam]", "harms: []", "  threshold:", "a threshold needs harms"),
    ("  threshold: 0.001014\n", "", "gate:", "set gate.threshold"),
    ("  general: 0.1", "  general: 1.2", "  general:", "gate.general must be between 0 and 1"),
    ("  sample: 0.01", "  threshold_with_encoder: -1", "  sample: 0.01", "gate.threshold_with_encoder must be between"),
    (
        "  harms: [fraud_spam]\n  general: 0.1\n  threshold: 0.001014",
        "  general: 0.1",
        "  harms:",
        "gate.general needs harms",
    ),
    ("  sample: 0.01", "  patterns: ['(']", "  sample: 0.01", "is not a valid RE2 expression: missing )"),
    ("  sample: 0.01", "  patterns: ['(?=x)']", "  sample: 0.01", "is not a valid RE2 expression"),
    (
        "  sample: 0.01",
        f"  patterns: ['{'(a|' * 3000}']",
        "  sample: 0.01",
        "it has 9,000 characters; a pattern may have",
    ),
    ("  sample: 0.01", "  patterns: ['x*']", "  sample: 0.01", "matches every text"),
    ("  sample: 0.01", "  terms: ['!!!']", "  sample: 0.01", "has no letter, digit or emoji"),
    ("  sample: 0.01", "  distilled: 0123456789ab", "  sample: 0.01", "distilled.json is missing"),
    ("  languages: []", "  languages: [english]", "  languages:", "is not a language tag"),
    ("  FS5:", "  FS6:", "  FS5:", "FS6 has no line under ## VIOLATES or ## SAFE, but FS5 in line"),
    ("  FS2: Lures", "  FS2: ''  # Lures", "  FS2:", "describe FS2 in one line"),
    ("- FS5:", "- FS4:", "- FS5:", "FS4 is already in line"),
    ("- FS3: Uns", "- FS3 Uns", "- FS3:", "begin each rule with its id"),
    ("## SAFE\n", "## Safe\n", "## SAFE", "the section '## SAFE' is missing: spell it exactly like this"),
    ("## Definitions\n", "## Words\n", "# Spam and fraud policy", "the section '## Definitions' is missing"),
    (GOOD[GOOD.index("- Fraud:") : GOOD.index("\n## VIOLATES")], "", "## Definitions", "## Definitions is empty"),
    (OUTPUT, "## Output\nAnswer yes or no.\n", "## Output", 'must ask for "violation", "rule_ids"'),
    ('"confidence":"low, medium or high",', "", "## Output", 'must ask for "confidence"'),
    ("-> violates, FS1", "-> safe, FS1", '- "your account', "marked safe, but FS1 is a rule of VIOLATES"),
    ("-> safe, FS5", "-> safe, FS9", '- "got a text', "the policy has no rule FS9; it has FS1"),
    ("-> safe, FS5", "is safe", '- "got a text', "write an example as"),
    (
        '- "got a text that i won a prize, it is a scam, do not call"',
        '- "WINNER! claim your 900 prize, call 0900 000 now, 1.50 per MIN"',
        '- "got a text',
        "the same text is marked violates in line",
    ),
    ("a lure, or for", "a lure (see FS7), or for", "You review user", "the policy has no rule FS7"),
    ("Judge what", "<|end|> Judge what", "You review user", "<|end|> is markup of the prompt format"),
    (
        GOOD[GOOD.index("- FS5: ") : GOOD.index("\n\n## Examples")],
        "- FS5: " + GOOD[GOOD.index("- FS4: ") + 7 : GOOD.index("\n- FS5: ")],
        "- FS5:",
        "FS5 repeats FS4: no content can match it",
    ),
    ("- Lure: ", LONG + "- Lure: ", "# Spam and fraud", "tokens: the limit is 10,000"),
    ("- Lure: ", LONG * 4 + "- Lure: ", 1, "characters; the limit is 200,000"),
]


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(LIBRARY / "fraud-spam", tmp_path / "fraud-spam")
    return tmp_path / "fraud-spam"


@pytest.mark.parametrize(("old", "new", "where", "message"), BROKEN, ids=range(len(BROKEN)))
def test_a_broken_document_has_one_message_with_its_line(folder, old, new, where, message):
    assert old in GOOD
    path = folder / "policy.md"
    path.write_text(GOOD.replace(old, new, 1))
    (problem,) = check(path).errors
    assert message in problem.message
    assert str(problem) == f"{path}:{problem.line}: error: {problem.message} [{problem.code}]"
    assert problem.line == (where if isinstance(where, int) else line_of(where)), problem


@pytest.mark.parametrize(
    ("answer", "output", "message"),
    [
        ("label", OUTPUT, 'asks for "rule_ids", "confidence", "reason", which judging.answer label leaves out'),
        ("rules", OUTPUT, 'asks for "confidence", "reason", which judging.answer rules leaves out'),
        ("rules", '## Output\n{"violation":0 or 1}\n', 'must ask for "rule_ids"'),
        ("short", OUTPUT, "judging.answer: 'short' is not one of its values; available: full, label, rules"),
        ("label", '## Output\n{"violation":0 or 1}\n', None),
        ("rules", '## Output\n{"violation":0 or 1,"rule_ids":["the rules that decide"]}\n', None),
    ],
)
def test_the_output_asks_for_the_fields_of_the_answer(folder, answer, output, message):
    path = folder / "policy.md"
    path.write_text(GOOD.replace("effort: low", f"effort: low\njudging: {{answer: {answer}}}").replace(OUTPUT, output))
    found = [problem.message for problem in check(path).errors]
    assert [message in one for one in found] == ([] if message is None else [True]), found


# Without front matter or with too long a text there is nothing to go on with, and no YAML hides the fields in it.
HIDE_ALL = ("begin with front matter", "characters; the limit", "not YAML", "anchors and aliases")
# Which rules there are is open while the line of one is broken.
BROKEN_RULE = ("begin each rule with its id", "is already in line")
HIDDEN_BY_IT = ("has no line under ## VIOLATES", "the policy has no rule")


def twice_broken(one, other):
    """A document with both defects; None where they overlap, or one hides the other."""
    both = GOOD.replace(one[0], one[1], 1)
    messages = (one[3], other[3])
    if any(hides in message for hides in HIDE_ALL for message in messages) or both.count(other[0]) != 1:
        return None
    if all(any(part in message for part in BROKEN_RULE + HIDDEN_BY_IT) for message in messages):
        return None
    return both.replace(other[0], other[1], 1)


PAIRS = [
    (one[3], other[3], document)
    for number, one in enumerate(BROKEN)
    for other in (BROKEN[(number + distance) % len(BROKEN)] for distance in (3, 8, 17))
    if (document := twice_broken(one, other))
]


@pytest.mark.parametrize(("one", "other", "document"), PAIRS, ids=range(len(PAIRS)))
def test_two_defects_are_reported_together(folder, one, other, document):
    path = folder / "policy.md"
    path.write_text(document)
    messages = [problem.message for problem in check(path).errors]
    assert [expected for expected in (one, other) if not any(expected in message for message in messages)] == []


def test_text_sections_examples_and_golden_rows_are_checked_where_the_front_matter_is_no_yaml(folder):
    path = folder / "policy.md"
    document = GOOD.replace("title: Spam", "title: [").replace("-> violates, FS1", "-> safe, FS1", 1)
    path.write_text(document.replace("## Definitions\n", "## Words\n").replace("Judge what", "<|end|> what"))
    (folder / NAME).write_text("\n".join([ROWS[0].replace('"FS1"', '"FS4"'), "{", *ROWS[2:]]))
    assert [problem.code for problem in check(path).errors] == [
        *("yaml", "section", "markup", "contradiction"),
        *("contradiction", "golden"),
    ]


def test_all_fields_of_a_wrong_form_are_reported_each_with_its_line(folder):
    path = folder / "policy.md"
    document = GOOD.replace("owner: trust-and-safety", "owner: 7\ncolour: red").replace("effort: low", "effort: none")
    document = document.replace("  threshold: ", "  treshold: ").replace("harms: [fraud_spam]", "harms: [spam, 5]")
    document = document.replace("  FS2: Lures", "  FS2: [Lures]  #").replace("id: fraud-spam\n", "")
    path.write_text(document.replace("  languages: []", "  languages: en"))
    document = path.read_text()
    found = [(problem.line, problem.message) for problem in check(path).errors]
    expected = [
        (1, "id is missing in the front matter"),
        (line_of("owner: 7", document), "owner: expected text, got a number"),
        (line_of("colour: red", document), "unknown field colour in the front matter; available: applies_to"),
        (line_of("effort: ", document), "effort: 'none' is not one of its values; available: high, low, medium"),
        (line_of("  FS2: ", document), "rules: FS2 needs a name"),
        (
            line_of("  harms: ", document),
            "gate.harms[0]: 'spam' is not one of its values; available: fraud_spam, ",
        ),
        (line_of("  harms: ", document), "gate.harms[1]: expected"),
        (line_of("  treshold: ", document), "unknown field treshold in gate; did you mean threshold?"),
        (line_of("  languages: ", document), "applies_to.languages: expected a list, got text"),
    ]
    for line, message in expected:
        assert any(line == at and message in shown for at, shown in found), (line, message, found)
    assert len(found) == len(expected), found


def test_files_that_cannot_be_read_are_problems_beside_those_of_others(folder, tmp_path):
    (folder / "policy.md").write_text(GOOD.replace("effort: low", "effort: none"))
    (folder / NAME).unlink()
    (folder / NAME).mkdir()
    (tmp_path / "latin.md").write_bytes(b"---\nid: \xe9\n")
    names = [str(tmp_path / "missing.md"), str(tmp_path / "latin.md"), str(folder / "policy.md")]
    done = CliRunner().invoke(app, ["policy", "check", *names, "fraud-spam", "--json"])
    assert done.exit_code == 1
    missing, latin, broken, good = json.loads(done.stdout)
    assert [problem["code"] for report in (missing, latin, broken) for problem in report["problems"]] == [
        *("file", "file", "field", "file"),
    ]
    assert missing["problems"][0]["message"] == "cannot be read: No such file or directory"
    assert latin["problems"][0]["message"] == "cannot be read: byte 9 is not UTF-8; save it in UTF-8"
    problems = [problem for problem in good["problems"] if problem["code"] != "gate-recall"]
    assert (good["id"], problems) == ("fraud-spam", [])


def test_an_unknown_id_is_refused_with_the_nearest_one():
    done = CliRunner().invoke(app, ["policy", "check", "fraud-spm"])
    assert "did you mean fraud-spam?" in str(done.exception)


def test_blanks_of_a_new_policy_are_reported_each_with_its_line(folder):
    path = folder / "policy.md"
    blank = GOOD.replace("owner: trust-and-safety", 'owner: "[FILL IN: the team]"')
    path.write_text(blank.replace("a lure, or", "[FILL IN: x]"))
    problems = check(path).errors
    assert [problem.message for problem in problems] == ["fill in: the team", "fill in: x"]
    assert [problem.line for problem in problems] == [4, line_of("You review user")]


ROWS = GOLDEN.splitlines()
# The replacement for the golden set's second line, and the message.
BROKEN_GOLDEN = [
    ("{", "unexpected end of data"),
    (ROWS[1].replace('"text"', '"texts"'), "object contains unknown field texts"),
    (ROWS[1].replace('"decision": "violates", ', ""), "object missing required field decision"),
    (ROWS[1].replace('"violates"', '"maybe"'), "invalid enum value 'maybe' - at $.decision"),
    (ROWS[1].replace('"FS1"', '"FS4"'), "marked violates, but FS4 is a rule of SAFE"),
    (ROWS[1].replace('"FS1"', '"XX1"'), "the policy has no rule XX1"),
    (ROWS[0].replace('"violates"', '"safe"').replace('"FS1"', '"FS4"'), "the same text is marked violates in line 1"),
    (
        ROWS[1].replace(json.loads(ROWS[1])["text"], "The song  is amazing, best of the year").replace("The", "this"),
        "the policy's example in line",
    ),
]


@pytest.mark.parametrize(("line", "message"), BROKEN_GOLDEN)
def test_a_broken_golden_text_has_one_message_with_its_line(folder, line, message):
    (folder / NAME).write_text("\n".join([ROWS[0], line, *ROWS[2:]]))
    (problem,) = check(folder / "policy.md").errors
    assert problem.origin == str(folder / NAME)
    assert problem.line == 2
    assert message in problem.message


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("policy.md", GOOD[GOOD.index("- Lure: ") : GOOD.index("- Promotion")] * 1, "- Lure: it.\n", None),
        ("policy.md", "- Lure: ", "- Lure: " + "a long story, " * 30, "tokens; 400 to 600 work best"),
        (
            "policy.md",
            GOOD[GOOD.index("## Examples") : GOOD.index('- "this song')],
            "## Examples\n",
            "2 examples: four",
        ),
        ("policy.md", "  sample: 0.01", "  sample: 0.01\n  terms: [prize, Prize]", "the term 'Prize' is listed twice"),
        ("policy.md", "  sample: 0.01", "  everything: true", "other parts do nothing"),
        ("policy.md", "  sample: 0.01", "  sample: 1", "this gate sends everything to the model: write"),
        ("policy.md", "  threshold: 0.001014", "  threshold: 0.0", "this gate sends everything to the model: every"),
        ("golden.jsonl", GOLDEN, "\n".join(ROWS[:20]), "20 golden texts"),
        ("golden.jsonl", ROWS[1], ROWS[0], "the same text is already in line 1"),
    ],
)
def test_a_weakness_is_a_warning_and_not_an_error(folder, file, old, new, message):
    path = folder / file
    text = GOOD if file == "policy.md" else path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    checked = check(folder / "policy.md")
    assert checked.errors == []
    messages = [problem.message for problem in checked.problems]
    assert (message is None and messages == []) or any(message in one for one in messages), messages


def test_a_policy_without_a_golden_set_gets_a_warning_and_may_be_released(folder):
    (folder / NAME).unlink()
    checked = check(folder / "policy.md")
    assert [problem.code for problem in checked.problems] == ["golden"]
    assert require([checked])[0].id == "fraud-spam"


def test_errors_of_all_policies_are_reported_at_once_and_none_is_released(folder):
    (folder / "policy.md").write_text(GOOD.replace("effort: low", "effort: none"))
    good = check(LIBRARY / "self-harm" / "policy.md")
    with pytest.raises(PolicyError, match="effort"):
        require([good, check(folder / "policy.md")])


def test_content_without_a_surface_or_language_is_not_exempt():
    policy = parse(GOOD.replace("surfaces: []", "surfaces: [chat]").replace("languages: []", "languages: [de]"))
    assert policy.applies("chat", "de")
    assert policy.applies(None, None)
    assert not policy.applies("mail", "de")
    assert not policy.applies("chat", "en")


def test_a_missing_file_and_a_misplaced_one_are_named(tmp_path):
    with pytest.raises(PolicyError, match="cannot be read"):
        load(tmp_path / "policy.md")
    with pytest.raises(PolicyError, match="no ID/policy.md"):
        load_library(tmp_path)
    with pytest.raises(PolicyError, match="is no folder"):
        load_library(tmp_path / "libary")
    with pytest.raises(PolicyError, match="no ID/policy.md"):
        check_library(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "policy.md").write_text(GOOD)
    with pytest.raises(PolicyError, match="folder is 'other'"):
        load_library(tmp_path)
    (checked,) = check_library(tmp_path)
    assert [problem.message for problem in checked.errors] == ["id is fraud-spam, but the folder is other"]


PIECES = [
    *GOOD.splitlines(keepends=True),
    "---\n",
    "  ",
    ": ",
    "[",
    "{",
    "&a ",
    "*a",
    "!!python/object:os.system ",
    "\x00",
    "\ud800",
]
PIECES += [
    "? ",
    "2026-99-99\n",
    "0x",
    "1e999\n",
    ".inf\n",
    "- ",
    "|\n",
    "%YAML 9\n",
    "\t",
    "\u2028",
    "'",
    '"',
    "- FS1: ",
    "## SAFE\n",
]


@given(st.integers(0, len(GOOD)), st.integers(0, 80), st.lists(st.sampled_from(PIECES), max_size=4))
def test_a_damaged_document_is_a_policy_or_a_policy_error_and_nothing_else(at, cut, put):
    damaged = GOOD[:at] + "".join(put) + GOOD[at + cut :]
    try:
        assert parse(damaged).violating
    except PolicyError as error:
        assert "policy:" in str(error)


@given(st.integers(0, len(GOOD)), st.integers(0, 80), st.lists(st.sampled_from(PIECES), max_size=4))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_a_check_reports_a_damaged_document_and_never_fails(tmp_path, at, cut, put):
    path = tmp_path / "policy.md"
    path.write_bytes((GOOD[:at] + "".join(put) + GOOD[at + cut :]).encode(errors="surrogatepass"))
    checked = check(path)
    assert checked.policy is not None or checked.errors
    assert len(set(map(str, checked.problems))) == len(checked.problems), "no problem is reported twice"


@pytest.mark.parametrize(
    "front",
    [
        "a: " + "[" * 150_000,
        "a: " + "[" * 990 + "]" * 990,
        "\n".join(" " * depth + "a:" for depth in range(600)),
        "a: 2026-13-45",
        "a: !!timestamp x",
        "a: !!python/object/apply:os.system [ls]",
        "\x07",
        "? [a]\n: b",
        "a: &x [1]\nb: *x",
        "1: 2",
        "null",
        "- a",
        "",
    ],
)
def test_hostile_front_matter_is_a_policy_error(front):
    with pytest.raises(PolicyError):
        parse(f"---\n{front}\n---\n## VIOLATES\n- AB1: x\n## SAFE\n- AB2: y\n")


def test_an_error_has_a_bounded_number_of_problems_however_many_there_are():
    with pytest.raises(PolicyError) as raised:
        parse(GOOD.replace("id: fraud-spam\n", "id: fraud-spam\n" * 10_000))
    assert len(str(raised.value).splitlines()) == 20


def test_a_distilled_classifier_that_would_unpack_to_gigabytes_is_refused_at_its_bound():
    bomb = base64.b64encode(zlib.compress(b"\0" * 50_000_000, 9)).decode()
    classifier = {"policy_id": "p", "classifier": "c", "harms": [], "trust": [1, 0], "bias": 0, "unit": 1, "rows": 1}
    with pytest.raises(PolicyError, match=f"has {BUCKETS + 1} weights"):
        read_distilled(json.dumps({**classifier, "weights": bomb}))


@pytest.mark.parametrize(
    ("gate", "message"),
    [
        (r'  patterns: ["\bkill\b"]', "holds the control character U+0008"),
        (r'  terms: ["kill\x07"]', "holds the control character U+0007"),
        ("  terms: [a]", "is a single letter or digit"),
        ("  terms: ['<url>']", "is how texts for the classifier show an address"),
        ("  terms: ['\u200b']", "has no letter, digit or emoji"),
        ("  terms: ['\u0301']", "has no letter, digit or emoji"),
        ("  terms: ['\U0001f1fa\U0001f1f8']", "is read as 'us', as its signs are letters in disguise"),
        ("  terms: ['\U0001f52b', '\u2764\ufe0f kill']", None),
        ("  terms:\n    - hashtag #one", "YAML reads '#one' as a comment"),
        ("  patterns:\n    - kill #\\w+", "as a comment: put the pattern in single quotes"),
        ("  patterns: ['a\\nb']", "cannot match"),
        ("  patterns: ['kill$you']", "cannot match"),
        ("  patterns: ['kill\\Byou \\bx']", None),
        ("  patterns: ['(?:рак\\b|x) y']", "has \\b or \\B beside a letter that is not ASCII"),
        ("  patterns: ['\\bрак\\b']", None),
        ("  patterns: ['\\badi[oó]s\\b.{0,80}\\bforever\\b']", None),
        ("  patterns: ['(?:abc|def){2,5}\\s+[^a-z]\\d{3}']", None),
        ("  patterns: ['\\p{Cyrillic}+!']", None),
        ("  terms: ['https://evil.example/buy', '@bob', evil.example, 'c++', 'one #two']", None),
        ('  terms: [хочу умереть, рак, 癌, 암, 죽고 싶, لقاح, "j\'en finis", 5g]', None),
        ("  terms:\n    - kill  # the verb", None),
    ],
)
def test_the_check_tries_each_term_and_pattern(folder, gate, message):
    path = folder / "policy.md"
    path.write_text(GOOD.replace("  sample: 0.01", f"  sample: 0.01\n{gate}", 1), encoding="utf-8")
    messages = [problem.message for problem in check(path).problems]
    assert (messages == []) if message is None else (len(messages) == 1 and message in messages[0]), messages


@pytest.mark.parametrize(
    ("ranges", "covered", "exempt"),
    [
        (
            "en",
            [
                "en",
                "EN",
                "en-US",
                "en_GB",
                "En-latn-us",
                " en ",
                "",
                "und",
                "und-Latn",
                "mul",
                "english",
                "qaa",
                "qtz-Latn",
                "un",
                "xx",
                "x-a",
                "*-*",
                "-",
                "🙂",
            ],
            ["de", "eno", "fr-EN", "de-DE"],
        ),
        ("en-US", ["en-us", "en-US-x-twain", "EN_us", "", "und"], ["en", "en-GB"]),
        ("'*'", ["de", "", "en-US"], []),
        ("EN", ["en", "en-GB"], ["de"]),
    ],
)
def test_languages_are_ranges_and_a_tag_that_names_none_is_covered(ranges, covered, exempt):
    policy = parse(GOOD.replace("languages: []", f"languages: [{ranges}]"))
    assert [tag for tag in covered if not policy.applies(None, tag)] == []
    assert [tag for tag in exempt if policy.applies(None, tag)] == []


def test_an_empty_surface_counts_as_not_said():
    policy = parse(GOOD.replace("surfaces: []", "surfaces: [chat]"))
    assert policy.applies("", None)
    assert policy.applies(" ", None)
    assert policy.applies("Chat ", None)
    assert not policy.applies("mail", None)


def test_a_folder_instead_of_a_policy_is_answered_with_what_to_name(folder, monkeypatch):
    monkeypatch.chdir(folder.parent.parent)
    name = folder.parent.name
    answers = {f"{name}/{folder.name}": f"name its file: {name}/{folder.name}/policy.md", name: f"--library {name}"}
    for named, answer in answers.items():
        done = CliRunner().invoke(app, ["policy", "check", named])
        assert answer in str(done.exception)
