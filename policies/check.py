"""Whether a policy is fit for release: its form, its rules, its examples, its gate, its golden set."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import re2

from safeguard_streams.errors import PolicyError, Problem
from safeguard_streams.policies import files, golden, tokens
from safeguard_streams.policies.document import Gate, Policy, pattern_options
from safeguard_streams.policies.golden import Row
from safeguard_streams.policies.parsing import Document, Line, parse_with_lines

SECTIONS = ("Instruction", "Definitions", "VIOLATES", "SAFE", "Examples", "Output")
ASKED_FOR = ("violation", "rule_ids", "confidence", "reason")
BEST_TOKENS = (400, 600)  # the length at which the model follows a policy best, by its makers' guide
MOST_TOKENS = 10_000
FEWEST_EXAMPLES = 4
FEWEST_GOLDEN = 60
_EXAMPLE = re.compile(r'- "(.+)" -> (violates|safe), ([A-Z]{2,4}\d{1,3}(?:, [A-Z]{2,4}\d{1,3})*)\s*\Z')
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*\Z")
_MARKUP = re.compile(r"<\|\w+\|>")


class Checked(msgspec.Struct, frozen=True):
    """What was found of one policy. policy is None where it cannot be read; tokens are of what the model reads."""

    path: str
    policy: Policy | None
    problems: tuple[Problem, ...]
    tokens: int = 0
    golden: int = 0

    @property
    def errors(self) -> list[Problem]:
        return [problem for problem in self.problems if problem.severity == "error"]


class _Example(msgspec.Struct, frozen=True):
    line: int
    text: str
    decision: str
    rules: tuple[str, ...]


def check_library(folder: Path = files.LIBRARY) -> list[Checked]:
    """Check all policies of a library folder (ID/policy.md). Raises PolicyError when there are none."""
    paths = sorted(folder.glob("*/policy.md"))
    if not paths:
        raise PolicyError(f"{folder}: no ID/policy.md in it")
    return [check(path, named_by_folder=True) for path in paths]


def check(path: Path, *, named_by_folder: bool = False) -> Checked:
    """Check policy.md, with the golden.jsonl and distilled.json beside it.

    Raises PolicyError only when a file cannot be read.
    """
    document, distilled = files.read(path)
    policy, read = parse_with_lines(document, str(path), distilled)
    if policy is None:
        return Checked(str(path), None, tuple(read.problems))
    length = tokens.count(policy.text)
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


def _same(text: str) -> str:
    """Texts that a reader would take for the same one."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _check_sections(read: Document) -> None:
    seen: dict[str, int] = {}
    for heading in read.headings:
        if heading.text in seen:
            read.error(heading.number, "section", f"## {heading.text} stands already in line {seen[heading.text]}")
        seen.setdefault(heading.text, heading.number)
    for name in SECTIONS:
        if name not in seen:
            read.error(read.body_line, "section", f"a section '## {name}' is missing")
        elif not any(line.text.strip() for line in read.sections[name]):
            read.error(seen[name], "section", f"## {name} is empty")
    order = [seen[name] for name in SECTIONS if name in seen]
    if order != sorted(order):
        read.warn(min(seen.values()), "order", f"the model reads best in this order: {', '.join(SECTIONS)}")
    output = "\n".join(line.text for line in read.sections.get("Output", ()))
    left_out = [name for name in ASKED_FOR if f'"{name}"' not in output]
    if output.strip() and left_out:
        names = ", ".join(f'"{name}"' for name in left_out)
        read.error(seen["Output"], "output", f"## Output must ask for {names}: an answer without it is not accepted")


def _check_length(read: Document, length: int) -> None:
    least, most = BEST_TOKENS
    if length > MOST_TOKENS:
        read.error(read.body_line, "tokens", f"{length:,} tokens: no model follows more than {MOST_TOKENS:,}")
    elif not least <= length <= most:
        advice = "say more of the boundary" if length < least else "split it, or cut what decides nothing"
        read.warn(read.body_line, "tokens", f"{length:,} tokens, best are {least} to {most}: {advice}")


def _check_text(read: Document, policy: Policy) -> None:
    prefixes = {rule.rstrip("0123456789") for rule in policy.rules}
    mention = re.compile(rf"\b(?:{'|'.join(sorted(prefixes))})\d{{1,3}}\b")
    for number, text in enumerate(read.body.split("\n"), read.body_line):
        if markup := _MARKUP.search(text):
            read.error(number, "markup", f"{markup[0]} is markup of the prompt's format: describe it in words")
        for rule in mention.findall(text):
            if rule not in policy.rules and not text.startswith('- "'):
                read.error(number, "unknown-rule", f"the policy has no rule {rule}")


def _check_rules(read: Document, policy: Policy) -> None:
    for rule, said in policy.rules.items():
        if not said.strip():
            read.error(read.line("rules", rule), "rule", f"say in one line what {rule} is")
    seen: dict[str, str] = {}
    for section in ("VIOLATES", "SAFE"):
        for line, rule, text in read.rules(section):
            known = seen.setdefault(_same(text), rule)
            if known != rule:
                read.error(line.number, "unreachable", f"{rule} says the same as {known}: no content can reach it")


def _check_gate(read: Document, gate: Gate) -> None:
    line = read.line("gate")
    scored = bool(gate.labels or gate.distilled)
    if not (scored or gate.terms or gate.patterns or gate.sample or gate.everything):
        read.error(
            line, "gate", "nothing passes this gate: give labels and a threshold, terms, a sample, or everything"
        )
    if scored and gate.threshold == 1:
        read.error(line, "gate", "give gate.threshold: without one, labels send nothing to the model")
    if gate.threshold != 1 and not scored:
        read.error(read.line("gate", "threshold"), "gate", "a threshold needs labels, or a distilled label")
    if gate.everything and (scored or gate.terms or gate.patterns or gate.sample):
        read.warn(read.line("gate", "everything"), "gate", "everything passes: the gate's other parts change nothing")
    seen: set[str] = set()
    for number, term in enumerate(gate.terms):
        at = read.line("gate", "terms", number)
        if not any(map(str.isalnum, term)):
            read.error(at, "gate", f"the term {term!r} has no letter and no digit: it is never found")
        elif _same(term) in seen:
            read.warn(at, "gate", f"the term {term!r} stands here for the second time")
        seen.add(_same(term))
    for number, pattern in enumerate(gate.patterns):
        if re2.compile(pattern, pattern_options()).search(""):
            at = read.line("gate", "patterns", number)
            read.error(
                at, "gate", f"the pattern {pattern!r} is found in every text: write 'everything: true' if you want it"
            )


def _check_scope(read: Document, policy: Policy) -> None:
    for number, language in enumerate(policy.applies_to.languages):
        if not _LANGUAGE.match(language):
            line = read.line("applies_to", "languages", number)
            read.error(line, "language", f"{language!r} is no language tag: write it as in 'en' or 'pt-BR'")


def _check_examples(read: Document, policy: Policy) -> list[_Example]:
    examples: list[_Example] = []
    for line in read.sections.get("Examples", ()):
        if not line.text.startswith("- "):
            continue
        example = _example(read, policy, line)
        if example is None:
            continue
        known = next((e for e in examples if _same(e.text) == _same(example.text)), None)
        if known and known.decision != example.decision:
            read.error(line.number, "contradiction", f"the same text is {known.decision} in line {known.line}")
        elif known:
            read.warn(line.number, "example-twice", f"the same text stands in line {known.line}")
        examples.append(example)
    if len(examples) < FEWEST_EXAMPLES and any(h.text == "Examples" for h in read.headings):
        heading = next(h.number for h in read.headings if h.text == "Examples")
        read.warn(heading, "examples", f"{len(examples)} examples: four to six near the boundary help the model most")
    return examples


def _example(read: Document, policy: Policy, line: Line) -> _Example | None:
    found = _EXAMPLE.match(line.text)
    if not found:
        read.error(line.number, "example", "write an example as '- \"text\" -> violates, AB1' or '... -> safe, AB2'")
        return None
    rules = tuple(found[3].split(", "))
    _check_sides(read, str(read.origin), line.number, policy, found[2], rules)
    return _Example(line.number, found[1], found[2], rules)


def _check_sides(read: Document, origin: str, line: int, policy: Policy, decision: str, rules: Sequence[str]) -> None:
    """Rules must be of the decision's side."""
    for rule in rules:
        side = "violates" if rule in policy.violating else "safe"
        if rule not in policy.rules:
            message = f"the policy has no rule {rule}; it has {', '.join(policy.rules)}"
            read.problems.append(Problem(origin, line, "error", "unknown-rule", message))
        elif side != decision:
            message = f"called {decision}, but {rule} is a rule of {side.upper()}"
            read.problems.append(Problem(origin, line, "error", "contradiction", message))


def _check_golden(read: Document, policy: Policy, examples: Sequence[_Example], path: Path) -> list[Row]:
    cited = {rule for example in examples for rule in example.rules}
    if not path.is_file():
        read.warn(1, "golden", f"no {golden.NAME} beside it: nothing says whether a change makes the policy worse")
        rows: list[Row] = []
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
    read: Document, policy: Policy, examples: Sequence[_Example], path: Path, rows: Sequence[Row]
) -> Iterator[Problem]:
    shown = {_same(example.text): example for example in examples}
    seen: dict[str, Row] = {}
    for row in rows:
        found = row.golden
        _check_sides(read, str(path), row.line, policy, found.decision, [found.rule])
        same = _same(found.text)
        if not same:
            yield Problem(str(path), row.line, "error", "golden", "the text is empty")
        known, example = seen.setdefault(same, row), shown.get(same)
        if known.golden.decision != found.decision:
            message = f"the same text is {known.golden.decision} in line {known.line}"
            yield Problem(str(path), row.line, "error", "contradiction", message)
        elif known is not row:
            yield Problem(str(path), row.line, "warning", "golden-twice", f"the same text stands in line {known.line}")
        if example and example.decision != found.decision:
            message = f"the policy's example in line {example.line} calls the same text {example.decision}"
            yield Problem(str(path), row.line, "error", "contradiction", message)
        elif example:
            message = f"the policy shows this text in line {example.line}: the model has read the answer"
            yield Problem(str(path), row.line, "warning", "golden-shown", message)
    if len(rows) < FEWEST_GOLDEN:
        message = f"{len(rows)} golden texts: with fewer than {FEWEST_GOLDEN}, figures say little"
        yield Problem(str(path), 1, "warning", "golden", message)


def require(checked: Sequence[Checked]) -> list[Policy]:
    """The policies, all of them fit for release. Raises PolicyError with every error of any of them."""
    errors = [problem for one in checked for problem in one.errors]
    if errors:
        raise PolicyError.of(errors)
    return [one.policy for one in checked if one.policy is not None]
