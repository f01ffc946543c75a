"""From the lines of a policy to its outline."""

from __future__ import annotations

import re
from collections.abc import Iterator

from safeguard_streams.errors import ConfigurationError
from safeguard_streams.policies.importing import ids, lines
from safeguard_streams.policies.importing.labels import bare, side_of_label
from safeguard_streams.policies.importing.lines import Heading, Read
from safeguard_streams.policies.importing.numbering import MAX_LINE, Numbering
from safeguard_streams.policies.importing.outline import (
    PAIR,
    Example,
    Kind,
    LeftOut,
    Outline,
    Repeated,
    Rule,
    Section,
    Unread,
)
from safeguard_streams.policies.importing.wording import frame_of_answer, kind_of, without_form
from safeguard_streams.policies.vocabulary import Side

MAX_RULES = 500
_LABEL_WORDS = 3
_NOTES = re.compile(r"label|format|summary|legend|severity|escalat|ambigu|edge case|notes?\b", re.IGNORECASE)
_OUTPUT = re.compile(r"output:\s*[`\"']?([^\W\d_]+)", re.IGNORECASE)
_CLASSIFY = re.compile(
    r"\bas\s+[`\"'*]*([A-Z][A-Z_-]+)[`\"'*]*\s*(?:\([^)]*\))?,?\s+or\s+(?:as\s+)?[`\"'*]*([A-Z][A-Z_-]+)\b"
)
_EMPTY_HEAD = re.compile(r"\s*(?:for )?examples?:\Z", re.IGNORECASE)
_FENCE = re.compile(r"\s*(?:```|~~~)")


def read(text: str, prefix: str) -> Outline:
    """The outline of a policy's text. prefix: the letters of ids for rules that have none.

    Raises ConfigurationError when it has more than MAX_RULES rules.
    """
    return _Reader(text, prefix).outline()


class _Reader:
    """Reads line by line. A rule is open until the next rule or heading: the lines in between are its details."""

    def __init__(self, text: str, prefix: str) -> None:
        self._lines = text.split("\n")
        self._prefix = prefix
        self._numbering = Numbering(self._lines, prefix)
        self._read = Outline("", [Section("", "instruction", None, 0)], [], [], {}, [], {})
        self._open: Rule | None = None
        self._sides: dict[str, Side] = {}  # by level, of its line Output: ...
        self._in_fence = False
        self._table_head: list[str] = []

    def outline(self) -> Outline:
        """Reads all lines."""
        for number, line in enumerate(self._lines, 1):
            if not self._skipped(number, line):
                self._take(number, line)
        read = self._read
        if not read.rules:
            self._rules_without_ids()
        self._require_few(len(read.rules))
        self._settle_sides()
        for part in (*(section.lines for section in read.sections), *(rule.details for rule in read.rules)):
            part[:] = _without_empty_heads(part)
        read.rename()
        return read

    @staticmethod
    def _require_few(rules: int) -> None:
        if rules > MAX_RULES:
            raise ConfigurationError(f"the policy has more than {MAX_RULES} rules: split it")

    # ------------------------------------------------------------------ lines

    @property
    def _section(self) -> Section:
        return self._read.sections[-1]

    def _skipped(self, number: int, line: str) -> bool:
        """Whether a line is decoration, or asks for another form of answer, or is too long for anything but text."""
        if len(line) > MAX_LINE:
            self._section.lines.append(line.strip())
            return True
        if _FENCE.match(line):
            self._in_fence = not self._in_fence
            return True
        why = frame_of_answer(line, in_fence=self._in_fence)
        if why and (self._in_fence or not self._begins_rule(line)):
            self._read.left_out.append(LeftOut(number, why))
            return True
        return not line.strip() or lines.is_ruler(line)

    def _begins_rule(self, line: str) -> bool:
        begun = lines.start(lines.read(line))
        return begun is not None and self._numbering.read(begun.written) is not None

    def _take(self, number: int, line: str) -> None:
        row = lines.cells(line)
        if row is not None:
            self._take_row(number, row)
            return
        read = lines.read(line)
        if not read.text or self._take_rule(number, read, read.text):
            return
        if self._take_output(read.text) or self._take_example(number, read.text):
            return
        if read.heading and self._take_heading(read.heading):
            return
        self._take_text(number, read, line)

    def _take_row(self, number: int, row: list[str]) -> None:
        """A table's row: a rule where a cell is an id, an example where a label follows a text, or else text."""
        if not row:
            return
        if lines.cells("".join(self._lines[number : number + 1])) == []:
            self._table_head = row  # the row below draws a line
            return
        at = next((i for i, cell in enumerate(row) if cell and re.fullmatch(ids.WRITTEN, bare(cell))), None)
        if at is not None and at < len(row) - 1 and self._numbering.read(bare(row[at])):
            rest = [cell for i, cell in enumerate(row) if i != at and cell]
            labels = {
                cell: side for cell in rest if len(cell.split()) <= _LABEL_WORDS and (side := side_of_label(cell))
            }
            sides = set(labels.values())
            text = " – ".join(cell for cell in rest if cell not in labels or len(sides) > 1)
            if self._take_rule(number, Read(text, 0, bullet=True, heading=None), f"{bare(row[at])}: {text}"):
                if self._open and len(sides) == 1:
                    (self._open.side,) = sides
                return
        texts = [cell for cell in row if cell]
        if len(texts) == 2 and re.search(r"\d", texts[1]) and re.match(rf"(?:[DR]-)?{ids.WRITTEN}", texts[1]):
            self._read.pairs |= bool(PAIR.search(texts[1]))
            self._read.examples.append(Example(texts[0].strip("“”\"'"), texts[1], number))
            return
        for cells in (self._table_head, texts):
            if cells:
                text = " – ".join(cells)
                self._take_text(number, Read(text, 0, bullet=False, heading=None), text)
        self._table_head = []

    def _take_rule(self, number: int, read: Read, text: str) -> bool:
        begun = lines.start(Read(text, read.depth, read.bullet, read.heading))
        certain = begun is not None and begun.separated and self._section.kind in {"violates", "safe"}
        rule_id = self._numbering.read(begun.written, certain=certain) if begun else None
        if begun is None or rule_id is None or self._section.kind in {"output", "examples"}:
            return False
        known = self._read.rule(rule_id)
        again = any(rule.written == begun.written for rule in self._read.rules)
        if (known or again) and _NOTES.search(self._section.title):
            return False
        if known and (not begun.text or begun.text == known.text):
            return False
        if _OUTPUT.match(begun.text) or re.match(r"or\b|and\b|[,)]", begun.text):
            return False
        self._require_few(len(self._read.rules) + 1)
        rule_id = self._numbering.give(rule_id)
        if again:
            self._read.repeated.append(Repeated(number, begun.written, rule_id))
        elif rule_id != begun.written:
            self._read.renamed[begun.written] = rule_id
        if read.heading and read.heading.level <= max(self._section.level, 1) and self._section.kind != "instruction":
            self._new_section(Heading(read.heading.level, read.heading.text), "other", side=None)
        label = re.match(r"\(([^)]+)\)\s*[–—:-]*\s*(.*)", begun.text)
        side = side_of_label(label[1]) if label else None
        rule_text = (label[2] if label and side and label[2] else begun.text) or begun.written
        section = len(self._read.sections) - 1
        self._open = Rule(rule_id, begun.written, rule_text, number, section, side, [])
        self._read.rules.append(self._open)
        if label and side:
            self._read.words.setdefault(bare(label[1]), side)
        return True

    def _take_output(self, text: str) -> bool:
        """A line such as Output: INVALID says what a level's rules, or a section's, mean."""
        found = _OUTPUT.match(text)
        if not found or self._section.kind == "output":
            return False
        side = side_of_label(found[1])
        self._read.words.setdefault(found[1], side)
        level = self._read.rule(ids.base(self._open.id)) if self._open else None
        holder = level or self._open
        if holder is None:
            self._section.side = self._section.side or side
            self._section.lines.append(text)
            return True
        holder.details.append(text)
        if side:
            self._sides[ids.base(holder.id)] = side
        return True

    def _take_example(self, number: int, text: str) -> bool:
        found = lines.example(text)
        if found is None or not (re.search(r"\d", found[1]) or side_of_label(found[1])):
            return False
        self._read.pairs |= bool(PAIR.search(found[1]))
        self._read.examples.append(Example(found[0], found[1], number))
        return True

    def _take_heading(self, heading: Heading) -> bool:
        """A new section. A short line with a colon is one only where it names a known kind and no rule is open."""
        kind, side = kind_of(heading.text)
        if heading.level == 5 and (kind in {"other", "examples"} or (self._open and kind != "output")):
            return False
        if heading.level == 1 and not self._read.title:
            self._read.title = heading.text
            return True
        if heading.level > 2 and self._open and kind == "examples":
            self._open.details.append(f"{heading.text}:")
            return True
        parent = next((s for s in reversed(self._read.sections) if s.level < heading.level), self._read.sections[0])
        if kind == "other" and parent.kind in {"violates", "safe", "definitions"}:
            kind, side = parent.kind, parent.side
        self._new_section(heading, kind, side)
        return True

    def _new_section(self, heading: Heading, kind: Kind, side: Side | None) -> None:
        self._read.sections.append(Section(heading.text, kind, side, heading.level, []))
        self._open = None

    def _take_text(self, number: int, read: Read, line: str) -> None:
        if not self._read.title and not self._read.rules and len(self._read.sections) == 1 and not self._section.lines:
            self._read.title = read.text[:120].rstrip(": ")
            if len(read.text) <= 120 and not read.text.endswith("."):
                return
        for first, second in _CLASSIFY.findall(line):
            for word in (first, second):
                self._read.words.setdefault(word, side_of_label(word))
        whole = line.strip() if not read.bullet else f"- {read.text}"
        text = without_form(whole, describes=self._describes)
        if text != whole:
            self._read.left_out.append(LeftOut(number, "another form of answer"))
        if not text:
            return
        if self._describes and (unread := self._numbering.unread(read.text)):
            self._read.unread.append(Unread(number, unread))
        holder = self._section.lines if self._open is None else self._open.details
        holder.append(f"{' ' * read.depth}{text}")

    @property
    def _describes(self) -> bool:
        """Whether the text here describes content."""
        return self._open is not None or self._section.kind in {"definitions", "violates", "safe"}

    # ------------------------------------------------------------------ afterwards

    def _rules_without_ids(self) -> None:
        """Rules of a policy that numbers none: the bullets of its sections of rules, or else all of its bullets."""
        read = self._read
        named = [section for section in read.sections if section.kind in {"violates", "safe"}]
        unnamed = [section for section in read.sections if section.kind in {"other", "instruction"}]
        for section in named or unnamed:
            number = read.sections.index(section)
            for text, details in _bullets(section, paragraphs=bool(named)):
                rule_id = f"{self._prefix}{len(read.rules) + 1}"
                read.rules.append(Rule(rule_id, "", text, 0, number, section.side, details))
        read.generated = bool(read.rules)

    def _settle_sides(self) -> None:
        """Each rule's side, by what is nearest to it: its own label, its level's, or its section's."""
        own = {rule.id: rule.side for rule in self._read.rules if rule.side}
        for rule in self._read.rules:
            level = ids.base(rule.id)
            rule.side = rule.side or own.get(level) or self._sides.get(level) or self._read.sections[rule.section].side
        for rule in self._read.rules:
            if rule.side is None and "." in rule.id:
                level_rule = self._read.rule(ids.base(rule.id))
                rule.side = level_rule.side if level_rule else None


def _without_empty_heads(part: list[str]) -> list[str]:
    """Lines without those that announce examples which are rules or examples of the policy now."""
    following = [*part[1:], ""]
    return [
        line
        for line, after in zip(part, following, strict=False)
        if not _EMPTY_HEAD.match(line) or after.lstrip().startswith(("- ", '"', "“"))
    ]


def _bullets(section: Section, *, paragraphs: bool) -> Iterator[tuple[str, list[str]]]:
    """The bullets of a section that are not below others, each with the lines below it, which leave the section.

    paragraphs: whether paragraphs are rules, too, in a section without bullets.
    """
    rows = section.lines
    bulleted = any(row.startswith("- ") for row in rows)
    if not bulleted and not paragraphs:
        return
    kept: list[str] = []
    found: list[tuple[str, list[str]]] = []
    for row in rows:
        if row.startswith("- ") or not bulleted:
            found.append((row.removeprefix("- "), []))
        elif found and (row.startswith(" ") or not row.strip()):
            found[-1][1].append(row.strip())
        else:
            kept.append(row)
    section.lines = kept
    yield from found
