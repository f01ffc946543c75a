"""Strict parsing of completions in the harmony format.

A completion begins inside the analysis, which the prompt has opened. It is accepted when it has one or more analysis
messages, then exactly one final message that ends with <|return|> and has no recipient. The final message must be one
JSON object of the policy's output form. For a bundle it must be one object with such an object for each policy, by id.
Around the object, a few variants that say nothing are accepted: see `Variant`. Everything else raises Malformed with a
reason that can be counted. The parser repairs nothing, and malformed output never counts as safe.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any, Literal, NamedTuple
from unicodedata import category

import msgspec
from openai_harmony import HarmonyError

from safeguard_streams.contract.records import Confidence
from safeguard_streams.policies.document import ANSWER_FIELDS, Policy
from safeguard_streams.policies.harmony import encoding
from safeguard_streams.workers.inference.harmony import (
    CHANNEL,
    CONSTRAIN,
    END,
    FIRST_SPECIAL,
    MESSAGE,
    RETURN,
    START,
    decision_positions,
    decode_tokens,
    opened_analysis,
)

MalformedReason = Literal[
    "cut_off",  # the last token is not <|return|>
    "structure",  # the special tokens do not form messages
    "no_analysis",
    "no_final",
    "several_finals",
    "channel",  # another channel, or a recipient
    "not_text",  # bytes that are not UTF-8
    "not_json",
    "fields",  # a field, or a policy of a bundle, is missing, mistyped, unknown or duplicated
    "unknown_rule",
    "contradiction",  # the decision and the rules disagree
    "echo",  # the object stands in the content
]
Variant = Literal[
    "fence",  # the object stands in a Markdown code block
    "label",  # one word in front of the object announces it, as in `Answer:`
    "constrain",  # the type of the final message is json in other letters, as in <|constrain|>JSON
]

MAX_REASON = 1000  # characters
# Escape sequences of terminals: control sequences, and operating system commands to their end.
_ESCAPE_SEQUENCE = re.compile(r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|(?:\x1b\]|\x9d)[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?")
_JOINERS = "\u200c\u200d"  # cannot be seen, but scripts and emoji need them
# Words that decide nothing. A word such as `safe` could contradict the object.
_LABEL = re.compile(
    r"(\*\*|__)?(?:answer|classification|decision|final|json|judge?ment|output|response|result|verdict)"
    r"(?:\1:?|:\1|:)?\s*(?=[{`])",
    re.IGNORECASE,
)
_FENCE = re.compile(r"```(?:json)?\s*(\{.*\})\s*```", re.IGNORECASE | re.DOTALL)
_NOT_COMPARED = str.maketrans("", "", " \t\r\n\\")


class Malformed(Exception):
    """The output is not accepted. analysis and final hold the text that could be read, for auditors."""

    def __init__(self, reason: MalformedReason, analysis: str = "", final: str = "") -> None:
        super().__init__(reason)
        self.reason: MalformedReason = reason
        self.analysis = analysis
        self.final = final


class Answer(msgspec.Struct, frozen=True):
    """The model's answer under one policy, with the fields that the policy asks for.

    decision_at: index of the decision token among the completion's tokens.
    """

    violates: bool
    rule_ids: tuple[str, ...] = ()
    confidence: Confidence | None = None
    reason: str | None = None
    decision_at: int | None = None


class Accepted(msgspec.Struct, frozen=True):
    """An accepted output: answers by policy id, the text of both channels, and the form's variants."""

    answers: Mapping[str, Answer]
    analysis: str
    final: str
    variants: tuple[Variant, ...] = ()


class _Final(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    violation: Literal[0, 1] | str
    rule_ids: tuple[str, ...] = ()
    confidence: Confidence | None = None
    reason: str | None = None


class _Unwrapped(NamedTuple):
    """The object of a final message, and what stood around it."""

    object: str
    variants: tuple[Variant, ...]


class _Message(msgspec.Struct):
    """start: index of the first token of the body among the completion's tokens."""

    channel: str
    constrain: str | None
    start: int
    body: list[int]


class _Text(NamedTuple):
    """Consecutive ordinary tokens, and the index of the token after them."""

    tokens: list[int]
    end: int


def parse(tokens: Sequence[int], policies: Sequence[Policy], content: str = "") -> Accepted:
    """Parse a completion's token ids, which follow the prompt's opened analysis. Raises Malformed, nothing else.

    content: the user message. An object that stands in it is its author's, and no answer.
    """
    messages = _messages([*opened_analysis(), *tokens])
    analysis = "\n".join(decode_tokens(m.body) for m in messages if m.channel == "analysis")
    finals = [m for m in messages if m.channel == "final"]
    final = decode_tokens(finals[0].body) if finals else ""
    try:
        _check_structure(messages, finals, analysis)
        unwrapped = _unwrap(final)
        objects = _objects(_json(unwrapped.object), policies)
        answers = {policy.id: _answer(objects[policy.id], policy) for policy in policies}
        if _compared(unwrapped.object) in _compared(content):
            raise Malformed("echo")
    except Malformed as malformed:
        raise Malformed(malformed.reason, analysis, final) from None
    positions = decision_positions(finals[0].body)
    worded = {policy.id for policy in policies if policy.judging.output}
    numbered = [policy_id for policy_id in objects if policy_id not in worded]
    if len(positions) == len(numbered):
        # The decisions of a bundle stand in the order of the object's keys.
        before = finals[0].start - len(opened_analysis())
        for policy_id, position in zip(numbered, positions, strict=True):
            answers[policy_id] = msgspec.structs.replace(answers[policy_id], decision_at=before + position)
    variants = unwrapped.variants if finals[0].constrain in {None, "json"} else (*unwrapped.variants, "constrain")
    return Accepted(answers, analysis, final, variants)


def analysis_of(tokens: Sequence[int]) -> list[int] | None:
    """The tokens of a completion's analysis. None if the analysis is empty, cut off, or no text."""
    body = list(takewhile(lambda token: token < FIRST_SPECIAL, tokens))
    if len(body) == len(tokens) or tokens[len(body)] not in {END, RETURN}:
        return None
    try:
        return body if encoding().decode_utf8(body).strip() else None
    except HarmonyError:
        return None


def _check_structure(messages: Sequence[_Message], finals: Sequence[_Message], analysis: str) -> None:
    if any(m.channel not in {"analysis", "final"} for m in messages):
        raise Malformed("channel")
    if not finals:
        raise Malformed("no_final")
    if len(finals) > 1:
        raise Malformed("several_finals")
    if messages[-1] is not finals[0] or (finals[0].constrain or "json").lower() != "json":
        raise Malformed("structure")
    if not analysis.strip():
        raise Malformed("no_analysis")
    for message in messages:
        try:
            encoding().decode_utf8(message.body)
        except HarmonyError:
            raise Malformed("not_text") from None


def _unwrap(final: str) -> _Unwrapped:
    """A final message without the variants around its object."""
    variants: list[Variant] = []
    text = final.strip()
    if label := _LABEL.match(text):
        text = text[label.end() :]
        variants.append("label")
    if fenced := _FENCE.fullmatch(text):
        text = fenced[1]
        variants.append("fence")
    return _Unwrapped(text, tuple(variants))


def _compared(text: str) -> str:
    """Text without what a copy of it may have in other places: blanks, and the backslashes of a quoted context."""
    return text.translate(_NOT_COMPARED)


def _json(final: str) -> Any:
    try:
        return json.loads(final, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        raise Malformed("not_json") from None
    except KeyError:
        raise Malformed("fields") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise KeyError("duplicate key")
    return fields


def _objects(output: Any, policies: Sequence[Policy]) -> dict[str, Any]:
    """The answers' objects by policy id, in the order in which they were written."""
    if len(policies) == 1:
        return {policies[0].id: output}
    if not isinstance(output, dict) or set(output) != {policy.id for policy in policies}:
        raise Malformed("fields")
    return output


def _answer(fields: Any, policy: Policy) -> Answer:
    wanted = ANSWER_FIELDS[policy.judging.answer]
    try:
        final = msgspec.convert(fields, _Final)
        (final.reason or "").encode()
    except msgspec.ValidationError:
        raise Malformed("fields") from None
    except UnicodeEncodeError:  # half of a surrogate pair, written as an escape
        raise Malformed("not_text") from None
    if set(fields) != set(wanted) or None in fields.values() or isinstance(fields["violation"], bool):
        raise Malformed("fields")
    reason = None if final.reason is None else one_line(final.reason)
    if reason is not None and not 0 < len(reason) <= MAX_REASON:
        raise Malformed("fields")
    violates = policy.judging.violates(final.violation)
    if violates is None:
        raise Malformed("fields")
    if "rule_ids" in wanted:
        _check_rules(final, policy, violates=violates)
    return Answer(violates, final.rule_ids, final.confidence, reason)


def _check_rules(final: _Final, policy: Policy, *, violates: bool) -> None:
    rules = set(final.rule_ids)
    if not rules or len(rules) != len(final.rule_ids):
        raise Malformed("fields")
    if not rules <= set(policy.rules):
        raise Malformed("unknown_rule")
    if not rules <= set(policy.violating if violates else policy.safe):
        raise Malformed("contradiction")


def one_line(text: str) -> str:
    """Text on one line that a terminal or a page shows as it is, without escape sequences and unseen characters."""
    without_sequences = _ESCAPE_SEQUENCE.sub(" ", text)
    spaced = "".join(" " if category(c) in {"Cc", "Zl", "Zp"} else c for c in without_sequences)
    seen = "".join(c for c in spaced if c in _JOINERS or category(c) not in {"Cf", "Cn"})
    return " ".join(seen.split()).strip(_JOINERS)


def _messages(tokens: Sequence[int]) -> list[_Message]:
    """Split at special tokens: CHANNEL name [CONSTRAIN type] MESSAGE body (END START assistant)* RETURN."""
    if not tokens or tokens[-1] != RETURN:
        raise Malformed("cut_off", _readable(tokens))
    messages: list[_Message] = []
    at = 0
    while True:
        if at >= len(tokens) or tokens[at] != CHANNEL:
            raise Malformed("structure", _readable(tokens))
        name, at = _text(tokens, at + 1)
        constrain = None
        if at < len(tokens) and tokens[at] == CONSTRAIN:
            kind, at = _text(tokens, at + 1)
            constrain = decode_tokens(kind).strip()
        if at >= len(tokens) or tokens[at] != MESSAGE:
            raise Malformed("structure", _readable(tokens))
        start = at + 1
        body, at = _text(tokens, start)
        messages.append(_Message(decode_tokens(name).rstrip(" "), constrain, start, body))
        end = tokens[at] if at < len(tokens) else None
        if end == RETURN and at == len(tokens) - 1:
            return messages
        if end != END or tokens[at + 1 : at + 2] != [START]:
            raise Malformed("structure", _readable(tokens))
        role, at = _text(tokens, at + 2)
        if decode_tokens(role) != "assistant":
            raise Malformed("channel", _readable(tokens))


def _text(tokens: Sequence[int], start: int) -> _Text:
    """The ordinary tokens from `start` to the next special token."""
    end = start
    while end < len(tokens) and tokens[end] < FIRST_SPECIAL:
        end += 1
    return _Text(list(tokens[start:end]), end)


def _readable(tokens: Sequence[int]) -> str:
    """The text of an output that has no messages, for auditors."""
    try:
        return decode_tokens(tokens)
    except Exception:  # ids outside the vocabulary
        return ""
