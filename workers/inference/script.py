"""Words by rule, and the answers in gpt-oss's form that they give to a prompt."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from safeguard_streams.errors import ConfigurationError
from safeguard_streams.policies.folding import plain
from safeguard_streams.policies.terms import Terms, one_by_one
from safeguard_streams.policies.trial import is_found
from safeguard_streams.policies.vocabulary import RULE_ID
from safeguard_streams.workers.inference import harmony
from safeguard_streams.workers.inference.harmony import RETURN

_RULE_ID = re.compile(rf"{RULE_ID}\Z")
_RULE = re.compile(rf"^- ({RULE_ID}): ", re.MULTILINE)
_OWN_WORDS = re.compile(
    r'^With violation ("[^"\n]+")[^\n]* of VIOLATES[^\n]*; with violation ("[^"\n]+")', re.MULTILINE
)
_SECTION = re.compile(r"^## (VIOLATES|SAFE)\n(.*?)(?=^#{1,2} |\Z)", re.DOTALL | re.MULTILINE)
_OF_BUNDLE = re.compile(r"^# Policy (\S+)\n(.*?)(?=^# Policy \S+\n|\Z)", re.DOTALL | re.MULTILINE)
_BUNDLE = "# Several policies, each judged on its own"
_OUTPUT = re.compile(r"^## Output\n(.*?)(?=^## |\Z)", re.DOTALL | re.MULTILINE)
_OBJECT = re.compile(r'"([a-z0-9-]+)":\{([^{}]*)\}')  # of a policy, in a bundle's output form
_AFTER_CONTEXT = re.compile(r"^Content to judge[^\n]*:\n", re.MULTILINE)
_WITH_HEADING = ("Conversation so far, ", "Content to judge")


class Answer(NamedTuple):
    """What the server writes: the analysis and the final message."""

    analysis: str
    final: str

    @property
    def before_final(self) -> list[int]:
        """The tokens in front of the final message's text. The prompt has opened the analysis."""
        return [*harmony.encode_text(self.analysis), *harmony.opened_final()]

    @property
    def tokens(self) -> list[int]:
        """The whole completion."""
        return [*self.before_final, *harmony.encode_text(self.final), RETURN]


class _Decision(NamedTuple):
    """word: the one that decided; None for content with none of the words."""

    violates: bool
    rule: str
    word: str | None


class Script:
    """Words by rule id, in the order in which rules decide."""

    def __init__(self, words: Mapping[str, Sequence[str]]) -> None:
        self._terms = [(rule, word) for rule, listed in words.items() for word in listed]
        self._find = Terms([word for _, word in self._terms], one_by_one).find
        self.rules = tuple(words)

    @classmethod
    def load(cls, path: Path) -> Script:
        """Read a TOML file of lines RULE = ["word", "two words"]. Raises ConfigurationError with what to correct."""
        try:
            listed = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        except OSError as error:
            raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from error
        except (ValueError, RecursionError) as error:  # also for bytes that are no UTF-8, and endless numbers
            raise ConfigurationError(f"{path}: is not TOML: {error}") from error
        for problem in _problems(listed):
            raise ConfigurationError(f'{path}: {problem}; lines have the form AB1 = ["word", "two words"]')
        return cls(listed)

    def answer(self, instructions: str, message: str) -> Answer:
        """What it writes freely, to a user message under the developer message's instructions."""
        return self.constrained(instructions, message) or Answer("The instructions have no rules.", "Yes.")

    def constrained(self, instructions: str, message: str) -> Answer | None:
        """The answer in the form that the instructions ask for. None where they have no rules on both sides."""
        text = _content(message)
        if instructions.startswith(_BUNDLE):
            forms = dict(_OBJECT.findall(instructions))
            decisions = {name: self._decide(policy, text) for name, policy in _OF_BUNDLE.findall(instructions)}
            decided = {name: decision for name, decision in decisions.items() if decision is not None}
            analysis = " ".join(f"{name}: {_analysis(decision)}" for name, decision in decided.items())
            fields = {name: _fields(decision, forms.get(name, "")) for name, decision in decided.items()}
            return Answer(analysis, _json(fields))
        decision = self._decide(instructions, text)
        if decision is None:
            return None
        form = _OUTPUT.search(instructions)
        fields = _fields(decision, form[1] if form else "")
        if words := _OWN_WORDS.search(instructions):
            fields["violation"] = orjson.loads(words[1] if decision.violates else words[2])
        return Answer(_analysis(decision), _json(fields))

    def _decide(self, policy: str, text: str) -> _Decision | None:
        """The decision under one policy; None where its text has no rules on both sides."""
        sides = {name: _RULE.findall(section) for name, section in _SECTION.findall(policy)}
        violating, safe = sides.get("VIOLATES", []), sides.get("SAFE", [])
        if not violating or not safe:
            return None
        for number in sorted(number for _, number in self._find([plain(text)])):
            rule, word = self._terms[number]
            if rule in violating or rule in safe:
                return _Decision(rule in violating, rule, word)
        return _Decision(violates=False, rule=safe[-1], word=None)


def _problems(listed: Mapping[str, Any]) -> Iterator[str]:
    if not listed:
        yield "names no rule"
    for rule, words in listed.items():
        if not _RULE_ID.match(rule):
            yield f"{rule!r} is no rule id"
        elif isinstance(words, dict) and all(_RULE_ID.match(f"{rule}.{sub}") for sub in words):
            yield f'quote the id of a sub-rule, as in "{rule}.{next(iter(words))}"'
        elif not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
            yield f"{rule} needs a list of words"
        else:
            yield from (f"{rule}: {word!r} is no word that a text can have" for word in words if not is_found(word))


def _content(message: str) -> str:
    """A user message without the context and the headings in front of the content."""
    return _AFTER_CONTEXT.split(message, maxsplit=1)[-1] if message.startswith(_WITH_HEADING) else message


def _analysis(decision: _Decision) -> str:
    found = "It has none of the listed words" if decision.word is None else f"It has {decision.word!r}"
    return f"{found}: {decision.rule} {'violates' if decision.violates else 'is safe'}."


def _fields(decision: _Decision, form: str) -> dict[str, Any]:
    """The fields of an answer that the form names; all where it names none."""
    listed = "none of the words listed" if decision.word is None else f"a word listed for {decision.rule}"
    fields = {
        "violation": int(decision.violates),
        "rule_ids": [decision.rule],
        "confidence": "high",
        "reason": f"The text has {listed}.",
    }
    return {name: value for name, value in fields.items() if f'"{name}"' in form} or fields


def _json(fields: dict[str, Any]) -> str:
    return orjson.dumps(fields).decode()
