"""Parse a policy document into a Policy, or into problems with their lines."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator, Mapping
from copy import copy
from typing import Any, Literal, NamedTuple, get_args

import msgspec
import re2
import yaml

from safeguard_streams.errors import PolicyError, Problem, choices
from safeguard_streams.policies import distilled as distilled_classifiers
from safeguard_streams.policies import statements as rule_statements
from safeguard_streams.policies.document import (
    MAX_SAMPLES,
    AnswerForm,
    AppliesTo,
    Gate,
    Judging,
    Policy,
    ScoreMap,
    pattern_options,
)
from safeguard_streams.policies.statements import MAX_NOTE, RuleStatement
from safeguard_streams.policies.version import version_of
from safeguard_streams.policies.vocabulary import PATTERN_CHARACTERS, RULE_ID, SEVERITIES, Effort, Harm, Severity, Side

FRONT = re.compile(r"\A---\n(.*?\n)---\n(.*)\Z", re.DOTALL)
MAX_CHARACTERS = 200_000  # of a document
MAX_WORD = 40  # characters of an output word
_NOT_IN_WORDS = frozenset('"\\<>{}[]|')
RULE = re.compile(rf"- ({RULE_ID}): (\S.*)")
POLICY_ID = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*\Z")
_HEADING = re.compile(r"## (.+?)\s*\Z")
_PATH = re.compile(r" - at (?:`key` in )?`\$([^`]*)`")
_COMMENT = re.compile(r"\s*(#\S.*)")
_STEP = re.compile(r"\.(\w+)|\[(\d+)\]")
_MAX_RAISED = 20  # problems of one error, which running processes log
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


def plain_problem(problem: str, where: str = "") -> str:
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


class RuleIds(NamedTuple):
    """The rule ids of both sections, in order."""

    violating: tuple[str, ...]
    safe: tuple[str, ...]

    def side(self, rule: str) -> Literal["violates", "safe"] | None:
        """The decision that a rule stands for; None for an unknown rule."""
        if rule in self.violating:
            return "violates"
        return "safe" if rule in self.safe else None

    def __str__(self) -> str:
        return ", ".join([*self.violating, *self.safe])


class Parsed(NamedTuple):
    """What was read of a document, and the document, which holds the problems.

    policy is None where there are problems. Further checks then go by the rest. front holds stand-ins for the fields
    that `Document.broken` names; it is None where the front matter is no YAML. rules is None where a section is broken.
    """

    policy: Policy | None
    document: Document
    front: FrontMatter | None = None
    rules: RuleIds | None = None


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
            self.error(self.line(*steps), "field", f"{where or 'front matter'}: {plain_problem(problem, where)}")
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


def parse(document: str, origin: str = "policy", distilled: str | None = None) -> Policy:
    """Parse a policy document. `distilled` is the text of the distilled.json that its gate names, if it names one.

    Raises PolicyError with file, line and what to change for the first problems, and no other error whatever the text.
    """
    parsed = parse_with_lines(document, origin, distilled)
    if parsed.policy is None:
        raise PolicyError.of(parsed.document.problems[:_MAX_RAISED])
    return parsed.policy


def parse_with_lines(document: str, origin: str, distilled: str | None) -> Parsed:
    """Parse a policy document and keep its lines, for checks that report them. Reports all problems that it can."""
    if len(document) > MAX_CHARACTERS:
        read = Document("---\n\n---\n", origin)
        read.complete = False
        read.error(1, "too-long", f"the document has {len(document):,} characters; the limit is {MAX_CHARACTERS:,}")
        return Parsed(None, read)
    read = Document(document, origin)
    if not read.complete:
        return Parsed(None, read)
    front = read.read_front()
    classifier = _check_values(read, front, distilled) if front else None
    named = front.rules if front and "rules" not in read.broken else None
    rules = _check_rules(read, named)
    if front and rules:
        _check_severity(read, front, rules)
    if read.problems or front is None or rules is None:
        return Parsed(None, read, front, rules)
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
        severity=front.severity,
        notes=front.notes,
        statements=front.statements,
    )
    return Parsed(policy, read, front, rules)


def _check_values(
    read: Document, front: FrontMatter, distilled: str | None
) -> distilled_classifiers.DistilledClassifier | None:
    """Report values that no policy may have; returns the gate's distilled classifier, if it names one."""
    if "id" not in read.broken and not POLICY_ID.match(front.id):
        read.error(read.line("id"), "id", f"id: use lower-case words joined by hyphens, not {front.id!r}")
    for path, share in (
        (("gate", "threshold"), front.gate.threshold),
        (("gate", "threshold_with_encoder"), front.gate.threshold_with_encoder or 0.0),
        (("gate", "general"), front.gate.general),
        (("gate", "sample"), front.gate.sample),
        (("judging", "agreement"), front.judging.agreement),
    ):
        if not 0 <= share <= 1:
            read.error(read.line(*path), "range", f"{'.'.join(path)} must be between 0 and 1, not {share}")
    if not 1 <= front.judging.samples <= MAX_SAMPLES:
        line = read.line("judging", "samples")
        read.error(line, "range", f"judging.samples must be between 1 and {MAX_SAMPLES}, not {front.judging.samples}")
    _check_output(read, front.judging.output)
    _check_written(read, front.gate)
    for number, pattern in enumerate(front.gate.patterns):
        if reason := invalid(pattern):
            line, shown = read.line("gate", "patterns", number), pattern[:200]
            read.error(line, "pattern", f"gate.patterns: {shown!r} is not a valid RE2 expression: {reason}")
    return _read_distilled(read, front.gate, distilled)


def _check_output(read: Document, output: Mapping[str, Side] | None) -> None:
    """Report output words that leave a side without a word, or that a model's answer cannot hold as they are."""
    if output is None:
        return
    line = read.line("judging", "output")
    if set(output.values()) != {"violates", "safe"}:
        read.error(line, "output", "judging.output needs a word for violates and one for safe")
    folded: dict[str, str] = {}
    for word in output:
        if not _is_word(word):
            fix = f"write 1 to {MAX_WORD} characters, with a letter, and without quotes, brackets or blanks around them"
            read.error(line, "output", f"judging.output: {word[:MAX_WORD]!r} is no word for an answer: {fix}")
        elif (other := folded.setdefault(_folded(word), word)) != word:
            problem = f"judging.output: {other!r} and {word!r} differ in their form only: choose other words"
            read.error(line, "output", problem)


def _is_word(word: str) -> bool:
    """Whether a JSON text, and the form that a prompt shows, can hold a word as it is."""
    form = word.isprintable() and word == word.strip() and 0 < len(word) <= MAX_WORD
    return form and any(map(str.isalpha, word)) and not set(word) & _NOT_IN_WORDS


def _folded(word: str) -> str:
    """What a model, or a reader, may take for the same word."""
    return unicodedata.normalize("NFKC", word).casefold()


def invalid(pattern: str) -> str | None:
    """Why a pattern is not a valid RE2 expression, if it is not."""
    if len(pattern) > PATTERN_CHARACTERS:
        return f"it has {len(pattern):,} characters; a pattern may have {PATTERN_CHARACTERS:,}"
    try:
        re2.compile(pattern, pattern_options())
    except (re2.error, UnicodeEncodeError) as error:
        return str(error.args[0].decode("utf-8", "replace") if isinstance(error.args[0], bytes) else error)
    return None


def control(value: str) -> str | None:
    """The first control character of a term or pattern, if it holds any."""
    return next((char for char in value if unicodedata.category(char) == "Cc"), None)


def _check_written(read: Document, gate: Gate) -> None:
    """Report terms and patterns with control characters, which YAML's escapes make."""
    for field, values in (("terms", gate.terms), ("patterns", gate.patterns)):
        for number, value in enumerate(values):
            if char := control(value):
                fix = "in double quotes, \"\\b\" is a backspace: write single quotes, as in '\\bword\\b'"
                where = f"gate.{field}[{number}] holds the control character U+{ord(char):04X}"
                read.error(read.line("gate", field, number), "control", f"{where}; {fix}")


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


def _check_rules(read: Document, named: dict[str, str] | None) -> RuleIds | None:
    """The rule ids of VIOLATES and SAFE, or None where problems leave them open.

    named: the rules of the front matter, which must be the same; None where they are not known.
    """
    lines: dict[str, int] = {}
    before = len(read.problems)
    rules = RuleIds(_rules_of(read, "VIOLATES", lines), _rules_of(read, "SAFE", lines))
    if len(read.problems) > before:
        return None
    if named is not None:
        _compare(read, named, lines)
    return rules


def _rules_of(read: Document, section: str, lines: dict[str, int]) -> tuple[str, ...]:
    """The rule ids of a section. Adds their lines to those of all rules."""
    before = len(read.problems)
    if section not in read.sections:
        similar = [heading for heading in read.headings if heading.text.upper().rstrip(":") == section]
        line = similar[0].number if similar else read.body_line
        fix = ": spell it exactly like this" if similar else ""
        read.error(line, "section", f"the section '## {section}' is missing{fix}")
        return ()
    ids = []
    for rule in read.rules(section):
        if rule.id in lines:
            read.error(rule.number, "rule-twice", f"{rule.id} is already in line {lines[rule.id]}")
        lines.setdefault(rule.id, rule.number)
        ids.append(rule.id)
    if not ids and len(read.problems) == before:
        heading = next(h.number for h in read.headings if h.text == section)
        read.error(heading, "no-rule", f"name at least one rule under ## {section}, as in '- AB1: ...'")
    return tuple(ids)


def _check_severity(read: Document, front: FrontMatter, rules: RuleIds) -> None:
    """Report severities, notes and statements of what is no rule of VIOLATES, and notes that are no line of text."""
    fields: dict[str, Mapping[str, Any]] = {
        "severity": front.severity,
        "notes": front.notes,
        "statements": front.statements,
    }
    for field, named in fields.items():
        for rule in named:
            if rule not in rules.violating:
                known = f"a {field.rstrip('s')} is for a rule of VIOLATES: {', '.join(rules.violating)}"
                read.error(read.line(field, rule), "unknown-rule", f"{field}: {rule[:MAX_WORD]} is none; {known}")
    for rule, note in front.notes.items():
        if not note.strip() or len(note) > MAX_NOTE or not note.isprintable():
            line = read.line("notes", rule)
            read.error(line, "field", f"notes: write the note of {rule} as one line of 1 to {MAX_NOTE} characters")


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
