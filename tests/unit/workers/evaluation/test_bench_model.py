"""`safeguard bench model` on a scripted server: files, resuming, bundles, temperature, errors, entry point."""

import asyncio
import json
import re
import signal
import threading
import tomllib
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import safeguard_streams.cli  # noqa: F401  # first: it loads the entry points, which import the command
from safeguard_streams.contract.records import Tokens, content_sha256
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.policies.files import LIBRARY
from safeguard_streams.runtime import settings
from safeguard_streams.workers.cli.bench_model import bench_model
from safeguard_streams.workers.evaluation.benchmark import run
from safeguard_streams.workers.evaluation.benchmark.data import FORMATS, POLICIES, read
from safeguard_streams.workers.evaluation.benchmark.journal import Conditions, Journal, Judged, Result, of_run
from safeguard_streams.workers.evaluation.offline import offline_judge
from safeguard_streams.workers.inference import harmony
from safeguard_streams.workers.inference.script import Script
from safeguard_streams.workers.inference.scripted import ScriptedServer
from safeguard_streams.workers.judging.judgement import Finding, Judgement
from safeguard_streams.workers.judging.parse import Answer
from tests.conftest import TIMEOUT

ROWS = [
    {"prompt": "one naked post", "S": 1, "H": 0},
    {"prompt": "one vermin post", "S": 0, "H": 1},
    {"prompt": "a quiet sesame post", "S": 0, "H": 1},
    {"prompt": "naked vermin", "S": 0},
    {"prompt": "one naked post", "S": 1, "H": 0},
]
RULES = {"S": "SX", "H": "HT", "V": "VL", "HR": "HS", "SH": "SF", "S3": "SM", "H2": "TH", "V2": "VG"}
WORDS = dict(zip(RULES, ("naked", "vermin", "stab", "loser", "noose", "underage", "banish", "entrails"), strict=True))
CONDITIONS = Conditions("openai-mod", "0" * 64, "scripted", {"sexual": "1"}, None, None)


@pytest.fixture(scope="module")
def server():
    """The scripted server, in a loop of its own because each command has one."""
    scripted = ScriptedServer(Script({f"{prefix}1": [WORDS[key]] for key, prefix in RULES.items()}))
    started, loop = threading.Event(), asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve():
        async with scripted.running() as scripted.url:
            started.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert started.wait(TIMEOUT)
    yield scripted
    loop.call_soon_threadsafe(stop.set)
    thread.join()


def judgements(server):
    """The requests for judgements, without those by which a worker tries a server."""
    return [body for body in server.asked if body["max_tokens"] > 100]


@pytest.fixture
def bench(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mod.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    for policy in ("sexual", "hate"):
        (tmp_path / "policies" / policy).mkdir(parents=True)
        text = (POLICIES / "openai-mod" / policy / "policy.md").read_text(encoding="utf-8")
        (tmp_path / "policies" / policy / "policy.md").write_text(text, encoding="utf-8")
    app = typer.Typer()
    app.command()(bench_model)
    server.asked.clear()

    def run(*more, policies="policies", data="mod.jsonl", layout="openai-mod"):
        chosen = ["--policies", policies] if policies else []
        words = ["--format", layout, "--data", data, *chosen, "--server", server.url, *more]
        return CliRunner(env={"COLUMNS": "80"}).invoke(app, words)

    return run


def test_the_files_have_all_figures_and_no_text(bench, server):
    done = bench("--json")
    assert done.exit_code == 0, done.output
    results = json.loads(done.stdout)
    assert results == json.loads(Path("bench-openai-mod/results.json").read_text())
    assert len(judgements(server)) == results["judgements"] == 7, "equal texts are judged once, and only where labelled"
    assert (results["rows"], results["distinct_texts"]) == (5, 4)
    sexual, hate = results["policies"]["sexual"], results["policies"]["hate"]
    assert (sexual["rows"], sexual["violating"], sexual["precision"]["value"]) == (5, 2, 0.6667)
    assert (hate["rows"], hate["recall"]["value"], hate["precision"]["value"]) == (4, 0.5, 1.0)
    assert results["union"]["recall"]["value"] == 0.75
    assert results["exact_match"]["value"] == 0.6
    assert results["parsing"]["overall"]["value"] == 1.0
    assert results["tokens"]["completion"] > 0
    assert "not the published samples-1680.jsonl.gz" in results["data"]
    assert results["reference"] == {}, "six labels of the reference's union are not measured"
    assert results["conditions"]["data_sha256"] in done.stderr
    written = "".join(path.read_text() for path in Path("bench-openai-mod").iterdir())
    assert "sesame" not in written + done.output
    assert content_sha256("a quiet sesame post") in written


def test_the_tables_stand_beside_the_figures_of_the_technical_report(bench):
    shown = bench(policies=None).stdout
    assert "gpt-oss-safeguard-120b  0.829" in shown
    assert "gpt-oss-safeguard-20b   0.829" in shown
    assert "F1 of union" in shown
    assert "first try 1.000" in shown
    Path("chat.csv").write_text("user_input,toxicity,jailbreaking,human_annotation\nnaked,1,0,True\nfine,0,0,False\n")
    shown = bench(policies=None, data="chat.csv", layout="toxicchat").stdout
    assert "gpt-oss-safeguard-120b  0.793" in shown
    assert "gpt-oss-safeguard-20b   0.799" in shown
    assert "F1 of toxicity" in shown


@pytest.mark.parametrize("torn", [b"", b'{"run":0,"row":"ab', b"\0" * 40])
def test_what_was_judged_is_not_judged_again(bench, server, torn):
    whole = json.loads(bench("--json", "--runs", "2").stdout)
    journal = Path("bench-openai-mod/rows.jsonl")
    lines = journal.read_bytes().splitlines(keepends=True)
    assert len(lines) == 1 + 14
    journal.write_bytes(b"".join(lines[:6]) + torn)  # killed after 5 judgements
    server.asked.clear()
    resumed = bench("--json", "--runs", "2", "--resume")
    assert resumed.exit_code == 0, resumed.output
    assert len(judgements(server)) == 14 - 5
    assert json.loads(resumed.stdout) == whole
    assert sorted(journal.read_bytes().splitlines(keepends=True)) == sorted(lines)
    server.asked.clear()
    again = json.loads(bench("--json", "--runs", "3", "--resume").stdout)
    assert len(judgements(server)) == 7, "one more run"
    assert len(again["policies"]["hate"]["f1_by_run"]) == 3


def test_a_benchmark_that_stops_keeps_each_judgement(bench, monkeypatch):
    """Ctrl-C after three judgements."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a process of its own, whatever ran before in this
    add, added = Journal.add, []

    def interrupted(self, line):
        added.append(line)
        add(self, line)
        if len(added) == 3:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "add", interrupted)
        stopped = bench()
    assert stopped.exit_code != 0
    assert "--resume goes on from bench-openai-mod" in stopped.stderr
    assert not Path("bench-openai-mod/results.json").exists()
    journal = Path("bench-openai-mod/rows.jsonl")
    before = journal.read_bytes()
    assert before.count(b"\n") == 1 + len(added) < 1 + 7
    assert bench("--resume").exit_code == 0
    after = journal.read_bytes()
    assert after.startswith(before)
    assert after.count(b"\n") == len(set(after.splitlines())) == 1 + 7


def test_a_folder_is_never_mixed(bench):
    assert bench("--resume").exit_code == 0, "begins where there is nothing to go on with"
    for words, said in (
        ((), "holds a benchmark: go on with --resume"),
        (("--resume", "--effort", "high"), "was made with another effort"),
        (("--resume", "--temperature", "1"), "was made with another temperature"),
        (("--resume", "--out", "other"), None),
    ):
        done = bench(*words)
        assert (said or "") in str(done.exception), words
        assert (done.exit_code == 0) is (said is None)
    Path("mod.jsonl").write_text(json.dumps(ROWS[0]))
    assert "another data sha256" in str(bench("--resume").exception)


def efforts(server):
    prompts = [harmony.decode_tokens(body["prompt"]) for body in judgements(server)]
    return {re.search(r"Reasoning: (\w+)", prompt)[1] for prompt in prompts}


def test_effort_and_temperature_reach_every_request(bench, server):
    assert bench("--effort", "high", "--temperature", "0.7").exit_code == 0
    assert {body["temperature"] for body in judgements(server)} == {0.7}
    assert efforts(server) == {"high"}
    server.asked.clear()
    assert bench("--out", "other").exit_code == 0
    assert {body["temperature"] for body in judgements(server)} == {0.0}
    assert efforts(server) == {"low"}
    assert bench("--effort", "enormous").exit_code == 2


def test_policies_of_a_bundle_are_judged_in_one_call(bench, server):
    for path in Path("policies").glob("*/policy.md"):
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace("gate:", "judging: {bundle: all}\ngate:", 1), encoding="utf-8")
    results = json.loads(bench("--json").stdout)
    assert len(judgements(server)) == 4
    assert (results["policies"]["hate"]["rows"], results["exact_match"]["value"]) == (4, 0.6)


def test_one_policy_is_measured_and_the_other_labels_are_named(bench):
    Path("policies/hate/policy.md").unlink()
    done = bench("--json")
    results = json.loads(done.stdout)
    assert "labels without a policy, not measured: hate" in done.stderr
    assert (results["unmeasured"], results["union"], results["exact_match"]) == (["hate"], None, None)


def test_own_lines_need_policies_and_a_policy_needs_a_label(bench):
    assert "needs --policies" in str(bench(policies=None, layout="jsonl").exception)
    assert "no label for the policy" in str(bench(policies=str(LIBRARY)).exception)
    assert bench(data="nosuch.jsonl").exit_code == 2


def test_the_small_model_judges_no_policies_that_it_has_not_learned(bench, monkeypatch):
    app = typer.Typer()
    app.command()(bench_model)
    words = ["--format", "openai-mod", "--data", "mod.jsonl", "--model", "small"]
    done = CliRunner().invoke(app, words)
    assert isinstance(done.exception, ConfigurationError)
    assert "small model" in str(done.exception)


def line(number, row="a"):
    return Judged(number, row, {"sexual": Result("safe", ("SX4",), 0.1)}, 1, (), Tokens(1, 0, 1))


def test_the_journal_refuses_a_second_writer_and_damaged_lines(tmp_path):
    path = tmp_path / "rows.jsonl"
    with Journal(path, CONDITIONS) as journal:
        journal.add(line(0))
        with pytest.raises(ConfigurationError, match="another benchmark writes to it"), Journal(path, CONDITIONS):
            pass
    with Journal(path, CONDITIONS) as journal:
        journal.add(line(0, "b"))
        journal.add(line(1))
        assert of_run(journal.judged, 0).keys() == {"a", "b"}
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], b'{"run":\n', *lines[2:]]))
    with (
        pytest.raises(ConfigurationError, match=r"rows.jsonl:2: is damaged; delete this line"),
        Journal(path, CONDITIONS),
    ):
        pass
    path.write_text('{"text": "x"}\n')
    with pytest.raises(ConfigurationError, match="no journal of a benchmark"), Journal(path, CONDITIONS):
        pass
    path.write_bytes(lines[0][:-9])  # killed while it wrote the first line
    with Journal(path, CONDITIONS) as journal:
        journal.add(line(0))
    assert path.read_bytes() == lines[0] + lines[1]


async def test_an_answer_in_no_form_is_undetermined_and_counted(server, tmp_path, monkeypatch):
    """The parse rate falls, and the figures say what becomes of F1 either way."""
    from safeguard_streams.workers.evaluation.benchmark import report

    file = tmp_path / "mod.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    layout = FORMATS["openai-mod"]
    policies = [p for p in run.load_policies(POLICIES / "openai-mod", layout) if p.id == "sexual"]
    dataset = read(file, layout, ["sexual"])
    conditions = Conditions("openai-mod", dataset.sha256, "m", {"sexual": policies[0].version}, None, None)
    current = settings.load(servers=server.url)
    async with offline_judge(current, lambda *_: None, policies) as judge:
        judge_text = judge.judge_text

        async def garbled(instructions, text):
            judgement = await judge_text(instructions, text)
            if "vermin" not in text:
                return judgement
            (attempt,) = judgement.attempts
            refused = type(attempt)(attempt.analysis, "Yes.", "not_json")
            return Judgement({"sexual": Finding("low", None)}, (refused, refused), judgement.tokens)

        monkeypatch.setattr(judge, "judge_text", garbled)
        with Journal(tmp_path / "rows.jsonl", conditions) as journal:
            await run.run(judge, policies, dataset.rows, 1, journal, lambda *_: None)
    found = report.report(layout, dataset, conditions, journal.judged, 1)
    assert (found.parsing.overall.count, found.parsing.overall.of, found.parsing.refused) == (2, 4, {"not_json": 4})
    sexual = found.policies["sexual"]
    assert (sexual.f1.value, sexual.f1_undetermined_flagged.value) == (1.0, 0.6667)
    assert (sexual.undetermined.count, sexual.undetermined.of) == (2, 5)


def test_the_command_is_an_entry_point_of_bench():
    project = tomllib.loads((Path(__file__).parents[4] / "pyproject.toml").read_text(encoding="utf-8"))
    name = project["project"]["entry-points"]["safeguard.bench"]["model"]
    assert name == f"{bench_model.__module__}:{bench_model.__name__}"


def test_the_answer_struct_has_what_the_journal_keeps():
    """Reasons and rationales quote content, and stay out of the journal."""
    from safeguard_streams.workers.evaluation.benchmark.journal import judged

    answer = Answer(True, ("SX1",), "high", "sesame reason")
    kept = judged(0, "h", Judgement({"sexual": Finding("low", answer, 0.9)}, (), Tokens()))
    assert kept.results == {"sexual": Result("violates", ("SX1",), 0.9)}
    assert "sesame" not in str(kept)


def made():
    """60 sentences with all labels; the words of the script find most of what they say."""
    for n in range(60):
        labels = {key: int(n % (4 + place) == 0) for place, key in enumerate(WORDS)}
        found = [WORDS[key] for key, label in labels.items() if label and n % 9] + ["naked"] * (n % 23 == 2)
        known = {key: label for key, label in labels.items() if n % 13 != 5 or key in "SV"}
        yield {"prompt": " ".join([f"sentence {n}", *found]), **known}


def test_the_output_in_the_guide_is_that_of_the_command(bench):
    """To renew it, paste what the failure shows."""
    Path("mod.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made()))
    guide = (Path(__file__).parents[4] / "docs/guides/benchmark.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"<!-- sample: bench model -->\n```text\n(.*?)```\n", guide, re.DOTALL)
    printed = "\n".join(line.rstrip() for line in bench(policies=None).stdout.splitlines()) + "\n"
    tokens = re.compile(r"[\d,]+(?= (?:prompt|cached|completion|for each of))")  # they depend on the prompt's form
    assert tokens.sub("N", shown) == tokens.sub("N", printed), printed
