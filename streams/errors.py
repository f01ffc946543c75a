"""The errors that this package raises on purpose. The message of each says what to do next.

SafeguardError              base of all errors below
|-- ConfigurationError      a setting, a file or an argument is wrong
|   |-- ForbiddenError      the broker denies this user access
|   `-- ServersAwayError    no inference server answers at the start (workers.inference.remote)
|-- RecordError             a record can never be processed; it becomes a dead letter
|-- BusError                the broker did not do what was asked; a later retry may succeed
|   |-- FencedError         another process owns the partition now
|   `-- OutputRefusedError  a topic takes no such record, for its size or its form
|-- StalledError            records wait and none finishes; the process ends and its supervisor restarts it
|-- DependencyError         an inference backend or another dependency is gone; the process ends
|-- InferenceError          the inference backend cannot answer one request (workers.inference.interface)
|-- PolicyError             a policy document is malformed; the message names file, line and fix
`-- BrokerError             a development broker cannot be started on this machine (infra.brokers)
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec


class SafeguardError(Exception):
    """Base of all errors that this package raises on purpose."""


class ConfigurationError(SafeguardError):
    """A setting, a file or an argument is wrong."""


class ForbiddenError(ConfigurationError):
    """The broker denies this user access; its access lists say who has it."""


class RecordError(SafeguardError):
    """A record can never be processed. `field` is the path of the field at fault."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(field, problem)  # both, so that the error can be pickled
        self.field = field

    def __str__(self) -> str:
        return f"{self.args[0]}: {self.args[1]}"


class BusError(SafeguardError):
    """The broker did not do what was asked."""


class FencedError(BusError):
    """A newer owner has taken the partition over. This process must write nothing more for it."""


class OutputRefusedError(BusError):
    """The client, a topic or the broker refuses outputs for their size or form, and will refuse them again."""


class StalledError(SafeguardError):
    """An assigned partition makes no progress while records wait."""


class DependencyError(SafeguardError):
    """A dependency of a transform is gone. The record is not at fault."""


class Problem(msgspec.Struct, frozen=True):
    """One problem in a file, in a compiler's format. line counts from 1; code names the kind of problem."""

    origin: str
    line: int
    severity: Literal["error", "warning"]
    code: str
    message: str

    def __str__(self) -> str:
        return f"{self.origin}:{self.line}: {self.severity}: {self.message} [{self.code}]"


class PolicyError(SafeguardError):
    """A policy document is malformed. The message has one line per problem: where it is and what to change."""

    @classmethod
    def of(cls, problems: Sequence[Problem]) -> PolicyError:
        """One error for all problems."""
        return cls("\n".join(map(str, problems)))


def nearest(given: str, names: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest known one; empty if none is near."""
    near = difflib.get_close_matches(given, list(names), 1)
    return f"; did you mean {near[0]}?" if near else ""


def choices(given: str, names: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest known one, and all that there are."""
    known = sorted(set(names))
    return f"{nearest(given, known) or ';'} available: {', '.join(known) or 'none'}"
