"""`safeguard model` as a process: what it prints, how it ends, and what it refuses before it works."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from safeguard_streams.infra import brokers
from tests.conftest import TIMEOUT

pytestmark = pytest.mark.slow
WORDS = 'FS5 = ["beware"]\nFS2 = ["cash prize"]\n'
COMMAND = [sys.executable, "-m", "safeguard_streams", "model"]
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("SAFEGUARD_")}


@pytest.fixture
def words(tmp_path):
    path = tmp_path / "words.toml"
    path.write_text(WORDS, encoding="utf-8")
    return str(path)


def run(*arguments, **more):
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
        env={**ENVIRONMENT, "COLUMNS": "80", **more},
    )


@pytest.fixture
def server(words):
    """A running server: its process and its URL, as it prints them."""
    port = brokers.free_port()
    command = [*COMMAND, "scripted", words, "--port", str(port)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as process:
        first, second = process.stdout.readline(), process.stdout.readline()
        url = f"http://127.0.0.1:{port}/v1"
        assert first == f"answers by the words of FS5, FS2 at {url}\n"
        assert second == f"use it: export SAFEGUARD_SERVERS={url}\n"
        yield process, url
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_server_in_silence(server, number):
    process, _ = server
    process.send_signal(number)
    assert process.wait(TIMEOUT) == 0
    assert process.stderr.read() == ""


def test_the_check_prints_a_table_or_json_and_tells_by_its_status(server):
    process, url = server
    shown = run("check", "--server", url)
    assert shown.returncode == 0, shown.stderr
    assert "ready for trials" in shown.stdout
    assert "judged violates FS2, as labelled" in shown.stdout
    found = json.loads(run("check", "--json", SAFEGUARD_SERVERS=url).stdout)
    assert (found["way"], found["ready"], found["checked"][0]["model"]) == ("server", True, "scripted")
    process.kill()
    process.wait()
    away = run("check", "--json", SAFEGUARD_SERVERS=f"{url},{url}")
    assert away.returncode == 1
    assert [one["checks"][0]["outcome"] for one in json.loads(away.stdout)["checked"]] == ["failed", "failed"]


def test_ctrl_c_ends_a_check_that_waits_for_its_answer():
    """The server accepts connections and never answers."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        command = [*COMMAND, "check", "--server", url]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
        ) as process:
            assert process.stderr.readline() == f"connecting to {url}\n"
            time.sleep(0.2)
            process.send_signal(signal.SIGINT)
            _, rest = process.communicate(timeout=TIMEOUT)
            assert process.returncode not in (0, None)
            assert "Traceback" not in rest


def test_what_cannot_be_served_is_refused_with_what_to_do(server, words, tmp_path):
    _, url = server
    port = url.split(":")[2].removesuffix("/v1")
    taken = run("scripted", words, "--port", port)
    assert (taken.returncode, taken.stderr) == (
        1,
        f"safeguard: 127.0.0.1:{port} cannot be listened on (Address already in use): choose another --port\n",
    )
    for arguments, status, said in [
        ((str(tmp_path / "none.toml"),), 1, "cannot be read"),
        ((words, "--port", "70000"), 2, "--port"),
        ((), 2, "RULES"),
    ]:
        done = run("scripted", *arguments)
        assert (done.returncode, said in done.stderr, "Traceback" in done.stderr) == (status, True, False), done.stderr
