"""The journal of a benchmark: one line for each judgement, without texts, written as they come.

Its first line holds the conditions. A benchmark goes on only under the same conditions. The line that a killed process
did not finish is removed, and its text is judged again.
"""

from __future__ import annotations

import fcntl
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import msgspec

from safeguard_streams.contract.records import Decision, Tokens
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.policies.vocabulary import Effort
from safeguard_streams.workers.judging.judgement import Judgement

ROWS, RESULTS = "rows.jsonl", "results.json"


class Conditions(msgspec.Struct, frozen=True):
    """What judgements of one benchmark have in common.

    policies: versions by id. effort, temperature: None for those of the policies.
    """

    format: str
    data_sha256: str
    model: str
    policies: Mapping[str, str]
    effort: Effort | None
    temperature: float | None


class Result(msgspec.Struct, frozen=True, omit_defaults=True):
    """A judgement under one policy. score: 0 to 1; None where the model returned no log-probabilities."""

    decision: Decision
    rules: tuple[str, ...] = ()
    score: float | None = None


class Judged(msgspec.Struct, frozen=True):
    """One judgement of a text, under one policy or a bundle. row: the text's sha256.

    refused: why each rejected output was rejected.
    """

    run: int
    row: str
    results: Mapping[str, Result]
    outputs: int
    refused: tuple[str, ...]
    tokens: Tokens


def judged(run: int, row: str, judgement: Judgement) -> Judged:
    """The line of a judgement: nothing of the text, and nothing that the model wrote about it."""
    results = {
        policy_id: Result(finding.decision, finding.answer.rule_ids if finding.answer else (), finding.score)
        for policy_id, finding in judgement.findings.items()
    }
    refused = tuple(attempt.refused for attempt in judgement.attempts if attempt.refused)
    return Judged(run, row, results, len(judgement.attempts), refused, judgement.tokens)


class Journal:
    """The judgements so far, in a file that grows. Use it as a context manager."""

    def __init__(self, path: Path, conditions: Conditions) -> None:
        self.judged: list[Judged] = []
        self._path = path
        self._conditions = conditions
        self._file: BinaryIO | None = None

    def __enter__(self) -> Journal:
        """Read the file, or begin it.

        Raises ConfigurationError where it was made under other conditions, or where another process writes it.
        """
        self._file = self._path.open("ab", buffering=0)  # each line is with the system as soon as it is written
        try:
            self._lock()
            self._read()
            if self._file.tell() == 0:
                self._write(self._conditions)
        except BaseException:
            self._file.close()
            raise
        return self

    def _lock(self) -> None:
        try:
            fcntl.flock(self._opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError(f"{self._path}: another benchmark writes to it; name another --out") from None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, line: Judged) -> None:
        """Write a judgement down."""
        self._write(line)
        self.judged.append(line)

    @property
    def _opened(self) -> BinaryIO:
        assert self._file is not None, "the journal is open"
        return self._file

    def _write(self, line: Conditions | Judged) -> None:
        self._opened.write(msgspec.json.encode(line) + b"\n")

    def _read(self) -> None:
        data = self._path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        lines = whole.splitlines()
        if lines:
            self._check(lines[0])
            self.judged = [self._decode(number, line) for number, line in enumerate(lines[1:], 2)]
        self._opened.truncate(len(whole))
        self._opened.seek(len(whole))

    def _check(self, line: bytes) -> None:
        try:
            before = msgspec.json.decode(line, type=Conditions)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise ConfigurationError(f"{self._path}: is no journal of a benchmark; name another --out") from None
        changed = [
            name for name in Conditions.__struct_fields__ if getattr(before, name) != getattr(self._conditions, name)
        ]
        if changed:
            names = ", ".join(name.replace("_", " ") for name in changed)
            raise ConfigurationError(f"{self._path}: was made with another {names}; name another --out for this one")

    def _decode(self, number: int, line: bytes) -> Judged:
        try:
            return msgspec.json.decode(line, type=Judged)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise ConfigurationError(
                f"{self._path}:{number}: is damaged; delete this line, and its text is judged again"
            ) from None


def of_run(lines: Sequence[Judged], run: int) -> dict[str, dict[str, Result]]:
    """The results of one run, by text and policy id."""
    found: dict[str, dict[str, Result]] = {}
    for line in lines:
        if line.run == run:
            found.setdefault(line.row, {}).update(line.results)
    return found
