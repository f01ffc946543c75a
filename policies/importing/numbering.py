"""The rules of a policy by the ids that its author gave them, and the ids that they have here."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from safeguard_streams.policies.importing import ids, lines
from safeguard_streams.policies.importing.lines import Start

MAX_LINE = 4_000  # characters; longer lines are text


class Numbering:
    """Gives each rule an id of this package's form that no other rule has.

    prefix: the letters of ids for rules that have none, or none that are Latin.
    """

    def __init__(self, text: Sequence[str], prefix: str) -> None:
        self._prefix = prefix
        self._taken: set[str] = set()  # ids of the source, and those given here
        self._given: set[str] = set()
        self._moved: dict[str, str] = {}  # levels whose id another one had, as the lines so far name them
        self._prefixes = self._own_prefixes(text)

    def _own_prefixes(self, text: Sequence[str]) -> set[str]:
        """The letters of the policy's own ids: those that begin several rules, or that it announces as in (#SP)."""
        certain: set[str] = set()
        for begun in _begun(text):
            rule_id = ids.canonical(begun.written, self._prefix)
            if rule_id:
                self._taken.add(rule_id)
                certain |= {ids.letters(rule_id)} if begun.separated else set()
        counts = Counter(map(ids.letters, self._taken))
        announced = set(re.findall(r"\(#([A-Z]{1,8})\)", "\n".join(text)))
        return {letters for letters, count in counts.items() if count > 1} | announced or certain

    def read(self, written: str, *, certain: bool = False) -> str | None:
        """The id for what an author wrote, if it has the policy's letters, or if it is `certain` by its place.

        A sub-rule belongs to the last level of its id in front of it.
        """
        rule_id = ids.canonical(written, self._prefix)
        if rule_id is None or not (certain or ids.letters(rule_id) in self._prefixes):
            return None
        level, dot, sub = rule_id.partition(".")
        return f"{self._moved[level]}.{sub}" if dot and level in self._moved else rule_id

    def give(self, rule_id: str) -> str:
        """The id for a new rule: this one, or a free one if another rule has it."""
        given = ids.free(rule_id, self._taken) if rule_id in self._given else rule_id
        if given != rule_id and "." not in rule_id:
            self._moved[rule_id] = given
        self._taken.add(given)
        self._given.add(given)
        return given

    def unread(self, text: str) -> str | None:
        """What a line begins with if it has the policy's letters, and reads as an id, but not as one that fits here."""
        found = ids.LIKE.match(text)
        if found is None or re.fullmatch(ids.WRITTEN, found[1]):
            return None
        return found[1] if found[2].upper() in self._prefixes else None


def _begun(text: Sequence[str]) -> Iterator[Start]:
    """What may be the beginning of a rule, in the lines and in the first cells of tables."""
    for line in text:
        if len(line) <= MAX_LINE:
            begun = lines.start(lines.read((lines.cells(line) or [line])[0]))
            if begun:
                yield begun
