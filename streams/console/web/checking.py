"""Asks the checker, and ends it when it takes too long."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable

import msgspec

from safeguard_streams.console.web import checker
from safeguard_streams.console.web.checker import Answer, Question
from safeguard_streams.console.web.guard import RefusedError

START_SECONDS = 300.0
CHECK_SECONDS = 10.0
LEARN_SECONDS = 300.0
WAITING = 8  # texts at most, the one that is checked included: each holds a thread, of which all pages share 40


class Checker:
    """A process that checks one text at a time. It starts with the first question, and again after it was ended."""

    def __init__(self, seconds: float = CHECK_SECONDS) -> None:
        self._seconds = seconds
        self._turn = threading.Lock()
        self._places = threading.BoundedSemaphore(WAITING)
        self._process: subprocess.Popen[bytes] | None = None
        self._end: Callable[[], object] = _nothing

    def ask(self, question: Question) -> Answer:
        """The answer, for a thread to wait for. Raises RefusedError when it takes too long, or too many wait."""
        if not self._places.acquire(blocking=False):
            raise RefusedError("Many texts are being checked at the moment. Try again in a minute.")
        try:
            return self._asked(question)
        finally:
            self._places.release()

    def _asked(self, question: Question) -> Answer:
        with self._turn:
            process = self._started()
            answered = _line(process, self._seconds, msgspec.json.encode(question) + b"\n")
            if not answered:
                self.close()
                raise RefusedError(
                    f"This text could not be checked within {self._seconds:.0f} s. Shorten it, or check it with "
                    "safeguard policy check."
                )
            return msgspec.json.decode(answered, type=Answer)

    def close(self) -> None:
        """End the process, if there is one."""
        self._end()
        self._process = None

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._process = subprocess.Popen(
                [sys.executable, "-m", checker.__name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # a traceback may quote the text
                start_new_session=True,  # Ctrl-C is for the console, which ends this
            )
            self._end = weakref.finalize(self, _end, self._process)
            _line(self._process, START_SECONDS)
        return self._process


def _line(process: subprocess.Popen[bytes], seconds: float, sent: bytes = b"") -> bytes:
    """The next line of a process that was sent something; empty when none comes in time: the process is ended then."""
    assert process.stdin is not None
    assert process.stdout is not None
    late = threading.Timer(seconds, process.kill)
    late.start()
    try:
        process.stdin.write(sent)
        process.stdin.flush()
        line = process.stdout.readline()
    except OSError:
        return b""
    finally:
        late.cancel()
    return line if line.endswith(b"\n") else b""


def _nothing() -> None:
    """End no process."""


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
    process.wait()


def learned(question: Question) -> Answer:
    """The answer of a process that learns, and ends: the encoder takes much memory."""
    teacher = Checker(LEARN_SECONDS)
    try:
        return teacher.ask(question)
    finally:
        teacher.close()
