"""`safeguard policy new` and `golden add`: questions, options, and files that are never damaged."""

import json
from datetime import UTC, datetime
from functools import partial

import pytest

from safeguard_streams.cli import policy_authoring
from safeguard_streams.contract.records import ContentEvent, Verdict, content_sha256
from safeguard_streams.errors import ConfigurationError, PolicyError
from safeguard_streams.policies.check import check
from safeguard_streams.policies.files import LIBRARY, load
from safeguard_streams.policies.golden import load as load_golden
from safeguard_streams.quality.judged_text import JudgedText
from tests.unit.cli import invoking

WHEN = datetime(2026, 1, 1, tzinfo=UTC)


invoke = partial(invoking.invoke, "policy")


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setattr(policy_authoring, "_interactive", lambda: True)


def test_without_a_terminal_a_skeleton_has_blanks_that_the_check_lists(tmp_path):
    out = invoke(
        "new", "off-platform", "--library", tmp_path, "--violates", "Gives a number", "--term", "whatsapp"
    ).stdout
    path = tmp_path / "off-platform" / "policy.md"
    assert out.splitlines()[0] == f"wrote {path}"
    assert "safeguard policy check" in out
    checked = check(path)
    assert {problem.code for problem in checked.errors} == {"fill-in"}
    assert checked.policy.gate.terms == ("whatsapp",)
    assert checked.policy.rules["OP1"] == "Gives a number"


def test_on_a_terminal_what_the_options_leave_open_is_asked(tmp_path, terminal):
    given = ["Off the platform", "Gives a number", "Asks for one", "", "Names a public page", "", "", "", "en", ""]
    out = invoke(
        "new", "off-platform", "--library", tmp_path, "--owner", "market", given="\n".join(given) + "\n"
    ).stdout
    policy = check(tmp_path / "off-platform" / "policy.md").policy
    assert (policy.title, policy.owner) == ("Off the platform", "market")
    assert [policy.rules[rule] for rule in policy.violating] == ["Gives a number", "Asks for one"]
    assert policy.rules[policy.safe[0]] == "Names a public page"
    assert (policy.gate.terms, policy.applies_to.surfaces, policy.applies_to.languages) == ((), (), ("en",))
    assert "Which team" not in out


def test_a_question_that_is_interrupted_writes_nothing(tmp_path, terminal):
    done = invoke("new", "off-platform", "--library", tmp_path, given="Off the platform\n")
    assert done.exit_code == 1
    assert list(tmp_path.iterdir()) == []


def test_json_names_the_file_and_its_blanks(tmp_path, terminal):
    made = json.loads(invoke("new", "off-platform", "--library", tmp_path, "--json").stdout)
    lines = (tmp_path / "off-platform" / "policy.md").read_text().splitlines()
    assert made["file"] == str(tmp_path / "off-platform" / "policy.md")
    assert made["fill_in"]
    assert all(blank["what"] in lines[blank["line"] - 1] for blank in made["fill_in"])


def test_a_policy_that_exists_a_bad_id_and_a_file_in_the_way_are_refused(tmp_path):
    invoke("new", "off-platform", "--library", tmp_path, "--title", "mine")
    before = (tmp_path / "off-platform" / "policy.md").read_bytes()
    with pytest.raises(ConfigurationError, match="exists already"):
        invoke("new", "off-platform", "--library", tmp_path)
    assert (tmp_path / "off-platform" / "policy.md").read_bytes() == before
    for name in ("Off Platform", "off_platform", "../x", ""):
        with pytest.raises(ConfigurationError, match="is no id"):
            invoke("new", name, "--library", tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(PolicyError, match="cannot be written"):
        invoke("new", "off-platform", "--library", tmp_path / "file")


def test_an_id_of_the_package_is_pointed_out(tmp_path):
    assert "the package has a policy fraud-spam" in invoke("new", "fraud-spam", "--library", tmp_path).stdout


GOLDEN = '{"text": "old", "decision": "safe", "rule": "FS4", "kind": "clear"}'


@pytest.fixture
def policy(tmp_path):
    (tmp_path / "policy.md").write_text((LIBRARY / "fraud-spam" / "policy.md").read_text())
    return tmp_path / "policy.md"


def judged(monkeypatch, text="Überweise jetzt\u2028sofort", decision="violates", rules=("FS1",), language=None):
    event = ContentEvent("post-1", text, WHEN, language=language)
    verdict = Verdict(
        *("v1", "post-1", content_sha256(text), "fraud-spam", "1", decision, "reasoner", "live", "m", WHEN),
        rule_ids=rules,
        reason="It asks for money.",
    )
    asked = []

    async def found(_settings, policy_id, content_id, _since):
        asked.append((policy_id, content_id))
        return JudgedText(event, verdict if decision else None)

    monkeypatch.setattr(policy_authoring, "judged_text", found)
    return asked


def test_a_verdict_becomes_a_row_in_the_files_own_format(policy, monkeypatch):
    asked = judged(monkeypatch, language="de")
    file = policy.with_name("golden.jsonl")
    file.write_text(GOLDEN)  # without a newline at its end
    out = invoke("golden", "add", policy, "post-1", "--label", "violates").stdout
    assert out == f"{file}:2: added post-1 as violates, FS1, boundary\n"
    assert asked == [("fraud-spam", "post-1")]
    labels = '"decision": "violates", "rule": "FS1", "kind": "boundary"'
    assert file.read_text(encoding="utf-8").split("\n") == [
        GOLDEN,
        f'{{"text": "Überweise jetzt\u2028sofort", {labels}, "language": "de"}}',
        "",
    ]
    assert [row.text for row in load_golden(file)] == ["old", "Überweise jetzt\u2028sofort"]


def test_a_text_that_is_there_already_is_refused_with_its_line(policy, monkeypatch):
    judged(monkeypatch, text="  OLD ")
    file = policy.with_name("golden.jsonl")
    file.write_text(f"\n{GOLDEN}\n")
    with pytest.raises(PolicyError, match=r"golden.jsonl:2: the golden set has this text already, as safe, FS4"):
        invoke("golden", "add", policy, "post-1", "--label", "violates")
    assert file.read_text() == f"\n{GOLDEN}\n"


def test_a_golden_set_with_a_broken_line_is_left_alone(policy, monkeypatch):
    judged(monkeypatch)
    policy.with_name("golden.jsonl").write_text("{\n")
    with pytest.raises(PolicyError, match=r"golden.jsonl:1: error"):
        invoke("golden", "add", policy, "post-1", "--label", "violates")
    assert policy.with_name("golden.jsonl").read_text() == "{\n"


def test_the_first_row_begins_a_golden_set_and_a_rule_decides_the_label(policy, monkeypatch):
    judged(monkeypatch)
    row = json.loads(invoke("golden", "add", policy, "post-1", "--rule", "FS4", "--kind", "news", "--json").stdout)
    assert (row["line"], row["decision"], row["rule"], row["kind"]) == (1, "safe", "FS4", "news")
    assert [row.decision for row in load_golden(policy.with_name("golden.jsonl"))] == ["safe"]
    assert check(policy).errors == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "give the label"),
        (("--label", "safe"), r"name the rule that decides, with --rule; safe: FS4, FS5"),
        (("--rule", "FS9"), "has no rule 'FS9'; did you mean FS"),
        (("--label", "safe", "--rule", "FS1"), "has no rule 'FS1' of safe; .*available: FS4, FS5"),
    ],
)
def test_an_incomplete_label_is_refused_without_a_terminal(policy, monkeypatch, words, message):
    judged(monkeypatch)
    with pytest.raises(ConfigurationError, match=message):
        invoke("golden", "add", policy, "post-1", *words)
    assert not policy.with_name("golden.jsonl").exists()


def test_on_a_terminal_label_and_rule_are_asked_beside_the_text(policy, monkeypatch, terminal):
    judged(monkeypatch, text="a\x1b[31mb")
    out = invoke("golden", "add", policy, "post-1", given="perhaps\nsafe\nFS1\nFS5\n").stdout
    assert r"a\x1b[31mb" in out
    assert "verdict: violates FS1: It asks for money." in out
    assert "FS5  " in out
    (row,) = load_golden(policy.with_name("golden.jsonl"))
    assert (row.decision, row.rule, row.text) == ("safe", "FS5", "a\x1b[31mb")


def test_the_verdict_is_the_default_answer(policy, monkeypatch, terminal):
    judged(monkeypatch)
    invoke("golden", "add", policy, "post-1", given="\n\n")
    (row,) = load_golden(policy.with_name("golden.jsonl"))
    assert (row.decision, row.rule) == ("violates", "FS1")
    assert load(policy).id == "fraud-spam"
