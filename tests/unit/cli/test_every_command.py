"""What holds for every command of the tree: help, wrong options and wrong paths, as a user sees them."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import typer
from typer.testing import CliRunner

from safeguard_streams.cli import app
from safeguard_streams.infra.brokers import free_port
from tests.conftest import TIMEOUT

HEAVY = ("vllm", "torch", "faust", "fasttext", "sklearn", "duckdb", "matplotlib", "transformers", "pyarrow")
NARROW = {"COLUMNS": "80", "TERMINAL_WIDTH": "80", "NO_COLOR": "1"}


def commands(command, words=()):
    """Every command and group under this one, with the words that name it."""
    yield words, command
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, (*words, name))


TREE = dict(commands(typer.main.get_command(app)))
LEAVES = {words: command for words, command in TREE.items() if not hasattr(command, "commands")}


def invoke(*arguments):
    return CliRunner(env=NARROW).invoke(app, list(arguments), prog_name="safeguard")


def every(tree):
    return pytest.mark.parametrize("words", tree, ids=" ".join)


@every(TREE)
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_fits_80_columns(words, option):
    shown = invoke(*words, option)
    assert shown.exit_code == 0
    assert shown.output.startswith("Usage: safeguard")
    assert max(map(len, shown.output.splitlines())) <= 80


@every(TREE)
def test_a_wrong_option_is_named_with_status_2(words):
    shown = invoke(*words, "--nosuch")
    assert shown.exit_code == 2
    assert "--nosuch" in shown.output


@every([words for words, command in TREE.items() if words not in LEAVES])
def test_a_wrong_command_is_named_with_status_2(words):
    shown = invoke(*words, "nosuch")
    assert shown.exit_code == 2
    assert "nosuch" in shown.output


def ports():
    for words, command in LEAVES.items():
        yield from (words for option in command.params if option.name == "port")


@every(list(ports()))
@pytest.mark.parametrize("port", ["-1", "65536", "http"])
def test_a_port_out_of_range_is_refused(words, port):
    shown = invoke(*words, f"--port={port}")
    assert shown.exit_code == 2
    assert "--port" in shown.output


def with_content_ids():
    """The words of each command that takes the id of a content item, up to the id, and those after it."""
    filled = {"action": ["allow"]}
    for words, command in LEAVES.items():
        for one in command.params:
            if one.name == "content" and one.param_type_name == "option":
                yield (*words, *(["--why", "x"] if words[-1] == "discard" else []), "--content"), ()
            elif one.name == "content":
                others = [param.name for param in command.params if param.param_type_name == "argument"]
                yield words, [word for name in others[others.index("content") + 1 :] for word in filled[name]]


IDS_WANTED = list(with_content_ids())


@pytest.mark.parametrize(("words", "more"), IDS_WANTED, ids=[" ".join(words) for words, _ in IDS_WANTED])
@pytest.mark.parametrize("content_id", ["", "x" * 513, "\udcff"], ids=["empty", "long", "bytes"])
def test_an_id_that_no_item_can_have_is_refused_before_a_broker_is_asked(words, more, content_id):
    shown = invoke(*words, content_id, *more, "--bootstrap", "127.0.0.1:1")
    assert shown.exit_code == 1
    assert str(shown.exception).startswith("CONTENT_ID: ")


def test_the_commands_that_take_an_id_are_known():
    assert {words[:2] for words, _ in IDS_WANTED} >= {("erase",), ("content", "show"), ("enforce", "decide")}


def test_help_and_wrong_arguments_load_no_heavy_library():
    """One process for all commands, which ends at the first that loads one."""
    code = f"""
import sys
from typer.testing import CliRunner
from safeguard_streams.cli import app
from safeguard_streams.infra.brokers import free_port
for words in {[list(words) for words in TREE]!r}:
    for wrong in ("--help", "--nosuch", "--port=-1", "--decision=nosuch"):
        CliRunner().invoke(app, [*words, wrong])
        loaded = [name for name in {HEAVY!r} if name in sys.modules]
        assert not loaded, (words, wrong, loaded)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=TIMEOUT)


def safeguard(*arguments, cwd=None, **environment):
    command = [sys.executable, "-m", "safeguard_streams", *arguments]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **NARROW, **environment},
    )


def test_the_version_is_shown():
    shown = safeguard("--version")
    assert shown.returncode == 0
    name, version = shown.stdout.split()
    assert name == "safeguard"
    assert version[0].isdigit()


def test_a_misspelled_variable_is_warned_of_once():
    """Otherwise, a command would use the default broker without a word."""
    near, far = {"SAFEGUARD_BOOTSTRP": "s3cret:1"}, {"SAFEGUARD_OF_ANOTHER_PROGRAM": "x"}
    shown = safeguard("policy", "list", **near, **far)
    warning = "safeguard: warning: nothing reads SAFEGUARD_BOOTSTRP; did you mean SAFEGUARD_BOOTSTRAP?"
    assert shown.stderr.splitlines() == [warning]
    assert shown.returncode == 0
    assert safeguard("policy", "list").stderr == ""


@pytest.mark.parametrize("words", [["prefilter", "run"], ["enforce", "run"], ["reason", "run"]], ids=" ".join)
def test_a_process_logs_a_misspelled_variable_in_its_own_format(words, tmp_path):
    wrong = {"SAFEGUARD_LOG_FORMAT": "json", "SAFEGUARD_BOOTSTRP": "s3cret:1"}
    with subprocess.Popen(
        [sys.executable, "-m", "safeguard_streams", *words, "--port", str(free_port()), "--bootstrap", "127.0.0.1:1"],
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        env={**os.environ, **wrong},
        text=True,
    ) as process:
        line = process.stderr.readline()
        process.kill()
    assert "s3cret" not in line
    logged = json.loads(line)
    assert (logged["level"], logged["message"]) == (
        "WARNING",
        "unknown variable ignored name=SAFEGUARD_BOOTSTRP nearest=SAFEGUARD_BOOTSTRAP",
    )


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "powershell"])
def test_completion_prints_a_script_for_each_shell(shell):
    shown = invoke("completion", shell)
    assert shown.exit_code == 0
    assert "_SAFEGUARD_COMPLETE" in shown.output


def test_completion_completes_commands_and_options():
    words = {"_SAFEGUARD_COMPLETE": "complete_bash", "COMP_CWORD": "2", "COMP_WORDS": "safeguard topics cr"}
    assert safeguard(**words).stdout.split() == ["create"]
    words |= {"COMP_CWORD": "3", "COMP_WORDS": "safeguard topics list --js"}
    assert safeguard(**words).stdout.split() == ["--json"]


def test_a_wrong_path_is_one_sentence(tmp_path):
    for words in (
        ["policy", "test", "fraud-spam", "--golden", "nosuch.jsonl"],
        ["prefilter", "evaluate", "--data", "nosuch"],
        ["capacity", "--rate", "5", "--bench-prefilter", "nosuch"],
        ["enforce", "check", "nosuch.toml"],
        ["publish", "nosuch.jsonl"],
    ):
        shown = safeguard(*words, cwd=tmp_path)
        assert shown.returncode in {1, 2}, words
        assert "Traceback" not in shown.stderr, words
        assert "nosuch" in shown.stderr, words


NEEDS_A_VALUE = {
    "before": "fraud-spam@live",
    "policy": "fraud-spam",
    "policy_id": "fraud-spam",
    "action": "remove",
    "file": "-",
}


def placed(command):
    """A value for each required argument and option."""
    words = []
    for parameter in command.params:
        if parameter.required:
            value = NEEDS_A_VALUE.get(parameter.name, "fraud-spam")
            words += [value] if parameter.param_type_name == "argument" else [parameter.opts[0], value]
    return words


SERVES = {"run", "tail", "serve", "demo"}  # these wait for a broker
BROKER = [
    words
    for words, command in LEAVES.items()
    if any(option.name == "bootstrap" for option in command.params)
    and not SERVES & set(words)
    and words[0] not in {"bench", "demo", "doctor"}
]


@pytest.fixture(scope="module")
def without_broker(tmp_path_factory):
    """What each command printed. They mostly wait, and run several at a time."""
    folder = tmp_path_factory.mktemp("without_broker")

    def run(words):
        return safeguard(*words, *placed(LEAVES[words]), cwd=folder, SAFEGUARD_BOOTSTRAP="127.0.0.1:1")

    with ThreadPoolExecutor(6) as pool:
        return dict(zip(BROKER, pool.map(run, BROKER), strict=True))


@pytest.mark.slow
@every(BROKER)
def test_a_command_without_a_broker_ends_with_one_sentence(words, without_broker):
    shown = without_broker[words]
    assert "Traceback" not in shown.stderr
    if shown.returncode:  # others need a broker only with an option
        said = [line for line in shown.stderr.splitlines() if line.startswith("safeguard: ") or "rror: " in line]
        assert len(said) == 1, shown.stderr
    if "no Kafka" in shown.stderr:
        assert shown.returncode == 1
        assert "safeguard broker" in shown.stderr
