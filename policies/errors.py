"""Errors of policy documents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec


class Problem(msgspec.Struct, frozen=True):
    """One thing to mend in a file, said as a compiler says it. line counts from 1; code names the kind of problem."""

    origin: str
    line: int
    severity: Literal["error", "warning"]
    code: str
    message: str

    def __str__(self) -> str:
        return f"{self.origin}:{self.line}: {self.severity}: {self.message} [{self.code}]"


class PolicyError(ValueError):
    """A policy document is malformed; the message says where and what to change, a line for each problem."""

    @classmethod
    def of(cls, problems: Sequence[Problem]) -> PolicyError:
        """An error that says all of them."""
        return cls("\n".join(map(str, problems)))
