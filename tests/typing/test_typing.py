"""The public face is typed for its users: mypy --strict accepts correct usage and reports wrong usage."""

import shutil
import subprocess
import sys
from pathlib import Path

from tests.conftest import TIMEOUT


def test_usage_passes_a_strict_type_check(tmp_path):
    # A copy outside the checkout, so that mypy reads the installed package as it does for users.
    usage = shutil.copy(Path(__file__).with_name("usage.py"), tmp_path)
    config = tmp_path / "mypy.ini"
    config.write_text(
        "[mypy]\nstrict = true\nwarn_unused_ignores = true\n[mypy-aiokafka.*]\nignore_missing_imports = true\n"
    )
    command = [sys.executable, "-m", "mypy", "--config-file", config, "--cache-dir", tmp_path / "cache", usage]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=TIMEOUT)
    assert done.returncode == 0, done.stdout + done.stderr
