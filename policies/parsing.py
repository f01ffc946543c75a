"""Parse a policy document into a Policy, or into problems with their lines."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import re2

from safeguard_streams.errors import PolicyError
from safeguard_streams.policies import distilled as distilled_classifiers
from safeguard_streams.policies.document import MAX_SAMPLES, Gate, Policy, pattern_options
from safeguard_streams.policies.reading import MAX_WORD, Document, FrontMatter
from safeguard_streams.policies.statements import MAX_NOTE
from safeguard_streams.policies.version import version_of
from safeguard_streams.policies.vocabulary import PATTERN_CHARACTERS, Side

MAX_CHARACTERS = 200_000  # of a document
POLICY_ID = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*\Z")
_NOT_IN_WORDS = frozenset('"\\<>{}[]|')
_MAX_RAISED = 20  # problems of one error, which running processes log


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
