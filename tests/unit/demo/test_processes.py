"""The demo's processes and its act of faults, with processes of a shell."""

import asyncio
import os
import sys

import pytest

from safeguard_streams.demo import child_process, faults
from safeguard_streams.demo.child_process import ChildProcess
from safeguard_streams.demo.tally import Tally
from safeguard_streams.errors import SafeguardError

# Serves /health/ready on the port that the demo passes, and notes each start.
SERVER = """
import http.server, os, sys
print("started", os.getpid(), flush=True)
class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def log_message(self, *_): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[-1])), Ready).serve_forever()
"""


def server(folder, name="prefilter"):
    return ChildProcess(name, [sys.executable, "-c", SERVER], dict(os.environ), folder)


@pytest.fixture
async def child(tmp_path):
    child = server(tmp_path)
    await child.start()
    yield child
    await child.stop()


async def test_a_killed_process_counts_as_ended_by_the_demo_until_it_runs_again(child):
    child.check()
    await child.kill()
    assert not child.running
    child.check()
    await child.start()
    await child_process.all_ready([child], print)
    child.process.kill()
    await child.process.wait()
    with pytest.raises(SafeguardError, match="prefilter ended unexpectedly; its log ends with:\nstarted"):
        child.check()


async def test_the_act_waits_for_answers_then_kills_and_restarts(child):
    tally = Tally()
    said = []
    acting = asyncio.create_task(faults.kill_and_restart([child], tally, 10, said.append))
    await child_process.all_ready([child], said.append)
    first = child.process.pid
    await asyncio.sleep(0.3)
    assert child.process.pid == first  # nothing is answered yet
    from safeguard_streams.contract import topics
    from safeguard_streams.runtime.memory_broker import StoredRecord
    from tests.unit.demo.test_tally import cleared

    for number in range(6):
        key = f"c{number}".encode()
        tally.sent(key, key)
    for number in range(2):
        tally.take(topics.CLEARED, StoredRecord(topics.CLEARED, 0, 0, 0, f"c{number}".encode(), cleared(f"c{number}")))
    killed = await acting
    assert child.process.pid != first
    assert (killed.processes, killed.published, killed.answered) == (("prefilter",), 6, 2)
    assert killed.seconds_away > 0
    assert any("6 events published, 4 unanswered" in line for line in said)
    assert child.log.read_text().count("started") == 2  # the log of the killed process is kept


async def test_a_process_that_ends_while_it_starts_is_an_error_with_its_log(tmp_path):
    broken = ChildProcess("reasoner", [sys.executable, "-c", "print('no model')"], dict(os.environ), tmp_path)
    await broken.start()
    with pytest.raises(SafeguardError, match="reasoner ended unexpectedly; its log ends with:\nno model"):
        await child_process.all_ready([broken], print)


async def test_while_processes_start_the_waiting_is_reported_and_its_reason_once(tmp_path, monkeypatch):
    monkeypatch.setattr(child_process, "REPORT_SECONDS", 0.0)
    gate = tmp_path / "go"
    waits = f"import os, time\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.05)\n{SERVER}"
    children = [
        ChildProcess(name, [sys.executable, "-c", waits], dict(os.environ), tmp_path)
        for name in ("prefilter", "reasoner")
    ]
    said = []
    try:
        for child in children:
            await child.start()
        waiting = asyncio.create_task(child_process.all_ready(children, said.append))
        while len(said) < 3 and not waiting.done():
            await asyncio.sleep(0.05)
        gate.touch()
        await waiting
    finally:
        for child in children:
            await child.kill()
    assert said[0].endswith(f"waiting for the prefilter, the reasoner; {child_process.LOADING}")
    assert sum(child_process.LOADING in line for line in said) == 1
