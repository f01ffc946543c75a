"""What one check of a deployment says."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

Result = Literal["ok", "warning", "failed", "skipped"]


class Check(msgspec.Struct, frozen=True):
    """One check. found: what it saw; remedy: what to do, empty unless it failed or warns."""

    name: str
    result: Result
    found: str
    remedy: str = ""


def ok(name: str, found: str) -> Check:
    return Check(name, "ok", found)


def failed(name: str, found: str, remedy: str) -> Check:
    return Check(name, "failed", found, remedy)


def warning(name: str, found: str, remedy: str) -> Check:
    return Check(name, "warning", found, remedy)


def skipped(name: str, found: str) -> Check:
    return Check(name, "skipped", found)


def some(names: Iterable[str], most: int = 3) -> str:
    """The first names, and how many more there are."""
    shown = list(names)
    more = f" and {len(shown) - most} more" if len(shown) > most else ""
    return ", ".join(shown[:most]) + more
