"""The guide to a policy of one's own, walked word by word: its files, its commands in their order, what it says.

`safeguard model scripted` answers throughout.
"""

import asyncio
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest

from safeguard_streams.bus import kafka as kafka_bus
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Verdict
from safeguard_streams.infra import brokers
from safeguard_streams.policies.check import check
from safeguard_streams.policies.parsing import parse
from safeguard_streams.runtime import settings
from tests.conftest import TIMEOUT

PAGE = Path(__file__).parents[2] / "docs/guides/own-policy.md"
TEXT = PAGE.read_text(encoding="utf-8")
FILES = dict(re.findall(r"<!-- file: (\S+) -->\n```\w*\n(.*?)```\n", TEXT, re.DOTALL))
PATCHES = dict(re.findall(r"<!-- patch: (\S+) -->\n```diff\n(.*?)```\n", TEXT, re.DOTALL))
POLICY = "my/off-platform-contact/policy.md"
ID = "off-platform-contact"
HEALTH = "http://127.0.0.1:{}/health/ready"


def commands():
    """The commands of the page's blocks, in order."""
    blocks = re.findall(r"```\w*\n(.*?)```\n", TEXT, re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", "").splitlines()]
    return [line for line in lines if line.startswith("safeguard ")]


def patched(text, patch):
    """A text with the lines of a diff: those with + follow the line before them, those with - go."""
    lines, at = text.splitlines(), 0
    for mark, line in ((line[0], line[1:]) for line in patch.splitlines()):
        if mark == "+":
            lines.insert(at, line)
            at += 1
            continue
        at = lines.index(line, at)
        if mark == "-":
            del lines[at]
        else:
            at += 1
    return "\n".join(lines) + "\n"


def write_files(folder):
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


def edit_files(folder):
    """Make the changes that the guide asks its reader to make."""
    for name, patch in PATCHES.items():
        (folder / name).write_text(patched(FILES[name], patch), encoding="utf-8")


def test_both_versions_of_the_guides_policy_are_fit_for_release(tmp_path):
    write_files(tmp_path)
    before = check(tmp_path / POLICY)
    edit_files(tmp_path)
    after = check(tmp_path / POLICY)
    for checked in (before, after):
        assert [problem.code for problem in checked.problems] == ["golden"], (
            "the golden set is small, as the guide says"
        )
    assert (before.golden, after.golden) == (12, 13)
    assert set(after.policy.rules) - set(before.policy.rules) == {"OPC6"}


class Reader:
    """Follows the guide in a folder: each call is the next command of the page."""

    def __init__(self, folder):
        self.folder = folder
        self.port, self.broker_port = brokers.free_port(), brokers.free_port()
        self.processes = []
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("SAFEGUARD_")},
            "SAFEGUARD_BOOTSTRAP": f"127.0.0.1:{self.broker_port}",
            "SAFEGUARD_PREFIX": f"own{time.time_ns()}.",
            "SAFEGUARD_SESSION_TIMEOUT_MS": "6000",
            "SAFEGUARD_PREFILTER_PORT": str(brokers.free_port()),
            "SAFEGUARD_REASONER_PORT": str(brokers.free_port()),
            "COLUMNS": "100",
        }
        self.left = commands()
        self.replay = ""

    def _next(self, expected):
        command = self.left.pop(0)
        assert command.startswith(f"safeguard {expected}"), command
        words = shlex.split(command)[1:]
        return [self.replay if word == "REPLAY" else str(self.port) if word == "8000" else word for word in words]

    def _start(self, words, log):
        command = [sys.executable, "-m", "safeguard_streams", *words]
        out = (self.folder / log).open("wb")
        process = subprocess.Popen(command, cwd=self.folder, env=self.environment, stdout=out, stderr=subprocess.STDOUT)
        self.processes.append(process)
        return process, self.folder / log

    def leave_running(self, expected, url, *more):
        """Start the next command, and wait until it answers at a URL."""
        process, log = self._start([*self._next(expected), *more], f"{expected.replace(' ', '-')}.log")
        deadline = time.monotonic() + TIMEOUT
        while True:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            with suppress(OSError), urllib.request.urlopen(url, timeout=5):
                return
            time.sleep(0.1)

    def start_broker(self):
        _, log = self._start([*self._next("broker"), "--port", str(self.broker_port)], "broker.log")
        deadline = time.monotonic() + TIMEOUT
        while "Ctrl-C ends it" not in log.read_text():
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)

    def run(self, expected, *more):
        """Standard output of the next command, which must succeed."""
        return self.again([*self._next(expected), *more])

    def again(self, words):
        command = [sys.executable, "-m", "safeguard_streams", *words]
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            input="y\n",
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        assert "exception" not in done.stderr, done.stderr
        return done.stdout

    def tail(self, expected, count):
        """The lines of the next command about content, once there are so many; Ctrl-C ends it."""
        process, log = self._start(self._next(expected), "tail.log")
        deadline = time.monotonic() + TIMEOUT
        while len(lines := [line for line in log.read_text().splitlines() if re.search(r"\bm-\d", line)]) < count:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        process.wait(TIMEOUT)
        assert "Traceback" not in log.read_text()
        return lines

    def until(self, words, met):
        """Repeat a command until its JSON meets a condition."""
        deadline = time.monotonic() + TIMEOUT
        while not met(found := _json(self.again([*words, "--json"]))):
            assert time.monotonic() < deadline, found
            time.sleep(0.2)
        return found

    async def promoted(self):
        """The content items with a superseding verdict of the replay that violates."""
        names = {"bootstrap": "SAFEGUARD_BOOTSTRAP", "prefix": "SAFEGUARD_PREFIX"}
        current = settings.load(**{name: self.environment[variable] for name, variable in names.items()})
        verdicts = [v async for _, v in kafka_bus.read_decoded(current, [topics.VERDICTS], Verdict)]
        return {v.content_id for v in verdicts if v.replay_id == self.replay and v.decision == "violates"}

    def close(self):
        for process in self.processes:
            process.terminate()  # the embedded broker is a process of its own, which the command ends
        for process in self.processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(TIMEOUT)
            process.kill()
            process.wait()


@pytest.fixture
def reader(tmp_path):
    made = Reader(tmp_path)
    yield made
    made.close()


@pytest.mark.slow
def test_the_guide_is_true_word_by_word(reader):
    _draft(reader)
    _judge(reader)
    _change(reader)
    _replay(reader)
    _decide(reader)
    assert not reader.left, "each command of the guide has had its turn"


def _draft(reader):
    reader.start_broker()
    prints("policy new", reader.run("policy new"))
    written = parse((reader.folder / POLICY).read_text(encoding="utf-8"), POLICY)
    assert list(written.rules) == ["OPC1", "OPC2", "OPC3", "OPC4", "OPC5"]
    write_files(reader.folder)
    assert words_of("policy check") == words(reader.run("policy check"))
    reader.leave_running("model scripted", f"http://127.0.0.1:{reader.port}/health")
    reader.environment["SAFEGUARD_SERVERS"] = f"http://127.0.0.1:{reader.port}/v1"
    assert sample("model check") == anonymous(reader.run("model check"), reader.port)

    tested = reader.run("policy test")
    assert words_of("policy test") == words(tested)
    assert "where the birds are blue" in tested


def _judge(reader):
    reader.run("topics create")
    prints("policy release", reader.run("policy release"))
    reader.leave_running("prefilter run", HEALTH.format(reader.environment["SAFEGUARD_PREFILTER_PORT"]))
    reader.leave_running("reason run", HEALTH.format(reader.environment["SAFEGUARD_REASONER_PORT"]))
    reader.run("publish my/messages.jsonl")
    seen = {re.search(r"\bm-\d+", line)[0]: line for line in reader.tail("verdicts tail", 4)}
    assert {name for name, line in seen.items() if "violates" in line} == {"m-2", "m-3"}
    assert {name for name, line in seen.items() if " safe" in line} == {"m-4", "m-6"}
    assert "OPC4" in seen["m-4"]
    assert words_of("content show") == words(reader.run("content show"))


def _change(reader):
    # The guide has its reader edit the policy before the golden text is added, and the golden set after it.
    edit_files(reader.folder)
    added = reader.run("policy golden add")
    # The guide's reader has not yet added the text that the file of this test has already.
    prints("policy golden add", added.replace(":14:", ":13:"))
    reader.run("policy check")
    prints("policy diff", reader.run("policy diff"))
    prints("policy release --shadow", reader.run("policy release"))
    reader.run("publish my/more.jsonl")
    compared = reader.until(
        ["policy", "compare", ID], lambda found: found["both"] == 2 and found["only_shadow"]["count"]
    )
    assert (compared["to_violates"]["count"], compared["only_shadow"]["count"], compared["waiting"]) == (1, 1, 0)
    assert words_of("policy compare") == words(reader.run("policy compare"))


def _replay(reader):
    started = reader.run("replay start")
    assert set(words(started)) <= set(words_of("replay start"))
    reader.replay = re.search(r"safeguard replay diff (\S+)", started)[1]
    assert words_of("replay diff") == words(reader.run("replay diff"))
    assert "<html" in (reader.folder / "my/flips.html").read_text(encoding="utf-8")
    reader.run("policy release")
    reader.run("replay promote")
    assert asyncio.run(reader.promoted()) == {"m-5", "m-6", "m-8", "m-9"}
    prints("policy history", by_ann(reader.run("policy history")))


def _json(shown):
    """A document, or the rows of JSON lines."""
    try:
        return json.loads(shown)
    except json.JSONDecodeError:
        return [json.loads(line) for line in shown.splitlines()]


def _decide(reader):
    prints("enforce check", reader.run("enforce check"))
    port = str(brokers.free_port())
    reader.leave_running("enforce run", HEALTH.format(port), "--port", port)
    reader.until(["enforce", "review"], lambda rows: len(rows) == 7)
    assert words_of("enforce review --no-texts") == words(reader.run("enforce review --no-texts"))
    prints("enforce decide", by_ann(reader.run("enforce decide")))
    reader.until(["enforce", "standing"], lambda rows: any(row["effective"] == "limit" for row in rows))
    prints("content show m-8", by_ann(reader.run("content show")))


def sample(name):
    """The output that the page shows, without times."""
    return anonymous(_shown(name), 8000)


def words_of(name):
    """The words of an output that the page shows."""
    return words(_shown(name))


def _shown(name):
    (text,) = re.findall(rf"<!-- sample: {name} -->\n```text\n(.*?)```\n", TEXT, re.DOTALL)
    return text


def by_ann(printed):
    """An output with one name for the person who runs the test."""
    return re.sub(r"\bby [^:;\s]+(?=[:;]| at )", "by ann", printed)


def prints(name, printed):
    """Require the output that the page shows under a command."""
    assert shows(_shown(name), printed), printed


def shows(text, printed):
    """Whether an output has the words that a page shows, in their order; a line `...` stands for any others.

    Line breaks do not count, and neither do times and ids.
    """
    rest = " ".join(settled(printed).split())
    for part in filter(str.strip, re.split(r"^\s*\.\.\.$", text, flags=re.MULTILINE)):
        _, found, rest = rest.partition(" ".join(settled(part).split()))
        if not found:
            return False
    return True


def words(text):
    """An output's words, in alphabetical order, without those that differ from run to run, and without line breaks."""
    return sorted(settled(text).split())


def settled(text):
    """An output without what differs from run to run: times, ids and places."""
    for pattern in (
        r"\d{4}-\d\d-\d\dT[0-9:+Z]+",
        r"\d{8}-\d{6}-\w{4}",
        r"\b[0-9a-f]{32}\b",
        r"\d+@\d+",
        r"[\d.]+ s\b",
        r"\b\d+[dhms]\b",
    ):
        text = re.sub(pattern, "IT", text)
    return text


def anonymous(text, port):
    """An output without times, its port, its widths and its line breaks."""
    return re.sub(r"\d+\.\d\d s", "N s", " ".join(text.replace(str(port), "PORT").split()))
