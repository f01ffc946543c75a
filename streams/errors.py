"""Errors of the pipeline.

SafeguardError              anything this package raises on purpose; the message says what to do next
|-- ConfigurationError      a setting, file or argument is wrong
|   `-- ForbiddenError      the broker does not let this user do it
|-- RecordError             a record cannot be handled, ever: it becomes a dead letter
|-- BusError                the broker did not do what was asked; trying again later may help
|   `-- FencedError         another process owns the partition now
|-- StalledError            records wait and nothing moves: the process ends, its supervisor restarts it
|-- DependencyError         something a transform needs is gone (an inference backend): the process ends
`-- PolicyError             a policy document is malformed; the message names the file, the line and the fix
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec


class SafeguardError(Exception):
    """Base of all errors raised on purpose."""


class ConfigurationError(SafeguardError):
    """A setting, a file or an argument is wrong."""


class ForbiddenError(ConfigurationError):
    """The broker does not let this user do what was asked; its access lists say who may."""


class RecordError(SafeguardError):
    """A record cannot be handled, however often it is tried; `field` is the path of what is wrong with it."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field


class BusError(SafeguardError):
    """The broker did not do what was asked."""


class FencedError(BusError):
    """A newer owner of the partition has taken over; nothing more may be written for it here."""


class StalledError(SafeguardError):
    """An assigned partition makes no progress although records wait."""


class DependencyError(SafeguardError):
    """What a transform needs is gone; the record at hand is not at fault."""


class Problem(msgspec.Struct, frozen=True):
    """One thing to mend in a file, said as a compiler says it. line counts from 1; code names the kind of problem."""

    origin: str
    line: int
    severity: Literal["error", "warning"]
    code: str
    message: str

    def __str__(self) -> str:
        return f"{self.origin}:{self.line}: {self.severity}: {self.message} [{self.code}]"


class PolicyError(SafeguardError):
    """A policy document is malformed; the message says where and what to change, a line for each problem."""

    @classmethod
    def of(cls, problems: Sequence[Problem]) -> PolicyError:
        """An error that says all of them."""
        return cls("\n".join(map(str, problems)))
