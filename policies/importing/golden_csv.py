"""From a CSV file of labelled texts to golden texts of a policy."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import msgspec

from safeguard_streams.errors import ConfigurationError
from safeguard_streams.policies.golden import Golden, canonical
from safeguard_streams.policies.importing import csv_tables
from safeguard_streams.policies.importing.csv_tables import Columns, Resolve, Row, group_of
from safeguard_streams.policies.importing.labels import bare, side_of_label
from safeguard_streams.policies.importing.outline import Labels, Outline
from safeguard_streams.policies.importing.settle import Ask, Question
from safeguard_streams.policies.vocabulary import Side

_SHOWN_LINES = 5  # of rows that were left out
_MAX_ASKED = 20  # unknown labels; a column with more may be no column of labels
_TAG = re.compile(r"[A-Za-z]{2,3}(?:-[A-Za-z0-9]{1,8})*")


class LabelledTexts(msgspec.Struct, frozen=True):
    """Golden texts, and what was done with the other rows, one sentence each."""

    rows: tuple[Golden, ...]
    notes: tuple[str, ...]


def read(path: Path, outline: Outline, ask: Ask) -> LabelledTexts:
    """The golden texts of a CSV file, labelled by the rules of an outline that is settled.

    Raises ConfigurationError where there is no column of texts or of labels, or no row that can be used.
    """
    importer = _Importer(outline, ask)
    for columns, body in csv_tables.read(path, importer.resolve):
        importer.take(columns, body)
    golden, notes = tuple(importer.golden()), tuple(importer.notes())
    if not golden:
        why = "; ".join(notes) or "there are no rows"
        raise ConfigurationError(f"{path}: no row has a text with a label of this policy: {why}")
    return LabelledTexts(golden, notes)


class _Labelled(NamedTuple):
    """What a row's labels say: the decision, and the rule that decides where they name one."""

    side: Side
    rule: str | None


class _Importer:
    """Collects texts with their labels, and counts what is left out."""

    def __init__(self, outline: Outline, ask: Ask) -> None:
        self._outline = outline
        self._ask = ask
        self.resolve: Resolve = lru_cache(maxsize=10_000)(Labels(outline).rule)
        self._answers: dict[str, _Labelled | None] = {}
        self._unknown: dict[str, list[int]] = {}
        self._unlabelled: list[int] = []
        self._without_rule: list[int] = []
        self._twice: list[int] = []
        self._differing: list[int] = []
        self._overruled: list[int] = []
        self._grouped = 0
        self._unused: dict[str, Sequence[str]] = {}  # columns by that of labels
        self._contradicted: set[str] = set()
        self.found: dict[str, Golden] = {}

    def take(self, columns: Columns, rows: Sequence[Row]) -> None:
        """Reads the rows of one pair of columns."""
        if columns.unused:
            self._unused[columns.label_name] = columns.unused
        group: str | None = None
        for row in rows:
            if columns.group_but is not None and (announced := group_of(row, self.resolve, columns.group_but)):
                group = announced
                continue
            text = row.cell(columns.text)
            if not canonical(text):
                continue
            labelled = self._labelled(row, columns, group)
            if labelled is not None:
                tag = row.cell(columns.language)
                self._add(row.line, text, labelled, tag if _TAG.fullmatch(tag) else "en")

    def _labelled(self, row: Row, columns: Columns, group: str | None) -> _Labelled | None:
        label, rule = row.cell(columns.label), self.resolve(row.cell(columns.rule))
        if group is not None:
            self._grouped += 1
            other = self.resolve(label)
            if other is not None and other != group:
                self._overruled.append(row.line)
            return self._by_rule(group)
        if not label:
            if rule is None:
                self._unlabelled.append(row.line)
            return self._by_rule(rule) if rule else None
        meant = self._meaning(label, row.line, one_is_safe=columns.one_is_safe)
        if meant is None or meant.rule is not None or rule is None:
            return meant
        return meant if self._by_rule(rule).side != meant.side else self._by_rule(rule)

    def _by_rule(self, rule_id: str) -> _Labelled:
        rule = self._outline.rule(rule_id)
        return _Labelled((rule.side if rule else None) or "violates", rule_id)

    def _meaning(self, label: str, line: int, *, one_is_safe: bool) -> _Labelled | None:
        """What a label says. Asks once for one that neither the policy nor the usual words explain."""
        word = bare(label)
        if word not in self._answers:
            meant = self._understood(word, one_is_safe=one_is_safe)
            if meant is None and len(self._unknown) < _MAX_ASKED:
                meant = self._asked(word)
            self._answers[word] = meant
        meant = self._answers[word]
        if meant is None:
            self._unknown.setdefault(word, []).append(line)
        return meant

    def _understood(self, word: str, *, one_is_safe: bool) -> _Labelled | None:
        if rule_id := self.resolve(word):
            return self._by_rule(rule_id)
        folded = {own.casefold(): side for own, side in self._outline.words.items() if side}
        side = folded.get(word.casefold()) or side_of_label(word)
        if side and one_is_safe and word.casefold() in {"1", "0", "true", "false", "yes", "no"}:
            side = "safe" if side == "violates" else "violates"
        return _Labelled(side, None) if side else None

    def _asked(self, word: str) -> _Labelled | None:
        shown = word[:40]
        answer = self._ask(
            Question(
                f"What does the label {shown} say: violates, safe, or the id of a rule? skip leaves its rows out.",
                "skip",
                f"rows with the label {shown} are left out: the policy does not explain it",
            )
        )
        if answer in ("violates", "safe"):
            return _Labelled("violates" if answer == "violates" else "safe", None)
        rule_id = self.resolve(answer)
        return self._by_rule(rule_id) if rule_id else None

    def _add(self, line: int, text: str, labelled: _Labelled, language: str) -> None:
        rule = labelled.rule
        if rule is None:
            self._without_rule.append(line)
            rule = self._default_rule(labelled.side)
        golden = Golden(text=text, decision=labelled.side, rule=rule, kind="clear", language=language)
        form = canonical(text)
        if form not in self.found:
            self.found[form] = golden
        elif self.found[form].decision == golden.decision:
            self._twice.append(line)
        else:
            self._contradicted.add(form)
            self._differing.append(line)

    def _default_rule(self, side: Side) -> str:
        """The rule for a text whose label names none: the first level of VIOLATES, or the last of SAFE."""
        of_side = [rule.id for rule in self._outline.rules if rule.side == side]
        levels = [rule_id for rule_id in of_side if "." not in rule_id] or of_side
        return levels[-1] if side == "safe" else levels[0]

    def golden(self) -> Iterator[Golden]:
        """The texts in file order, without those that two rows label differently."""
        yield from (golden for form, golden in self.found.items() if form not in self._contradicted)

    def notes(self) -> Iterator[str]:
        """What was done with columns and rows that are not golden texts as they stand."""
        for name, unused in self._unused.items():
            yield f"the column {name!r} has the labels; not read: {', '.join(map(repr, unused))}"
        if self._grouped:
            yield f"{self._grouped} rows are labelled by the rule in the row above their group"
        if self._overruled:
            yield f"{_at(self._overruled)} another rule in the column of labels, which is taken for a model's answer"
        if self._without_rule:
            yield f"{_at(self._without_rule)} no rule: each counts for the first level of VIOLATES or the last of SAFE"
        unknown = list(self._unknown.items())
        for word, found in unknown[:_MAX_ASKED]:
            yield f"{_at(found)} an unknown label, {word[:40]!r}: left out"
        if others := sorted(line for _, found in unknown[_MAX_ASKED:] for line in found):
            yield f"{_at(others)} other unknown labels: left out; is it the column of labels?"
        if self._unlabelled:
            yield f"{_at(self._unlabelled)} no label: left out"
        if self._twice:
            yield f"{_at(self._twice)} a text that an earlier row has: left out"
        if self._differing:
            yield f"{_at(self._differing)} the text of an earlier row with another decision: both are left out"


def _at(found: Sequence[int]) -> str:
    """How many rows, and where the first of them begin."""
    shown = ", ".join(map(str, found[:_SHOWN_LINES])) + (", ..." if len(found) > _SHOWN_LINES else "")
    return f"{len(found)} {'rows' if len(found) > 1 else 'row'} (line{'s' if len(found) > 1 else ''} {shown}) with"
