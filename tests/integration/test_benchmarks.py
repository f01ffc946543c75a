"""The benchmarks run and print figures. Tests do not judge the figures."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import TIMEOUT

pytestmark = pytest.mark.slow
SAFEGUARD = Path(sys.executable).with_name("safeguard")
SHORT = {
    ("bench", "prefilter"): ("--events", "5000"),
    ("bench", "pipeline"): ("--rate", "100", "--seconds", "3"),
    ("bench", "reason"): ("--count", "20"),
    ("bench", "release"): ("--rate", "50", "--seconds", "6"),
    ("bench", "telemetry"): ("--events", "5000"),
    ("bench", "console"): ("--verdicts", "2000", "--actions", "400"),
}


@pytest.mark.parametrize("command", SHORT, ids=" ".join)
def test_a_short_run_prints_figures(kafka_address, command):
    environment = {**os.environ, "SAFEGUARD_BOOTSTRAP": kafka_address}
    words = [SAFEGUARD, *command, *SHORT[command], "--json"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=2 * TIMEOUT, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures
    numbers = [value for value in _values(figures) if isinstance(value, (int, float)) and not isinstance(value, bool)]
    assert len(numbers) > 3
    assert max(numbers) > 0


def _values(tree):
    for value in tree.values() if isinstance(tree, dict) else tree:
        if isinstance(value, (dict, list)):
            yield from _values(value)
        else:
            yield value
