"""Check whether a policy is fit for release: its form, rules, examples, gate and golden set."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from safeguard_streams.errors import PolicyError, Problem
from safeguard_streams.policies import files, golden, harmony
from safeguard_streams.policies.document import ANSWER_FIELDS, AnswerForm, Policy
from safeguard_streams.policies.gate_check import check_gate
from safeguard_streams.policies.golden import GoldenFile, GoldenRow, canonical
from safeguard_streams.policies.parsing import RuleIds, parse_with_lines
from safeguard_streams.policies.reading import RULE, Document, FrontMatter, Line
from safeguard_streams.policies.skeleton import blanks
from safeguard_streams.policies.statements import OTHER_VIOLATION
from safeguard_streams.policies.vocabulary import RULE_ID, is_within, rules_above

RULE_SECTIONS = ("VIOLATES", "SAFE")
SECTIONS = ("Instruction", "Definitions", "VIOLATES", "SAFE", "Examples", "Output")
BEST_TOKENS = (400, 600)  # minimum and maximum length that the model follows best, by its makers' guide
MAX_TOKENS = 10_000
MIN_EXAMPLES = 4
MIN_GOLDEN = 60
_EXAMPLE = re.compile(rf'- "(.+)" -> (violates|safe), ({RULE_ID}(?:, {RULE_ID})*)\s*\Z')
_QUOTED = re.compile(r"[\"“„«][^\"“”„«»]{3,}[\"”“»]")
_LANGUAGE = re.compile(r"(?:[A-Za-z]{2,3}(-[A-Za-z0-9]{1,8})*|\*)\Z")
_JOINERS = dict.fromkeys(map(ord, "\u200c\u200d"))  # cannot be seen, but scripts and emoji need them
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
            encoder=self.policy.distilled.encoder if self.policy and self.policy.distilled else None,
            problems=self.problems,
        )


class CheckReport(msgspec.Struct, frozen=True):
    """A result of a check for programs. id and version are None where the policy cannot be parsed.

    encoder: the name of the encoder for whose vectors its distilled classifier has weights.
    """

    file: str
    id: str | None
    version: str | None
    tokens: int
    golden: int
    encoder: str | None
    problems: tuple[Problem, ...]


class _PolicyExample(msgspec.Struct, frozen=True):
    """An example of the policy text: its line, text, decision, and the rules that decide."""

    line: int
    text: str
    decision: str
    rules: tuple[str, ...]


def check_library(folder: Path = files.LIBRARY) -> list[Checked]:
    """Check all policies of a library folder (ID/policy.md). Raises PolicyError when there are none."""
    return [check(path, named_by_folder=True) for path in files.documents(folder)]


def _unreadable(path: Path, error: PolicyError) -> Problem:
    return Problem(str(path), 1, "error", "file", str(error).removeprefix(f"{path}: "))


def check(path: Path, *, named_by_folder: bool = False) -> Checked:
    """Check policy.md, with the golden.jsonl and distilled.json beside it.

    With `named_by_folder`, the policy's id must be the folder's name. Never raises: a file that cannot be read is a
    problem.
    """
    try:
        texts = files.read(path)
    except PolicyError as error:
        return Checked(str(path), None, (_unreadable(path, error),))
    return check_texts(texts, path, named_by_folder=named_by_folder)


def check_texts(texts: files.PolicyFiles, path: Path, *, named_by_folder: bool = False) -> Checked:
    """The same for texts that are to stand at a path. Only the golden set is read there."""
    document, distilled = texts
    policy, read, front, rules = parse_with_lines(document, str(path), distilled)
    if not read.complete:
        return Checked(str(path), None, tuple(read.problems))
    length = harmony.count(read.body.strip() + "\n")
    _check_filled(read, document)
    _check_sections(read)
    _check_output(read, front.judging.answer if front is not None else "full")
    _check_length(read, length)
    _check_text(read, rules)
    if front is not None:
        _check_front(read, front, path.parent.name if named_by_folder else None)
    if rules is not None:
        _check_repeats(read)
    if policy is not None:
        _check_statements(read, policy)
    examples = _check_examples(read, rules)
    rows = _check_golden(read, rules, examples, path.with_name(golden.NAME))
    read.problems.sort(key=lambda problem: (problem.origin != read.origin, problem.line))
    return Checked(str(path), policy, tuple(read.problems), length, len(rows))


def _check_filled(read: Document, document: str) -> None:
    for blank in blanks(document):
        read.error(blank.line, "fill-in", f"fill in: {blank.what}")


def _check_sections(read: Document) -> None:
    seen: dict[str, int] = {}
    for heading in read.headings:
        if heading.text in seen:
            read.error(heading.number, "section", f"## {heading.text} is already in line {seen[heading.text]}")
        seen.setdefault(heading.text, heading.number)
    for name in (name for name in SECTIONS if name not in RULE_SECTIONS):  # those are parsed
        if name not in seen:
            read.error(read.body_line, "section", f"the section '## {name}' is missing")
        elif not any(line.text.strip() for line in read.sections[name]):
            read.error(seen[name], "section", f"## {name} is empty")
    order = [seen[name] for name in SECTIONS if name in seen]
    if order != sorted(order):
        read.warn(min(seen.values()), "order", f"the model follows this order best: {', '.join(SECTIONS)}")


def _check_output(read: Document, form: AnswerForm) -> None:
    """Report fields that the text asks the model for although answers do not have them, and the other way round."""
    output = "\n".join(line.text for line in read.sections.get("Output", ()))
    if not output.strip():
        return
    line = next(heading.number for heading in read.headings if heading.text == "Output")
    asked = [name for name in ANSWER_FIELDS["full"] if f'"{name}"' in output]
    if missing := [name for name in ANSWER_FIELDS[form] if name not in asked]:
        read.error(line, "output", f"## Output must ask for {_quoted(missing)}: answers without it are rejected")
    if extra := [name for name in asked if name not in ANSWER_FIELDS[form]]:
        message = f"## Output asks for {_quoted(extra)}, which judging.answer {form} leaves out: remove it"
        read.error(line, "output", message)


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _check_words(read: Document, front: FrontMatter) -> None:
    """The policy's own words for the decision must be those that its text asks for."""
    text = "\n".join(line.text for line in read.sections.get("Output", ()))
    for word in front.judging.output or ():
        if text.strip() and f'"{word}"' not in text:
            message = f'## Output must offer "{word}", a word of judging.output, as a value of "violation"'
            read.error(read.line("judging", "output", word), "output", message)


def _check_length(read: Document, length: int) -> None:
    low, high = BEST_TOKENS
    if length > MAX_TOKENS:
        read.error(read.body_line, "tokens", f"{length:,} tokens: the limit is {MAX_TOKENS:,}")
    elif not low <= length <= high:
        advice = "describe the boundary in more detail" if length < low else "split it, or cut what decides nothing"
        read.warn(read.body_line, "tokens", f"{length:,} tokens; {low} to {high} work best: {advice}")


def _check_text(read: Document, rules: RuleIds | None) -> None:
    for number, text in enumerate(read.body.split("\n"), read.body_line):
        if markup := _MARKUP.search(text):
            read.error(number, "markup", f"{markup[0]} is markup of the prompt format: describe it in words")
    if rules is None:
        return
    known = [*rules.violating, *rules.safe]
    mention = re.compile(rf"(?<![\w.-])(?:{'|'.join(_prefixes(known))})\d{{1,3}}\b(?:\.[a-z0-9]{{1,3}}\b){{0,2}}")
    for number, text in enumerate(read.body.split("\n"), read.body_line):
        for rule in mention.findall(text):
            if not any(is_within(id_, rule) for id_ in known) and not text.startswith('- "'):
                read.error(number, "unknown-rule", f"the policy has no rule {rule}")


def _prefixes(rules: Sequence[str]) -> list[str]:
    """The letters of rule ids. A single letter with a number may be anything, as in A4."""
    prefixes = {rule.split(".")[0].rstrip("0123456789") for rule in rules}
    return sorted(prefix for prefix in prefixes if len(prefix) > 1) or [r"\b\B"]


def _check_front(read: Document, front: FrontMatter, folder: str | None) -> None:
    """Check the front matter, except fields with values of a wrong form. folder: the name that the id must be."""
    if folder is not None and "id" not in read.broken and front.id != folder:
        read.error(read.line("id"), "id", f"id is {front.id}, but the folder is {folder}")
    for field, text in (("title", front.title), ("owner", front.owner)):
        if field not in read.broken and not _is_line(text):
            read.error(read.line(field), field, f"{field}: write one line of plain text, which authors may read")
    for rule_id, summary in front.rules.items():
        if not _is_line(summary):
            read.error(read.line("rules", rule_id), "rule", f"describe {rule_id} in one line")
    check_gate(read, front.gate)
    _check_words(read, front)
    if "applies_to" not in read.broken:
        _check_scope(read, front)


def _is_line(text: str) -> bool:
    return bool(text.strip()) and text.translate(_JOINERS).isprintable()


def _check_repeats(read: Document) -> None:
    seen: dict[str, str] = {}
    for section in RULE_SECTIONS:
        for rule in read.rules(section):
            first = seen.setdefault(canonical(rule.text), rule.id)
            if first != rule.id:
                read.error(rule.number, "unreachable", f"{rule.id} repeats {first}: no content can match it")


def _check_scope(read: Document, front: FrontMatter) -> None:
    for number, language in enumerate(front.applies_to.languages):
        if not _LANGUAGE.match(language):
            line = read.line("applies_to", "languages", number)
            read.error(line, "language", f"{language!r} is not a language tag: write it like 'en' or 'pt-BR'")


def _check_statements(read: Document, policy: Policy) -> None:
    """Report rules that statements of reasons say nothing about, where the policy says something about others."""
    missing = [rule for rule in policy.violating if not any(above in policy.statements for above in rules_above(rule))]
    if policy.statements and missing:
        named = f"{', '.join(missing)}: no entry, and so no category of the EU's database but {OTHER_VIOLATION}"
        read.warn(read.line("statements"), "statements", named)


def _check_examples(read: Document, rules: RuleIds | None) -> list[_PolicyExample]:
    examples: list[_PolicyExample] = []
    for line in read.sections.get("Examples", ()):
        if not line.text.startswith("- "):
            continue
        example = _example(read, rules, line)
        if example is None:
            continue
        first = next((e for e in examples if canonical(e.text) == canonical(example.text)), None)
        if first and first.decision != example.decision:
            read.error(line.number, "contradiction", f"the same text is marked {first.decision} in line {first.line}")
        elif first:
            read.warn(line.number, "example-twice", f"the same text is already in line {first.line}")
        examples.append(example)
    if len(examples) < MIN_EXAMPLES and any(h.text == "Examples" for h in read.headings):
        heading = next(h.number for h in read.headings if h.text == "Examples")
        read.warn(heading, "examples", f"{len(examples)} examples: four to six near the boundary help the model most")
    return examples


def _example(read: Document, rules: RuleIds | None, line: Line) -> _PolicyExample | None:
    match = _EXAMPLE.match(line.text)
    if not match:
        read.error(line.number, "example", "write an example as '- \"text\" -> violates, AB1' or '... -> safe, AB2'")
        return None
    cited = tuple(match[3].split(", "))
    read.problems += _side_problems(rules, _Place(read.origin, line.number), match[2], cited)
    return _PolicyExample(line.number, match[1], match[2], cited)


def violating_texts(document: str) -> list[str]:
    """The violating examples of a policy's text, and the rules that name a violation."""
    read = Document(document, "policy")
    matches = [_EXAMPLE.match(line.text) for line in read.sections.get("Examples", ())]
    shown = [match[1] for match in matches if match and match[2] == "violates"]
    return [*shown, *(rule.text for rule in read.rules("VIOLATES"))]


class _Place(NamedTuple):
    """A line of a file."""

    origin: str
    line: int


def _side_problems(rules: RuleIds | None, at: _Place, decision: str, cited: Sequence[str]) -> Iterator[Problem]:
    """Rules that are unknown or belong to the other side than the decision. None where the policy's are not known."""
    if rules is None:
        return
    for rule in cited:
        side = rules.side(rule)
        if side is None:
            yield Problem(*at, "error", "unknown-rule", f"the policy has no rule {rule}; it has {rules}")
        elif side != decision:
            message = f"marked {decision}, but {rule} is a rule of {side.upper()}"
            yield Problem(*at, "error", "contradiction", message)


def _check_golden(
    read: Document, rules: RuleIds | None, examples: Sequence[_PolicyExample], path: Path
) -> list[GoldenRow]:
    rows, problems = _golden_rows(read, path)
    read.problems += problems
    read.problems += _golden_problems(rules, examples, path, rows)
    unreadable = any(problem.severity == "error" for problem in problems)
    if rules is not None and not unreadable:
        cited = {rule for example in examples for rule in example.rules} | {row.golden.rule for row in rows}
        cited |= set(_quoting(read))
        where = "example or golden text" if rows else "example"
        for rule in (rule for rule in [*rules.violating, *rules.safe] if rule not in cited):
            read.warn(read.line("rules", rule), "unreached", f"no {where} shows what {rule} means")
    return rows


def _quoting(read: Document) -> Iterator[str]:
    """The rules that quote an example of their own, in their line or in those below it."""
    for section in RULE_SECTIONS:
        rule: str | None = None
        for line in read.sections.get(section, ()):
            begun = RULE.match(line.text)
            rule = begun[1] if begun else rule
            if rule and _QUOTED.search(line.text):
                yield rule


def _golden_rows(read: Document, path: Path) -> GoldenFile:
    """The rows of the golden set, and what rules out reading them."""
    if not path.exists():
        message = f"no {golden.NAME} beside it: nothing shows whether a change makes the policy worse"
        return GoldenFile([], [Problem(read.origin, 1, "warning", "golden", message)])
    try:
        file = golden.read(path)
    except PolicyError as error:
        return GoldenFile([], [_unreadable(path, error)])
    if len(file.rows) < MIN_GOLDEN:
        message = f"{len(file.rows)} golden texts: figures from fewer than {MIN_GOLDEN} are unreliable"
        file.problems.append(Problem(str(path), 1, "warning", "golden", message))
    return file


def _golden_problems(
    rules: RuleIds | None, examples: Sequence[_PolicyExample], path: Path, rows: Sequence[GoldenRow]
) -> Iterator[Problem]:
    shown = {canonical(example.text): example for example in examples}
    seen: dict[str, GoldenRow] = {}
    for row in rows:
        text = row.golden
        yield from _side_problems(rules, _Place(str(path), row.line), text.decision, [text.rule])
        form = canonical(text.text)
        if not form:
            yield Problem(str(path), row.line, "error", "golden", "the text is empty")
        first, example = seen.setdefault(form, row), shown.get(form)
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


def require(checked: Sequence[Checked]) -> list[Policy]:
    """The policies, when all are fit for release. Raises PolicyError with every error of each policy otherwise."""
    errors = [problem for result in checked for problem in result.errors]
    if errors:
        raise PolicyError.of(errors)
    return [result.policy for result in checked if result.policy is not None]
