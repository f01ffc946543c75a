"""Strict parsing of a completion in the harmony format.

Accepted: one or more analysis messages, then exactly one final message that ends with <|return|>, addressed to
nobody, whose text is one JSON object of the policy's output form; of a bundle of policies, one JSON object that has
such an object for each of them, by its id. Everything else is Malformed, with a reason that can be counted; nothing is
repaired, and nothing malformed is ever taken as safe.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Literal

import msgspec
from openai_harmony import HarmonyError

from safeguard_streams.contract.records import Confidence
from safeguard_streams.policies.document import Policy
from safeguard_streams.policies.harmony import encoding
from safeguard_streams.workers.judging.prompt import decode

Reason = Literal[
    "cut_off",  # the last token is not <|return|>
    "structure",  # the special tokens do not form messages
    "no_analysis",
    "no_final",
    "several_finals",
    "channel",  # another channel, or a recipient
    "not_text",  # bytes that are not UTF-8
    "not_json",
    "fields",  # missing, mistyped, unknown or doubled; of a bundle also policies
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
    """What was said of one policy. label_at is the index of the label's token among the completion's tokens."""

    violates: bool
    rule_ids: tuple[str, ...]
    confidence: Confidence
    reason: str
    label_at: int | None = None


class Accepted(msgspec.Struct, frozen=True):
    """An accepted output: an answer for each policy, in their order."""

    answers: tuple[Answer, ...]
    analysis: str
    final: str


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


def parse(tokens: Sequence[int], policies: Sequence[Policy]) -> Accepted:
    """Parse the completion's token ids (after the prompt's '<|start|>assistant'). Raises Malformed, nothing else."""
    messages = _messages(tokens)
    analysis = "\n".join(decode(m.body) for m in messages if m.channel == "analysis")
    finals = [m for m in messages if m.channel == "final"]
    final = decode(finals[0].body) if finals else ""
    try:
        _check_structure(messages, finals, analysis)
        said = _json(final)
        if len(policies) == 1:
            answers = [_answer(said, policies[0])]
        elif isinstance(said, dict) and set(said) == {policy.id for policy in policies}:
            answers = [_answer(said[policy.id], policy) for policy in policies]
        else:
            raise Malformed("fields")
    except Malformed as malformed:
        raise Malformed(malformed.reason, analysis, final) from None
    labels = [finals[0].start + at for at in labels_at(finals[0].body)]
    if len(labels) == len(answers):
        # In a bundle's object the labels stand in the order of its keys.
        order = list(said) if len(policies) > 1 else [policies[0].id]
        where = dict(zip(order, labels, strict=True))
        answers = [
            msgspec.structs.replace(answer, label_at=where[policy.id])
            for answer, policy in zip(answers, policies, strict=True)
        ]
    return Accepted(tuple(answers), analysis, final)


def _check_structure(messages: Sequence[_Message], finals: Sequence[_Message], analysis: str) -> None:
    if any(m.channel not in {"analysis", "final"} for m in messages):
        raise Malformed("channel")
    if not finals:
        raise Malformed("no_final")
    if len(finals) > 1:
        raise Malformed("several_finals")
    if messages[-1] is not finals[0] or finals[0].constrain not in {None, "json"}:
        raise Malformed("structure")
    if not analysis.strip():
        raise Malformed("no_analysis")
    for message in messages:
        try:
            encoding().decode_utf8(message.body)
        except HarmonyError:
            raise Malformed("not_text") from None


def _json(final: str) -> Any:
    try:
        return json.loads(final, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        raise Malformed("not_json") from None
    except KeyError:
        raise Malformed("fields") from None


def _answer(said: Any, policy: Policy) -> Answer:
    try:
        checked = msgspec.convert(said, _Final)
        checked.reason.encode()
    except msgspec.ValidationError:
        raise Malformed("fields") from None
    except UnicodeEncodeError:  # half of a surrogate pair, written as an escape
        raise Malformed("not_text") from None
    reason, rules = checked.reason.strip(), set(checked.rule_ids)
    if not reason or len(reason) > LONGEST_REASON or isinstance(said["violation"], bool):
        raise Malformed("fields")
    if not rules or len(rules) != len(checked.rule_ids):
        raise Malformed("fields")
    if not rules <= set(policy.rules):
        raise Malformed("unknown_rule")
    if not rules <= set(policy.violating if checked.violation else policy.safe):
        raise Malformed("contradiction")
    return Answer(bool(checked.violation), checked.rule_ids, checked.confidence, reason)


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
            constrain = decode(kind).strip()
        if at >= len(tokens) or tokens[at] != MESSAGE:
            raise Malformed("structure", _lenient(tokens))
        start = at + 1
        body, at = _plain(tokens, start)
        messages.append(_Message(decode(name).rstrip(" "), constrain, start, body))
        end = tokens[at] if at < len(tokens) else None
        if end == RETURN and at == len(tokens) - 1:
            return messages
        if end != END or tokens[at + 1 : at + 2] != [START]:
            raise Malformed("structure", _lenient(tokens))
        role, at = _plain(tokens, at + 2)
        if decode(role) != "assistant":
            raise Malformed("channel", _lenient(tokens))


def _plain(tokens: Sequence[int], at: int) -> tuple[list[int], int]:
    """The ordinary tokens from `at` on, and where they end."""
    start = at
    while at < len(tokens) and tokens[at] < FIRST_SPECIAL:
        at += 1
    return list(tokens[start:at]), at


def _lenient(tokens: Sequence[int]) -> str:
    """What an auditor may read of an output that is no sequence of messages."""
    try:
        return decode(tokens)
    except Exception:  # ids outside the vocabulary
        return ""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise KeyError("a key stands twice")
    return found


def labels_at(final: Sequence[int]) -> list[int]:
    """Where in the tokens of a final message a label stands, the token 0 or 1 after "violation": ."""
    said, found = b"", []
    for i, token in enumerate(final):
        if token in {ZERO, ONE} and _LABEL.search(said):
            found.append(i)
        said = (said + encoding().decode([token]).encode())[-100:]
    return found
