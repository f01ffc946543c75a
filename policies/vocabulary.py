"""Types that policies, records and settings share. This module imports nothing from the project."""

from __future__ import annotations

from typing import Literal

Effort = Literal["low", "medium", "high"]
EFFORTS: tuple[Effort, ...] = ("low", "medium", "high")
Harm = Literal["hate", "harassment", "sexual", "self_harm", "violence", "illicit", "fraud_spam", "injection"]

PATTERN_CHARACTERS = 8_000  # of one pattern of a gate: RE2 takes memory without bound for deep nesting
