"""Which severities the levels of an imported policy stand for, where its text makes that clear."""

from __future__ import annotations

import re
from collections.abc import Sequence

from safeguard_streams.policies.importing import ids
from safeguard_streams.policies.importing.outline import Rule
from safeguard_streams.policies.vocabulary import SEVERITIES, Severity

_GRADES: dict[str, Severity] = {
    **dict.fromkeys(("low", "minor", "mild"), "low"),
    **dict.fromkeys(("medium", "moderate"), "medium"),
    **dict.fromkeys(("high", "strong", "serious", "severe"), "high"),
    **dict.fromkeys(("critical", "extreme", "maximum", "max"), "critical"),
}
_GRADE = rf"\b({'|'.join(_GRADES)})\b"
_SEVERITY = re.compile(rf"{_GRADE}[ -]severity\b|\bseverity:? {_GRADE}", re.IGNORECASE)
_GRADED = re.compile(rf"{_GRADE}[ -](?:severity|confidence|risk)\b", re.IGNORECASE)


def severities(rules: Sequence[Rule]) -> dict[str, Severity]:
    """Severities by level, for the violating levels of which the text tells one.

    A level may name its severity, as in `Fraud (SP4 - Maximum Severity)`. Otherwise its number counts, in a policy of
    graded levels: 0 is safe, the others are 1 to 4 with the same letters, and one of them names its grade.
    """
    levels = [rule for rule in rules if rule.id == ids.base(rule.id)]
    violating = [level for level in levels if level.side == "violates"]
    graded = _is_scale(levels) and any(_GRADED.search(level.text) for level in violating)
    found: dict[str, Severity] = {}
    for level in violating:
        named = _SEVERITY.search(level.text)
        if named:
            found[level.id] = _GRADES[(named[1] or named[2]).lower()]
        elif graded:
            found[level.id] = SEVERITIES[_number(level) - 1]
    return found


def _is_scale(levels: Sequence[Rule]) -> bool:
    """Whether levels are numbered from 0, which alone is safe, to 4 at most."""
    same_letters = len({ids.letters(level.id) for level in levels}) == 1
    in_bounds = all(0 <= _number(level) <= len(SEVERITIES) for level in levels)
    return same_letters and in_bounds and all((level.side == "safe") == (_number(level) == 0) for level in levels)


def _number(level: Rule) -> int:
    return int(level.id.removeprefix(ids.letters(level.id)))
