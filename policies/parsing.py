"""Parse a policy document into a Policy, or into problems with their lines."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import NamedTuple

import msgspec
import re2
import yaml

from safeguard_streams.errors import PolicyError, Problem
from safeguard_streams.policies import distilled as distilled_classifiers
from safeguard_streams.policies.document import MAX_SAMPLES, AppliesTo, Gate, Judging, Policy, pattern_options
from safeguard_streams.policies.version import version_of
from safeguard_streams.policies.vocabulary import Effort

FRONT = re.compile(r"\A---\n(.*?\n)---\n(.*)\Z", re.DOTALL)
MAX_CHARACTERS = 200_000  # of a document
RULE = re.compile(r"- ([A-Z]{2,4}\d{1,3}): (\S.*)")
_ID = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*\Z")
_HEADING = re.compile(r"## (.+?)\s*\Z")
_PATH = re.compile(r" - at `(?:key in `)?\$([^`]*)`")
_STEP = re.compile(r"\.(\w+)|\[(\d+)\]")
_FIELD = re.compile(r"(missing required|unknown) field `(\w+)`")


class _FrontMatter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: str
    title: str
    owner: str
    rules: dict[str, str]
    gate: Gate
    applies_to: AppliesTo = AppliesTo()
    effort: Effort = "low"
    judging: Judging = Judging()


class Line(msgspec.Struct, frozen=True):
    """A line of text; number counts from 1 in the whole document."""

    number: int
    text: str


class RuleLine(msgspec.Struct, frozen=True):
    """A rule as a section states it: its line number in the document, its id and its text."""

    number: int
    id: str
    text: str


class Parsed(NamedTuple):
    """The policy, or None where there are problems, and the document that holds the problems."""

    policy: Policy | None
    document: Document


class _RuleIds(NamedTuple):
    """The rule ids of both sections, in order."""

    violating: tuple[str, ...] = ()
    safe: tuple[str, ...] = ()


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

    def read_front(self) -> _FrontMatter | None:
        """The front matter, or None when there are problems."""
        # Running processes read releases. The loader in C takes linear time and refuses deep nesting.
        try:
            for event in yaml.parse(self.front, Loader=yaml.CSafeLoader):
                # A few lines of aliases can stand for gigabytes.
                if isinstance(event, yaml.NodeEvent) and event.anchor:
                    line = event.start_mark.line + 2 if event.start_mark else 2
                    self.error(line, "yaml", "write the value out: anchors and aliases (& and *) are not supported")
                    return None
            self._root = yaml.compose(self.front, Loader=yaml.CSafeLoader)
            if self._has_duplicate_key(self._root):
                return None
            return msgspec.convert(yaml.load(self.front, Loader=yaml.CSafeLoader), _FrontMatter)
        except msgspec.ValidationError as error:
            self._mistyped(str(error))
        except yaml.MarkedYAMLError as error:
            # An unclosed bracket or quote is reported where it was opened.
            unclosed = error.context is not None and ("flow" in error.context or "quoted" in error.context)
            mark = error.context_mark if unclosed else error.problem_mark or error.context_mark
            self.error(mark.line + 2 if mark else 2, "yaml", f"not YAML: {error.problem or error.context}")
        except Exception as error:  # the library lets errors of its value constructors through
            self.error(2, "yaml", f"not YAML: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
        return None

    def _has_duplicate_key(self, node: yaml.Node | None) -> bool:
        """Whether a mapping sets a key twice. YAML would silently take the last value."""
        if isinstance(node, yaml.SequenceNode):
            return any(self._has_duplicate_key(child) for child in node.value)
        if not isinstance(node, yaml.MappingNode):
            return False
        seen: set[str] = set()
        for key, value in node.value:
            name = str(key.value)
            if name in seen:
                self.error(key.start_mark.line + 2, "yaml", f"{name} is set twice")
                return True
            seen.add(name)
            if self._has_duplicate_key(value):
                return True
        return False

    def _mistyped(self, message: str) -> None:
        path = _PATH.search(message)
        steps = [name or int(number) for name, number in _STEP.findall(path[1])] if path else []
        problem = message[: path.start()] if path else message
        where = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).lstrip(".")
        field = _FIELD.search(problem)
        if field and field[1] == "unknown":
            self.error(self.line(*steps, field[2]), "field", f"unknown field {field[2]} {_inside(where)}")
        elif field:
            self.error(self.line(*steps), "field", f"{field[2]} is missing {_inside(where)}")
        else:
            reason = problem[:1].lower() + problem[1:]
            self.error(self.line(*steps), "field", f"{where or 'front matter'}: {reason.replace('`', '')}")

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


def _inside(where: str) -> str:
    return f"in {where}" if where else "in the front matter"


def parse(document: str, origin: str = "policy", distilled: str | None = None) -> Policy:
    """Parse a policy document. `distilled` is the text of the distilled.json that its gate names, if it names one.

    Raises PolicyError with file, line and what to change, and no other error whatever the text.
    """
    parsed = parse_with_lines(document, origin, distilled)
    if parsed.policy is None:
        raise PolicyError.of(parsed.document.problems)
    return parsed.policy


def parse_with_lines(document: str, origin: str, distilled: str | None) -> Parsed:
    """Parse a policy document and keep its lines, for checks that report them."""
    if len(document) > MAX_CHARACTERS:
        read = Document("---\n\n---\n", origin)
        read.error(1, "too-long", f"the document has {len(document):,} characters; the limit is {MAX_CHARACTERS:,}")
        return Parsed(None, read)
    read = Document(document, origin)
    front = read.read_front() if not read.problems else None
    if front is None:
        return Parsed(None, read)
    _check_values(read, front)
    classifier = _read_distilled(read, front.gate, distilled)
    rules = _check_rules(read, front.rules)
    if read.problems:
        return Parsed(None, read)
    text = read.body.strip() + "\n"
    policy = Policy(
        id=front.id,
        title=front.title,
        owner=front.owner,
        rules=front.rules,
        gate=front.gate,
        applies_to=front.applies_to,
        effort=front.effort,
        judging=front.judging,
        text=text,
        version=version_of(text, front.rules, front.effort, front.judging, front.gate, front.applies_to),
        violating=rules.violating,
        safe=rules.safe,
        document=document,
        distilled=classifier,
        distilled_file=distilled if classifier else None,
    )
    return Parsed(policy, read)


def _check_values(read: Document, front: _FrontMatter) -> None:
    if not _ID.match(front.id):
        read.error(read.line("id"), "id", f"id: use lower-case words joined by hyphens, not {front.id!r}")
    for path, share in (
        (("gate", "threshold"), front.gate.threshold),
        (("gate", "sample"), front.gate.sample),
        (("judging", "agreement"), front.judging.agreement),
    ):
        if not 0 <= share <= 1:
            read.error(read.line(*path), "range", f"{'.'.join(path)} must be between 0 and 1, not {share}")
    if not 1 <= front.judging.samples <= MAX_SAMPLES:
        line = read.line("judging", "samples")
        read.error(line, "range", f"judging.samples must be between 1 and {MAX_SAMPLES}, not {front.judging.samples}")
    for number, pattern in enumerate(front.gate.patterns):
        try:
            re2.compile(pattern, pattern_options())
        except (re2.error, UnicodeEncodeError) as error:
            reason = error.args[0].decode("utf-8", "replace") if isinstance(error.args[0], bytes) else error
            line = read.line("gate", "patterns", number)
            read.error(line, "pattern", f"gate.patterns: {pattern!r} is not a valid RE2 expression: {reason}")


def _read_distilled(
    read: Document, gate: Gate, distilled: str | None
) -> distilled_classifiers.DistilledClassifier | None:
    if gate.distilled is None:
        return None
    line = read.line("gate", "distilled")
    if distilled is None or hashlib.sha256(distilled.encode()).hexdigest()[:12] != gate.distilled:
        read.error(line, "distilled", "distilled.json is missing or does not match gate.distilled")
        return None
    try:
        return distilled_classifiers.read(distilled, "distilled.json")
    except PolicyError as error:
        read.error(line, "distilled", str(error))
        return None


def _check_rules(read: Document, named: dict[str, str]) -> _RuleIds:
    """The rule ids of VIOLATES and SAFE. The front matter must name the same ones."""
    lines: dict[str, int] = {}
    sides: list[tuple[str, ...]] = []
    before = len(read.problems)
    for section in ("VIOLATES", "SAFE"):
        if section not in read.sections:
            similar = [heading for heading in read.headings if heading.text.upper().rstrip(":") == section]
            line = similar[0].number if similar else read.body_line
            fix = ": spell it exactly like this" if similar else ""
            read.error(line, "section", f"the section '## {section}' is missing{fix}")
            return _RuleIds()
        ids = []
        for rule in read.rules(section):
            if rule.id in lines:
                read.error(rule.number, "rule-twice", f"{rule.id} is already in line {lines[rule.id]}")
            lines.setdefault(rule.id, rule.number)
            ids.append(rule.id)
        if not ids and len(read.problems) == before:
            heading = next(h.number for h in read.headings if h.text == section)
            read.error(heading, "no-rule", f"name at least one rule under ## {section}, as in '- AB1: ...'")
        sides.append(tuple(ids))
    if len(read.problems) == before:
        _compare(read, named, lines)
    return _RuleIds(*sides)


def _compare(read: Document, named: dict[str, str], written: dict[str, int]) -> None:
    """Report rules that only the front matter names, and rules that only the sections state."""
    unwritten = [rule for rule in named if rule not in written]
    unnamed = [rule for rule in written if rule not in named]
    if len(unwritten) == 1 and len(unnamed) == 1:
        line = read.line("rules", unwritten[0])
        typo = f"{unnamed[0]} in line {written[unnamed[0]]} has one and is not among the front matter's rules"
        read.error(line, "rules-differ", f"{unwritten[0]} has no line under ## VIOLATES or ## SAFE, but {typo}")
        return
    for rule in unwritten:
        read.error(read.line("rules", rule), "rules-differ", f"{rule} has no line under ## VIOLATES or ## SAFE")
    for rule in unnamed:
        read.error(written[rule], "rules-differ", f"{rule} is not among the front matter's rules")
