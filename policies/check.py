"""Check whether a policy is fit for release: its form, rules, examples, gate and golden set."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import re2

from safeguard_streams.errors import PolicyError, Problem
from safeguard_streams.policies import files, golden, harmony, trial
from safeguard_streams.policies.document import Gate, Policy, pattern_options
from safeguard_streams.policies.golden import GoldenRow
from safeguard_streams.policies.matching import Term, inner_boundary
from safeguard_streams.policies.parsing import Document, Line, parse_with_lines

SECTIONS = ("Instruction", "Definitions", "VIOLATES", "SAFE", "Examples", "Output")
OUTPUT_FIELDS = ("violation", "rule_ids", "confidence", "reason")
BEST_TOKENS = (400, 600)  # minimum and maximum length that the model follows best, by its makers' guide
MAX_TOKENS = 10_000
MIN_EXAMPLES = 4
MIN_GOLDEN = 60
_EXAMPLE = re.compile(r'- "(.+)" -> (violates|safe), ([A-Z]{2,4}\d{1,3}(?:, [A-Z]{2,4}\d{1,3})*)\s*\Z')
_LANGUAGE = re.compile(r"(?:[A-Za-z]{2,3}(-[A-Za-z0-9]{1,8})*|\*)\Z")
_ASCII_BOUNDARY = (
    r"has \b or \B beside a letter that is not ASCII, where RE2 sees no word: begin or end the pattern with it, "
    r"or write (?:^|[^\p{L}\p{N}]) for it"
)
_MARKUP = re.compile(r"<\|\w+\|>")


class Checked(msgspec.Struct, frozen=True):
    """The result of checking one policy. policy is None where it cannot be parsed.

    tokens: length of the text that the model reads; golden: number of golden texts.
    """

    path: str
    policy: Policy | None
    problems: tuple[Problem, ...]
    tokens: int = 0
    golden: int = 0

    @property
    def errors(self) -> list[Problem]:
        """The problems that rule out a release."""
        return [problem for problem in self.problems if problem.severity == "error"]

    def failed(self, *, strict: bool) -> bool:
        """Whether there are errors or, when strict, problems of any kind."""
        return bool(self.problems if strict else self.errors)

    def report(self) -> CheckReport:
        """The result as `safeguard policy check --json` prints it."""
        return CheckReport(
            file=self.path,
            id=self.policy.id if self.policy else None,
            version=self.policy.version if self.policy else None,
            tokens=self.tokens,
            golden=self.golden,
            problems=self.problems,
        )


class CheckReport(msgspec.Struct, frozen=True):
    """A result of a check for programs. id and version are None where the policy cannot be parsed."""

    file: str
    id: str | None
    version: str | None
    tokens: int
    golden: int
    problems: tuple[Problem, ...]


class _PolicyExample(msgspec.Struct, frozen=True):
    """An example of the policy text: its line, text, decision, and the rules that decide."""

    line: int
    text: str
    decision: str
    rules: tuple[str, ...]


def check_library(folder: Path = files.LIBRARY) -> list[Checked]:
    """Check all policies of a library folder (ID/policy.md). Raises PolicyError when there are none."""
    paths = sorted(folder.glob("*/policy.md"))
    if not paths:
        raise PolicyError(f"{folder}: contains no ID/policy.md")
    return [check(path, named_by_folder=True) for path in paths]


def check(path: Path, *, named_by_folder: bool = False) -> Checked:
    """Check policy.md, with the golden.jsonl and distilled.json beside it.

    With `named_by_folder`, the policy's id must be the folder's name.
    Raises PolicyError only when a file cannot be read.
    """
    document, distilled = files.read(path)
    policy, read = parse_with_lines(document, str(path), distilled)
    if policy is None:
        return Checked(str(path), None, tuple(read.problems))
    length = harmony.count(policy.text)
    if named_by_folder and policy.id != path.parent.name:
        read.error(read.line("id"), "id", f"id is {policy.id}, but the folder is {path.parent.name}")
    _check_sections(read)
    _check_length(read, length)
    _check_text(read, policy)
    _check_rules(read, policy)
    _check_gate(read, policy.gate)
    _check_scope(read, policy)
    examples = _check_examples(read, policy)
    rows = _check_golden(read, policy, examples, path.with_name(golden.NAME))
    read.problems.sort(key=lambda problem: (problem.origin != read.origin, problem.line))
    return Checked(str(path), policy, tuple(read.problems), length, len(rows))


def _canonical(text: str) -> str:
    """One form for texts that read the same."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _check_sections(read: Document) -> None:
    seen: dict[str, int] = {}
    for heading in read.headings:
        if heading.text in seen:
            read.error(heading.number, "section", f"## {heading.text} is already in line {seen[heading.text]}")
        seen.setdefault(heading.text, heading.number)
    for name in SECTIONS:
        if name not in seen:
            read.error(read.body_line, "section", f"the section '## {name}' is missing")
        elif not any(line.text.strip() for line in read.sections[name]):
            read.error(seen[name], "section", f"## {name} is empty")
    order = [seen[name] for name in SECTIONS if name in seen]
    if order != sorted(order):
        read.warn(min(seen.values()), "order", f"the model follows this order best: {', '.join(SECTIONS)}")
    output = "\n".join(line.text for line in read.sections.get("Output", ()))
    missing = [name for name in OUTPUT_FIELDS if f'"{name}"' not in output]
    if output.strip() and missing:
        names = ", ".join(f'"{name}"' for name in missing)
        read.error(seen["Output"], "output", f"## Output must ask for {names}: answers without it are rejected")


def _check_length(read: Document, length: int) -> None:
    low, high = BEST_TOKENS
    if length > MAX_TOKENS:
        read.error(read.body_line, "tokens", f"{length:,} tokens: the limit is {MAX_TOKENS:,}")
    elif not low <= length <= high:
        advice = "describe the boundary in more detail" if length < low else "split it, or cut what decides nothing"
        read.warn(read.body_line, "tokens", f"{length:,} tokens; {low} to {high} work best: {advice}")


def _check_text(read: Document, policy: Policy) -> None:
    prefixes = {rule.rstrip("0123456789") for rule in policy.rules}
    mention = re.compile(rf"\b(?:{'|'.join(sorted(prefixes))})\d{{1,3}}\b")
    for number, text in enumerate(read.body.split("\n"), read.body_line):
        if markup := _MARKUP.search(text):
            read.error(number, "markup", f"{markup[0]} is markup of the prompt format: describe it in words")
        for rule in mention.findall(text):
            if rule not in policy.rules and not text.startswith('- "'):
                read.error(number, "unknown-rule", f"the policy has no rule {rule}")


def _check_rules(read: Document, policy: Policy) -> None:
    for rule_id, summary in policy.rules.items():
        if not summary.strip():
            read.error(read.line("rules", rule_id), "rule", f"describe {rule_id} in one line")
    seen: dict[str, str] = {}
    for section in ("VIOLATES", "SAFE"):
        for rule in read.rules(section):
            first = seen.setdefault(_canonical(rule.text), rule.id)
            if first != rule.id:
                read.error(rule.number, "unreachable", f"{rule.id} repeats {first}: no content can match it")


def _check_gate(read: Document, gate: Gate) -> None:
    line = read.line("gate")
    scored = bool(gate.harms or gate.distilled)
    others = scored or gate.terms or gate.patterns or gate.sample
    if not (others or gate.everything):
        read.error(
            line, "gate", "this gate escalates nothing: set harms and a threshold, terms, a sample, or everything"
        )
    if scored and gate.threshold == 1:
        read.error(line, "gate", "set gate.threshold: without it, harms escalate nothing")
    if gate.threshold != 1 and not scored:
        read.error(read.line("gate", "threshold"), "gate", "a threshold needs harms or a distilled classifier")
    if scored and gate.threshold == 0:
        message = "this gate sends everything to the model: every score reaches a threshold of 0"
        read.warn(read.line("gate", "threshold"), "gate", message)
    if gate.sample == 1 and not gate.everything:
        message = "this gate sends everything to the model: write 'everything: true' if you want that"
        read.warn(read.line("gate", "sample"), "gate", message)
    if gate.everything and others:
        read.warn(read.line("gate", "everything"), "gate", "everything is escalated: the gate's other parts do nothing")
    _check_terms(read, gate)
    _check_patterns(read, gate)


def _check_terms(read: Document, gate: Gate) -> None:
    seen: set[str] = set()
    for number, written in enumerate(gate.terms):
        line = read.line("gate", "terms", number)
        term = Term(written)
        if not term.needles:
            read.error(line, "gate", f"the term {written!r} has no letter, digit or emoji: it never matches")
        elif reason := trial.broad(term):
            read.error(line, "gate", f"the term {written!r} {reason}")
        elif not trial.is_found(written):
            message = f"the term {written!r} is not found between words of its script: write its words alone"
            read.error(line, "gate", message)
        elif _canonical(written) in seen:
            read.warn(line, "gate", f"the term {written!r} is listed twice")
        if cut := read.cut("gate", "terms", number):
            read.error(line, "comment", f"YAML reads {cut!r} as a comment: quote the term, as in 'one #two'")
        seen.add(_canonical(written))


def _check_patterns(read: Document, gate: Gate) -> None:
    for number, pattern in enumerate(gate.patterns):
        line = read.line("gate", "patterns", number)
        if re2.compile(pattern, pattern_options()).search(""):
            message = f"the pattern {pattern!r} matches every text: write 'everything: true' if you want that"
            read.error(line, "gate", message)
        elif inner_boundary(pattern):
            read.error(line, "gate", f"the pattern {pattern!r} {_ASCII_BOUNDARY}")
        elif not trial.can_match(pattern):
            message = f"the pattern {pattern!r} cannot match: texts are one line, without control characters"
            read.error(line, "gate", message)
        if cut := read.cut("gate", "patterns", number):
            read.error(line, "comment", f"YAML reads {cut!r} as a comment: put the pattern in single quotes")


def _check_scope(read: Document, policy: Policy) -> None:
    for number, language in enumerate(policy.applies_to.languages):
        if not _LANGUAGE.match(language):
            line = read.line("applies_to", "languages", number)
            read.error(line, "language", f"{language!r} is not a language tag: write it like 'en' or 'pt-BR'")


def _check_examples(read: Document, policy: Policy) -> list[_PolicyExample]:
    examples: list[_PolicyExample] = []
    for line in read.sections.get("Examples", ()):
        if not line.text.startswith("- "):
            continue
        example = _example(read, policy, line)
        if example is None:
            continue
        first = next((e for e in examples if _canonical(e.text) == _canonical(example.text)), None)
        if first and first.decision != example.decision:
            read.error(line.number, "contradiction", f"the same text is marked {first.decision} in line {first.line}")
        elif first:
            read.warn(line.number, "example-twice", f"the same text is already in line {first.line}")
        examples.append(example)
    if len(examples) < MIN_EXAMPLES and any(h.text == "Examples" for h in read.headings):
        heading = next(h.number for h in read.headings if h.text == "Examples")
        read.warn(heading, "examples", f"{len(examples)} examples: four to six near the boundary help the model most")
    return examples


def _example(read: Document, policy: Policy, line: Line) -> _PolicyExample | None:
    match = _EXAMPLE.match(line.text)
    if not match:
        read.error(line.number, "example", "write an example as '- \"text\" -> violates, AB1' or '... -> safe, AB2'")
        return None
    rules = tuple(match[3].split(", "))
    _check_sides(read, str(read.origin), line.number, policy, match[2], rules)
    return _PolicyExample(line.number, match[1], match[2], rules)


def _check_sides(read: Document, origin: str, line: int, policy: Policy, decision: str, rules: Sequence[str]) -> None:
    """Report rules that are unknown or belong to the other side than the decision."""
    for rule in rules:
        side = "violates" if rule in policy.violating else "safe"
        if rule not in policy.rules:
            message = f"the policy has no rule {rule}; it has {', '.join(policy.rules)}"
            read.problems.append(Problem(origin, line, "error", "unknown-rule", message))
        elif side != decision:
            message = f"marked {decision}, but {rule} is a rule of {side.upper()}"
            read.problems.append(Problem(origin, line, "error", "contradiction", message))


def _check_golden(read: Document, policy: Policy, examples: Sequence[_PolicyExample], path: Path) -> list[GoldenRow]:
    cited = {rule for example in examples for rule in example.rules}
    rows: list[GoldenRow] = []
    if not path.is_file():
        message = f"no {golden.NAME} beside it: nothing shows whether a change makes the policy worse"
        read.warn(1, "golden", message)
    else:
        rows, problems = golden.read(path)
        read.problems += problems
        read.problems += _golden_problems(read, policy, examples, path, rows)
        if not problems:
            cited |= {row.golden.rule for row in rows}
    for rule in policy.rules:
        if rule not in cited:
            where = "example or golden text" if rows else "example"
            read.warn(read.line("rules", rule), "unreached", f"no {where} shows what {rule} means")
    return rows


def _golden_problems(
    read: Document, policy: Policy, examples: Sequence[_PolicyExample], path: Path, rows: Sequence[GoldenRow]
) -> Iterator[Problem]:
    shown = {_canonical(example.text): example for example in examples}
    seen: dict[str, GoldenRow] = {}
    for row in rows:
        text = row.golden
        _check_sides(read, str(path), row.line, policy, text.decision, [text.rule])
        canonical = _canonical(text.text)
        if not canonical:
            yield Problem(str(path), row.line, "error", "golden", "the text is empty")
        first, example = seen.setdefault(canonical, row), shown.get(canonical)
        if first.golden.decision != text.decision:
            message = f"the same text is marked {first.golden.decision} in line {first.line}"
            yield Problem(str(path), row.line, "error", "contradiction", message)
        elif first is not row:
            message = f"the same text is already in line {first.line}"
            yield Problem(str(path), row.line, "warning", "golden-twice", message)
        if example and example.decision != text.decision:
            message = f"the policy's example in line {example.line} marks the same text {example.decision}"
            yield Problem(str(path), row.line, "error", "contradiction", message)
        elif example:
            message = f"the policy's example in line {example.line} has the same text: the model has read its answer"
            yield Problem(str(path), row.line, "warning", "golden-shown", message)
    if len(rows) < MIN_GOLDEN:
        message = f"{len(rows)} golden texts: figures from fewer than {MIN_GOLDEN} are unreliable"
        yield Problem(str(path), 1, "warning", "golden", message)


def require(checked: Sequence[Checked]) -> list[Policy]:
    """The policies, when all are fit for release. Raises PolicyError with every error of each policy otherwise."""
    errors = [problem for result in checked for problem in result.errors]
    if errors:
        raise PolicyError.of(errors)
    return [result.policy for result in checked if result.policy is not None]
