"""Types that policies, records and settings share. This module imports nothing from the project."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

Effort = Literal["low", "medium", "high"]
EFFORTS: tuple[Effort, ...] = ("low", "medium", "high")
Harm = Literal["hate", "harassment", "sexual", "self_harm", "violence", "illicit", "fraud_spam", "injection"]
Severity = Literal["low", "medium", "high", "critical"]
SEVERITIES: tuple[Severity, ...] = ("low", "medium", "high", "critical")
DEFAULT_SEVERITY: Severity = "medium"  # of a rule for which neither the policy nor a rule above it names one

Side = Literal["violates", "safe"]

# A rule's id as a regular expression. A sub-rule has the id of the rule above it in front: SP2.a is below SP2.
RULE_ID = r"[A-Z]{1,8}\d{1,3}(?:\.[a-z0-9]{1,3}){0,2}"
PATTERN_CHARACTERS = 8_000  # of one pattern of a gate: RE2 takes memory without bound for deep nesting


def rules_above(rule: str) -> Iterator[str]:
    """A rule, and those that it is below, nearest first: SP2.a, then SP2."""
    while rule:
        yield rule
        rule = rule.rpartition(".")[0]


def is_within(rule: str, other: str) -> bool:
    """Whether a rule is another one, or a sub-rule below it."""
    return rule == other or rule.startswith(f"{other}.")
