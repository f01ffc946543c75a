"""Read a policy document: its front matter, its sections and its rules with their lines, and what is wrong in form."""

from __future__ import annotations

import re
from collections.abc import Iterator
from copy import copy
from typing import Any, get_args

import msgspec
import yaml

from safeguard_streams.errors import Problem, choices
from safeguard_streams.policies import statements as rule_statements
from safeguard_streams.policies.document import AnswerForm, AppliesTo, Gate, Judging, ScoreMap
from safeguard_streams.policies.statements import RuleStatement
from safeguard_streams.policies.vocabulary import RULE_ID, SEVERITIES, Effort, Harm, Severity, Side

FRONT = re.compile(r"\A---\n(.*?\n)---\n(.*)\Z", re.DOTALL)
MAX_WORD = 40  # characters of an output word
RULE = re.compile(rf"- ({RULE_ID}): (\S.*)")
_HEADING = re.compile(r"## (.+?)\s*\Z")
_PATH = re.compile(r" - at (?:`key` in )?`\$([^`]*)`")
_COMMENT = re.compile(r"\s*(#\S.*)")
_STEP = re.compile(r"\.(\w+)|\[(\d+)\]")
_MAX_PROBLEMS = 100  # of the front matter's form
# Stand-ins for broken values: of fields that must be there, and of an item of any list, which is text or a harm.
_REQUIRED: dict[Any, Any] = {
    "id": "",
    "title": "",
    "owner": "",
    "rules": {},
    "gate": {},
    "slope": 0.0,
    "intercept": 0.0,
}
_ITEM = "hate"
_ENUM = re.compile(r"Invalid enum value '?([^']*)'?\Z")
_FIELD = re.compile(r"(missing required|unknown) field `(\w+)`")


class FrontMatter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The part of a document for machines."""

    id: str
    title: str
    owner: str
    rules: dict[str, str]
    gate: Gate
    applies_to: AppliesTo = AppliesTo()
    effort: Effort = "low"
    judging: Judging = Judging()
    severity: dict[str, Severity] = {}
    notes: dict[str, str] = {}
    statements: dict[str, RuleStatement] = {}


_FIELDS: dict[str, tuple[str, ...]] = {
    "": FrontMatter.__struct_fields__,
    "gate": Gate.__struct_fields__,
    "applies_to": AppliesTo.__struct_fields__,
    "judging": Judging.__struct_fields__,
    "judging.score_map": ScoreMap.__struct_fields__,
}


# The words of an enumerated field, by its path without indices.
_WORDS: dict[str, tuple[str, ...]] = {
    "effort": get_args(Effort),
    "gate.harms": get_args(Harm),
    "judging.answer": get_args(AnswerForm),
    "judging.output": get_args(Side),
}
# How people call what YAML holds, by msgspec's names.
_TYPES = {
    "array": "a list",
    "bool": "true or false",
    "float": "a number",
    "int": "a number",
    "null": "nothing",
    "object": "lines of name: value",
    "str": "text",
}
_TYPE = re.compile(rf"`(?:(?:{'|'.join(_TYPES)})(?: \| )?)+`")


def _plain_problem(problem: str, where: str = "") -> str:
    """A message of msgspec without its path, in the words of people who write YAML.

    where: the path of the field; where it has a fixed vocabulary, the message names that.
    """
    found = _ENUM.match(problem)
    if found:
        field = re.sub(r"\[\d+\]", "", where)
        words = _WORDS.get(field) or _WORDS.get(field.rpartition(".")[0], ())
        return f"{found[1]!r} is not one of its values{choices(found[1], words) if words else ''}"
    named = _TYPE.sub(lambda kinds: " or ".join(_TYPES[kind] for kind in kinds[0].strip("`").split(" | ")), problem)
    return (named[:1].lower() + named[1:]).replace("`", "")


class Line(msgspec.Struct, frozen=True):
    """A line of text; number counts from 1 in the whole document."""

    number: int
    text: str


class RuleLine(msgspec.Struct, frozen=True):
    """A rule as a section states it: its line number in the document, its id and its text."""

    number: int
    id: str
    text: str


class Document:
    """A document's parts with their lines, and the problems found so far."""

    def __init__(self, document: str, origin: str) -> None:
        self.origin = origin
        self.problems: list[Problem] = []
        match = FRONT.match(document)
        self.front = match[1] if match else ""
        self.body = match[2] if match else ""
        self.body_line = document[: match.start(2)].count("\n") + 1 if match else 1
        self.sections: dict[str, list[Line]] = {}
        self.headings: list[Line] = []
        self.complete = match is not None  # whether front matter and text can be told apart
        self.broken: set[str] = set()  # fields of the front matter with values of a wrong form
        self._root: yaml.Node | None = None
        if not match:
            self.error(1, "front-matter", "begin with front matter between two --- lines")
        self._split()

    def error(self, line: int, code: str, message: str) -> None:
        self.problems.append(Problem(self.origin, line, "error", code, message))

    def warn(self, line: int, code: str, message: str) -> None:
        self.problems.append(Problem(self.origin, line, "warning", code, message))

    def _split(self) -> None:
        lines: list[Line] = []
        for number, text in enumerate(self.body.split("\n"), self.body_line):
            heading = _HEADING.match(text)
            if heading:
                self.headings.append(Line(number, heading[1]))
                lines = self.sections.setdefault(heading[1], [])
            else:
                lines.append(Line(number, text))

    def rules(self, section: str) -> Iterator[RuleLine]:
        """Each rule of a section. A bullet that is not a rule is added to the problems."""
        for line in self.sections.get(section, ()):
            rule = RULE.match(line.text)
            if rule:
                yield RuleLine(line.number, rule[1], rule[2].strip())
            elif line.text.startswith("- "):
                self.error(line.number, "rule-form", "begin each rule with its id, as in '- AB1: ...'")

    # ------------------------------------------------------------------ front matter

    def read_front(self) -> FrontMatter | None:
        """The front matter, with stand-ins for what is broken. None where it is no YAML, or no mapping."""
        # Running processes read releases. The loader in C takes linear time and refuses deep nesting.
        try:
            if self._has_anchors():
                return None
            self._root = yaml.compose(self.front, Loader=yaml.CSafeLoader)
            self._find_duplicate_keys(self._root)
            return self._converted(yaml.load(self.front, Loader=yaml.CSafeLoader))
        except yaml.MarkedYAMLError as error:
            # An unclosed bracket or quote is reported where it was opened.
            unclosed = error.context is not None and ("flow" in error.context or "quoted" in error.context)
            mark = error.context_mark if unclosed else error.problem_mark or error.context_mark
            self.error(mark.line + 2 if mark else 2, "yaml", f"not YAML: {error.problem or error.context}")
        except Exception as error:  # the library lets errors of its value constructors through
            self.error(2, "yaml", f"not YAML: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
        return None

    def _has_anchors(self) -> bool:
        """Whether there are anchors or aliases, of which a few lines can stand for gigabytes."""
        found = False
        for event in yaml.parse(self.front, Loader=yaml.CSafeLoader):
            if isinstance(event, yaml.NodeEvent) and event.anchor:
                line = event.start_mark.line + 2 if event.start_mark else 2
                self.error(line, "yaml", "write the value out: anchors and aliases (& and *) are not supported")
                found = True
        return found

    def _find_duplicate_keys(self, node: yaml.Node | None) -> None:
        """Report keys that a mapping sets twice. YAML would silently take the last value."""
        if isinstance(node, yaml.SequenceNode):
            for child in node.value:
                self._find_duplicate_keys(child)
        if not isinstance(node, yaml.MappingNode):
            return
        seen: set[str] = set()
        for key, value in node.value:
            name = str(key.value)
            if name in seen:
                self.error(key.start_mark.line + 2, "yaml", f"{name} is set twice")
            seen.add(name)
            self._find_duplicate_keys(value)

    def _converted(self, loaded: Any) -> FrontMatter | None:
        """The front matter from what YAML holds. Each problem is reported, and a stand-in replaces what is at fault."""
        self._drop_rules_without_text(loaded)
        self._drop_unknown_severities(loaded)
        rule_statements.drop_broken(self, loaded)
        for _ in range(_MAX_PROBLEMS):
            try:
                return msgspec.convert(loaded, FrontMatter)
            except msgspec.ValidationError as error:
                path = self._mistyped(str(error))
                if not path or not _replace(loaded, path):
                    return None
        return None

    def _drop_rules_without_text(self, loaded: Any) -> None:
        """Report rules whose id or name YAML does not read as text. The names of rules have no fields to point at."""
        rules = loaded.get("rules") if isinstance(loaded, dict) else None
        if not isinstance(rules, dict):
            return
        for rule, name in list(rules.items()):
            if not (isinstance(rule, str) and isinstance(name, str)):
                self.error(self.line("rules", str(rule)), "field", f"rules: {rule} needs a name, both as text")
                self.broken.add("rules")
                del rules[rule]

    def _drop_unknown_severities(self, loaded: Any) -> None:
        """Report what is no severity, with all that there are, and notes that are no text."""
        for field, allowed, form in (
            ("severity", SEVERITIES, f"one of: {', '.join(SEVERITIES)}"),
            ("notes", None, "a sentence"),
        ):
            given = loaded.get(field, {}) if isinstance(loaded, dict) else {}
            if not isinstance(given, dict):
                self.error(self.line(field), "field", f"{field}: write a line for each rule: its id, and {form}")
                self.broken.add(field)
                loaded[field] = {}
                continue
            for rule, value in list(given.items()):
                if not (isinstance(rule, str) and isinstance(value, str) and (allowed is None or value in allowed)):
                    shown = str(value)[:MAX_WORD]
                    self.error(self.line(field, str(rule)), "field", f"{field}: {rule} is {shown!r}; write {form}")
                    self.broken.add(field)
                    del given[rule]

    def _mistyped(self, message: str) -> list[str | int]:
        """Report a field of a wrong form; returns its path."""
        path = _PATH.search(message)
        steps = [name or int(number) for name, number in _STEP.findall(path[1])] if path else []
        problem = message[: path.start()] if path else message
        where = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).lstrip(".")
        field = _FIELD.search(problem)
        if field and field[1] == "unknown":
            known = choices(field[2], _FIELDS.get(where, ()))
            self.error(self.line(*steps, field[2]), "field", f"unknown field {field[2]} {_inside(where)}{known}")
        elif field:
            self.error(self.line(*steps), "field", f"{field[2]} is missing {_inside(where)}")
        else:
            self.error(self.line(*steps), "field", f"{where or 'front matter'}: {_plain_problem(problem, where)}")
        at = [*steps, field[2]] if field else steps
        self.broken |= {str(step) for step in at[:1]}
        return at

    def cut(self, *path: str | int) -> str | None:
        """What YAML takes for a comment after an unquoted value on its line, if it follows the value at once."""
        node = self._node(*path)
        if not isinstance(node, yaml.ScalarNode) or node.style:
            return None
        line = self.front.split("\n")[node.end_mark.line]
        comment = _COMMENT.match(line, node.end_mark.column)
        return comment[1] if comment else None

    def _node(self, *path: str | int) -> yaml.Node | None:
        node = self._root
        for step in path:
            if isinstance(node, yaml.MappingNode):
                node = next((value for key, value in node.value if key.value == step), None)
            elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
                node = node.value[step]
            else:
                return None
        return node

    def line(self, *path: str | int) -> int:
        """The line of a key of the front matter, or of its nearest ancestor in the document."""
        node, line = self._root, 1
        for step in path:
            if isinstance(node, yaml.MappingNode):
                matches = [(key, value) for key, value in node.value if key.value == step]
                if not matches:
                    return line
                key, node = matches[0]
                line = key.start_mark.line + 2
            elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
                node = node.value[step]
                line = node.start_mark.line + 2
        return line


def _replace(front: Any, path: list[str | int]) -> bool:
    """Put a stand-in at a path. Whether there is such a place."""
    *parents, at = path
    last: Any = at
    try:
        for step in parents:
            front = front[step]
        if isinstance(front, list):
            front[last] = _ITEM
        elif last in _REQUIRED:
            front[last] = copy(_REQUIRED[last])
        else:
            del front[last]
    except (KeyError, IndexError, TypeError):
        return False
    return True


def _inside(where: str) -> str:
    return f"in {where}" if where else "in the front matter"
