"""Ctrl-C, early and in the middle: each command ends within seconds, with no traceback and no process left."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

import psutil
import pytest

from safeguard_streams.bus import kafka as kafka_bus
from safeguard_streams.contract import topics
from safeguard_streams.infra import brokers
from safeguard_streams.runtime import settings
from tests.conftest import TIMEOUT

pytestmark = pytest.mark.slow
# The marker says that the interpreter is up: before it, no code of this project runs.
MAIN = "print('up', flush=True); from safeguard_streams.__main__ import main; main()"
INTERRUPTED = {130, -signal.SIGINT}  # a shell shows both as 130
BOUND = 120.0  # seconds; a process ends within 9 of the signal on a quiet machine that does not stand still
NOWHERE = ["--bootstrap", "127.0.0.1:1"]


def wait_for_main(pid):
    """Return once the command line has taken SIGINT from the interpreter, which it does before it imports anything."""
    while True:
        status = dict(line.split(":\t") for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        if not int(status["SigCgt"], 16) & 1 << signal.SIGINT - 1:
            return
        time.sleep(0.001)


def listens(port):
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def interrupt(words, delay, cwd, reached=None):
    """Start a command, send SIGINT after `delay` seconds, and return its status and its standard error.

    reached: takes the process; the seconds count from when it returns True. The signal reaches the children, too, as
    Ctrl-C in a terminal does.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env={**os.environ, "COLUMNS": "80"},
        start_new_session=True,
    )
    assert process.stdout.readline() == "up\n"
    wait_for_main(process.pid)
    while reached is not None and process.poll() is None and not reached(process):
        time.sleep(0.1)
    time.sleep(delay)
    children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    os.killpg(process.pid, signal.SIGINT)
    try:
        _, errors = process.communicate(timeout=BOUND)
    finally:
        process.kill()
    _, left = psutil.wait_procs(children, timeout=TIMEOUT)
    assert not left
    return process.returncode, errors


def check(words, delay, cwd, *, statuses, port=None, reached=None):
    status, errors = interrupt(words, delay, cwd, reached or (port and (lambda _: listens(port))))
    assert "Traceback" not in errors, errors
    assert "KeyboardInterrupt" not in errors, errors
    assert status in statuses, errors


@pytest.mark.parametrize("delay", [0.0, 0.3, 0.9])
@pytest.mark.parametrize(
    "words",
    [
        ["verdicts", "tail", *NOWHERE],
        ["prefilter", "run", "--port", "0", *NOWHERE],
        ["enforce", "run", "--port", "0", *NOWHERE],
        ["reason", "run", "--port", "0", *NOWHERE],
        ["dead-letters", "list", *NOWHERE],
        ["policy", "release", "fraud-spam", *NOWHERE],
        ["publish", "-", *NOWHERE],
        ["broker", "--port", "0"],
    ],
    ids=" ".join,
)
def test_a_command_that_waits_ends_in_its_first_second(words, delay, tmp_path):
    words = [str(brokers.free_port()) if word == "0" else word for word in words]
    check(words, delay, tmp_path, statuses={0, *INTERRUPTED})


@pytest.mark.parametrize("words", [["verdicts", "tail"], ["prefilter", "run"], ["enforce", "run"]], ids=" ".join)
def test_a_command_that_runs_ends_with_status_0(words, tmp_path):
    with brokers.embedded() as address:
        subprocess.run(
            [sys.executable, "-m", "safeguard_streams", "topics", "create", "--bootstrap", address],
            check=True,
            stdout=subprocess.DEVNULL,
            timeout=TIMEOUT,
        )
        if words[0] == "verdicts":  # nothing tells that it reads
            check([*words, "--bootstrap", address], 8.0, tmp_path, statuses={0, *INTERRUPTED})
            return
        port = brokers.free_port()
        check([*words, "--port", str(port), "--bootstrap", address], 2.0, tmp_path, statuses={0}, port=port)


def test_the_embedded_broker_ends_with_status_0_and_leaves_nothing(tmp_path):
    port = brokers.free_port()
    check(["broker", "--port", str(port)], 1.0, tmp_path, statuses={0}, port=port)


def test_publishing_a_large_file_ends_in_its_middle(tmp_path):
    file, count = tmp_path / "events.jsonl", 200_000
    event = {"text": "hello there, friend " * 5, "created_at": "2026-01-01T00:00:00Z"}
    file.write_text("".join(json.dumps({"content_id": f"c{n}"} | event) + "\n" for n in range(count)))
    with brokers.embedded() as address:
        current = settings.load(bootstrap=address, partitions=1)
        asyncio.run(kafka_bus.create_topics(current))

        def published(_=None):
            return sum(asyncio.run(kafka_bus.end_offsets(current, topics.EVENTS)).values())

        check(["publish", str(file), "--bootstrap", address], 0.0, tmp_path, statuses=INTERRUPTED, reached=published)
        assert 0 < published() < count


def has_child(process):
    return bool(psutil.Process(process.pid).children())


@pytest.mark.parametrize("delay", [0.2, 2.0])
def test_a_benchmark_ends_with_the_process_that_measures(delay, tmp_path):
    words = ["bench", "texts", "--largest", "300"]
    check(words, delay, tmp_path, statuses=INTERRUPTED, reached=has_child)


def test_training_ends_with_the_process_that_trains(tmp_path):
    """Ctrl-C in a terminal reaches the process that trains as well, which prints no traceback."""
    names = {True: "hate", False: "none"}
    rows = (
        {"text": f"text {n} of {n % 997} words", "violates": bad, "category": "x", "harm": names[bad]}
        for n in range(20_000)
        for bad in [n % 2 == 0]
    )
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["prefilter", "train", "--data", str(tmp_path), "--out", str(tmp_path / "model.bin")]
    check(words, 0.1, tmp_path, statuses=INTERRUPTED, reached=has_child)
    assert not (tmp_path / "model.bin").exists()


def test_a_test_of_a_policy_ends_while_a_server_is_silent(tmp_path):
    asked = Event()

    class Silent(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"data": [{"id": "m", "owned_by": "vllm", "max_model_len": 16384}]}')

        def do_POST(self):
            asked.set()
            self.rfile.read()  # until the client is gone

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Silent) as server:
        server.daemon_threads = True
        Thread(target=server.serve_forever, daemon=True).start()
        words = ["policy", "test", "fraud-spam", "--server", f"http://127.0.0.1:{server.server_port}/v1"]
        check(words, 0.0, tmp_path, statuses=INTERRUPTED, reached=lambda _: asked.is_set())
        server.shutdown()


@pytest.mark.model
@pytest.mark.parametrize("delay", [0.9, 4.0, 10.0])
def test_a_test_of_a_policy_ends_while_the_model_starts(delay, tmp_path):
    check(["policy", "test", "fraud-spam", "--backend", "local"], delay, tmp_path, statuses=INTERRUPTED)


@pytest.mark.model
@pytest.mark.parametrize("delay", [4.0, 10.0])
def test_the_reasoning_worker_ends_while_the_model_starts(delay, tmp_path):
    port = str(brokers.free_port())
    check(["reason", "run", "--port", port, *NOWHERE], delay, tmp_path, statuses={0, *INTERRUPTED})


def test_a_thread_that_never_ends_holds_nothing_up(tmp_path):
    """A thread that asyncio joins, as one that loads a model, and a child of it."""
    code = """
import asyncio, subprocess, time
from safeguard_streams.runtime import process
process.bound_interrupts()
child = subprocess.Popen(["sleep", "600"], start_new_session=True)
def load():
    print(child.pid, flush=True)
    time.sleep(600)
async def work():
    await asyncio.to_thread(load)
asyncio.run(work())
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as running:
        child = psutil.Process(int(running.stdout.readline()))
        running.send_signal(signal.SIGINT)
        assert running.wait(TIMEOUT) == 130
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_a_second_interrupt_leaves_no_child_behind(tmp_path):
    """The child ends only when it is killed, two seconds after it was told to end. The second SIGINT comes between."""
    code = """
import subprocess, sys, time
from safeguard_streams import cli
def work():
    child = "import signal, sys, time; signal.signal(15, lambda *_: print('told', flush=True)); " \
        "print('up', flush=True); [time.sleep(600) for _ in range(9)]"
    print(subprocess.Popen([sys.executable, "-c", child], start_new_session=True).pid, flush=True)
    time.sleep(600)
cli._run = work
cli.main()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as running:
        child = psutil.Process(int(running.stdout.readline()))
        try:
            assert running.stdout.readline() == "up\n"
            running.send_signal(signal.SIGINT)
            assert running.stdout.readline() == "told\n"
            running.send_signal(signal.SIGINT)
            assert running.wait(TIMEOUT) == 130
            assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
        finally:
            if child.is_running():
                child.kill()
