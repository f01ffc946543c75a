"""`safeguard policy import`: questions, reports, and files that are never replaced unless it was said."""

import json
import re
import shlex
import stat
from functools import partial
from pathlib import Path

import pytest

from safeguard_streams.cli import policy_import
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.policies.check import check
from safeguard_streams.policies.files import load
from safeguard_streams.policies.golden import load as load_golden
from safeguard_streams.runtime import settings
from safeguard_streams.workers.evaluation import golden_eval, offline
from safeguard_streams.workers.inference.script import Script
from safeguard_streams.workers.inference.scripted import ScriptedServer
from tests.unit.cli import invoking

FIXTURES = Path(__file__).parents[1] / "policies/importing"
LEVELS, GOLDEN = FIXTURES / "levels.txt", FIXTURES / "levels.csv"


invoke = partial(invoking.invoke, "policy", "import")


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setattr(policy_import, "_terminal", lambda: True)


def test_what_was_changed_and_assumed_is_shown_and_the_policy_passes_the_check(tmp_path):
    out = tmp_path / "ticket-touting"
    done = invoke(LEVELS, "--golden", GOLDEN, "--out", out, "--yes")
    assert done.exit_code == 0
    assert done.stdout.splitlines()[0] == f"wrote {out}/policy.md and {out}/golden.jsonl"
    for shown in (
        "the text keeps its words, and the model answers 0 for VALID, 1 for INVALID",
        "the owner is unassigned",
        "the gate sends all content to the model",
        "98 rows are labelled by the rule in the row above their group",
        f"{out}/policy.md: ticket-touting ",
    ):
        assert shown in done.stdout
    assert check(out / "policy.md", named_by_folder=True).errors == []
    assert len(load_golden(out / "golden.jsonl")) == 98


@pytest.mark.parametrize("words", [(), ("--keep-words",)], ids=["numbers", "own words"])
async def test_the_golden_set_is_judged_under_the_imported_policy(tmp_path, words):
    out = tmp_path / "ticket-touting"
    invoke(LEVELS, "--golden", GOLDEN, "--out", out, "--yes", *words)
    policy, texts = load(out / "policy.md"), load_golden(out / "golden.jsonl")
    server = ScriptedServer(Script.load(FIXTURES / "words.toml"))
    async with (
        server.running() as url,
        offline.offline_judge(settings.load(servers=url), lambda *_: None, [policy]) as judge,
    ):
        report = golden_eval.report(policy, "scripted", texts, await golden_eval.run(judge, policy, texts, 1))
    assert report.confusion == {"violates": {"violates": 62}, "safe": {"safe": 36}}
    assert (report.rules["TT2"].recall.count, report.rules["TT2"].recall.of) == (22, 22)


def test_without_a_terminal_questions_need_yes(tmp_path):
    with pytest.raises(ConfigurationError, match="Which team answers for the policy.*--yes"):
        invoke(LEVELS, "--out", tmp_path / "tickets")
    assert not (tmp_path / "tickets").exists()


def test_on_a_terminal_the_answers_are_asked_for(tmp_path, terminal):
    out = tmp_path / "tickets"
    done = invoke(LEVELS, "--out", out, given="market\nticket, resale\n")
    assert "assumed" not in done.stdout
    policy = load(out / "policy.md")
    assert (policy.owner, policy.gate.terms) == ("market", ("ticket", "resale"))


def test_a_wrong_answer_is_asked_for_again_and_an_interrupted_question_writes_nothing(tmp_path, terminal):
    rules = tmp_path / "rules.txt"
    rules.write_text("Rules\n1. Sells birds\n2. Looks at birds\n")
    done = invoke(rules, "--out", tmp_path / "birds", given="maybe\nviolates\nsafe\nmarket\n\n")
    assert done.exit_code == 0
    assert load(tmp_path / "birds/policy.md").safe == ("BI2", "BI0")
    assert invoke(rules, "--out", tmp_path / "cages", given="violates\n").exit_code == 1
    assert not (tmp_path / "cages").exists()


@pytest.mark.parametrize("name", ["policy.md", "golden.jsonl"])
def test_files_that_exist_stay_unless_they_may_be_replaced(tmp_path, name, monkeypatch):
    out = tmp_path / "tickets"
    out.mkdir()
    (out / name).write_text("mine")
    words = (LEVELS, "--golden", GOLDEN, "--out", out)
    with pytest.raises(ConfigurationError, match=f"{name}: exists already.*--replace"):
        invoke(*words, "--yes")
    monkeypatch.setattr(policy_import, "_terminal", lambda: True)
    with pytest.raises(ConfigurationError, match="exists already"):
        invoke(*words, given="n\n")
    assert [path.name for path in out.iterdir()] == [name]
    assert (out / name).read_text() == "mine"
    assert invoke(*words, given="y\nmarket\n\n").exit_code == 0
    (out / name).write_text("mine")
    assert invoke(*words, "--yes", "--replace").exit_code == 0
    assert (out / name).read_text() != "mine"
    assert sorted(path.name for path in out.iterdir()) == ["golden.jsonl", "policy.md"]


def test_a_golden_set_that_is_not_imported_stays_when_the_policy_is_replaced(tmp_path):
    out = tmp_path / "tickets"
    invoke(LEVELS, "--golden", GOLDEN, "--out", out, "--yes")
    before = (out / "golden.jsonl").read_text()
    invoke(LEVELS, "--out", out, "--yes", "--replace")
    assert (out / "golden.jsonl").read_text() == before


def test_json_has_all_of_the_report(tmp_path):
    out = tmp_path / "tickets"
    made = json.loads(invoke(LEVELS, "--golden", GOLDEN, "--out", out, "--yes", "--json").stdout)
    assert (made["file"], made["golden_file"], made["golden"]) == (f"{out}/policy.md", f"{out}/golden.jsonl", 98)
    assert made["rules"][5] == {
        "id": "TT2",
        "side": "violates",
        "level": "TT2",
        "name": "Likely Touting (Medium Confidence)",
    }
    assert made["rules"][6]["level"] == "TT2"
    assert len(made["assumed"]) == 2
    assert made["check"]["version"] == load(out / "policy.md").version


def test_a_policy_that_needs_a_correction_is_written_with_its_problems_and_status_1(tmp_path):
    file = tmp_path / "x.txt"
    file.write_text("# P\n## Violates\n- AB1: says <|end|> or as AB7\n## Safe\n- AB0: rest\n")
    done = invoke(file, "--out", tmp_path / "marked", "--yes")
    assert done.exit_code == 1
    assert "the policy has no rule AB7" in done.stdout
    assert "<|end|> is markup of the prompt format" in done.stdout
    assert (tmp_path / "marked/policy.md").exists()


def test_the_folder_is_by_the_title_unless_it_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    invoke(LEVELS, "--yes")
    assert load(Path("ticket-touting/policy.md")).id == "ticket-touting"


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("no.txt",), "no.txt: cannot be read: No such file"),
        ((LEVELS, "--golden", "no.csv"), "no.csv: cannot be read: No such file"),
        ((LEVELS, "--out", "Bad Name"), "name the folder in lower-case words"),
        ((LEVELS, "--out", "file/below"), "cannot be written: Not a directory"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_written(tmp_path, monkeypatch, words, problem):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigurationError, match=problem):
        invoke(*words, "--yes")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_escapes_in_a_policy_do_not_reach_the_terminal(tmp_path):
    file = tmp_path / "x.txt"
    file.write_text("# P\n## Violates\n- AB1: a\u2028b \ud7ff\n## Safe\n- AB0: rest\n")
    assert "\u2028" not in invoke(file, "--out", tmp_path / "p", "--yes").stdout


def test_the_files_have_the_modes_of_new_files(tmp_path):
    out = tmp_path / "tickets"
    invoke(LEVELS, "--out", out, "--yes")
    (tmp_path / "new").write_text("")
    assert stat.S_IMODE((out / "policy.md").stat().st_mode) == stat.S_IMODE((tmp_path / "new").stat().st_mode)


GUIDE = Path(__file__).parents[3] / "docs/guides/import-a-policy.md"


def block(marker):
    """The code block after a marker of the guide."""
    text = GUIDE.read_text(encoding="utf-8")
    return re.search(rf"<!-- {re.escape(marker)} -->\n```\w*\n(.*?)```\n", text, re.DOTALL)[1]


def test_the_guide_shows_what_the_command_prints(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("my").mkdir()
    for name in ("my/noise.txt", "my/noise.csv"):
        Path(name).write_text(block(f"file: {name}"), encoding="utf-8")
    (command,) = re.findall(r"^safeguard policy import (.*)$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE)
    done = invoke(*shlex.split(command))
    assert [line.rstrip() for line in done.stdout.splitlines()] == block("output: policy import").splitlines()
    assert done.exit_code == 0
