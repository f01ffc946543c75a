"""Processes that are killed and restarted."""

import subprocess
import sys
import time
from pathlib import Path

BIN = Path(sys.executable).parent


def say(text):
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


class Process:
    """A process that can be killed and restarted."""

    def __init__(self, name, command, environment, folder):
        self.name, self.command, self.environment, self.log = name, command, environment, folder / f"{name}.log"
        self.start()

    def start(self):
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(self.command, env=self.environment, stdout=out, stderr=out)

    def kill(self):
        self.process.kill()
        self.process.wait()
        say(f"killed the {self.name}")
