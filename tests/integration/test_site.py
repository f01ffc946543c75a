"""The commands in the documentation: each exists, and each runs here, in the order of the site.

Commands whose comment says that they need a GPU, Docker or a cluster do not run.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from safeguard_streams.cli import app
from safeguard_streams.errors import SafeguardError
from safeguard_streams.infra import brokers
from safeguard_streams.workers.inference.preflight import locate
from tests.conftest import TIMEOUT

from .test_documentation import BIN, DOCUMENTS, ROOT, SITE, block
from .test_own_policy import shows

# Commands that other tests run, because they need many verdicts, access lists or minutes.
ELSEWHERE = {
    ("prefilter", "calibrate"): "integration/test_commands.py",
    ("prefilter", "distill"): "integration/test_commands.py",
    ("prefilter", "recall"): "integration/test_commands.py",
    ("gates", "advise"): "integration/test_gates.py",
    ("gates", "take"): "integration/test_gates.py",
    ("policy", "gate"): "integration/test_golden_release.py",
    ("topics", "acls"): "integration/test_security.py",
    ("dead-letters", "show"): "integration/test_dead_letters.py",
    ("dead-letters", "discard"): "integration/test_dead_letters.py",
    ("capacity",): "integration/test_documentation.py",
    ("console", "labels"): "unit/console/test_labels.py",
    ("console", "serve"): "integration/test_console_pages.py",
    ("broker",): "integration/test_own_policy.py",
    ("policy", "compare"): "integration/test_releases.py",
    ("model", "scripted"): "integration/test_own_policy.py",
    ("bench", "prefilter"): "integration/test_benchmarks.py",
    ("bench", "pipeline"): "integration/test_benchmarks.py",
    ("bench", "reason"): "integration/test_benchmarks.py",
    ("bench", "model"): "unit/workers/evaluation/test_bench_model.py",
    ("bench", "release"): "integration/test_benchmarks.py",
    ("bench", "telemetry"): "integration/test_benchmarks.py",
    ("bench", "console"): "integration/test_benchmarks.py",
    ("console", "project"): "integration/test_projection.py",
    ("console", "rebuild"): "integration/test_projection.py",
    ("reports", "publish"): "unit/cli/test_reports.py",
    ("appeals", "publish"): "unit/cli/test_appeals.py",
    **{("appeals", name): "integration/test_appeals.py" for name in ("add", "decide", "rejudge", "show")},
    **{("referrals", name): "integration/test_appeals.py" for name in ("hold", "release")},
    ("authors", "show"): "integration/test_authors.py",
    ("authors", "forgive"): "integration/test_authors.py",
    ("authors", "decide"): "integration/test_authors.py",
    ("authors", "undecide"): "integration/test_authors.py",
    ("authors", "forget"): "integration/test_authors.py",
    ("authors", "repartition"): "integration/test_authors.py",
    ("authors", "recount"): "integration/test_author_rules.py",
}
MENTIONS = {
    ("enforce", "decide"),
    ("enforce", "undecide"),
    ("policy", "release"),
    ("report", "transparency"),
}  # without arguments, the text only names the command
WALKED = {"own-policy.md"}  # pages that integration/test_own_policy.py walks
READING = (
    ["content", "show"],
    ["enforce", "show"],
    ["enforce", "standing"],
    ["enforce", "review"],
    ["verdicts", "tail"],
)
PATIENCE = 20  # seconds for which a command that only reads waits for the stages
PORTS = {
    "prefilter": "PREFILTER_PORT",
    "reason": "REASONER_PORT",
    "enforce": "ENFORCEMENT_PORT",
    "authors": "AUTHORS_PORT",
}


def pages():
    """The documents in the order of the site's navigation, then the others."""
    found = re.findall(r"\S+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    ordered = [SITE / name for name in found if (SITE / name).is_file()]
    return [*ordered, *(path for path in DOCUMENTS if path not in ordered)]


def lines(path):
    """Each line of code that can be a command, with its comment, and whether it comes from a code block.

    In a block, the comment stands in the lines above the command.
    """
    for part, inline in re.findall(r"```\w*\n(.*?)```|`([^`]+)`", path.read_text(encoding="utf-8"), re.DOTALL):
        above = []
        for line in part.replace("\\\n", "").splitlines() or [" ".join(inline.split())]:
            command, _, comment = line.strip().removeprefix("$ ").partition(" #")
            if command.startswith("#"):
                above.append(line.strip().removeprefix("#").strip())
            else:
                yield command.strip(), " ".join([*above, comment]).strip(), bool(part)
                above = []


def parsed(command):
    """The words that name a command, the other words, and the command."""
    found, words = typer.main.get_command(app), shlex.split(command)[1:]
    names = []
    while words and hasattr(found, "commands"):
        assert words[0] in found.commands, command
        names.append(words[0])
        found, words = found.commands[words[0]], words[1:]
    return tuple(names), words, found


def commands(path):
    for command, comment, _ in lines(path):
        if command.startswith("safeguard ") and "*" not in command:
            yield command, comment


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_documented_command_exists_with_its_options(path):
    for command, _ in commands(path):
        _, words, found = parsed(command)
        known = {option for parameter in found.params for option in [*parameter.opts, *parameter.secondary_opts]}
        assert {word for word in words if word.startswith("--")} <= known | {"--help"}, command


def test_commands_that_need_other_hardware_or_tools_say_so():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for path in DOCUMENTS:
        for command, comment, in_block in lines(path):
            program, *words = command.split() or [""]
            if in_block and program in {"docker", "kubectl", "vllm"}:
                assert "needs" in comment.casefold(), command
            if program == "make":
                assert words[0] in targets, command
                assert "needs a gpu" in comment.casefold() or "gpu" not in command or not in_block, command


def test_every_explanation_stands_above_its_command_and_not_beside_it():
    """Beside it, the site would cut it off, and the reader would not know what a command does."""
    beside = [
        f"{path.name}: {line}"
        for path in DOCUMENTS
        for part in re.findall(r"```bash\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)
        for line in part.splitlines()
        if " #" in line and not line.strip().startswith("#")
    ]
    assert not beside


def test_every_block_of_commands_is_marked_as_such():
    """The site then wraps commands and keeps the columns of their output."""
    for path in DOCUMENTS:
        for language, part in re.findall(r"```(\w*)\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL):
            commands_only = [line for line in part.splitlines() if line.strip() and not line.strip().startswith("#")]
            if all(line.strip().startswith(("safeguard ", "make ", "docker ", "kubectl ")) for line in commands_only):
                assert language == "bash", f"{path.name}: {part}"


def outputs():
    """What the pages show under a block whose last command this is, where the page marks it as its output.

    Other blocks marked `text` show runs of other deployments, or what differs from machine to machine.
    """
    pattern = re.compile(r"```bash\n([^`]*)```\n\n<!-- output -->\n```text\n(.*?)```\n", re.DOTALL)
    found = {}
    for path in (page for page in pages() if page.name not in WALKED):
        for commands_above, text in pattern.findall(path.read_text(encoding="utf-8")):
            found[commands_above.replace("\\\n", "").strip().splitlines()[-1].strip()] = text
    return found


def test_an_output_is_compared_by_its_words_in_their_order():
    assert shows("a  1\n...\nb 2026-01-01T12:00:00Z", "progress\na 1 x\ny b 2026-02-02T12:00:01+00:00 c")
    assert not shows("a\n...\nb", "b a")
    assert not shows("a 1", "a 2")


def test_each_marked_output_is_that_of_a_command_that_runs():
    ran = {command for command, _, _ in scenario()}
    assert len(outputs()) > 8
    assert set(outputs()) <= ran


def scenario():
    """The command lines to run, each once, without mentions of a command that leave out its arguments."""
    seen = set()
    for path in (page for page in pages() if page.name not in WALKED):
        for command, comment in commands(path):
            names, words, found = parsed(command)
            required = sum(1 for p in found.params if p.required and p.param_type_name == "argument")
            given = [word for word in words if not word.startswith("-")]
            if (
                command in seen
                or "needs a gpu" in comment.casefold()
                or hasattr(found, "commands")
                or len(given) < required
                or (not words and names in MENTIONS)
            ):
                continue
            seen.add(command)
            if names not in ELSEWHERE:
                yield command, names, words


def test_commands_that_other_tests_run_are_run_there():
    for names, where in ELSEWHERE.items():
        text = (ROOT / "tests" / where).read_text(encoding="utf-8")
        words = ", ".join(f'"{name}"' for name in names)
        assert words in text or " ".join(["safeguard", *names]) in text, names


class Stage:
    """Runs commands in a folder with the files that the site shows. Its processes run until the end."""

    def __init__(self, folder, environment, server):
        self.folder = folder
        self.environment = environment
        self.server = server
        self.processes = []
        self.replay = ""  # the last one that was started

    def words(self, words):
        """The words, with the placeholders of the site filled in."""
        filled = {
            "CONTENT_ID": "post-1",
            "POLICY": "fraud-spam",
            "REPLAY": self.replay,
            "small": os.environ["SAFEGUARD_MODEL"],  # that model, on a server that is up already
            "http://gpu-1:8000/v1": self.server,
            "http://gpu-2:8000/v1": self.server,
        }
        return [filled.get(word, word) for word in words]

    def call(self, words):
        done = CliRunner().invoke(app, words, input="y\n")
        if isinstance(done.exception, SafeguardError):  # the command line prints it, and ends with status 1
            return 1, done.stdout, str(done.exception)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        if words[:2] == ["replay", "start"]:
            self.replay = re.search(r"^replay (\S+)", done.stdout, re.MULTILINE)[1]
        return done.exit_code, done.stdout, done.output.replace(os.environ["SAFEGUARD_PREFIX"], "")

    def problem(self, names, words, expected):
        """What is wrong with a command: it fails, prints nothing, or does not print what its page shows."""
        code, out, output = self.call(words)
        deadline = time.monotonic() + PATIENCE
        while expected and words[:2] in READING and not shows(expected, output) and time.monotonic() < deadline:
            time.sleep(0.5)
            code, out, output = self.call(words)
        if code and MAY_FAIL.get(names, "\0") not in output:
            return output
        if not code and not out.strip():
            return "prints nothing"
        return f"not what the page shows:\n{output}" if expected and not shows(expected, output) else None

    def start(self, words):
        port = brokers.free_port()
        more = {f"SAFEGUARD_{name}": str(port) for kind, name in PORTS.items() if kind == words[0]}
        environment = {**self.environment, **more}
        log = (self.folder / f"{'-'.join(words[:2])}-{port}.log").open("wb+")
        process = subprocess.Popen([BIN / "safeguard", *words], env=environment, stdout=log, stderr=log)
        self.processes.append(process)
        return process, port, Path(log.name)

    def end(self, process):
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT) == 0
        self.processes.remove(process)


@pytest.fixture
def stage(kafka, inference_server, tmp_path, monkeypatch):
    settings = {
        "BOOTSTRAP": kafka.bootstrap,
        "PREFIX": kafka.prefix,
        "PARTITIONS": "2",
        "SESSION_TIMEOUT_MS": "6000",
        "SERVERS": inference_server,
        "MODEL": locate("small")[1],
    }
    for name, value in settings.items():
        monkeypatch.setenv(f"SAFEGUARD_{name}", value)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "events.jsonl").write_text(block("file: events.jsonl"))
    (tmp_path / "ids.txt").write_text("post-1\n")
    touting = tmp_path / "my/ticket-touting"
    touting.mkdir(parents=True)
    (touting / "policy.md").write_text(block("policy"))
    (touting / "golden.jsonl").write_text(block("golden"))
    for name in ("my/noise.txt", "my/noise.csv", "my/authors.toml"):
        (tmp_path / name).write_text(block(f"file: {name}"))
    import safeguard_streams

    package = Path(safeguard_streams.__file__).parent
    shutil.copy(package / "policies/enforcement.toml", tmp_path / "my/enforcement.toml")
    shutil.copy(package / "demo/lenient/policy.md", tmp_path / "my/policy.md")
    golden = (package / "policies/library/hate-harassment/golden.jsonl").read_text().splitlines()[:4]
    (tmp_path / "my/golden.jsonl").write_text("\n".join(golden) + "\n")
    made = Stage(tmp_path, dict(os.environ), inference_server)
    yield made
    for process in made.processes:
        process.kill()
        process.wait()


def edit(path):
    """Edit a policy as the guide asks its reader to, between two commands."""
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("## Output", '- "printed 45, yours for 46" -> violates, TT1\n\n## Output', 1), "utf-8")


# A policy test fails when the small model falls short or has not learned the policy, as a diff does. A promotion is
# refused above its budget; nothing may be held. Another program may use a port of this machine.
MAY_FAIL = {
    ("policy", "test"): "F1",
    ("policy", "diff"): "not learned",
    ("replay", "promote"): "budget",
    ("enforce", "release"): "held",
    ("doctor",): "failed ",
}


@pytest.mark.slow
def test_every_documented_command_runs(stage):
    ran, problems, expected = 0, [], outputs()
    for command, names, shown in scenario():
        print(time.strftime("%T"), command)
        words = stage.words([*names, *shown])
        if command.startswith("safeguard policy diff ticket-touting@live"):
            edit(stage.folder / "my/ticket-touting/policy.md")
        if names == ("verdicts", "tail") and "--exit" not in words:
            follow(stage, words, "post-1" if "--from-beginning" in words else None)
        elif names[-1] == "run":
            process, port, log = stage.start(words)
            ready(process, port, log)
            if "--dry-run" in words or "--server" in words:
                stage.end(process)
        elif problem := stage.problem(names, words, expected.get(command)):
            problems.append(f"{command}: {problem}")
        ran += 1
    for process in list(stage.processes):
        stage.end(process)
    assert not problems, "\n".join(problems)
    assert ran > 40


def ready(process, port, log):
    deadline = time.monotonic() + TIMEOUT
    while True:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=5):
            return
        time.sleep(0.1)


def follow(stage, words, expected):
    """Run the command until the expected line arrives or, where none is expected, until it had time to fail."""
    command = [BIN / "safeguard", *words]
    with subprocess.Popen(command, env=stage.environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            if expected:
                assert any(expected in line for line in process.stdout)
            else:
                with suppress(subprocess.TimeoutExpired):
                    pytest.fail(f"{words} ended with {process.wait(1.5)}")
            process.send_signal(signal.SIGINT)
            process.wait(TIMEOUT)
        finally:
            process.kill()
