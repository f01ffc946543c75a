"""Strict parsing of a completion in the harmony format.

Accepted: one or more analysis messages, then exactly one final message that ends with <|return|>, addressed to
nobody, whose text is one JSON object of the policy's output form. Everything else is Malformed, with a reason that
can be counted; nothing is repaired, and nothing malformed is ever taken as safe.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from policies.document import Policy
from streams.records import Confidence
from workers.prompt import encoding

Reason = Literal[
    "cut_off",  # the last token is not <|return|>
    "structure",  # the special tokens do not form messages
    "no_analysis",
    "no_final",
    "several_finals",
    "channel",  # another channel, or a recipient
    "not_text",  # bytes that are not UTF-8
    "not_json",
    "fields",  # missing, mistyped, unknown or doubled
    "unknown_rule",
    "contradiction",  # the label and the rules do not agree
]

START, END, MESSAGE, CHANNEL, CONSTRAIN, RETURN = 200006, 200007, 200008, 200005, 200003, 200002
FIRST_SPECIAL = 199998
ZERO, ONE = 15, 16  # the label's tokens
LONGEST_REASON = 1000  # characters
_LABEL = re.compile(rb'"violation"\s*:\s*\Z')


class Malformed(Exception):
    """An output that is not accepted; analysis and final hold what could be read of it."""

    def __init__(self, reason: Reason, analysis: str = "", final: str = "") -> None:
        super().__init__(reason)
        self.reason: Reason = reason
        self.analysis = analysis
        self.final = final


class Answer(msgspec.Struct, frozen=True):
    """An accepted output. label_at is the index of the label's token among the completion's tokens."""

    violates: bool
    rule_ids: tuple[str, ...]
    confidence: Confidence
    reason: str
    analysis: str
    final: str
    label_at: int | None


class _Final(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    violation: Literal[0, 1]
    rule_ids: tuple[str, ...]
    confidence: Confidence
    reason: str


class _Message(msgspec.Struct):
    channel: str
    constrain: str | None
    start: int
    body: list[int]


def parse(tokens: Sequence[int], policy: Policy) -> Answer:
    """Parse the completion's token ids (after the prompt's '<|start|>assistant'). Raises Malformed, nothing else."""
    messages = _messages(tokens)
    analysis = "\n".join(_text(m.body) for m in messages if m.channel == "analysis")
    finals = [m for m in messages if m.channel == "final"]
    final = _text(finals[0].body) if finals else ""

    def refuse(reason: Reason) -> Malformed:
        return Malformed(reason, analysis, final)

    if any(m.channel not in {"analysis", "final"} for m in messages):
        raise refuse("channel")
    if not finals:
        raise refuse("no_final")
    if len(finals) > 1:
        raise refuse("several_finals")
    if messages[-1] is not finals[0] or finals[0].constrain not in {None, "json"}:
        raise refuse("structure")
    if not analysis.strip():
        raise refuse("no_analysis")
    if "\ufffd" in final or "\ufffd" in analysis:
        raise refuse("not_text")
    try:
        said = json.loads(final, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        raise refuse("not_json") from None
    except KeyError:
        raise refuse("fields") from None
    try:
        checked = msgspec.convert(said, _Final)
        checked.reason.encode()
    except msgspec.ValidationError:
        raise refuse("fields") from None
    except UnicodeEncodeError:  # half of a surrogate pair, written as an escape
        raise refuse("not_text") from None
    reason = checked.reason.strip()
    if not reason or len(reason) > LONGEST_REASON or not checked.rule_ids or isinstance(said["violation"], bool):
        raise refuse("fields")
    if len(set(checked.rule_ids)) != len(checked.rule_ids):
        raise refuse("fields")
    if not set(checked.rule_ids) <= set(policy.rules):
        raise refuse("unknown_rule")
    allowed = policy.violating if checked.violation else policy.safe
    if not set(checked.rule_ids) <= set(allowed):
        raise refuse("contradiction")
    return Answer(
        violates=bool(checked.violation),
        rule_ids=checked.rule_ids,
        confidence=checked.confidence,
        reason=reason,
        analysis=analysis,
        final=final,
        label_at=_label_at(finals[0]),
    )


def _messages(tokens: Sequence[int]) -> list[_Message]:
    """Split at special tokens: CHANNEL name [CONSTRAIN type] MESSAGE body (END START assistant)* RETURN."""
    if not tokens or tokens[-1] != RETURN:
        raise Malformed("cut_off", _lenient(tokens))
    messages: list[_Message] = []
    at = 0
    while True:
        if at >= len(tokens) or tokens[at] != CHANNEL:
            raise Malformed("structure", _lenient(tokens))
        name, at = _plain(tokens, at + 1)
        constrain = None
        if at < len(tokens) and tokens[at] == CONSTRAIN:
            kind, at = _plain(tokens, at + 1)
            constrain = _text(kind).strip()
        if at >= len(tokens) or tokens[at] != MESSAGE:
            raise Malformed("structure", _lenient(tokens))
        start = at + 1
        body, at = _plain(tokens, start)
        messages.append(_Message(_text(name).rstrip(" "), constrain, start, body))
        end = tokens[at] if at < len(tokens) else None
        if end == RETURN and at == len(tokens) - 1:
            return messages
        if end != END or tokens[at + 1 : at + 2] != [START]:
            raise Malformed("structure", _lenient(tokens))
        role, at = _plain(tokens, at + 2)
        if _text(role) != "assistant":
            raise Malformed("channel", _lenient(tokens))


def _plain(tokens: Sequence[int], at: int) -> tuple[list[int], int]:
    """The ordinary tokens from `at` on, and where they end."""
    start = at
    while at < len(tokens) and tokens[at] < FIRST_SPECIAL:
        at += 1
    return list(tokens[start:at]), at


def _text(tokens: Sequence[int]) -> str:
    """Undecodable bytes become U+FFFD, which is refused later."""
    text: str = encoding().decode(list(tokens)) if tokens else ""
    return text


def _lenient(tokens: Sequence[int]) -> str:
    """What an auditor may read of an output that is no sequence of messages."""
    try:
        return str(encoding().decode(list(tokens)))
    except Exception:  # ids outside the vocabulary
        return ""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise KeyError("a key stands twice")
    return found


def _label_at(final: _Message) -> int | None:
    said = b""
    for i, token in enumerate(final.body):
        if token in {ZERO, ONE} and _LABEL.search(said):
            return final.start + i
        said += encoding().decode([token]).encode()
    return None
