"""A short run of the fault suite. The long one is `make test-faults`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from safeguard_streams.infra import brokers
from tests.conftest import TIMEOUT

SUITE = Path(__file__).parents[1] / "faults" / "run.py"


@pytest.mark.slow
def test_a_short_run_of_the_fault_suite():
    try:
        brokers.jars()
    except brokers.BrokerError as error:
        pytest.skip(f"not run on Apache Kafka: {error}")
    arguments = ["--seed", "11", "--events", "4000", "--faults", "5", "--rate", "150"]
    done = subprocess.run(
        [sys.executable, SUITE, *arguments], capture_output=True, text=True, timeout=2 * TIMEOUT, check=False
    )
    assert done.stdout, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["lost"] == 0, done.stdout
    assert summary["duplicates"] == 0, done.stdout
    assert done.returncode == 0, done.stdout
