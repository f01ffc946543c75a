"""A policy as it was read: its sections, its rules with sub-rules and severities, and its examples."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import msgspec

from safeguard_streams.policies.importing import ids
from safeguard_streams.policies.importing.labels import bare
from safeguard_streams.policies.vocabulary import Side

Kind = Literal["instruction", "definitions", "violates", "safe", "examples", "output", "other"]
PAIR = re.compile(r"\b[DR]-(?=[A-Z]{1,8}\d)")  # labels for depiction and request


class Rule(msgspec.Struct):
    """A rule as it was read. details: the lines below it. section: the number of its section. line: in the source."""

    id: str
    written: str
    text: str
    line: int
    section: int
    side: Side | None = None
    details: list[str] = []


class Example(msgspec.Struct):
    """A quoted text with its label as written."""

    text: str
    label: str
    line: int


class Section(msgspec.Struct):
    """A part of the text below one heading. side: what its heading says of the content that it describes."""

    title: str
    kind: Kind
    side: Side | None
    level: int
    lines: list[str] = []


class LeftOut(msgspec.Struct, frozen=True):
    """A line of the source that the policy does not have, and why."""

    line: int
    why: str


class Repeated(msgspec.Struct, frozen=True):
    """A second rule with the id of an earlier one, and the id that it has here."""

    line: int
    written: str
    id: str


class Unread(msgspec.Struct, frozen=True):
    """A line that begins with what reads as an id, but does not fit the form of ids here: it stays as text."""

    line: int
    written: str


class Outline(msgspec.Struct):
    """A policy as it was read. words: the labels by which it asks for answers, with what they say of content, if known.

    renamed: ids by what the author wrote. pairs: whether a text has one label for depiction and one for request.
    """

    title: str
    sections: list[Section]
    rules: list[Rule]
    examples: list[Example]
    words: dict[str, Side | None]
    left_out: list[LeftOut]
    renamed: dict[str, str]
    repeated: list[Repeated] = []
    unread: list[Unread] = []
    generated: bool = False
    pairs: bool = False

    def rule(self, rule_id: str) -> Rule | None:
        """The rule with this id, if there is one."""
        return next((rule for rule in self.rules if rule.id == rule_id), None)

    def rename(self) -> None:
        """Put the ids that the rules have here into the text. A level's rules mean their own, even by a repeated id."""
        renamed = ids.renaming(self.renamed)
        for section in self.sections:
            section.lines[:] = map(renamed, section.lines)
        below: dict[str, dict[str, str]] = {}
        for rule in reversed(self.rules):  # of two rules, the first one keeps its id
            below.setdefault(ids.base(rule.id), {})[rule.written] = rule.id
        for rule in self.rules:
            renamed = ids.renaming({**self.renamed, **below[ids.base(rule.id)], rule.written: rule.id})
            rule.text, rule.details[:] = renamed(rule.text), map(renamed, rule.details)


class Labels:
    """The rules that labels name, of an outline that is complete."""

    def __init__(self, outline: Outline) -> None:
        by_written = {written.casefold(): rule_id for written, rule_id in outline.renamed.items()}
        self._known = {rule.id.casefold(): rule.id for rule in outline.rules} | by_written
        self._by_number = _by_number([rule.id for rule in outline.rules if "." not in rule.id])

    def rule(self, label: str) -> str | None:
        """The id of the rule that a label names: SP2.a, `sp2`, SP2 (medium), D-SP2, or the highest of several."""
        parts = [part for part in re.split(r"[,;/+&\s]+|\band\b", label) if bare(part)]
        found = [self._named(part) for part in parts]
        named = [rule_id for rule_id in found if rule_id]
        if len(named) < len(found):  # words beside an id only explain it
            return named[0] if named and found[0] and _number(named[0]) == _number(bare(parts[0])) else None
        return max(named, key=lambda rule_id: _number(ids.base(rule_id))) if named else None

    def _named(self, part: str) -> str | None:
        """The id that one word of a label names."""
        word = bare(PAIR.sub("", part)).casefold()
        read = ids.canonical(word, "") or ""
        level = self._by_number.get(_number(read), "")
        short = level if read and level.startswith(read.rstrip("0123456789")) else ""
        return self._known.get(word) or self._known.get(read.casefold()) or short or None


def _by_number(levels: Sequence[str]) -> dict[int, str]:
    """Levels by number, for labels with other letters, as S2 for SP2. None where two levels have one number."""
    counts = Counter(map(_number, levels))
    one_prefix = len(set(map(ids.letters, levels))) == 1
    return {_number(level): level for level in levels if one_prefix and counts[_number(level)] == 1}


def _number(rule_id: str) -> int:
    digits = re.search(r"\d+", ids.base(rule_id))
    return int(digits[0]) if digits else -1
