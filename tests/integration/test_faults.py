"""A short seed of the fault suite; the long one is `make test-faults`."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def test_a_short_seed_of_the_fault_suite():
    if not (shutil.which("java") and shutil.which("mvn")):
        assert os.environ.get("SAFEGUARD_REQUIRE_KAFKA") != "1"
        pytest.skip("not run on Apache Kafka: Java 17 and Maven are missing")
    suite = Path(__file__).parents[1] / "faults" / "run.py"
    arguments = ["--seed", "11", "--events", "4000", "--faults", "5", "--rate", "150"]
    done = subprocess.run([sys.executable, suite, *arguments], capture_output=True, text=True, timeout=390, check=False)
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["lost"] == 0, done.stdout
    assert summary["duplicates"] == 0, done.stdout
    assert done.returncode == 0, done.stdout
